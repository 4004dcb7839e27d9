"""What is remembered of a finished run: in the durable step's answer, and as a tag of the MLflow run."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

# done: trained to its end and may be best; ineligible: trained to its end, ranks worse than the start model;
# pruned: given up early; diverged: the loss was no number; failed: an error of the method.
RunOutcome = Literal["done", "ineligible", "pruned", "diverged", "failed"]


@dataclass(frozen=True)
class RunRecord:
    """One finished run.

    Attributes:
        run_id: of the MLflow run.
        index: the run's place in its iteration, from 0.
        params: its hyperparameters.
        outcome: how it ended.
        value: the main metric of the model it came to; None when it came to none.
        course: the main metric at each evaluation, in order, as the pruner sees it.
        seconds: how long it took.
        detail: why it is ineligible, diverged or failed.
        verdict: of a run that was best when it ended, how its model compares with the start model.
    """

    run_id: str
    index: int
    params: Mapping[str, Any]
    outcome: RunOutcome
    value: float | None = None
    course: tuple[float, ...] = ()
    seconds: float = 0.0
    detail: str | None = None
    verdict: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    def to_tag(self) -> str:
        """As a tag of the run; a very long course or reason is cut, as MLflow cuts tags at 8,000 characters."""
        short = replace(
            self,
            course=tuple(float(f"{value:.6g}") for value in self.course[:100]),
            detail=self.detail and self.detail[:1000],
            verdict=self.verdict and self.verdict[:1000],
        )
        return json.dumps(short.to_json())

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The record that `to_json` wrote."""
        return cls(**{**data, "course": tuple(data["course"])})

    @classmethod
    def from_tag(cls, tag: str) -> Self:
        """The record that `to_tag` wrote."""
        return cls.from_json(json.loads(tag))
