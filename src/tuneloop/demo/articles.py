"""The catalogue: articles with attributes, a price and a text, all drawn from the seed."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tuneloop.demo.assortment import (
    BRANDS,
    COLOURS,
    FEATURES,
    OCCASIONS,
    PATTERNS,
    SEASONS,
    STYLES,
    TYPES,
    ProductType,
)
from tuneloop.demo.lexicon import FACETS, Concept, concepts
from tuneloop.demo.parameters import ShopParameters, pick

_OCCASIONS = {
    "office": "for the office", "party": "for a party", "wedding": "for a wedding", "gym": "for the gym",
    "beach": "for the beach", "hiking": "for hiking", "travel": "for travel", "lounging": "for lounging",
}  # fmt: skip
_TEXTS = (
    "{title} by {brand}. {a_style} piece {occasion} in {season}.{feature}",
    "{title}, made {occasion}. {a_style} look for {season} from {brand}.{feature}",
    "{brand} {title_lower}: {style} and just right {occasion} this {season}.{feature}",
    "{title} for {season}.{feature} {brand} made it {style}, {occasion}.",
)


@dataclass(frozen=True)
class Article:
    """One thing on sale. `launched` is the day, counted from the first of the shop's, since which it is sold."""

    object_id: str
    type: str
    colour: str
    material: str
    pattern: str
    fit: str
    feature: str
    occasion: str
    style: str
    season: str
    brand: str
    price: float
    launched: int
    text: str

    @property
    def title(self) -> str:
        """What a shop would print above the picture."""
        return _title(self.colour, self.pattern, self.material, self.fit, self.type)

    @cached_property
    def concepts(self) -> frozenset[Concept]:
        """Everything about it that can be searched for."""
        return frozenset(
            Concept(facet, getattr(self, facet)) for facet in FACETS if getattr(self, facet) not in ("", "plain")
        )

    def item(self) -> dict[str, object]:
        """The article as the service takes it."""
        fields = {facet: getattr(self, facet) for facet in FACETS} | {"brand": self.brand, "price": self.price}
        return {"object_id": self.object_id, "text": self.text, "fields": fields}


def make_articles(parameters: ShopParameters) -> tuple[Article, ...]:
    """The catalogue, `art-0001` onwards."""
    rng = parameters.rng("articles")
    brands = {style: BRANDS[2 * index : 2 * index + 2] for index, style in enumerate(STYLES)}
    launches = np.where(rng.random(parameters.articles) < parameters.late_launches, 1, 0)
    launches = launches * rng.integers(1, max(2, parameters.days - 60), parameters.articles)
    return tuple(
        _make_article(rng, f"art-{number + 1:04d}", brands, int(launched)) for number, launched in enumerate(launches)
    )


def concept_matrix(articles: tuple[Article, ...]) -> npt.NDArray[np.bool_]:
    """Which article has which of `concepts()`, shape (articles, concepts)."""
    order = concepts()
    return np.array([[concept in article.concepts for concept in order] for article in articles])


def _make_article(
    rng: np.random.Generator, object_id: str, brands: dict[str, tuple[str, ...]], launched: int
) -> Article:
    type_ = TYPES[int(rng.integers(len(TYPES)))]
    season = _weighted(rng, dict(zip(SEASONS, type_.seasons, strict=True)))
    style = _weighted(rng, STYLES)
    # Each style has its makers, and nine times in ten one of them made it.
    brand = pick(rng, brands[style] if rng.random() < 0.9 else BRANDS)
    chosen = {
        "type": type_.name,
        "colour": _weighted(rng, COLOURS),
        "material": pick(rng, type_.materials),
        "pattern": _weighted(rng, PATTERNS),
        "fit": pick(rng, type_.fits) if rng.random() < 0.75 else "",
        "feature": _weighted(rng, FEATURES),
        "occasion": _weighted(rng, OCCASIONS),
        "style": style,
        "season": season,
        "brand": brand,
    }
    return Article(
        object_id=object_id, price=_price(rng, type_, brand), launched=launched, text=_text(rng, chosen), **chosen
    )


def _price(rng: np.random.Generator, type_: ProductType, brand: str) -> float:
    level = 0.8 + 0.4 * (BRANDS.index(brand) % 2)  # of each pair of makers the second is the dearer
    return round(float(type_.price * level * rng.lognormal(0, 0.25)), 0) - 0.01


def _title(colour: str, pattern: str, material: str, fit: str, type_: str) -> str:
    words = (colour, "" if pattern == "plain" else pattern, material, fit, type_)
    return " ".join(filter(None, words)).capitalize()


def _text(rng: np.random.Generator, chosen: dict[str, str]) -> str:
    title = _title(chosen["colour"], chosen["pattern"], chosen["material"], chosen["fit"], chosen["type"])
    article = "An" if chosen["style"][0] in "aeio" else "A"
    return pick(rng, _TEXTS).format(
        title=title,
        title_lower=title.lower(),
        brand=chosen["brand"],
        style=chosen["style"],
        a_style=f"{article} {chosen['style']}",
        occasion=_OCCASIONS[chosen["occasion"]],
        season=chosen["season"],
        feature=f" {chosen['feature'].capitalize()}." if chosen["feature"] else "",
    )


def _weighted(rng: np.random.Generator, weights: dict[str, int]) -> str:
    shares = np.fromiter(weights.values(), float)
    return str(rng.choice(list(weights), p=shares / shares.sum()))
