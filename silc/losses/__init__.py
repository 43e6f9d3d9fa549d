"""Losses: pure functions from features to a number, without state."""
