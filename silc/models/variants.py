"""Tower sizes by name. Image and text towers are alike, as in SigLIP.

| name        | width | depth | heads | mlp  | patch | size | local |
| ----------- | ----- | ----- | ----- | ---- | ----- | ---- | ----- |
| tiny        | 128   | 3     | 4     | 512  | 8     | 48   | 24    |
| ti16        | 192   | 12    | 3     | 768  | 16    | 256  | 96    |
| s16         | 384   | 12    | 6     | 1536 | 16    | 256  | 96    |
| b16         | 768   | 12    | 12    | 3072 | 16    | 256  | 96    |
| b8          | 768   | 12    | 12    | 3072 | 8     | 256  | 96    |
| l16         | 1024  | 24    | 16    | 4096 | 16    | 256  | 96    |
| so400m14    | 1152  | 27    | 16    | 4304 | 14    | 224  | 98    |

Sizes of So400m/14 follow its shape-optimised checkpoint (224 px; 98 is the local size its patch divides).
"""

from __future__ import annotations

from silc.models.config import ImageTowerConfig, ModelConfig, TextTowerConfig

LOCAL_SIZE = {"tiny": 24, "ti16": 96, "s16": 96, "b16": 96, "b8": 96, "l16": 96, "so400m14": 98}


def variant(name: str) -> ModelConfig:
    """The towers called `name`."""
    return {
        "tiny": _towers(48, 8, 128, 3, 4, 512, length=24),
        "ti16": _towers(256, 16, 192, 12, 3, 768),
        "s16": _towers(256, 16, 384, 12, 6, 1536),
        "b16": _towers(256, 16, 768, 12, 12, 3072),
        "b8": _towers(256, 8, 768, 12, 12, 3072),
        "l16": _towers(256, 16, 1024, 24, 16, 4096),
        "so400m14": _towers(224, 14, 1152, 27, 16, 4304),
    }[name]


def _towers(size: int, patch: int, width: int, depth: int, heads: int, mlp: int, *, length: int = 64) -> ModelConfig:
    return ModelConfig(
        image=ImageTowerConfig(size=size, patch=patch, width=width, depth=depth, heads=heads, mlp=mlp),
        text=TextTowerConfig(length=length, width=width, depth=depth, heads=heads, mlp=mlp),
        embed_dim=width,
    )
