"""Curate a cleaner subset: score image-caption pairs, inspect the scores, select pairs."""
