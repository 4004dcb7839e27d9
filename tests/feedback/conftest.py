"""A feedback store on each database."""

import pytest

from tuneloop.database import Database
from tuneloop.feedback.store import FeedbackStore


@pytest.fixture
def store(database: Database) -> FeedbackStore:
    return FeedbackStore(database)
