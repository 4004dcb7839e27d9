"""Fixtures shared by all tests; each family lives in a file of `support/`."""

pytest_plugins = ["support.databases", "support.mlflow", "support.models", "support.service"]
