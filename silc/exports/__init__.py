"""Export a model: one directory that open_clip, transformers and silc open, and graphs that need none of them."""
