"""Open-vocabulary detection as OWL-ViT does it: each patch predicts a box, and its class by text features."""
