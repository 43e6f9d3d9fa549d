"""TCL (Cha et al., CVPR 2023): a decoder on a frozen model learns which region of an image a text describes, from
image-text pairs alone."""
