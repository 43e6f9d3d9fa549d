"""Open-vocabulary detection as OWL-ViT does it: each patch names a box, and what is in it by a text's features."""
