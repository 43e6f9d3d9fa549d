"""Pretraining as the engine takes it: a configuration becomes learner, batches, schedule and scores."""
