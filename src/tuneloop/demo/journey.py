"""What the demo does with a service: send, tune, register, evaluate. Every step may be repeated after a kill."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tuneloop.client import Client, NotFoundError, Registered, Task
from tuneloop.demo.evaluation import Evaluation, Scores
from tuneloop.demo.searches import SearchSession
from tuneloop.demo.shop import Shop
from tuneloop.errors import TuneloopError

MODEL = "shop"
ALIAS = "champion"
# Small enough for a laptop: the shop's texts are short, and a new run begins only in the first minutes.
TUNING: dict[str, Any] = {"max_runs": 8, "max_minutes": 2.5, "max_length": 48}
LIVE_SESSIONS = 300
LIVE_THREADS = 8
_EMBED_CHUNK = 200
_PAGE = 1_000

Advance = Callable[[int], None]


class DemoError(TuneloopError):
    """The demo cannot go on; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """Two versions of the model, compared on the held-out queries; `shift` is the distance shift per query."""

    before: Scores
    after: Scores
    shift: npt.NDArray[np.floating]

    @property
    def is_better(self) -> bool:
        """Whether the tuned model ranks better."""
        return bool(self.after.ndcg.mean() > self.before.ndcg.mean())


class Journey:
    """One round of the demo. `round` is 0 on a new service, and one more for each round that came to an end."""

    def __init__(self, client: Client, shop: Shop) -> None:
        self._client, self.shop = client, shop
        earlier = _demo_tasks(client)
        self._first_start = next((task.start_run_id for _, task in earlier if task.start_run_id), None)
        self.round, self.task = self._where_to_go_on(earlier)

    @cached_property
    def sessions(self) -> list[SearchSession]:
        """The searches of this round."""
        return list(self.shop.sessions(self.round))

    # -- sending

    def send_items(self, advance: Advance) -> None:
        """Send the catalogue; `advance` is called with the number of articles stored so far."""
        self._client.upsert_items(self.shop.items(), progress=advance)

    def send_history(self, advance: Advance) -> None:
        """Send most sessions as a shop sends its log; `advance` is called with the number sent so far.

        Raises:
            DemoError: the service refused some.
        """
        lines = (session.line() for session in self.sessions[:-LIVE_SESSIONS])
        report = self._client.import_sessions(lines, progress=advance)
        if report.rejected_total:
            first = report.rejected[0].error
            raise DemoError(f"the service refused {report.rejected_total} sessions; the first: {first}")

    def send_live(self, advance: Advance) -> None:
        """Send the last sessions as they happen, call by call; `advance` is called with the number sent so far."""
        with ThreadPoolExecutor(LIVE_THREADS) as threads:
            for number, _ in enumerate(threads.map(self._send_one, self.sessions[-LIVE_SESSIONS:]), start=1):
                advance(number)

    def _send_one(self, session: SearchSession) -> None:
        line = session.line()
        events, irrelevant = line.pop("events"), line.pop("is_irrelevant")
        self._client.add_session(**line)
        if events:
            self._client.add_events(session.session_id, events)
        if irrelevant:
            self._client.mark_irrelevant(session.session_id)

    # -- tuning

    def start_tuning(self) -> Task:
        """Ask for the round's fine-tuning; the task of an earlier start that failed or was canceled goes on."""
        seed = self.shop.parameters.seed
        self.task = self._client.create_task(
            settings=TUNING, metadata={"demo": self.round}, idempotency_key=f"demo-{self.round}-{seed}"
        )
        if self.task.status in ("error", "canceled") and self.task.batch_id:
            self.task = self._client.restart_task(self.task.id)
        return self.task

    def follow(self, callback: Callable[[Task], None]) -> Task:
        """Wait for the task.

        Raises:
            DemoError: it ended without a best model.
        """
        if self.task is None:
            raise DemoError("no fine-tuning was started")
        self.task = self._client.wait(self.task.id, callback=callback, poll_seconds=0.5)
        if self.task.status != "done":
            raise DemoError(f"the fine-tuning ended as {self.task.status}: {self.task.detail or 'no reason was given'}")
        if self.task.best_run_id is None:
            raise DemoError(f"the fine-tuning ended without a best model: {self.task.detail or 'no reason was given'}")
        return self.task

    # -- registering

    def register(self) -> tuple[str, str]:
        """Register the start model of the first round and the best model of this one; their versions.

        Raises:
            DemoError: the task does not say which runs they are.
        """
        start = self._first_start or (self.task and self.task.start_run_id)
        best = self.task and self.task.best_run_id
        if not (start and best):
            raise DemoError("the task does not name its start model and its best model")
        initial = self._version_of(start, "before any tuning")
        tuned = self._version_of(best, f"demo round {self.round + 1}")
        self._client.set_alias(MODEL, ALIAS, tuned)
        return initial, tuned

    def _version_of(self, run_id: str, description: str) -> str:
        known = _registered(self._client).get(run_id)
        if known is not None:
            return known
        made: Registered = self._client.register_model(MODEL, run_id=run_id, description=description)
        return made.version

    # -- evaluating

    @cached_property
    def evaluation(self) -> Evaluation:
        """The held-out queries and the truth about them."""
        return Evaluation(self.shop.held_out, tuple(article.object_id for article in self.shop.articles))

    def texts_to_embed(self) -> int:
        """How many texts each version has to embed."""
        return len(self.shop.held_out) + len(self.shop.articles)

    def similarity(self, version: str, advance: Advance) -> npt.NDArray[np.float32]:
        """Each held-out query against each article by one version, over HTTP, shape (queries, articles)."""
        queries = self._embed(version, [held.query.text for held in self.shop.held_out], "query", advance)
        done = len(queries)
        items = [article.text for article in self.shop.articles]
        articles = self._embed(version, items, "item", lambda count: advance(done + count))
        return np.asarray(queries @ articles.T)

    def compare(self, before: npt.NDArray[np.float32], after: npt.NDArray[np.float32]) -> Outcome:
        """Two similarities as metrics."""
        shift = self.evaluation.distance_shift(after, before)
        return Outcome(self.evaluation.scores(before), self.evaluation.scores(after), shift)

    def _embed(self, version: str, texts: Sequence[str], kind: Any, advance: Advance) -> npt.NDArray[np.float32]:
        parts = []
        for start in range(0, len(texts), _EMBED_CHUNK):
            chunk = texts[start : start + _EMBED_CHUNK]
            parts.append(self._client.embed(f"{MODEL}/{version}", chunk, kind=kind))
            advance(start + len(chunk))
        return np.concatenate(parts)

    # -- going on where an earlier demo stopped

    def _where_to_go_on(self, earlier: Iterable[tuple[int, Task]]) -> tuple[int, Task | None]:
        """The round to play, and its task where an earlier demo was ended after asking for it."""
        round_, last = max(earlier, key=lambda pair: pair[0], default=(-1, None))
        if last is None:
            return 0, None
        if last.status in ("error", "canceled") and last.batch_id:
            return round_, None  # sent again and restarted
        unfinished = not last.is_over or (last.best_run_id and last.best_run_id not in _registered(self._client))
        return (round_, last) if unfinished else (round_ + 1, None)


def _demo_tasks(client: Client) -> list[tuple[int, Task]]:
    """The tasks that demos asked for, by round."""
    found, skip = [], 0
    while page := client.tasks(kind="fine_tuning", skip=skip, limit=_PAGE):
        rounds = (((task.metadata or {}).get("demo"), task) for task in page)
        found += [(round_, task) for round_, task in rounds if isinstance(round_, int)]
        skip += len(page)
    return sorted(found, key=lambda pair: pair[0])


def _registered(client: Client) -> dict[str, str]:
    """The versions of the demo's model by the run that each came from; the first, where there are several."""
    try:
        versions = client.get_model(MODEL).versions
    except NotFoundError:
        return {}
    ordered = sorted(versions, key=lambda version: int(version.version), reverse=True)
    return {version.run_id: version.version for version in ordered if version.run_id}
