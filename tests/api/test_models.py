"""Registered models over HTTP: a real MLflow, a real (tiny) model, the real OpenAI client."""

import base64
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import openai
import pytest
import sqlalchemy as sa
from safetensors.numpy import load

from support.api import running, settings_for
from support.mlflow import MlflowServer
from tuneloop.database import Database
from tuneloop.models.store import StoredModels
from tuneloop.tasks.tables import tasks
from tuneloop.tracking import Tracking

MODELS = "/api/v1/models"
TEXTS = ["item1 word2", "item2 word3", "slang1"]


class Shop(NamedTuple):
    """An API whose MLflow holds two runs with models, and a model `shop` with a version of the first."""

    http: httpx.Client
    runs: tuple[str, str]
    task_id: str
    database: Database


@pytest.fixture(scope="module")
def shop(mlflow_uri: str, mlflow_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    settings = settings_for(
        tmp_path_factory.mktemp("shop"), mlflow_tracking_uri=mlflow_uri, mlflow_public_url="http://mlflow.example"
    )
    with running(settings) as url, httpx.Client(base_url=url, timeout=120) as http:
        database = Database(settings.url)
        tracking, stored = Tracking(mlflow_uri), StoredModels(database)
        runs = []
        for number in range(2):
            experiment_id = tracking.open_iteration("Api Test", f"{number:024x}")
            run_id = tracking.create_run(experiment_id, name=f"run {number}", params={}, tags={})
            stored.record(run_id, mlflow_model)
            tracking.store_model(run_id, mlflow_model)
            tracking.end_run(run_id, "FINISHED")
            runs.append(run_id)
        http.post(
            "/api/v1/items", json=[{"object_id": f"o/{number}", "text": text} for number, text in enumerate(TEXTS)]
        )
        task_id = http.post("/api/v1/fine-tuning/task", json={"fine_tuning_method": "Default Fine Tuning Method"})
        with database.write() as connection:
            connection.execute(sa.update(tasks).values(status="done", detail=None, best_run_id=runs[0]))
        assert http.post(MODELS, json={"name": "shop", "run_id": runs[0]}).json() == {"name": "shop", "version": "1"}
        yield Shop(http, (runs[0], runs[1]), task_id.json()["id"], database)
        database.dispose()


def test_models_are_registered_by_task_and_by_run(shop: Shop) -> None:
    by_task = shop.http.post(MODELS, json={"name": "by task", "task_id": shop.task_id, "description": "the first"})
    assert by_task.json() == {"name": "by task", "version": "1"}
    by_run = shop.http.post(MODELS, json={"name": "by task", "run_id": shop.runs[1]})
    assert by_run.json() == {"name": "by task", "version": "2"}
    model = shop.http.get(f"{MODELS}/by%20task").json()
    assert [(version["version"], version["run_id"]) for version in model["versions"]] == [
        ("2", shop.runs[1]),
        ("1", shop.runs[0]),
    ]
    assert model["versions"][1]["description"] == "the first"
    assert len(model["versions"][0]["created_at"]) == 26
    assert model in shop.http.get(MODELS).json()["models"]


def test_a_repeated_registration_makes_one_version(shop: Shop) -> None:
    body, headers = {"name": "repeated", "run_id": shop.runs[0]}, {"Idempotency-Key": "k"}
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: shop.http.post(MODELS, json=body, headers=headers), range(20)))
    assert {(answer.status_code, answer.json()["version"]) for answer in answers} == {(200, "1")}
    other = shop.http.post(MODELS, json={"name": "repeated", "run_id": shop.runs[1]}, headers=headers)
    assert other.status_code == 409


