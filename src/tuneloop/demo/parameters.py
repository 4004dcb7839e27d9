"""Every number that shapes the made-up shop, in one place."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np


@dataclass(frozen=True)
class ShopParameters:
    """What the shop is made of; the same parameters always give the same shop.

    Probabilities are between 0 and 1, times are in days, utilities are in units of the choice noise (Gumbel, scale 1).
    """

    seed: int = 7

    # -- the catalogue and the two years behind it
    articles: int = 2000
    customers: int = 1500
    first_day: date = date(2023, 1, 1)
    days: int = 730
    late_launches: float = 0.3  # share of the articles that come into the shop during the two years

    # -- how customers buy
    visit_gap: float = 34.0  # median time between the visits of a content customer
    visit_gap_spread: float = 0.6  # log-scale deviation between customers
    visit_regularity: float = 1.3  # shape of the gamma distribution of one customer's gaps
    extra_articles: float = 0.5  # articles bought in a visit beyond the first, on average
    basics_buyers: float = 0.25  # share of customers who buy the same basics again and again
    basics_interval: tuple[float, float] = (50.0, 130.0)
    taste_style: float = 8.0
    taste_colour: float = 6.5
    taste_price: float = 2.5
    taste_type: float = 2.0
    drift_width: float = 22.0  # how long the step from one taste to the next takes
    outfit_share: float = 0.45  # share of purchases that make the customer look for something matching
    popularity: float = 0.15

    # -- why customers leave
    leave_hazard: float = 0.0004  # chance a day, at a satisfaction of zero
    leave_slope: float = 1.8  # the hazard grows by exp(slope) for each unit of satisfaction lost
    slowing: float = 0.7  # the gaps grow by exp(slowing) for each unit of satisfaction lost
    forgetting: float = 75.0  # how long a disappointment is remembered
    return_blow: float = 0.9
    mismatch_blow: float = 1.4

    # -- how shoppers search, and what the house search engine shows them
    sessions_per_round: int = 6000
    round_days: int = 14
    intents: int = 900
    held_out_intents: float = 0.25
    held_out_queries: int = 320
    invented_share: float = 0.62  # chance that a shopper says a concept in an invented word
    anonymous: float = 0.2
    results_shown: int = 20
    misread: float = 0.07  # share of searches for which the engine shows something else altogether
    engine_keyword: float = 1.0
    engine_log: float = 0.9  # what the engine learned of invented words from what was bought after them
    engine_popularity: float = 0.25
    engine_noise: float = 0.75

    # -- how they click: chance = click_grade[grade] / position ** position_bias
    position_bias: float = 0.5
    click_grade: tuple[float, float, float] = (0.02, 0.18, 0.8)
    abandoned: float = 0.12
    says_irrelevant: float = 0.8  # of those who were shown nothing relevant
    to_cart: float = 0.3
    to_purchase: float = 0.5

    @property
    def last_day(self) -> date:
        """The last day of the purchases; the searches of round 0 begin the day after."""
        return self.first_day + timedelta(days=self.days - 1)

    def rng(self, part: str, *numbers: int) -> np.random.Generator:
        """The random numbers of one part of the shop, so that a change in one part leaves the others alone."""
        return np.random.default_rng([self.seed, zlib.crc32(part.encode()), *numbers])


def pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    """One of these, each as likely."""
    return choices[int(rng.integers(len(choices)))]
