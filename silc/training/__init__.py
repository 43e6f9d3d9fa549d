"""The engine: it brings a run of any kind to its end, and knows no method (protocols.py says what it is handed)."""