@pytest.mark.parametrize(
    ("body", "status", "hint"),
    [
        ({"name": "x"}, 422, "task_id"),
        ({"name": "x", "task_id": "0" * 24, "run_id": "r"}, 422, "either"),
        ({"name": "x", "task_id": "0" * 24}, 404, "task"),
        ({"name": "x", "run_id": "0" * 32}, 404, "run"),
        ({"name": "x", "run_id": "../.."}, 404, "run"),
        ({"name": "", "run_id": "r"}, 422, "name"),
        ({"name": "a/b", "run_id": "r"}, 422, "name"),
        ({"name": "a:b", "run_id": "r"}, 422, "name"),
        ({"name": "x" * 300, "run_id": "r"}, 422, "name"),
        ({"name": "nul\0", "run_id": "r"}, 422, "name"),
        ({"name": "x", "run_id": "r", "stage": "production"}, 422, "stage"),
    ],
)
def test_wrong_registrations(shop: Shop, body: dict[str, Any], status: int, hint: str) -> None:
    answer = shop.http.post(MODELS, json=body)
    assert (answer.status_code, hint in answer.text) == (status, True), answer.text
    assert shop.http.get(f"{MODELS}/x").status_code == 404


def test_a_task_without_a_best_model_is_409(shop: Shop) -> None:
    task = shop.http.post("/api/v1/fine-tuning/task", json={"fine_tuning_method": "Default Fine Tuning Method"}).json()
    answer = shop.http.post(MODELS, json={"name": "x", "task_id": task["id"]})
    assert answer.status_code == 409
    assert "nothing was collected" in answer.json()["detail"]


def test_an_alias_points_and_is_rolled_back(shop: Shop) -> None:
    for run_id in shop.runs:
        shop.http.post(MODELS, json={"name": "aliased", "run_id": run_id})
    path = f"{MODELS}/aliased/aliases/champion"
    for version in ("1", 2, "latest", "1"):
        meant = {"latest": "2"}.get(str(version), str(version))
        answer = shop.http.put(path, json={"version": version})
        assert answer.json() == {"name": "aliased", "alias": "champion", "version": meant}
        model = shop.http.get(f"{MODELS}/aliased").json()
        assert model["aliases"] == {"champion": meant}
        embedded = shop.http.post(f"{MODELS}/aliased/versions/@champion/embed", json={"inputs": ["x"]}).json()
        assert embedded["model"] == f"aliased/{meant}"
    assert shop.http.put(path, json={"version": "9"}).status_code == 404
    assert shop.http.put(path, json={"version": 1.5}).status_code == 422
    assert shop.http.put(f"{MODELS}/nothing/aliases/champion", json={"version": "1"}).status_code == 404
    for alias in ("latest", "v1", "a.b", "%0A"):
        assert shop.http.put(f"{MODELS}/aliased/aliases/{alias}", json={"version": "1"}).status_code == 422


@pytest.mark.parametrize("version", ["1", "latest"])
def test_embeddings_have_unit_length_and_the_order_of_the_inputs(shop: Shop, version: str) -> None:
    path = f"{MODELS}/shop/versions/{version}/embed"
    answer = shop.http.post(path, json={"inputs": TEXTS, "kind": "item"}).json()
    vectors = np.array(answer["embeddings"])
    assert (answer["model"], answer["dimensions"], vectors.shape) == ("shop/1", 32, (3, 32))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    backwards = shop.http.post(path, json={"inputs": TEXTS[::-1], "kind": "item"}).json()["embeddings"]
    assert np.allclose(vectors, backwards[::-1], atol=1e-5)


def test_2048_inputs_are_embedded_and_no_more(shop: Shop) -> None:
    path = f"{MODELS}/shop/versions/1/embed"
    answer = shop.http.post(path, json={"inputs": ["a", "b"] * 1024})
    assert len(answer.json()["embeddings"]) == 2048
    for inputs in ([], ["a"] * 2049, "a", [1], [None], ["nul\0"], {}):
        problem = shop.http.post(path, json={"inputs": inputs})
        assert problem.status_code == 422
        assert problem.json()["detail"][0]["loc"][:2] == ["body", "inputs"]
    assert shop.http.post(path, json={"inputs": ["a"], "kind": "song"}).json()["detail"][0]["loc"] == ["body", "kind"]


