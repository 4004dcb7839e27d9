"""The commands a person types: `tuneloop --help`.

Every import that takes time stands inside the command that needs it, so that help and errors come at once.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tuneloop.errors import InvalidInput
from tuneloop.service import relational_commands
from tuneloop.service.commands import (
    ApiKey,
    Json,
    OneLineErrors,
    Url,
    check_set,
    confirm,
    connect,
    existing_file,
    is_bad_end,
    load_settings,
    parse_set,
    remote,
    watch,
)

if TYPE_CHECKING:
    from tuneloop.client import (
        Alias,
        Batch,
        Client,
        Embeddings,
        ImportReport,
        Methods,
        Model,
        Ranking,
        Registered,
        Task,
        TaskLog,
    )

SERVICE, DATA, LEARNING, MODELS = "Service", "Data", "Learning", "Models"
_HELP = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    cls=OneLineErrors,
    no_args_is_help=True,
    context_settings=_HELP,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Turn what people do into better models: fine-tune the model behind a search from its clicks.\n\n"
    "Begin with `tuneloop up`, then `items import`, `sessions import`, `tune --wait`.",
)


def _group(name: str, help: str, panel: str) -> typer.Typer:
    group = typer.Typer(name=name, help=help, no_args_is_help=True, context_settings=_HELP)
    app.add_typer(group, rich_help_panel=panel)
    return group


items = _group("items", "What a search can return.", DATA)
sessions = _group("sessions", "Searches, and what users did with their results.", DATA)
batch = _group("batch", "Sessions gathered for learning.", DATA)
app.add_typer(relational_commands.group, rich_help_panel=DATA)
models = _group("models", "Registered models, their versions and aliases.", MODELS)

File = Annotated[
    Path, typer.Argument(metavar="FILE", help="The file, or - for standard input.", callback=existing_file)
]
ModelName = Annotated[str, typer.Argument(metavar="NAME", help="Name of the model.")]
ModelRef = Annotated[
    str, typer.Argument(metavar="MODEL", help="NAME (its latest version), NAME/VERSION or NAME@ALIAS.")
]
TaskId = Annotated[str, typer.Argument(metavar="ID", help="Id of the task.")]
TaskStatus = Literal["pending", "processing", "done", "canceled", "error"]


# -- the service


@app.command(rich_help_panel=SERVICE)
def up() -> None:
    """Start everything: the API, MLflow and a worker. Ctrl-C stops it all.

    Settings are TUNELOOP_* variables or a .env file; everything is kept under TUNELOOP_DATA_DIR.

    Example: `TUNELOOP_DATA_DIR=/srv/tuneloop tuneloop up`
    """
    settings = load_settings()
    from tuneloop.service import up as supervisor

    raise typer.Exit(supervisor.run(settings))


@app.command(rich_help_panel=SERVICE)
def api() -> None:
    """Start the API alone, where the parts run on machines of their own.

    Example: `TUNELOOP_DATABASE_URL=postgresql://… tuneloop api`
    """
    settings = load_settings()
    from tuneloop.service import parts

    raise typer.Exit(parts.run_api(settings))


@app.command(rich_help_panel=SERVICE)
def worker() -> None:
    """Start a worker alone; any number of them share the tasks.

    Example: `TUNELOOP_DATABASE_URL=postgresql://… tuneloop worker`
    """
    settings = load_settings()
    from tuneloop.service import parts

    raise typer.Exit(parts.run_worker(settings))


@app.command(rich_help_panel=SERVICE)
def mlflow() -> None:
    """Start the MLflow server alone, on the loopback address.

    Example: `TUNELOOP_MLFLOW_PORT=5002 tuneloop mlflow`
    """
    settings = load_settings()
    from tuneloop.service import parts

    raise typer.Exit(parts.run_mlflow(settings))


@app.command(rich_help_panel=SERVICE)
def doctor(url: Url = None, api_key: ApiKey = None, as_json: Json = False) -> None:
    """Say what is configured, what answers, what is missing and what to do about it.

    With nothing running, what `tuneloop up` would start is only noted; a service that was named (--url,
    TUNELOOP_URL, TUNELOOP_DATABASE_URL, TUNELOOP_MLFLOW_TRACKING_URI) must answer. Exit status 1 when something
    needed is missing.

    Example: `tuneloop doctor`
    """
    from tuneloop.service import doctor as checks
    from tuneloop.service import terminal

    try:
        settings, wrong = load_settings(), None
    except InvalidInput as error:
        settings, wrong = None, error.detail
    with connect(url, api_key) as client:
        report = checks.examine(settings, wrong, client, named=url is not None)
    terminal.emit(report) if as_json else checks.show(report)
    raise typer.Exit(0 if report.ok else 1)


@app.command(rich_help_panel=SERVICE)
def version(as_json: Json = False) -> None:
    """Print the version of this installation.

    Example: `tuneloop version --json`
    """
    from tuneloop import __version__

    print(json.dumps({"version": __version__}) if as_json else f"tuneloop {__version__}")


# -- data


@items.command("import")
@remote("show_item_import", patient=True, status=lambda report: int(report.all_rejected))
def import_items(client: "Client", file: File) -> "ImportReport":
    """Store the items of a file; those with a known object_id are replaced.

    FILE is JSON lines, gzipped or not, or Parquet, told apart by content: object_id, and text or fields. Bad lines
    are named and left out. Exit status 1 when every line was bad.

    Example: `tuneloop items import catalogue.jsonl.gz`
    """
    from tuneloop.client.files import open_records
    from tuneloop.service import terminal

    with open_records(file) as records, terminal.import_progress("items", records.fraction) as sent:
        return client.import_items(records.lines, progress=sent)


@sessions.command("import")
@remote("show_session_import", patient=True, status=lambda report: int(report.all_rejected))
def import_sessions(
    client: "Client",
    file: File,
    format: Annotated[
        Literal["auto", "tuneloop", "ubi"], typer.Option(help="What the records are; auto looks at them.")
    ] = "auto",
) -> "ImportReport":
    """Store the sessions of a file, with their events; sessions that are known already change nothing.

    FILE is JSON lines, gzipped or not, or Parquet: session_id, search_query, search_results, and optionally user_id,
    created_at, search_meta, events, is_irrelevant. Or it is a log of OpenSearch User Behavior Insights. Bad lines are
    named and left out. Exit status 1 when every line was bad.

    Example: `tuneloop sessions import searches.parquet`
    """
    from tuneloop.client.files import open_records
    from tuneloop.service import terminal

    with open_records(file) as records:
        chosen = records.format if format == "auto" else format
        what = "records" if chosen == "ubi" else "sessions"
        with terminal.import_progress(what, records.fraction) as sent:
            return client.import_sessions(records.lines, format=chosen, progress=sent)


@app.command(rich_help_panel=DATA)
@remote(lambda answer: print(f"erased {answer['deleted']} sessions"))
def forget(
    client: "Client",
    user: Annotated[str | None, typer.Option(help="Id of the user whose sessions are erased.")] = None,
    session: Annotated[str | None, typer.Option(help="Id of the session that is erased.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> dict[str, int]:
    """Erase a user, or one session, with all events, also from stored snapshots. It cannot be undone.

    Example: `tuneloop forget --user u-4711 --yes`
    """
    if (user is None) == (session is None):
        raise typer.BadParameter("give --user or --session, one of them")
    what = f"user {user!r}" if user is not None else f"session {session!r}"
    if not yes:
        confirm(f"Erase all that is stored of {what}?")
    return {"deleted": client.forget_user(user) if user is not None else client.forget_session(session or "")}


@batch.command()
@remote(lambda answer: print(answer["batch_id"]))
def release(
    client: "Client",
    release_id: Annotated[str | None, typer.Option(help="The same id again releases nothing more.")] = None,
) -> dict[str, str]:
    """Release the sessions collected so far for learning; prints the id of their batch.

    Not needed before `tuneloop tune`, which releases by itself.

    Example: `tuneloop batch release`
    """
    return {"batch_id": client.release_batch(release_id)}


@batch.command("list")
@remote("show_batches")
def list_batches(client: "Client") -> "list[Batch]":
    """List the batches with their numbers of sessions.

    Example: `tuneloop batch list`
    """
    return client.batches()


# -- learning


@app.command(rich_help_panel=LEARNING)
@remote("show_task", patient=True, status=is_bad_end)
def tune(
    client: "Client",
    method: Annotated[str, typer.Option(help="Name of the method.")] = "Default Fine Tuning Method",
    batch: Annotated[
        str | None, typer.Option(help="Id of a released batch.", show_default="release what is collected")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the method; repeatable.", callback=check_set),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show the task until it is over.")] = False,
) -> "Task":
    """Fine-tune on the collected sessions; prints the task.

    `tuneloop methods` lists the settings. With --wait the exit status is 0 when the task is done, and 1
    otherwise; Ctrl-C leaves it running.

    Example: `tuneloop tune --set max_runs=4 --set max_minutes=10 --wait`
    """
    task = client.create_task(method, batch_id=batch, settings=parse_set(settings))
    return watch(client, task.id) if wait else task


@app.command(rich_help_panel=LEARNING)
@remote("show_task", patient=True, status=is_bad_end)
def wait(client: "Client", task_id: TaskId) -> "Task":
    """Show a task until it is over; exit status 0 when it is done, and 1 otherwise. Ctrl-C leaves it running.

    Example: `tuneloop wait 65844c019fa7cf0957d04758`
    """
    return watch(client, task_id)


@app.command(rich_help_panel=LEARNING)
@remote("show_tasks")
def tasks(
    client: "Client",
    task_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Show this task, with details.")] = None,
    status: Annotated[TaskStatus | None, typer.Option(help="Only tasks of this status.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many, newest first.")] = 20,
) -> "list[Task] | Task":
    """List tasks, newest first, or show one.

    Example: `tuneloop tasks --status error`
    """
    return client.get_task(task_id) if task_id is not None else client.tasks(status=status, limit=limit)


@app.command("log", rich_help_panel=LEARNING)
@remote("show_log")
def task_log(
    client: "Client",
    task_id: TaskId,
    after: Annotated[str | None, typer.Option(help="Begin after this cursor, the `next` of --json.")] = None,
) -> "TaskLog":
    """Print what a task printed so far; `tuneloop wait` follows it.

    Example: `tuneloop log 65844c019fa7cf0957d04758`
    """
    lines: list[str] = []
    following = after
    while True:
        page = client.task_log(task_id, after=following)
        lines, following = [*lines, *page.lines], page.next
        if not page.lines:
            return dataclasses.replace(page, lines=tuple(lines))


@app.command(rich_help_panel=LEARNING)
@remote("show_task")
def cancel(client: "Client", task_id: TaskId) -> "Task":
    """Stop a task, within seconds also while it is worked on; finished runs stay in MLflow.

    Example: `tuneloop cancel 65844c019fa7cf0957d04758`
    """
    return client.cancel_task(task_id)


@app.command(rich_help_panel=LEARNING)
@remote("show_task")
def restart(client: "Client", task_id: TaskId) -> "Task":
    """Go on with a task that was canceled or failed; what it finished is kept.

    Example: `tuneloop restart 65844c019fa7cf0957d04758`
    """
    return client.restart_task(task_id)


@app.command(rich_help_panel=LEARNING)
@remote("show_methods")
def methods(client: "Client") -> "Methods":
    """List the methods with their settings, and the plugins that failed.

    Example: `tuneloop methods`
    """
    return client.methods()


# -- models


@models.command("list")
@remote("show_models")
def list_models(client: "Client") -> "list[Model]":
    """List the registered models.

    Example: `tuneloop models list`
    """
    return client.models()


@models.command("show")
@remote("show_model")
def show_model(client: "Client", name: ModelName) -> "Model":
    """Show a model's versions, with the runs they came from and their metrics.

    Example: `tuneloop models show shop`
    """
    return client.get_model(name)


@models.command("register")
@remote(lambda made: print(f"{made.name}/{made.version}"))
def register_model(
    client: "Client",
    name: ModelName,
    task: Annotated[str | None, typer.Option(help="Task whose best model is registered.")] = None,
    run: Annotated[str | None, typer.Option(help="MLflow run whose model is registered.")] = None,
    description: Annotated[str | None, typer.Option(help="A description of the version.")] = None,
) -> "Registered":
    """Register a tuned model as a new version of NAME, which is made when there is none; prints NAME/VERSION.

    Example: `tuneloop models register shop --task 65844c019fa7cf0957d04758`
    """
    if (task is None) == (run is None):
        raise typer.BadParameter("give --task or --run, one of them")
    return client.register_model(name, task_id=task, run_id=run, description=description)


@models.command("alias")
@remote(lambda made: print(f"{made.name}@{made.alias} is now {made.name}/{made.version}"))
def set_alias(
    client: "Client",
    name: ModelName,
    alias: Annotated[str, typer.Argument(help="The alias, such as champion.")],
    version: Annotated[str, typer.Argument(help="Number of the version it shall point at, or latest.")],
) -> "Alias":
    """Point an alias at a version of a model; pointing it back is the rollback.

    Example: `tuneloop models alias shop champion 3`
    """
    return client.set_alias(name, alias.removeprefix("@"), version)


@app.command(rich_help_panel=MODELS)
@remote("show_embeddings")
def embed(
    client: "Client",
    model: ModelRef,
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="Texts; - reads one a line from stdin.")],
    kind: Annotated[Literal["query", "item"], typer.Option(help="What the texts are.")] = "query",
) -> "Embeddings":
    """Embed texts with a registered model: vectors of unit length.

    Example: `tuneloop embed shop@champion "red canvas shoes" --json`
    """
    if texts == ["-"]:
        texts = [line.strip() for line in sys.stdin if line.strip()]
    return client.embed_tagged(model, texts, kind=kind)


@app.command("embed-items", rich_help_panel=MODELS)
@remote("show_task", patient=True, status=is_bad_end)
def embed_items(
    client: "Client",
    model: ModelRef,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Wait, and download the Parquet file to FILE, or into a folder.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show the task until it is over.")] = False,
) -> "Task":
    """Embed all items with a registered model, as a task that writes a Parquet file; prints the task.

    The columns are object_id, embedding (of unit length) and text_hash. Items whose text an earlier task of the same
    version encoded are not encoded again. With --wait or --output the exit status is 0 when the task is done, and 1
    otherwise; Ctrl-C leaves it running.

    Example: `tuneloop embed-items shop/3 --output shop-3.parquet`
    """
    if output is not None and not (output.is_dir() or output.absolute().parent.is_dir()):
        raise typer.BadParameter(f"there is no folder {str(output.parent)!r}")
    task = client.embed_items(model)
    if wait or output is not None:
        task = watch(client, task.id)
    if output is not None and task.status == "done":
        from tuneloop.service import terminal

        terminal.say(f"wrote {client.download_output(task.id, output)}")
    return task


@app.command(rich_help_panel=MODELS)
@remote("show_ranking")
def rank(
    client: "Client",
    model: ModelRef,
    query: Annotated[str, typer.Argument(help="What a user would type.")],
    ids: Annotated[
        list[str] | None, typer.Option(metavar="ID,ID…", help="Stored items, by object_id; repeatable.")
    ] = None,
    items: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Items of a file: object_id and text, as for items import.", callback=existing_file
        ),
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Keep only so many.")] = None,
) -> "Ranking":
    """Order items by their score for a query, best first.

    Example: `tuneloop rank shop@champion "red shoes" --ids a1,a2,a3`
    """
    if bool(ids) == (items is not None):
        raise typer.BadParameter("give --ids or --items, one of them")
    if items is None:
        stored = [part for entry in ids or [] for part in entry.split(",") if part]
        return client.rank(model, query, object_ids=stored, top_k=top_k)
    from tuneloop.client.files import read_json

    return client.rank(model, query, items=read_json(items), top_k=top_k)


def main() -> None:
    """The `tuneloop` command."""
    app(prog_name="tuneloop")


if __name__ == "__main__":
    main()
