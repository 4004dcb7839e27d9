"""Two years of purchases and returns, simulated day by day; each customer's own past decides what comes next.

What a customer buys depends on a taste that drifts along a path (`customers.Drift`), on what is already in the
wardrobe, on basics that run out at a personal interval, on the season, and on what goes with an earlier purchase.
Whether a customer leaves depends on satisfaction, which nothing shows but the history: returns and articles far from
the taste lower it, time restores it, and before a customer leaves the visits become rarer.
"""

from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np

from tuneloop.demo.articles import Article
from tuneloop.demo.assortment import BRANDS, COLOURS, STYLES, TYPES
from tuneloop.demo.customers import Customers, Floats, Ints
from tuneloop.demo.parameters import ShopParameters

_NEVER = -10_000
_SALE_MONTHS = (1, 7)
_SALE = 0.2
_MATCH_DAYS = (4, 28)  # when after a purchase something that goes with it is looked for
_ALREADY_OWNED = 30.0
_NEED, _SEASON, _OUTFIT_TYPE, _OUTFIT_COLOUR = 2.5, 1.2, 3.0, 2.5
_BASICS = 2


@dataclass
class History:
    """What happened: one entry per purchase in time order, and `returned[i]` the day it came back or -1.

    `left` is the day each customer left, or -1. It is the generator's own: no table tells it.
    """

    customer: list[int] = field(default_factory=list)
    article: list[int] = field(default_factory=list)
    day: list[int] = field(default_factory=list)
    price: list[float] = field(default_factory=list)
    online: list[bool] = field(default_factory=list)
    returned: list[int] = field(default_factory=list)
    left: Ints = field(default_factory=lambda: np.empty(0, int))


class _Shelf:
    """The catalogue as arrays, the articles of a type side by side."""

    def __init__(self, parameters: ShopParameters, articles: tuple[Article, ...]) -> None:
        rng = parameters.rng("shelf")
        types = {type_.name: index for index, type_ in enumerate(TYPES)}
        self.type = np.array([types[article.type] for article in articles])
        self.style = np.array([list(STYLES).index(article.style) for article in articles])
        self.colour = np.array([list(COLOURS).index(article.colour) for article in articles])
        self.price = np.array([article.price for article in articles])
        self.level = np.log(self.price / np.array([TYPES[index].price for index in self.type]))
        self.launched = np.array([article.launched for article in articles])
        self.popularity = parameters.popularity * rng.normal(0, 1, len(articles))
        # Some makers sew badly: what they sold comes back more often.
        flaws = rng.permutation(np.linspace(-1.2, 2.2, len(BRANDS)))
        self.flaw = np.array([flaws[BRANDS.index(article.brand)] for article in articles])
        rows = [np.flatnonzero(self.type == index) for index in range(len(TYPES))]
        self.of_type = np.full((len(TYPES), max(map(len, rows))), -1)
        for index, row in enumerate(rows):
            self.of_type[index, : len(row)] = row


