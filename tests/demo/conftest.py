import pytest

from tuneloop.demo.parameters import ShopParameters
from tuneloop.demo.shop import Shop


@pytest.fixture(scope="session")
def shop():
    """The shop of the demo, made once."""
    return Shop()


@pytest.fixture(scope="session")
def sessions(shop):
    """Its searches in the first round."""
    return list(shop.sessions(0))


@pytest.fixture(scope="session")
def small():
    """Parameters of a shop that is made in a moment."""
    return ShopParameters(
        articles=400, customers=120, days=200, sessions_per_round=600, intents=80, held_out_queries=20
    )
