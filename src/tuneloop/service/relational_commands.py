"""The commands about tables: `tuneloop relational --help`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tuneloop.service.commands import existing_file, remote

if TYPE_CHECKING:
    from tuneloop.client import Client, DatasetProblem

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
