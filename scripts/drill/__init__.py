"""Real training processes, hurt from outside, and what survived: `python -m scripts.drill`."""
