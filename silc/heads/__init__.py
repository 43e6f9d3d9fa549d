"""Heads that are trained on a model there is; each is a package here and a row of `silc/kinds.py`.

What several heads need stands beside them: `run` (what a head's run is composed of), `tuning` (what the towers learn),
`label_maps` (images with label maps, in batches), `augment` (what is drawn for an image and its map).
"""