def test_items_of_the_catalogue_and_texts_are_ranked(shop: Shop) -> None:
    path = f"{MODELS}/shop/versions/1/rank"
    by_id = shop.http.post(path, json={"query": "item1 word2", "object_ids": ["o/1", "o/0", "o/2"]}).json()
    assert by_id["model"] == "shop/1"
    assert by_id["results"][0]["object_id"] == "o/0"
    scores = [result["score"] for result in by_id["results"]]
    assert scores == sorted(scores, reverse=True)
    items = [{"object_id": f"o/{number}", "text": text} for number, text in enumerate(TEXTS)]
    by_text = shop.http.post(path, json={"query": "item1 word2", "items": items, "top_k": 2}).json()
    assert by_text["results"] == by_id["results"][:2]


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ({"query": "q"}, ["body"]),
        ({"query": "q", "object_ids": ["o/0"], "items": [{"object_id": "a", "text": "x"}]}, ["body"]),
        ({"query": "q", "object_ids": []}, ["body", "object_ids"]),
        ({"query": "q", "items": [{"object_id": "a"}]}, ["body", "items", 0, "text"]),
        ({"query": "", "object_ids": ["o/0"]}, ["body", "query"]),
        ({"object_ids": ["o/0"]}, ["body", "query"]),
        ({"query": "q", "object_ids": ["o/0"], "top_k": 0}, ["body", "top_k"]),
    ],
)
def test_wrong_rankings(shop: Shop, body: dict[str, Any], loc: list[Any]) -> None:
    answer = shop.http.post(f"{MODELS}/shop/versions/1/rank", json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == loc


def test_unknown_object_ids_are_named(shop: Shop) -> None:
    body = {"query": "q", "object_ids": ["o/0", "o/no", *(f"o/{n}" for n in range(100, 200))]}
    [problem] = shop.http.post(f"{MODELS}/shop/versions/1/rank", json=body).json()["detail"]
    assert problem["loc"] == ["body", "object_ids"]
    assert "'o/no'" in problem["msg"]
    assert "'o/0'" not in problem["msg"]


@pytest.mark.parametrize("action", ["embed", "rank"])
@pytest.mark.parametrize("model", ["nothing/versions/1", "shop/versions/9", "shop/versions/@x", "shop/versions/%2e%2e"])
def test_unknown_versions_are_404(shop: Shop, model: str, action: str) -> None:
    body = {"embed": {"inputs": ["x"]}, "rank": {"query": "x", "object_ids": ["o/0"]}}[action]
    answer = shop.http.post(f"{MODELS}/{model}/{action}", json=body)
    assert (answer.status_code, "model" in answer.json()["detail"] or "version" in answer.json()["detail"]) == (
        404,
        True,
    )


def test_the_best_models_weights_are_downloaded(shop: Shop, mlflow_model: Path) -> None:
    task = shop.http.get(f"/api/v1/fine-tuning/task/{shop.task_id}").json()
    answer = shop.http.get(task["best_model_url"])
    assert answer.status_code == 200
    assert "model.safetensors" in answer.headers["Content-Disposition"]
    assert int(answer.headers["Content-Length"]) == len(answer.content)
    [file] = mlflow_model.rglob("*.safetensors")
    assert load(answer.content).keys() == load(file.read_bytes()).keys()


# -- the OpenAI shapes


@pytest.fixture
def client(shop: Shop) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{shop.http.base_url}/v1", api_key="any", max_retries=0) as client:
        yield client


def test_the_openai_client_embeds(shop: Shop, client: openai.OpenAI) -> None:
    path = f"{MODELS}/shop/versions/1/embed"
    ours = {
        kind: np.array(shop.http.post(path, json={"inputs": TEXTS, "kind": kind}).json()["embeddings"])
        for kind in ("query", "item")
    }
    as_it_likes = client.embeddings.create(model="shop/1", input=TEXTS, user="u", dimensions=32)
    assert as_it_likes.model == "shop/1"
    assert [entry.index for entry in as_it_likes.data] == [0, 1, 2]
    assert np.allclose([entry.embedding for entry in as_it_likes.data], ours["query"], atol=1e-6)
    assert as_it_likes.usage.total_tokens >= 5
    as_float = client.embeddings.create(
        model="shop/latest", input=TEXTS, encoding_format="float", extra_body={"kind": "item"}
    )
    assert np.allclose([entry.embedding for entry in as_float.data], ours["item"], atol=1e-6)
    one = client.embeddings.create(model="shop/1", input=TEXTS[0])
    assert np.allclose(one.data[0].embedding, ours["query"][0], atol=1e-6)


def test_base64_is_little_endian_float32(shop: Shop) -> None:
    def embed(encoding: str) -> Any:
        body = {"model": "shop/1", "input": "item1", "encoding_format": encoding}
        return shop.http.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]

    assert np.allclose(np.frombuffer(base64.b64decode(embed("base64")), "<f4"), embed("float"), atol=1e-7)


