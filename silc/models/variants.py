"""Tower sizes by name. Image and text towers have the same size, as in SigLIP.

So400m/14 has the sizes of its shape-optimised checkpoint (224 px); local views have 98 px, a multiple of its patch.
"""

from __future__ import annotations

from silc.models.config import ImageTowerConfig, ModelConfig, TextTowerConfig

VARIANTS = {  # width, depth, heads, mlp, patch, size, side of local views
    "tiny": (128, 3, 4, 512, 8, 48, 24),
    "ti16": (192, 12, 3, 768, 16, 256, 96),
    "s16": (384, 12, 6, 1536, 16, 256, 96),
    "b16": (768, 12, 12, 3072, 16, 256, 96),
    "b8": (768, 12, 12, 3072, 8, 256, 96),
    "l16": (1024, 24, 16, 4096, 16, 256, 96),
    "so400m14": (1152, 27, 16, 4304, 14, 224, 98),
}
LOCAL_SIZE = {name: numbers[-1] for name, numbers in VARIANTS.items()}


def variant(name: str) -> ModelConfig:
    """The towers called `name`."""
    width, depth, heads, mlp, patch, size, _ = VARIANTS[name]
    return ModelConfig(
        image=ImageTowerConfig(size=size, patch=patch, width=width, depth=depth, heads=heads, mlp=mlp),
        text=TextTowerConfig(length=24 if name == "tiny" else 64, width=width, depth=depth, heads=heads, mlp=mlp),
        embed_dim=width,
    )
