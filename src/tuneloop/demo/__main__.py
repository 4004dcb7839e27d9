"""`python -m tuneloop.demo`: a made-up shop plays the whole loop, from clicks and from tables to registered models."""

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from rich.console import Console

from tuneloop.client import Client
from tuneloop.demo.display import Display
from tuneloop.demo.forecasts import CHURN, PURCHASES, Forecasts, churn, purchases
from tuneloop.demo.journey import LIVE_SESSIONS, DemoError, Journey
from tuneloop.demo.local_service import LocalService
from tuneloop.demo.parameters import ShopParameters
from tuneloop.demo.shop import Shop
from tuneloop.errors import TuneloopError
from tuneloop.settings import Settings

_INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status: 0 when the tuned model ranks better, 1 when not or when something failed."""
    options = _parser().parse_args(arguments)
    if options.command == "shop":
        Shop(ShopParameters(seed=options.seed)).write(options.out, rounds=options.rounds)
        print(f"wrote {options.out}")
        return 0
    display = Display(Console(highlight=False))
    for signum in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a shell lets what it starts with & ignore it
        signal.signal(signum, _interrupt)
    try:
        return _demo(options, display)
    except KeyboardInterrupt:
        display.say("stopped; the next start goes on where this one was")
        return _INTERRUPTED
    except TuneloopError as error:
        display.failed(error.detail)
    return 1


def _demo(options: argparse.Namespace, display: Display) -> int:
    began = time.monotonic()
    display.title()
    try:
        settings = Settings()
    except ValueError as error:
        raise DemoError(f"a TUNELOOP_ setting is not valid: {error}") from None
    key = os.environ.get("TUNELOOP_API_KEY") or next((key.secret for key in settings.keys if key.role == "admin"), None)
    if options.url:
        with Client(options.url, key) as client:
            return _play(client, options.url, display, began)
    with LocalService(settings) as service, Client(service.url, key) as client:
        with display.starting() as waiting:
            service.start(waiting)
        status = _play(client, service.url, display, began)
        if service.is_ours and not options.exit:
            return _stay(service, display, status)
        return status


def _play(client: Client, url: str, display: Display, began: float) -> int:
    """One round from sending to the verdict; the exit status."""
    journey = Journey(client, Shop())
    display.round(journey)
    if journey.task is None:
        total = len(journey.sessions)
        with display.step("send the catalogue", len(journey.shop.articles), "articles") as advance:
            journey.send_items(advance)
        with display.step("send searches and clicks", total - LIVE_SESSIONS, "searches, as a log") as advance:
            journey.send_history(advance)
        with display.step("send searches live", LIVE_SESSIONS, "searches, one by one") as advance:
            journey.send_live(advance)
        journey.start_tuning()
    try:
        with display.task("fine-tune") as follow:
            task = journey.follow(follow)
    except DemoError:
        display.links(url, journey.task)
        raise
    initial, tuned = journey.register()
    display.registered(initial, tuned)
    similarities = []
    for label, version in (("search with the old model", initial), ("search with the new model", tuned)):
        with display.step(label, journey.texts_to_embed(), "texts embedded") as advance:
            similarities.append(journey.similarity(version, advance))
    outcome = journey.compare(*similarities)
    display.outcome(journey, outcome, initial, tuned)
    _forecast(client, journey.shop, display)
    display.links(url, task)
    display.verdict(outcome, time.monotonic() - began)
    return 0 if outcome.is_better else 1


def _forecast(client: Client, shop: Shop, display: Display) -> None:
    """Learn from the shop's tables who will stay away and what will be bought, and ask the models."""
    display.tables(shop)
    with tempfile.TemporaryDirectory(prefix="tuneloop-demo-") as name:
        folder = Path(name)
        forecasts = Forecasts(client, shop, folder)
        forecasts.write_tables()
        with display.task("learn who will leave") as follow:
            leaves = forecasts.fit(CHURN, churn(folder), follow)
        with display.task("learn who buys what") as follow:
            buys = forecasts.fit(PURCHASES, purchases(folder), follow)
    display.forecasts(forecasts, leaves, buys)


def _stay(service: LocalService, display: Display, status: int) -> int:
    """Keep the service up until Ctrl-C; the exit status."""
    display.staying()
    try:
        service.wait()
    except KeyboardInterrupt:
        display.say("stopping the service…")
        return status
    raise DemoError("the service ended by itself:\n" + "\n".join(service.tail()))


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tuneloop.demo",
        description="Starts the service, plays a made-up fashion shop against it, tunes the shop's search model from "
        "clicks, registers it, shows how much better it ranks, and learns from the shop's tables who will leave and "
        "who buys what. The service stays up until Ctrl-C.",
        epilog="TUNELOOP_* variables configure the service. Each start plays another round on top of the last.",
    )
    parser.add_argument(
        "--exit",
        action="store_true",
        default=os.environ.get("DEMO_EXIT", "") not in ("", "0"),
        help="stop the service and end after the results (the same as DEMO_EXIT=1)",
    )
    parser.add_argument("--url", help="play against the service at this address and start none")
    commands = parser.add_subparsers(dest="command", metavar="[shop]")
    shop = commands.add_parser("shop", help="write the shop's data to files instead", description=Shop.write.__doc__)
    shop.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the files")
    shop.add_argument("--rounds", type=int, default=1, help="rounds of search sessions to write (default: 1)")
    shop.add_argument("--seed", type=int, default=ShopParameters().seed, help="seed of the shop (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
