"""The shop's customers: who they are, what they like, and how that changes over the two years."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tuneloop.demo.assortment import COLOURS, STYLES, TYPES
from tuneloop.demo.parameters import ShopParameters

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# What somebody who tires of a style takes up next (mostly), and of a colour: positions in `STYLES` and `COLOURS`.
STYLE_AFTER = dict(zip((0, 6, 5, 7, 2, 3, 4, 1), (6, 5, 7, 2, 3, 4, 1, 0), strict=True))
_STAGES = 3
_REGIONS = 12
_FOLLOWS_FASHION = 0.8


@dataclass(frozen=True)
class Drift:
    """A taste on its way: each customer goes from one favourite to the next, twice in the time.

    `stages` are the favourites, shape (customers, 3); `steps` the days around which they change, shape (customers, 2).
    """

    stages: Ints
    steps: Floats
    width: float

    def weights(self, who: Ints, day: float, values: int) -> Floats:
        """How much each value is liked on a day, shape (len(who), values); each row sums to 1."""
        position = (1 / (1 + np.exp((self.steps[who] - day) / self.width))).sum(axis=1)  # 0 to 2
        liked = np.zeros((len(who), values))
        for stage in range(_STAGES):
            share = np.clip(1 - np.abs(position - stage), 0, None)
            np.add.at(liked, (np.arange(len(who)), self.stages[who, stage]), share)
        return liked


@dataclass(frozen=True)
class Customers:
    """The customers, one array each, in the order of `ids`.

    `joined` is a day counted from the shop's first (below 0: before it), `gap` the days between visits, `types` how
    much each product type is liked, shape (customers, types), `price` the liked price relative to its type's middle
    (log), `online` the share of purchases made online.
    """

    ids: tuple[str, ...]
    joined: Ints
    age: Ints
    region: Ints
    gap: Floats
    style: Drift
    colour: Drift
    types: Floats
    price: Floats
    online: Floats


def make_customers(parameters: ShopParameters) -> Customers:
    """The people, `cus-0001` onwards."""
    rng = parameters.rng("customers")
    number = parameters.customers
    joined = np.where(
        rng.random(number) < 0.5, -rng.integers(0, 400, number), rng.integers(0, parameters.days - 60, number)
    )
    age = np.clip(rng.normal(38, 13, number), 18, 80).astype(int)
    colour_after = dict(enumerate(rng.permutation(len(COLOURS))))
    return Customers(
        ids=tuple(f"cus-{index + 1:04d}" for index in range(number)),
        joined=joined,
        age=age,
        region=rng.integers(1, _REGIONS + 1, number),
        gap=parameters.visit_gap * rng.lognormal(0, parameters.visit_gap_spread, number),
        style=_drift(rng, parameters, joined, _shares(STYLES), STYLE_AFTER),
        colour=_drift(rng, parameters, joined, _shares(COLOURS), colour_after),
        types=rng.normal(0, 1, (number, len(TYPES))),
        price=rng.normal(0, 0.25, number) + (age - 38) * 0.006,
        online=rng.beta(2, 1.5, number),
    )


def _drift(
    rng: np.random.Generator, parameters: ShopParameters, joined: Ints, shares: Floats, after: dict[int, int]
) -> Drift:
    number = len(joined)
    stages = np.empty((number, _STAGES), int)
    stages[:, 0] = rng.choice(len(shares), number, p=shares)
    for stage in range(1, _STAGES):
        follows = np.array([after[int(value)] for value in stages[:, stage - 1]])
        stages[:, stage] = np.where(
            rng.random(number) < _FOLLOWS_FASHION, follows, rng.integers(0, len(shares), number)
        )
    first = np.maximum(joined, 0) + rng.uniform(20, 330, number)
    return Drift(stages, np.stack([first, first + rng.uniform(150, 420, number)], axis=1), parameters.drift_width)


def _shares(weights: dict[str, int]) -> Floats:
    """How many customers begin with each value: fewer differ from it than the assortment's sizes do."""
    sizes = np.sqrt(np.fromiter(weights.values(), float))
    return np.asarray(sizes / sizes.sum())
