"""What the commands have in common: how they find the service, print answers, and say what is wrong."""

import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec, TypeVar

import typer
from typer.core import TyperGroup

from tuneloop.errors import InvalidInput, TuneloopError

if TYPE_CHECKING:
    from tuneloop.client import Client, Task
    from tuneloop.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")

Url = Annotated[
    str | None,
    typer.Option("--url", envvar="TUNELOOP_URL", help="Address of the service.", show_default="http://localhost:5000"),
]
ApiKey = Annotated[str | None, typer.Option("--api-key", envvar="TUNELOOP_API_KEY", help="Secret of an API key.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]

# click's own base class of usage errors, wherever typer takes click from
_ClickError: type[Exception] = typer.BadParameter.__mro__[2]
_QUICK, _PATIENT = 2.0, 120.0  # seconds for which a service that is away is tried again


class OneLineErrors(TyperGroup):
    """Says in one line on stderr what is wrong: exit status 2 for bad arguments, 1 for everything else."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command that the arguments name."""
        try:
            status = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except TuneloopError as error:
            sys.exit(_complain(error.detail, status=1))
        except _ClickError as error:
            if type(error).__name__ == "NoArgsIsHelpError":  # has printed the help
                sys.exit(2)
            message = error.format_message()  # type: ignore[attr-defined]  # every click error has one
            command = getattr(getattr(error, "ctx", None), "command_path", "tuneloop")
            sys.exit(_complain(f"{message.rstrip('.')}; see `{command} --help`", status=2))
        except typer.Abort:
            sys.exit(_complain("nothing was done", status=1))
        sys.exit(status if isinstance(status, int) else 0)


def _complain(message: str, *, status: int) -> int:
    print("tuneloop:", " ".join(message.split()), file=sys.stderr)
    return status


def confirm(question: str) -> None:
    """Ask on stderr, so that stdout stays an answer's.

    Raises:
        typer.Abort: the answer is not yes.
    """
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        print(file=sys.stderr)
    if answer.strip().lower() not in ("y", "yes"):
        raise typer.Abort


def check_set(values: list[str] | None) -> list[str] | None:
    """Refuse what is not `key=value`."""
    for entry in values or []:
        key, equals, _ = entry.partition("=")
        if not (key and equals):
            raise typer.BadParameter(f"{entry!r} is not KEY=VALUE")
    return values


def parse_set(values: list[str] | None) -> dict[str, Any]:
    """`key=value` options as settings: a value is JSON where it can be read so, and text otherwise."""
    settings: dict[str, Any] = {}
    for entry in values or []:
        key, _, value = entry.partition("=")
        try:
            settings[key] = json.loads(value)
        except ValueError:
            settings[key] = value
    return settings


def is_bad_end(task: "Task") -> int:
    """Exit status 1 when a task came to a bad end."""
    return int(task.status in ("error", "canceled"))


def watch(client: "Client", task_id: str) -> "Task":
    """Show a task and what it prints until it is over. Ctrl-C leaves the task alone."""
    with watching(client) as look:
        return client.wait(task_id, callback=look)


@contextmanager
def watching(client: "Client") -> Iterator[Callable[["Task"], None]]:
    """Gives what shows a task, and what it prints, each time it is called with it. Ctrl-C leaves the task alone."""
    from tuneloop.service import live, terminal

    seen: list[str] = []
    after: str | None = None
    view: live.Watching | None = None
    try:
        with ExitStack() as stack:

            def look(task: "Task") -> None:
                nonlocal after, view
                seen[:] = [task.id]
                view = view or stack.enter_context(live.watch_task())  # not while files are still being sent
                after = _say_log(client, task.id, after, view.say)
                view.update(task)

            yield look
    except KeyboardInterrupt:
        for task_id in seen:
            terminal.say(f"Task {task_id} goes on. Watch it again: `tuneloop wait {task_id}`")
            terminal.say(f"Stop it: `tuneloop cancel {task_id}`")
        raise typer.Exit(130) from None


def _say_log(client: "Client", task_id: str, after: str | None, say: Callable[[str], None]) -> str:
    while True:
        log = client.task_log(task_id, after=after)
        for line in log.lines:
            say(line)
        if not log.lines:
            return log.next
        after = log.next


def existing_file(path: Path | None) -> Path | None:
    """The path of an argument, when it is that of a file, or `-`.

    Raises:
        typer.BadParameter: there is no such file.
    """
    if path is not None and str(path) != "-" and not path.exists():
        raise typer.BadParameter(f"there is no file {str(path)!r}")
    return path


def connect(url: str | None, api_key: str | None, *, patient: bool = False) -> "Client":
    """A client for the service that the options, the environment or a `.env` file name.

    `patient` is for long work: the service must answer now, but may be away for a while later.
    """
    from dotenv import dotenv_values

    from tuneloop.client import Client

    known = {**dotenv_values(".env"), **os.environ}
    url = url or known.get("TUNELOOP_URL") or f"http://localhost:{known.get('TUNELOOP_PORT') or 5000}"
    api_key = api_key or known.get("TUNELOOP_API_KEY")
    client = Client(url, api_key, retry_seconds=_QUICK)
    if not patient:
        return client
    with client:
        client.ping()
    return Client(url, api_key, retry_seconds=_PATIENT)


def load_settings() -> "Settings":
    """The settings of this machine's service.

    Raises:
        InvalidInput: a variable has a value that makes no sense.
    """
    from pydantic import ValidationError

    from tuneloop.settings import Settings

    try:
        return Settings()
    except ValidationError as error:
        problems = (f"TUNELOOP_{str(each['loc'][0]).upper()}: {each['msg']}" for each in error.errors())
        raise InvalidInput("; ".join(problems)) from None


def remote(
    show: str | Callable[[Any], None], *, status: Callable[[Any], int] = lambda answer: 0, patient: bool = False
) -> Callable[[Callable[Concatenate["Client", P], T]], Callable[..., None]]:
    """Makes a command of a function from a client, and the command's own parameters, to an answer.

    The command has the options `--url`, `--api-key` and `--json` too; it prints the answer as JSON or by `show`.

    Args:
        show: prints the answer for people; the name of a function of `terminal`, or a function.
        status: the exit status that an answer means.
        patient: see `connect`.
    """

    def decorate(function: Callable[Concatenate["Client", P], T]) -> Callable[..., None]:
        def command(url: str | None, api_key: str | None, as_json: bool, *args: P.args, **options: P.kwargs) -> None:
            with connect(url, api_key, patient=patient) as client:
                answer = function(client, *args, **options)
            from tuneloop.service import terminal

            if as_json:
                terminal.emit(answer)
            else:
                (getattr(terminal, show) if isinstance(show, str) else show)(answer)
            raise typer.Exit(status(answer))

        own = list(inspect.signature(function).parameters.values())[1:]
        shared = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for name, kind, default in (("url", Url, None), ("api_key", ApiKey, None), ("as_json", Json, False))
        ]
        command.__signature__ = inspect.Signature(own + shared)  # type: ignore[attr-defined]  # what typer reads
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in own + shared}
        command.__name__, command.__doc__ = function.__name__, function.__doc__
        return command

    return decorate