class Simulation:
    """The two years. `run()` goes through them once."""

    def __init__(self, parameters: ShopParameters, articles: tuple[Article, ...], customers: Customers) -> None:
        self._parameters, self._customers = parameters, customers
        self._rng = parameters.rng("purchases")
        self._shelf = _Shelf(parameters, articles)
        number = len(customers.ids)
        self._satisfaction = self._rng.normal(0.2, 0.3, number)
        self._next_visit = np.maximum(customers.joined, 0) + self._rng.uniform(0, customers.gap)
        self._bought_type = np.full((number, len(TYPES)), _NEVER)
        self._owned = np.zeros((number, len(articles)), bool)
        self._outfit_type = np.full(number, -1)
        self._outfit_colour = np.full(number, -1)
        self._outfit_day = np.full(number, _NEVER)
        self._basics, self._basics_gap, self._basics_due = self._choose_basics()
        self._seasons = np.array([type_.seasons for type_ in TYPES], float)
        self._history = History(left=np.full(number, -1))

    def run(self) -> History:
        """Every purchase and return, and who left when."""
        active = np.zeros(len(self._customers.ids), bool)
        for day in range(self._parameters.days):
            active |= self._customers.joined == day if day else self._customers.joined <= 0
            self._leave(day, active)
            self._refill_basics(day, active)
            visitors = np.flatnonzero(active & (self._next_visit <= day))
            self._plan_visit(day, visitors)
            shopping = visitors
            while len(shopping):
                self._shop(day, shopping)
                more = self._parameters.extra_articles / (1 + self._parameters.extra_articles)
                shopping = shopping[self._rng.random(len(shopping)) < more]
        return self._history

    # -- staying

    def _leave(self, day: int, active: np.ndarray) -> None:
        mood = self._satisfaction
        mood -= (mood - 0.2) / self._parameters.forgetting
        hazard = self._parameters.leave_hazard * np.exp(-self._parameters.leave_slope * mood)
        leaving = active & (self._rng.random(len(mood)) < hazard)
        self._history.left[leaving] = day
        active &= ~leaving

    def _plan_visit(self, day: int, who: Ints) -> None:
        shape = self._parameters.visit_regularity
        busy = 1 + 0.25 * np.cos(2 * np.pi * (_day_of_year(self._parameters, day) - 345) / 365)  # most before Christmas
        slow = np.exp(-self._parameters.slowing * np.minimum(self._satisfaction[who], 0.5))
        self._next_visit[who] = day + self._customers.gap[who] * slow / busy * self._rng.gamma(
            shape, 1 / shape, len(who)
        )

    # -- buying

    def _choose_basics(self) -> tuple[Ints, Floats, Floats]:
        """The articles that each customer buys again (-1: none), how often, and the first day; shape (customers, 2)."""
        number = len(self._customers.ids)
        basic = np.array([TYPES[index].basic for index in self._shelf.type]) & (self._shelf.launched == 0)
        chosen = self._rng.choice(np.flatnonzero(basic), (number, _BASICS))
        buys = self._rng.random((number, 1)) < self._parameters.basics_buyers
        buys = buys & (self._rng.random((number, _BASICS)) < (0.999, 0.3))
        gaps = self._rng.uniform(*self._parameters.basics_interval, (number, _BASICS))
        due = np.maximum(self._customers.joined, 0)[:, None] + gaps * self._rng.uniform(0, 1, (number, _BASICS))
        return np.where(buys, chosen, -1), gaps, due

    def _refill_basics(self, day: int, active: np.ndarray) -> None:
        for slot in range(_BASICS):
            due = np.flatnonzero(active & (self._basics[:, slot] >= 0) & (self._basics_due[:, slot] <= day))
            self._basics_due[due, slot] = day + self._basics_gap[due, slot] * self._rng.normal(1, 0.07, len(due))
            # A customer who is not content buys them elsewhere now and then.
            comes = self._rng.random(len(due)) < 1 / (1 + np.exp(-3 - 2.5 * self._satisfaction[due]))
            self._record(day, due[comes], self._basics[due[comes], slot])

    def _shop(self, day: int, who: Ints) -> None:
        """One article for each of these customers."""
        outfit = (self._outfit_type[who] >= 0) & (np.abs(day - self._outfit_day[who] - 16) <= 12)
        types = self._choose_types(day, who, outfit)
        articles, fit = self._choose_articles(day, who, types, outfit)
        found = articles >= 0
        who, types, articles, fit, outfit = who[found], types[found], articles[found], fit[found], outfit[found]
        done = outfit & (types == self._outfit_type[who])
        self._outfit_type[who[done]] = -1
        self._satisfaction[who] -= self._parameters.mismatch_blow * np.clip(0.45 - fit, 0, 1) * 2
        self._satisfaction[who] += 0.12 * (fit > 0.6)
        self._look_for_outfit(day, who, articles)
        self._record(day, who, articles)

    def _choose_types(self, day: int, who: Ints, outfit: np.ndarray) -> Ints:
        recovery = np.array([type_.recovery for type_ in TYPES])
        need = -_NEED * np.exp(-(day - self._bought_type[who]) / recovery)
        utility = (
            self._parameters.taste_type * self._customers.types[who] + need + _SEASON * np.log(0.15 + self._season(day))
        )
        rows = np.flatnonzero(outfit)
        utility[rows, self._outfit_type[who[rows]]] += _OUTFIT_TYPE
        return np.asarray(np.argmax(utility + self._rng.gumbel(size=utility.shape), axis=1))

    def _choose_articles(self, day: int, who: Ints, types: Ints, outfit: np.ndarray) -> tuple[Ints, Floats]:
        """The article of the type that each customer likes best (-1: none), and how well it fits the taste, 0 to 1."""
        shelf, parameters = self._shelf, self._parameters
        shown = shelf.of_type[types]  # (customers, articles of a type), -1 beyond the last
        rows = np.arange(len(who))[:, None]
        style = self._customers.style.weights(who, day, len(STYLES))[rows, shelf.style[shown]]
        colour = self._customers.colour.weights(who, day, len(COLOURS))[rows, shelf.colour[shown]]
        price = -np.abs(shelf.level[shown] - self._customers.price[who][:, None])
        utility = parameters.taste_style * style + parameters.taste_colour * colour + parameters.taste_price * price
        utility += shelf.popularity[shown] - _ALREADY_OWNED * self._owned[who[:, None], shown]
        matches = outfit & (types == self._outfit_type[who])
        utility += _OUTFIT_COLOUR * matches[:, None] * (shelf.colour[shown] == self._outfit_colour[who][:, None])
        utility[(shown < 0) | (shelf.launched[shown] > day)] = -np.inf
        best = np.argmax(utility + self._rng.gumbel(size=utility.shape), axis=1)
        at = (np.arange(len(who)), best)
        fit = np.clip(0.7 * style[at] + 0.3 * colour[at] + 0.2 * (1 + price[at]), 0, 1)
        return np.where(np.isfinite(utility[at]), shown[at], -1), fit

    def _look_for_outfit(self, day: int, who: Ints, articles: Ints) -> None:
        names = [type_.name for type_ in TYPES]
        goes_with = np.array([names.index(type_.goes_with) for type_ in TYPES])
        wants = self._rng.random(len(who)) < self._parameters.outfit_share
        who, articles = who[wants], articles[wants]
        self._outfit_type[who] = goes_with[self._shelf.type[articles]]
        self._outfit_colour[who] = self._shelf.colour[articles]
        self._outfit_day[who] = day
        # They come back for it sooner than they would have.
        sooner = day + self._rng.integers(*_MATCH_DAYS, len(who))
        self._next_visit[who] = np.minimum(self._next_visit[who], sooner)

    def _record(self, day: int, who: Ints, articles: Ints) -> None:
        shelf, history = self._shelf, self._history
        month = (self._parameters.first_day + timedelta(days=day)).month
        factor = 1 - _SALE if month in _SALE_MONTHS else 1.0
        back = self._rng.random(len(who)) < 1 / (1 + np.exp(2.6 - 1.1 * shelf.flaw[articles]))
        self._satisfaction[who[back]] -= self._parameters.return_blow
        self._bought_type[who, shelf.type[articles]] = day
        self._owned[who, articles] = True
        history.customer += who.tolist()
        history.article += articles.tolist()
        history.day += [day] * len(who)
        history.price += np.round(shelf.price[articles] * factor, 2).tolist()
        history.online += (self._rng.random(len(who)) < self._customers.online[who]).tolist()
        history.returned += np.where(back, day + self._rng.integers(3, 15, len(who)), -1).tolist()

    def _season(self, day: int) -> Floats:
        """How much each type is worn on a day, between 0 and about 1.5, shape (types,)."""
        position = (_day_of_year(self._parameters, day) / 365 * 4 - 1) % 4  # 0: the beginning of spring
        before, share = int(position), position % 1
        here = self._seasons / self._seasons.mean(axis=1, keepdims=True)
        return np.asarray(here[:, before] * (1 - share) + here[:, (before + 1) % 4] * share)


def _day_of_year(parameters: ShopParameters, day: int) -> int:
    return (parameters.first_day + timedelta(days=day)).timetuple().tm_yday
