"""The commands about tables: `tuneloop relational --help`."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tuneloop.service.commands import check_set, existing_file, is_bad_end, parse_set, remote, watch, watching

if TYPE_CHECKING:
    from tuneloop.client import Client, DatasetProblem, Task

group = typer.Typer(
    name="relational",
    help="Learn from tables: churn, values, next purchases. A dataset is a YAML or JSON file.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

DatasetFile = Annotated[Path, typer.Argument(metavar="FILE", help="The dataset, YAML or JSON.", callback=existing_file)]


@group.command("show")
def show_dataset(
    file: DatasetFile,
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the tables and their keys, too.")] = None,
) -> None:
    """Show what the tables hold: columns, types, keys, nulls and samples, and the task's splits. Needs no service.

    Example: `tuneloop relational show shop.yaml --svg shop.svg`
    """
    from tuneloop.relational.dataset import Dataset

    dataset = Dataset.load(file)
    dataset.show()
    if svg is not None:
        dataset.visualize(svg)
        from tuneloop.service import terminal

        terminal.say(f"wrote {svg}")


@group.command("validate")
@remote("show_problems", patient=True, status=lambda problems: 1 if problems else 0)
def validate_dataset(client: "Client", file: DatasetFile) -> "tuple[DatasetProblem, ...]":
    """Say what is wrong with a dataset before anything is trained; exit status 1 when something is.

    Files that the service cannot see are sent to it first.

    Example: `tuneloop relational validate shop.yaml`
    """
    from tuneloop.relational.dataset import Dataset

    return client.validate(Dataset.load(file))


def _show_fitted(task: "Task | dict[str, Any]") -> None:
    """The task, and the version that its model was registered as."""
    from tuneloop.client import Task
    from tuneloop.service import terminal

    if isinstance(task, Task):
        terminal.show_task(task)
        return
    known = {spec.name for spec in dataclasses.fields(Task)}
    terminal.show_task(Task(**{name: value for name, value in task.items() if name in known}))
    print(f"{task['registered'].name}/{task['registered'].version}")


@group.command("fit")
@remote(_show_fitted, patient=True, status=lambda answer: is_bad_end(answer) if not isinstance(answer, dict) else 0)
def fit_dataset(
    client: "Client",
    file: DatasetFile,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the search; repeatable.", callback=check_set),
    ] = None,
    register: Annotated[
        str | None, typer.Option(metavar="NAME", help="Register the best model as a new version of NAME.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Follow the task until it is over.")] = True,
) -> "Task | dict[str, Any]":
    """Learn the task of a dataset, and follow what is printed while it is learnt; prints the task.

    The dataset is validated first; files that the service cannot see are sent to it. Settings: max_runs (10),
    max_minutes (10, null for no limit), learners ('["boosted", "gnn"]'), blend (true), hops (2), text_model, seed (0).
    Exit status 1 when the task failed. Ctrl-C leaves it running.

    Example: `tuneloop relational fit shop.yaml --set max_minutes=5 --register churn`
    """
    from tuneloop.relational.dataset import Dataset

    if register is not None and not wait:
        raise typer.BadParameter("--register needs the task to be over: leave --no-wait out")
    job = client.fit(Dataset.load(file), parse_set(settings))
    task = watch(client, job.id) if wait else job.task
    if register is None or task.status != "done":
        return task
    made = job.register_model(register)
    return {spec.name: getattr(task, spec.name) for spec in dataclasses.fields(task)} | {"registered": made}


@group.command("predict")
@remote("show_task", patient=True, status=is_bad_end)
def predict_table(
    client: "Client",
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="NAME (its latest version), NAME/VERSION or NAME@ALIAS.")
    ],
    output: Annotated[
        str, typer.Option(metavar="PLACE", help="A .parquet or .csv file, FILE.duckdb#TABLE or CONNECTION#TABLE.")
    ],
    source: Annotated[
        str | None, typer.Option(metavar="PLACE", help="A table of keys and times: a file, or as for --output.")
    ] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Look at the tables of this dataset; without --source, predict for its test split.",
            callback=existing_file,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
    embeddings: Annotated[bool, typer.Option("--embeddings", help="Add the embeddings of the entities.")] = False,
) -> "Task":
    """Predict for a table of entities with a registered model, and write another; prints the task.

    Files that the service cannot see are sent to it, and the file it writes is downloaded. An output that exists is
    left alone. Where the source holds the labels too, the task's detail tells the metrics. Exit status 1 when the task
    failed.

    Example: `tuneloop relational predict churn@champion --source june.parquet --output scores.parquet`
    """
    if source is None and dataset is None:
        raise typer.BadParameter("give --source, or --dataset with a test split")
    tables = None
    if dataset is not None:
        from tuneloop.relational.dataset import Dataset

        tables = Dataset.load(dataset)
    with watching(client) as callback:
        return client.predict(
            tables,
            source=source,
            output=output,
            model=model,
            overwrite=overwrite,
            embeddings=embeddings,
            callback=callback,
        )
