"""The engine: it trains a run of any kind to its end, and knows no method (protocols.py says what a run gives it)."""
