"""The shapes of the towers, the distillation head and the teacher."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from silc.types import BadInput


@dataclass(frozen=True)
class ImageTowerConfig:
    """A ViT (timm) that takes any image size its patch size divides."""

    size: int = 256
    """Side of the images it is made for: global views, evaluation windows, position embedding grid."""
    patch: int = 16
    """Side of a patch in pixels."""
    width: int = 768
    """Token width."""
    depth: int = 12
    """Transformer blocks."""
    heads: int = 12
    """Attention heads."""
    mlp: int = 3072
    """Hidden width of the MLPs."""
    pool: Literal["map", "cls", "mean"] = "map"
    """How tokens become one embedding: attention pooling (SigLIP), class token (CLIP), mean of the patches."""

    def __post_init__(self) -> None:
        if self.size % self.patch:
            raise BadInput(
                f"model.image.size {self.size} is not a multiple of model.image.patch {self.patch}; "
                f"use {self.size // self.patch * self.patch} or {(self.size // self.patch + 1) * self.patch}"
            )
        if self.width % self.heads:
            raise BadInput(f"model.image.width {self.width} is not a multiple of model.image.heads {self.heads}")


@dataclass(frozen=True)
class TextTowerConfig:
    """A pre-norm transformer over token ids."""

    length: int = 64
    """Tokens per caption, cut or padded."""
    width: int = 768
    """Token width."""
    depth: int = 12
    """Transformer blocks."""
    heads: int = 12
    """Attention heads."""
    mlp: int = 3072
    """Hidden width of the MLPs."""
    causal: bool = False
    """False: bidirectional, last position pooled (SigLIP). True: causal, end token pooled (CLIP)."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise BadInput(f"model.text.width {self.width} is not a multiple of model.text.heads {self.heads}")


@dataclass(frozen=True)
class HeadConfig:
    """Projection from the shared embedding to prototypes (paper: 2 layers of 2048 with GELU, bottleneck 256)."""

    hidden: int = 2048
    """Width of the two hidden layers."""
    bottleneck: int = 256
    """Width of the l2-normalised bottleneck."""
    prototypes: int = 65_536
    """K. About 1k-4k below 100,000 images, 65,536 beyond a million."""


@dataclass(frozen=True)
class TeacherConfig:
    """The exponential moving average that gives the targets and, in the paper, every reported number."""

    half_life: str = "auto"
    """Examples that renew half of the average, e.g. '330k examples'; `auto` is min(330k, 5 % of the run)."""
    temperature: float = 0.04
    """tau_t, sharpens the targets."""
    centre_momentum: float = 0.9
    """m: c <- m c + (1 - m) mean of the teacher's logits over the global batch."""


@dataclass(frozen=True)
class ModelConfig:
    """Two towers into one joint space; a head and a teacher where the objective asks for them."""

    image: ImageTowerConfig = field(default_factory=ImageTowerConfig)
    """Image tower F."""
    text: TextTowerConfig = field(default_factory=TextTowerConfig)
    """Text tower G."""
    embed_dim: int = 768
    """D, width of the joint space; with MAP pooling it is the image tower's width, no projection follows."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """Distillation head on top of the joint image embedding."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    """EMA teacher."""

    def __post_init__(self) -> None:
        if self.image.pool == "map" and self.embed_dim != self.image.width:
            raise BadInput(
                f"model.embed_dim is {self.embed_dim} but MAP pooling gives model.image.width {self.image.width}; "
                "set both alike, or use pool=cls or mean, which project"
            )
