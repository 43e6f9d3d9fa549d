"""PACL (Mukhoti et al., CVPR 2023): patches of a frozen model are embedded anew, and weighed by what a text says.

There is no official code. What the paper's text does not say, or was not to be read, is a setting marked "our choice".
"""
