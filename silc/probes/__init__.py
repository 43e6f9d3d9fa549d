"""Probes: how good frozen features are, by k nearest neighbours and by linear layers trained on them."""
