"""What does learning from new clicks cost elsewhere? Through the running service, on rare-diseases:

  general   one iteration on all sessions. Before and after, nDCG@10 of finding the rest of an item's text by its first
            sentence, of which no click says anything. More than 2 points lost are too many.
  topics    five batches of different topics in a row, an iteration each, each from the last best model. After each,
            nDCG@10 on the test queries of all five topics. Forgetting is the largest drop of a topic from its best
            earlier value to the end.

A topic is a cluster of clicked items by the start model (k-means); a session belongs to the one that most of its clicks
do, a test query to that of its most relevant item.

    python benchmarks/retention.py [--only PART] [--params '{"replay": 0.5}'] [--quick] [--json FILE]
"""

import argparse
import json
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import tuneloop
from common import need, read_lines, service, write_json
from rare_diseases import MODEL, Follower, measure, ranking_quality
from tuneloop.client import Task

PARTS = "general", "topics"
TOPICS = 5
PAIRS = 1000
Records = list[dict[str, Any]]
console = Console()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--only", choices=PARTS, help="only this part")
    parser.add_argument("--params", type=json.loads, default={}, help="hyperparameters to give instead of searching")
    parser.add_argument("--quick", action="store_true", help="one run of one epoch on a tenth of the items")
    arguments = parser.parse_args()
    folder = need("rare-diseases")
    items = read_lines(folder / "items.jsonl.gz")
    sessions = read_lines(folder / "sessions.jsonl.gz")
    queries = read_lines(folder / "queries.test.jsonl.gz")
    settings: dict[str, Any] = {"fixed_params": arguments.params}
    if arguments.quick:
        items, sessions, queries = reduce(items, sessions, queries)
        settings |= {"max_runs": 1, "max_epochs": 1, "evaluations": 1, "max_length": 16}
        settings["fixed_params"] = {"batch_size": 16} | arguments.params
    figures: dict[str, float] = {}
    runs: Records = []
    for part in [arguments.only] if arguments.only else PARTS:
        if part == "general":
            found, rows = general(items, sessions, settings)
        else:
            found, rows = topics(items, sessions, queries, settings)
        figures |= found
        runs += rows
        write_json(arguments.json, figures=figures, runs=runs)  # what is known, should it be stopped


def reduce(items: Records, sessions: Records, queries: Records) -> tuple[Records, Records, Records]:
    """A tenth of the conditions: their items, what sessions that clicked some showed of them, and their queries."""
    items = [item for item in items if int(item["object_id"].partition("-")[0]) % 10 == 0]
    known = {item["object_id"] for item in items}
    sessions = [
        {
            **session,
            "search_results": [each for each in session["search_results"] if each["object_id"] in known],
            "events": [each for each in session["events"] if each["object_id"] in known],
        }
        for session in sessions
        if clicked(session) & known
    ]
    return items, sessions, [query for query in queries if set(query["relevance"]) <= known]


# -- what is known beside the clicks


def general(items: Records, sessions: Records, settings: dict[str, Any]) -> tuple[dict[str, float], Records]:
    """One iteration, and what it does to finding texts by their first sentences."""
    rests, firsts = sentence_pairs(items)
    with service() as client:
        client.upsert_items(items)
        task = tune(client, sessions, settings)
        versions = {"before": client.register_model(MODEL, run_id=task.start_run_id).version}
        if task.best_run_id:
            versions["after"] = client.register_model(MODEL, task_id=task.id).version
        found = {name: measure(client, version, rests, firsts) for name, version in versions.items()}
    before, after = found["before"], found.get("after", found["before"])
    table = Table("model", "nDCG@10", "MRR", title=f"{len(firsts)} texts by their first sentences")
    for name, row in found.items():
        table.add_row(name, f"{row['ndcg_at_10']:.3f}", f"{row['mrr']:.3f}")
    console.print(table)
    figures = {
        "general_ndcg_at_10_before": before["ndcg_at_10"],
        "general_ndcg_at_10_after": after["ndcg_at_10"],
        "general_points_lost": 100 * (before["ndcg_at_10"] - after["ndcg_at_10"]),
    }
    return figures, [{"part": "general", "model": name, **row} for name, row in found.items()]


def sentence_pairs(items: Records) -> tuple[Records, Records]:
    """The texts without their first sentences as items, and the first sentences, where no two are equal, as queries."""
    split = [(item["object_id"], *re.split(r"(?<=[.!?])\s+", item["text"], maxsplit=1)) for item in items]
    times = Counter(first for _, first, *_ in split)
    pairs = [each for each in split if len(each) == 3 and times[each[1]] == 1]
    chosen = np.random.default_rng(0).permutation(len(pairs))[:PAIRS]
    return (
        [{"object_id": pairs[at][0], "text": pairs[at][2]} for at in chosen],
        [{"query": pairs[at][1], "relevance": {pairs[at][0]: 2}} for at in chosen],
    )


