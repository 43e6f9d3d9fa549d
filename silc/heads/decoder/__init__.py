"""Captions and answers by a small text decoder that looks at an image tower's tokens, in the manner of LiT-decoder."""
