"""What the shop's articles can be: product types, colours, patterns, styles and who makes them."""

from dataclasses import dataclass

SEASONS = ("spring", "summer", "autumn", "winter")


@dataclass(frozen=True)
class ProductType:
    """A kind of article.

    `fits` and `materials` say what it comes in, `seasons` how much of it is made for each of `SEASONS`, `price` what
    it costs in the middle, `recovery` for how many days somebody who bought one needs no other, `goes_with` the type
    that people then look for, `basic` whether some buy the very same again and again.
    """

    name: str
    fits: tuple[str, ...]
    materials: tuple[str, ...]
    seasons: tuple[int, int, int, int]
    price: float
    recovery: float
    goes_with: str
    basic: bool


def _type(
    name: str,
    fits: str,
    materials: str,
    seasons: tuple[int, int, int, int],
    price: float,
    recovery: float,
    goes_with: str,
    *,
    basic: bool = False,
) -> ProductType:
    return ProductType(name, tuple(fits.split()), tuple(materials.split()), seasons, price, recovery, goes_with, basic)


TYPES = (
    _type("trousers", "wide-leg skinny high-waisted", "cotton linen wool corduroy", (2, 2, 3, 2), 59, 60, "blazer"),
    _type("jeans", "wide-leg skinny high-waisted", "denim cotton", (2, 1, 3, 2), 69, 90, "t-shirt"),
    _type("shorts", "wide-leg high-waisted", "cotton linen denim", (2, 6, 0, 0), 35, 60, "sandals"),
    _type("skirt", "flowing high-waisted", "cotton denim leather silk", (3, 4, 2, 1), 45, 60, "blouse"),
    _type("leggings", "high-waisted cropped", "cotton polyester", (2, 1, 2, 3), 25, 20, "hoodie", basic=True),
    _type("dress", "flowing tailored", "cotton linen silk viscose velvet", (3, 5, 1, 2), 79, 45, "sandals"),
    _type("jumpsuit", "flowing wide-leg", "cotton linen denim", (3, 3, 1, 0), 85, 180, "belt"),
    _type("swimsuit", "high-waisted cropped", "polyester viscose", (1, 8, 0, 0), 39, 200, "sandals"),
    _type("pyjamas", "oversized flowing", "cotton silk fleece", (1, 1, 2, 3), 42, 120, "socks"),
    _type("shirt", "oversized cropped tailored", "cotton linen silk viscose", (2, 3, 2, 1), 45, 35, "trousers"),
    _type("blouse", "flowing cropped", "cotton linen silk viscose", (3, 3, 1, 1), 49, 35, "skirt"),
    _type("t-shirt", "oversized cropped tailored", "cotton linen viscose", (2, 4, 1, 1), 19, 14, "jeans", basic=True),
    _type("sweater", "oversized cropped", "wool cashmere cotton fleece", (1, 0, 4, 4), 65, 60, "scarf"),
    _type("cardigan", "oversized cropped", "wool cashmere cotton fleece", (2, 0, 4, 3), 69, 90, "dress"),
    _type("hoodie", "oversized cropped", "cotton fleece", (2, 1, 3, 3), 49, 80, "sneakers"),
    _type("blazer", "tailored oversized", "wool linen velvet corduroy", (3, 1, 3, 2), 119, 150, "shirt"),
    _type("jacket", "cropped oversized", "denim leather polyester suede", (4, 1, 4, 2), 129, 150, "boots"),
    _type("coat", "tailored oversized", "wool cashmere polyester", (1, 0, 3, 6), 189, 300, "boots"),
    _type("sneakers", "chunky", "canvas leather suede", (3, 3, 2, 1), 85, 120, "jeans"),
    _type("boots", "chunky", "leather suede", (1, 0, 4, 5), 139, 180, "coat"),
    _type("sandals", "chunky", "leather canvas", (1, 8, 0, 0), 55, 150, "dress"),
    _type("socks", "cropped chunky", "cotton wool", (1, 1, 2, 3), 9, 10, "sneakers", basic=True),
    _type("scarf", "oversized flowing", "wool silk cashmere", (1, 0, 3, 5), 35, 120, "coat"),
    _type("hat", "oversized", "cotton wool canvas", (2, 3, 2, 3), 29, 150, "scarf"),
    _type("handbag", "oversized chunky", "leather canvas suede", (1, 1, 1, 1), 95, 200, "hat"),
    _type("belt", "chunky", "leather canvas", (1, 1, 1, 1), 32, 200, "trousers"),
)
# The values of the facets that every type comes in, and how often each is made.
COLOURS = {
    "black": 5, "white": 4, "navy": 4, "beige": 3, "grey": 3, "red": 2, "green": 2, "brown": 2, "pink": 2, "yellow": 1,
    "purple": 1, "orange": 1,
}  # fmt: skip
PATTERNS = {"plain": 9, "striped": 3, "floral": 3, "checked": 3, "polka-dot": 2, "paisley": 1, "leopard-print": 1}
FEATURES = {
    "": 9, "waterproof": 2, "windproof": 2, "breathable": 2, "stretchy": 3, "reversible": 2, "padded": 2, "recycled": 3,
    "crease-free": 2,
}  # fmt: skip
OCCASIONS = {"office": 4, "party": 3, "wedding": 2, "gym": 2, "beach": 2, "hiking": 2, "travel": 3, "lounging": 3}
STYLES = {
    "minimalist": 5, "preppy": 4, "vintage": 4, "bohemian": 4, "romantic": 3, "streetwear": 4, "utility": 2, "punk": 1,
}  # fmt: skip
# Two makers for each style, in the order of `STYLES`; their names mean nothing to a shopper who searches.
BRANDS = (
    "Alder Row", "Studio Ravn", "Clover Hall", "Northgate Mill", "Old Quarry", "Tin Orchard", "Juniper Vale",
    "Nine Larks", "Fable Street", "Maison Orel", "Copper Lane", "Low Tide Club", "Kestrel & Thorn", "Salt & Loom",
    "Ember Yard", "Grey Heron",
)  # fmt: skip
