"""Property tests here have no deadline: how long an example takes says nothing about the code."""

from hypothesis import settings

settings.register_profile("no deadline", deadline=None, max_examples=50)
settings.load_profile("no deadline")
