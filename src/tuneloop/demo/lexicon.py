"""The words for what articles can be: those of the language, and those that the shop's shoppers made up."""

from dataclasses import dataclass
from functools import cached_property

from tuneloop.demo.assortment import COLOURS, FEATURES, OCCASIONS, PATTERNS, SEASONS, STYLES, TYPES
from tuneloop.demo.parameters import ShopParameters, pick

# Another common word for a value, where there is one.
ALSO = {
    "trousers": "pants", "jeans": "denims", "shorts": "short pants", "skirt": "skirts", "leggings": "tights",
    "dress": "gown", "jumpsuit": "overalls", "swimsuit": "swimwear", "pyjamas": "nightwear", "shirt": "button-up",
    "blouse": "top", "t-shirt": "tee", "sweater": "jumper", "cardigan": "knit jacket", "hoodie": "hooded sweatshirt",
    "blazer": "suit jacket", "jacket": "windcheater", "coat": "overcoat", "sneakers": "trainers", "boots": "booties",
    "sandals": "flip-flops", "socks": "hosiery", "scarf": "shawl", "hat": "cap", "handbag": "purse",
    "belt": "waistband", "wide-leg": "baggy", "skinny": "tight", "oversized": "loose", "cropped": "short cut",
    "tailored": "fitted", "grey": "gray", "beige": "sand", "navy": "dark blue", "striped": "stripes",
    "floral": "flowers", "checked": "plaid", "polka-dot": "dotted", "leopard-print": "leopard",
    "waterproof": "rainproof", "breathable": "airy", "stretchy": "elastic", "recycled": "sustainable",
    "crease-free": "non-iron", "padded": "quilted", "office": "work", "wedding": "bridal", "gym": "workout",
    "beach": "seaside", "hiking": "trekking", "travel": "journey", "lounging": "at home", "minimalist": "minimal",
    "vintage": "retro", "bohemian": "boho", "streetwear": "urban", "utility": "workwear", "autumn": "fall",
}  # fmt: skip
FACETS = ("type", "colour", "material", "pattern", "fit", "feature", "occasion", "style", "season")
# How many invented words a value of each facet has: slang words, brand words for styles, codes for features.
_INVENTED = {facet: 2 if facet in ("fit", "style") else 1 for facet in FACETS}
_ONSETS = (
    "br",
    "d",
    "dr",
    "f",
    "fl",
    "g",
    "gr",
    "j",
    "kl",
    "kr",
    "m",
    "n",
    "pl",
    "q",
    "sk",
    "sn",
    "tr",
    "v",
    "w",
    "z",
    "zh",
)
_VOWELS = ("a", "e", "i", "o", "u")
_MIDDLES = ("zz", "vv", "lk", "mb", "zn", "sk", "ppl", "zh", "x", "kt", "gl", "nj", "wl", "rv", "bl", "fn")
_ENDINGS = {"style": ("ora", "iko", "elle", "ux", "avi"), "": ("o", "a", "ik", "oo", "im", "us", "ep", "ash", "ump")}


@dataclass(frozen=True, order=True)
class Concept:
    """One value of one facet, such as fit = wide-leg: what an article has and a shopper wants."""

    facet: str
    value: str


@dataclass(frozen=True)
class Words:
    """The ways to say one concept."""

    plain: tuple[str, ...]
    invented: tuple[str, ...]


class Lexicon:
    """The shoppers' vocabulary. `words[concept]` has the plain and the invented ones; no word means two things."""

    def __init__(self, parameters: ShopParameters) -> None:
        self._rng = parameters.rng("lexicon")
        self._taken: set[str] = set()
        self.words: dict[Concept, Words] = {}
        for concept in concepts():
            also = ALSO.get(concept.value)
            plain = (concept.value.replace("-", " "), *([also] if also else []))
            invented = tuple(self._invent(concept.facet) for _ in range(_INVENTED[concept.facet]))
            self.words[concept] = Words(plain, invented)

    @cached_property
    def invented(self) -> dict[str, Concept]:
        """Each invented word and what it means."""
        return {word: concept for concept, words in self.words.items() for word in words.invented}

    def _invent(self, facet: str) -> str:
        while True:
            word = self._code() if facet == "feature" else self._coin(_ENDINGS.get(facet, _ENDINGS[""]))
            if word not in self._taken:
                self._taken.add(word)
                return word

    def _code(self) -> str:
        letters = "".join(self._rng.choice(list("bdfghjkqtvwxz"), size=2))
        return f"{letters}-{self._rng.integers(10, 100)}"

    def _coin(self, endings: tuple[str, ...]) -> str:
        return "".join(pick(self._rng, parts) for parts in (_ONSETS, _VOWELS, _MIDDLES, endings))


def concepts() -> tuple[Concept, ...]:
    """Everything that can be searched for, in a fixed order: a pattern `plain` and no feature are nothing to seek."""
    values: dict[str, tuple[str, ...]] = {
        "type": tuple(type_.name for type_ in TYPES),
        "colour": tuple(COLOURS),
        "material": tuple(sorted({material for type_ in TYPES for material in type_.materials})),
        "pattern": tuple(pattern for pattern in PATTERNS if pattern != "plain"),
        "fit": tuple(sorted({fit for type_ in TYPES for fit in type_.fits})),
        "feature": tuple(feature for feature in FEATURES if feature),
        "occasion": tuple(OCCASIONS),
        "style": tuple(STYLES),
        "season": SEASONS,
    }
    return tuple(Concept(facet, value) for facet in FACETS for value in values[facet])