def test_the_openai_client_lists_models(shop: Shop, client: openai.OpenAI) -> None:
    assert "shop/1" in [model.id for model in client.models.list()]
    assert client.models.retrieve("shop/1").id == "shop/1"
    latest = client.models.retrieve("shop/latest")
    assert (latest.id, latest.object, latest.owned_by) == ("shop/1", "model", "tuneloop")
    assert latest.created > 1_700_000_000


@pytest.mark.parametrize(
    ("more", "error", "param"),
    [
        ({"input": [1, 2, 3]}, openai.UnprocessableEntityError, "input"),
        ({"input": [[1, 2], [3]]}, openai.UnprocessableEntityError, "input"),
        ({"input": []}, openai.UnprocessableEntityError, "input"),
        ({"input": ""}, openai.UnprocessableEntityError, "input"),
        ({"input": ["x"] * 2049}, openai.UnprocessableEntityError, "input"),
        ({"dimensions": 7}, openai.UnprocessableEntityError, "dimensions"),
        ({"encoding_format": "bits"}, openai.UnprocessableEntityError, "encoding_format"),
        ({"model": ""}, openai.UnprocessableEntityError, "model"),
        ({"model": "shop"}, openai.NotFoundError, None),
        ({"model": "shop/9"}, openai.NotFoundError, None),
        ({"model": "nothing/1"}, openai.NotFoundError, None),
        ({"model": "shop/@nobody"}, openai.NotFoundError, None),
    ],
)
def test_the_openai_client_understands_errors(
    client: openai.OpenAI, more: dict[str, Any], error: type[openai.APIStatusError], param: str | None
) -> None:
    with pytest.raises(error) as raised:
        client.embeddings.create(**{"model": "shop/1", "input": "x", **more})
    assert raised.value.param == param
    assert raised.value.body["message"]  # type: ignore[index]
    assert raised.value.type == "invalid_request_error"


def test_the_openai_client_understands_keys(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, api_keys="a:read:right,b:ingest:other")
    with running(settings) as url:
        for key, error in (("wrong", openai.AuthenticationError), ("other", openai.PermissionDeniedError)):
            client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
            with pytest.raises(error):
                client.embeddings.create(model="shop/1", input="x")
            with pytest.raises(error):
                client.models.list()


# -- without MLflow


def test_without_mlflow_models_are_503_and_sessions_go_on(
    serve: Callable[..., httpx.Client], a_session: Callable[..., dict[str, Any]], own_mlflow_server: MlflowServer
) -> None:
    http = serve(mlflow_tracking_uri=own_mlflow_server.url)
    assert http.get(MODELS).json() == {"models": []}
    own_mlflow_server.kill()
    for method, path, body in (
        ("GET", MODELS, None),
        ("POST", f"{MODELS}/shop/versions/1/embed", {"inputs": ["x"]}),
        ("POST", "/v1/embeddings", {"model": "shop/1", "input": "x"}),
    ):
        answer = http.request(method, path, json=body)
        assert (answer.status_code, "MLflow" in answer.text) == (503, True), answer.text
    assert http.post("/api/v1/clickstream/session", json=a_session()).status_code == 200
    own_mlflow_server.start()
    assert http.get(MODELS).json() == {"models": []}


