"""PACL (Mukhoti et al., CVPR 2023): a new embedding of a frozen model's patches, weighted by each text.

There is no official code. What the paper does not say, or we could not read, is a setting marked "our choice".
"""
