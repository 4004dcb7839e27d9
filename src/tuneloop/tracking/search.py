"""Looking things up in MLflow, all pages of them.

MLflow's filters know no escapes, so a value that could break one is left out of the filter. Whoever asks compares
again, exactly.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from tuneloop.errors import InvalidInput, NotFound
from tuneloop.tracking.records import RunInfo, to_run_info
from tuneloop.tracking.server import Server

PAGE = 1000
_PLAIN = re.compile(r"[0-9A-Za-z_.-]+")


def equals(key: str, value: str) -> str:
    """A filter for `key = value`, or no filter when the value is not plain."""
    return f"{key} = '{value}'" if _PLAIN.fullmatch(value) else ""


def run(server: Server, run_id: str) -> RunInfo:
    """A run, a deleted one too.

    Raises:
        NotFound: there is none of this id.
    """
    client = server.client
    try:
        return to_run_info(server.call(lambda: client.get_run(run_id)))
    except (NotFound, InvalidInput):
        raise NotFound(f"MLflow knows no run {run_id!r}") from None


def runs(
    server: Server, experiment_id: str, *, tag: tuple[str, str] | None = None, deleted: bool = False
) -> list[RunInfo]:
    """The runs of an experiment in the order they began; with `tag`, those that have it.

    Args:
        server: where to look.
        experiment_id: the experiment.
        tag: key and value.
        deleted: whether runs that somebody deleted are among them.
    """
    from mlflow.entities import ViewType

    client = server.client
    view = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY
    where = equals(f"tags.`{tag[0]}`", tag[1]) if tag else ""
    every = pages(
        server,
        lambda token: client.search_runs(
            [experiment_id], where, run_view_type=view, max_results=PAGE, page_token=token
        ),
    )
    found = [to_run_info(run) for run in every]
    if tag:
        found = [run for run in found if run.tags.get(tag[0]) == tag[1]]
    return sorted(found, key=lambda run: (run.started_at, run.run_id))


def experiments(server: Server, prefix: str) -> list[Any]:
    """The active experiments whose names begin with `prefix`, which must be plain but for blanks and slashes."""
    client = server.client
    where = f"name LIKE '{prefix}%'"
    found = pages(
        server,
        lambda token: client.search_experiments(filter_string=where, max_results=PAGE, page_token=token),
    )
    return [experiment for experiment in found if experiment.name.startswith(prefix)]


def versions(server: Server, where: str) -> list[Any]:
    """The model versions that a filter selects."""
    client = server.client
    return list(pages(server, lambda token: client.search_model_versions(where, max_results=PAGE, page_token=token)))


def versions_of(server: Server, run_id: str) -> list[Any]:
    """The registered versions, of any model, that point to a run or to files of it."""
    if not _PLAIN.fullmatch(run_id):
        return []
    found = versions(server, f"run_id = '{run_id}'") + versions(server, f"source_path LIKE '%{run_id}%'")
    return list({(version.name, version.version): version for version in found}.values())


def pages(server: Server, fetch: Callable[[str | None], Any]) -> Iterator[Any]:
    """Whatever `fetch` finds; it is called with the token of each page, None for the first."""
    token: str | None = None
    while True:
        page = server.call(partial(fetch, token))
        yield from page
        token = page.token
        if not token:
            return
