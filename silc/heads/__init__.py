"""Heads trained on top of an existing model. Each head is a package here and a row of `silc/kinds.py`.

Several heads share these modules: `run` (the parts of a head's run), `tuning` (which weights of the towers are
trained), `label_maps` (batches of images with label maps), `augment` (random changes of an image and its label map).
"""