def test_embedding_the_catalogue_is_a_task(shop: Shop) -> None:
    path = f"{MODELS}/shop/versions/1/embed-items"
    task = shop.http.post(path).raise_for_status().json()
    assert (task["kind"], task["status"], task["batch_id"]) == ("embed_items", "pending", None)
    assert task["settings"] == {"model": "shop", "version": "1"}
    assert not {"output", "fine_tuning_method", "best_model_url"} & set(task)
    assert shop.http.get(f"/api/v1/tasks/{task['id']}").json() == task
    assert shop.http.get("/api/v1/tasks", params={"kind": "embed_items", "limit": 1}).json() == [task]
    assert task["id"] not in shop.http.get("/api/v1/tasks", params={"kind": "fine_tuning"}).text
    assert shop.http.get(f"/api/v1/fine-tuning/task/{task['id']}").status_code == 404
    assert shop.http.put(f"/api/v1/tasks/{task['id']}/cancel").json()["status"] == "canceled"
    again = shop.http.put(f"/api/v1/tasks/{task['id']}/restart").json()
    assert (again["status"], again["batch_id"]) == ("pending", None)
    assert shop.http.post(path, json={}).json()["id"] != task["id"]


def test_the_same_key_is_the_same_embedding_task_wherever_the_alias_points_by_now(shop: Shop) -> None:
    for run_id in shop.runs:
        shop.http.post(MODELS, json={"name": "keyed", "run_id": run_id})
    alias = f"{MODELS}/keyed/aliases/live"
    path = f"{MODELS}/keyed/versions/@live/embed-items"
    body = {"idempotency_key": "embed-once", "output": "live.parquet"}
    shop.http.put(alias, json={"version": "1"})
    task = shop.http.post(path, json=body).json()
    assert task["settings"] == {"model": "keyed", "version": "1", "output": "live.parquet"}
    shop.http.put(alias, json={"version": "2"})
    assert shop.http.post(path, json=body).json() == task
    assert shop.http.post(path, json={**body, "output": "other.parquet"}).status_code == 409
    assert shop.http.post(f"{MODELS}/keyed/versions/2/embed-items", json=body).status_code == 409
    assert shop.http.post(path, json={}).json()["settings"]["version"] == "2"


@pytest.mark.parametrize(
    ("version", "body", "status", "hint"),
    [
        ("9", {}, 404, "no version"),
        ("@nobody", {}, 404, "no version"),
        ("1", {"output": "../shop.parquet"}, 422, "output"),
        ("1", {"output": "/etc/shop.parquet"}, 422, "output"),
        ("1", {"output": ".parquet"}, 422, "output"),
        ("1", {"output": "shop.csv"}, 422, "output"),
        ("1", {"output": "x" * 300 + ".parquet"}, 422, "output"),
        ("1", {"output": "shop.parquet\n"}, 422, "output"),
        ("1", {"idempotency_key": ""}, 422, "idempotency_key"),
        ("1", {"kind": "query"}, 422, "kind"),
        ("1", [], 422, "body"),
    ],
)
def test_wrong_requests_to_embed_the_catalogue(shop: Shop, version: str, body: Any, status: int, hint: str) -> None:
    before = shop.http.get("/api/v1/tasks").json()
    answer = shop.http.post(f"{MODELS}/shop/versions/{version}/embed-items", json=body)
    assert (answer.status_code, hint in answer.text) == (status, True), answer.text
    assert shop.http.get("/api/v1/tasks").json() == before


def test_only_models_that_tuneloop_stored_embed_the_catalogue(shop: Shop, mlflow_uri: str) -> None:
    tracking = Tracking(mlflow_uri)
    experiment_id = tracking.open_iteration("Api Test", "f" * 24)
    run_id = tracking.create_run(experiment_id, name="foreign", params={}, tags={})
    client = tracking.server.client
    client.create_registered_model("foreign")
    client.create_model_version("foreign", f"runs:/{run_id}/model", run_id, await_creation_for=0)
    answer = shop.http.post(f"{MODELS}/foreign/versions/1/embed-items")
    assert answer.status_code == 409 and "not the model of a Tuneloop run" in answer.text
