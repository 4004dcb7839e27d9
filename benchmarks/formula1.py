"""The Formula 1 data of the published benchmark rel-f1 as datasets."""

from pathlib import Path
from typing import Any

from tuneloop.relational import Dataset

# Of each task: its type, its label, its metric, and the days that the label looks ahead.
TASKS: dict[str, tuple[str, str, str, int]] = {
    "driver-dnf": ("binary_classification", "did_not_finish", "roc_auc", 30),
    "driver-top3": ("binary_classification", "qualifying", "roc_auc", 30),
    "driver-position": ("regression", "position", "mae", 60),
}


def formula1(folder: Path, task: str) -> Dataset:
    """The nine tables and a task."""

    def table(name: str, *, key: str | None = None, time: str | None = "date", **links: str) -> dict[str, Any]:
        return {
            "name": name,
            "source": str(folder / "tables" / f"{name}.parquet"),
            "time_column": time,
            "candidate_keys": [key] if key else [],
            "foreign_keys": [{"column": column, "link_to": f"{other}.{column}"} for column, other in links.items()],
        }

    race, driver, team = {"raceId": "races"}, {"driverId": "drivers"}, {"constructorId": "constructors"}
    kind, label, metric, days = TASKS[task]
    return Dataset.parse(
        {
            "name": "f1",
            "tables": [
                table("circuits", key="circuitId", time=None),
                table("drivers", key="driverId", time=None),
                table("constructors", key="constructorId", time=None),
                table("races", key="raceId", circuitId="circuits"),
                table("results", key="resultId", **race, **driver, **team),
                table("qualifying", key="qualifyId", **race, **driver, **team),
                table("driver_standings", key="driverStandingsId", **race, **driver),
                table("constructor_results", key="constructorResultsId", **race, **team),
                table("constructor_standings", key="constructorStandingsId", **race, **team),
            ],
            "task": {
                "name": task,
                "task_type": kind,
                "target_entity": {"column": "driverId", "link_to": "drivers.driverId"},
                "time_column": "date",
                "label_column": label,
                "horizon": f"{days} days",
                "evaluation_metric": metric,
                "source": {
                    "train": str(folder / "tasks" / task / "train.parquet"),
                    "validation": str(folder / "tasks" / task / "val.parquet"),
                    "test": str(folder / "tasks" / task / "test.parquet"),
                },
            },
        }
    )