# -- what is known from earlier clicks


def topics(
    items: Records, sessions: Records, queries: Records, settings: dict[str, Any]
) -> tuple[dict[str, float], Records]:
    """Five batches of different topics in a row."""
    batches, topic = by_topic(items, sessions, queries)
    rows: Records = []
    with service() as client:
        client.upsert_items(items)
        for number, batch in enumerate(batches, 1):
            console.print(f"topic {number}: {len(batch)} sessions")
            began = time.monotonic()
            task = tune(client, batch, settings)
            seconds = time.monotonic() - began
            if number == 1:
                initial = client.register_model(MODEL, run_id=task.start_run_id).version
                rows.append(
                    {"model": "initial", "ndcg_at_10": by_topic_quality(client, initial, items, queries, topic)}
                )
            row = {"model": f"after topic {number}", "seconds": seconds, "detail": task.detail}
            if task.best_run_id:
                version = client.register_model(MODEL, task_id=task.id).version
                row["ndcg_at_10"] = by_topic_quality(client, version, items, queries, topic)
            else:  # the last best model stays
                row["ndcg_at_10"] = rows[-1]["ndcg_at_10"]
            rows.append(row)
            report(rows)
    values = np.array([row["ndcg_at_10"] for row in rows])  # (models, topics)
    figures = {
        "topics_ndcg_at_10_initial": float(values[0].mean()),
        "topics_ndcg_at_10": float(values[-1].mean()),
        "forgetting_points": float(100 * (values[:-1].max(axis=0) - values[-1]).max()),
    }
    console.print(f"forgetting: {figures['forgetting_points']:.1f} points")
    return figures, [{"part": "topics", **row} for row in rows]


def by_topic(items: Records, sessions: Records, queries: Records) -> tuple[list[Records], NDArray[np.int64]]:
    """The sessions with clicks in a batch for each topic, and the topic of each query, (Q,)."""
    from sklearn.cluster import KMeans

    from contenders import start_model

    sessions = [session for session in sessions if clicked(session)]
    wanted = set().union(*map(clicked, sessions))
    best = [max(query["relevance"], key=query["relevance"].__getitem__) for query in queries]
    texts = {item["object_id"]: item["text"] for item in items if item["object_id"] in wanted | set(best)}
    vectors = start_model().encode(list(texts.values()), normalize_embeddings=True)
    fit = np.array([object_id in wanted for object_id in texts])
    clusters = KMeans(TOPICS, n_init=10, random_state=0).fit(vectors[fit])
    topic = dict(zip(texts, clusters.predict(vectors).tolist(), strict=True))
    batches: list[Records] = [[] for _ in range(TOPICS)]
    for session in sessions:
        votes = Counter(topic[object_id] for object_id in sorted(clicked(session)))
        batches[votes.most_common(1)[0][0]].append(session)
    return batches, np.array([topic[object_id] for object_id in best])


def by_topic_quality(
    client: tuneloop.Client, version: int | str, items: Records, queries: Records, topic: NDArray[np.int64]
) -> list[float]:
    """nDCG@10 on the queries of each topic, by a registered model."""
    vectors = client.embed(f"{MODEL}/{version}", [item["text"] for item in items], kind="item")
    asked = client.embed(f"{MODEL}/{version}", [query["query"] for query in queries], kind="query")
    ids = [item["object_id"] for item in items]
    of_topic = [np.flatnonzero(topic == number) for number in range(TOPICS)]
    return [ranking_quality(asked[at] @ vectors.T, ids, [queries[row] for row in at])["ndcg_at_10"] for at in of_topic]


def report(rows: Records) -> None:
    names = [f"topic {number}" for number in range(1, TOPICS + 1)]
    table = Table("model", *names, title="nDCG@10 on the test queries of each topic")
    for row in rows:
        table.add_row(row["model"], *(f"{value:.3f}" for value in row["ndcg_at_10"]))
    console.print(table)


# -- both


def tune(client: tuneloop.Client, sessions: Records, settings: dict[str, Any]) -> Task:
    """One iteration on these sessions."""
    client.import_sessions(sessions)
    task = client.create_task("Default Fine Tuning Method", settings=settings)
    task = client.wait(task.id, callback=Follower(console), poll_seconds=2)
    if task.status != "done":
        raise SystemExit(f"the iteration ended {task.status}: {task.detail}")
    console.print(f"  {task.detail}")
    return task


def clicked(session: dict[str, Any]) -> set[str]:
    """What a session clicked."""
    return {event["object_id"] for event in session["events"]}


if __name__ == "__main__":
    main()
