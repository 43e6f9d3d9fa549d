"""Pretraining for the engine: a configuration becomes learner, batches, schedule and scores."""
