"""Shards of the tests of data."""

from tests.data.conftest import corpus, shards

__all__ = ["corpus", "shards"]
