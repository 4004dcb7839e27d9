"""The parts of the service, each run in this process until it is told to stop."""

import sys

from tuneloop.errors import TuneloopError, Unavailable
from tuneloop.service import checks, lifeline, logs, ports
from tuneloop.settings import Settings

# The exit status of a part that cannot start with these settings: trying again would not help.
CONFIG_ERROR = 2


def run_api(settings: Settings) -> int:
    """Serve the API on `host`:`port` until SIGTERM or SIGINT; the exit status."""
    lifeline.hold()
    logs.configure(settings.log_level)
    try:
        settings.check_exposure()
        checks.check_folder(settings.data_dir)
        listener = ports.bind(settings.host, settings.port, "TUNELOOP_PORT")
        checks.migrate(settings)
    except TuneloopError as error:
        return fail(error)

    import uvicorn

    from tuneloop.api.app import create_app

    config = uvicorn.Config(
        create_app(settings), log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=3
    )
    server = uvicorn.Server(config)
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:  # uvicorn has shut down, and passes the signal on
        return 0
    return 0 if server.started else 1


def run_worker(settings: Settings) -> int:
    """Work on tasks until SIGTERM or SIGINT; the exit status."""
    lifeline.hold()
    logs.configure(settings.log_level)
    try:
        checks.check_folder(settings.data_dir)
        checks.migrate(settings)
    except TuneloopError as error:
        return fail(error)

    from tuneloop.tasks import worker

    try:
        worker.run(settings)
    except KeyboardInterrupt:
        return 0
    return 0


def run_mlflow(settings: Settings) -> int:
    """Serve MLflow on the loopback address until SIGTERM or SIGINT; the exit status."""
    lifeline.hold()
    logs.configure(settings.log_level)
    try:
        checks.check_folder(settings.data_dir)
        ports.check("127.0.0.1", settings.mlflow_port, "TUNELOOP_MLFLOW_PORT")
    except TuneloopError as error:
        return fail(error)

    from tuneloop.service import mlflow_server

    try:
        mlflow_server.run(settings)
    except KeyboardInterrupt:
        return 0
    return 0


def fail(error: TuneloopError) -> int:
    """Say in one line on stderr why a part cannot start; its exit status."""
    print(f"tuneloop: {error.detail}", file=sys.stderr)
    return 1 if isinstance(error, Unavailable) else CONFIG_ERROR
