"""The shapes of the towers, the distillation head and the teacher."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from silc.types import BadInput

Activation = Literal["gelu", "gelu_tanh", "quick_gelu"]
"""Exact GELU (timm, LAION's CLIP), its tanh approximation (big_vision, SigLIP), x sigmoid(1.702 x) (OpenAI's CLIP)."""


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
    projection: Literal["auto", "none", "linear", "linear+bias"] = "auto"
    """Into the joint space, after pooling; `auto` is none after attention pooling, linear after the others."""
    activation: Activation = "gelu"
    """Of the MLPs."""
    pre_norm: bool = False
    """A norm before the first block and no bias in the patch embedding (CLIP)."""
    norm_eps: float = 1e-6
    """Epsilon of the norms: 1e-6 in big_vision and SigLIP, 1e-5 in CLIP."""
    position_resample: Literal["bicubic_antialias", "bicubic", "bilinear_antialias", "bilinear_corners"] = (
        "bicubic_antialias"
    )
    """Position embedding at other sizes, as its source does it: timm and open_clip, transformers' SigLIP and CLIP,
    transformers' SigLIP 2, big_vision."""

    @property
    def projects(self) -> bool:
        """Whether a linear layer follows the pooling."""
        return self.projection.startswith("linear") or (self.projection == "auto" and self.pool != "map")

    def __post_init__(self) -> None:
        if self.size % self.patch:
            raise BadInput(
                f"model.image.size {self.size} is not a multiple of model.image.patch {self.patch}; "
                f"use {self.size // self.patch * self.patch} or {(self.size // self.patch + 1) * self.patch}"
            )
        if self.width % self.heads:
            raise BadInput(f"model.image.width {self.width} is not a multiple of model.image.heads {self.heads}")
        if self.norm_eps <= 0:
            raise BadInput(f"model.image.norm_eps is {self.norm_eps}; give a small positive number, e.g. 1e-6")


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
    """Whether a token sees only those before it (CLIP), or all of them, padding included (SigLIP)."""
    pool: Literal["auto", "last", "first", "eos", "argmax", "mean", "max", "map"] = "auto"
    """Position or average that becomes the embedding; `eos` is the first end token, `argmax` the highest id (CLIP's
    way to find it), `map` attention pooling. `auto` is `eos` where the tower is causal, else `last`."""
    projection: Literal["none", "linear", "linear+bias"] = "linear+bias"
    """Into the joint space, after pooling."""
    activation: Activation = "gelu"
    """Of the MLPs."""
    norm_eps: float = 1e-5
    """Epsilon of the norms."""
    vocab_size: int = 0
    """Rows of the token embedding; 0: as many as the tokenizer has entries, an imported tower may have more."""

    @property
    def pooling(self) -> str:
        """What `pool` means here."""
        return self.pool if self.pool != "auto" else "eos" if self.causal else "last"

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise BadInput(f"model.text.width {self.width} is not a multiple of model.text.heads {self.heads}")
        if self.causal and self.pool == "first":
            raise BadInput("model.text.pool is first in a causal tower, where the first token sees no other; use eos")
        if self.norm_eps <= 0:
            raise BadInput(f"model.text.norm_eps is {self.norm_eps}; give a small positive number, e.g. 1e-5")
        if self.vocab_size < 0:
            raise BadInput(f"model.text.vocab_size is {self.vocab_size}; use 0 for as many as the tokenizer has")


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
    """D, width of the joint space; where no projection follows (MAP pooling) it is the tower's width."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """Distillation head on top of the joint image embedding."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    """EMA teacher."""

    def __post_init__(self) -> None:
        if not self.image.projects and self.embed_dim != self.image.width:
            raise BadInput(
                f"model.embed_dim is {self.embed_dim} but without a projection {self.image.pool} pooling gives "
                f"model.image.width {self.image.width}; set both alike, or model.image.projection=linear"
            )
        if self.text.projection == "none" and self.embed_dim != self.text.width:
            raise BadInput(
                f"model.embed_dim is {self.embed_dim} but without a projection the text tower gives model.text.width "
                f"{self.text.width}; set both alike, or model.text.projection=linear"
            )
