"""Weights in, scores out: evaluators, metrics, report."""
