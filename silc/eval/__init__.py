"""Evaluation of models: evaluators, metrics and reports."""
