"""Settings of the towers, the distillation head and the teacher."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from silc.errors import BadInput
from silc.settings import Duration, Range, Settings

Activation = Literal["gelu", "gelu_tanh", "quick_gelu"]
"""Exact GELU (timm, LAION's CLIP), its tanh approximation (big_vision, SigLIP), x sigmoid(1.702 x) (OpenAI's CLIP)."""

Width = Annotated[int, Range(least=1, most=65_536)]
Hidden = Annotated[int, Range(least=1, most=1_000_000)]
Depth = Annotated[int, Range(least=1, most=1000)]
Heads = Annotated[int, Range(least=1, most=1024)]
Epsilon = Annotated[float, Range(least=1e-12, most=0.1)]


def multiples_near(number: int, of: int) -> str:
    """The multiples just below and above a number, in words.

    >>> multiples_near(250, 16), multiples_near(9, 16)
    ('240 or 256', '16')
    """
    below = number // of * of
    return f"{below} or {below + of}" if below else str(of)


@dataclass(frozen=True)
class ImageTowerConfig(Settings):
    """A ViT (timm) for any image size that is a multiple of its patch size."""

    section: ClassVar[str] = "model.image"
    size: Annotated[int, Range(least=1, most=8192)] = 256
    """Side in pixels of the images it is made for: global views, evaluation windows, grid of the position embedding."""
    patch: Annotated[int, Range(least=1, most=1024)] = 16
    """Side of a patch in pixels."""
    width: Width = 768
    """Token width."""
    depth: Depth = 12
    """Transformer blocks."""
    heads: Heads = 12
    """Attention heads."""
    mlp: Hidden = 3072
    """Hidden width of the MLPs."""
    pool: Literal["map", "cls", "mean"] = "map"
    """How tokens become one embedding: attention pooling (SigLIP), class token (CLIP), mean of the patches."""
    projection: Literal["auto", "none", "linear", "linear+bias"] = "auto"
    """Projection into the joint space, after pooling; `auto` is none after attention pooling, else linear."""
    activation: Activation = "gelu"
    """Activation of the MLPs."""
    pre_norm: bool = False
    """A norm before the first block and no bias in the patch embedding (CLIP)."""
    norm_eps: Epsilon = 1e-6
    """Epsilon of the norms: 1e-6 in big_vision and SigLIP, 1e-5 in CLIP."""
    position_resample: Literal["bicubic_antialias", "bicubic", "bilinear_antialias", "bilinear_corners"] = (
        "bicubic_antialias"
    )
    """How the position embedding is resampled for other sizes. In this order, the values are the rules of timm and
    open_clip, transformers' SigLIP and CLIP, transformers' SigLIP 2, big_vision."""

    @property
    def projects(self) -> bool:
        """Whether a linear layer follows the pooling."""
        return self.projection.startswith("linear") or (self.projection == "auto" and self.pool != "map")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size % self.patch:
            raise BadInput(
                f"model.image.size {self.size} is not a multiple of model.image.patch {self.patch}; "
                f"use {multiples_near(self.size, self.patch)}"
            )
        if self.width % self.heads:
            raise BadInput(f"model.image.width {self.width} is not a multiple of model.image.heads {self.heads}")


@dataclass(frozen=True)
class TextTowerConfig(Settings):
    """A pre-norm transformer over token ids."""

    section: ClassVar[str] = "model.text"
    length: Annotated[int, Range(least=2, most=65_536)] = 64
    """Tokens per caption, cut or padded."""
    width: Width = 768
    """Token width."""
    depth: Depth = 12
    """Transformer blocks."""
    heads: Heads = 12
    """Attention heads."""
    mlp: Hidden = 3072
    """Hidden width of the MLPs."""
    causal: bool = False
    """True: a token sees only the tokens before it (CLIP). False: it sees all tokens, padding included (SigLIP)."""
    pool: Literal["auto", "last", "first", "eos", "argmax", "mean", "max", "map"] = "auto"
    """Position or average that becomes the embedding; `eos` is the first end token, `argmax` the highest id (CLIP's
    way to find the end), `map` attention pooling. `auto` is `eos` if the tower is causal, else `last`."""
    projection: Literal["none", "linear", "linear+bias"] = "linear+bias"
    """Projection into the joint space, after pooling."""
    activation: Activation = "gelu"
    """Activation of the MLPs."""
    norm_eps: Epsilon = 1e-5
    """Epsilon of the norms."""
    vocab_size: Annotated[int, Range(least=0, most=10_000_000)] = 0
    """Rows of the token embedding; 0: as many as the tokenizer has entries. An imported tower may have more."""

    @property
    def pooling(self) -> str:
        """`pool`, with `auto` resolved."""
        return self.pool if self.pool != "auto" else "eos" if self.causal else "last"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            raise BadInput(f"model.text.width {self.width} is not a multiple of model.text.heads {self.heads}")
        if self.causal and self.pool == "first":
            raise BadInput("model.text.pool is first in a causal tower, where the first token sees no other; use eos")


@dataclass(frozen=True)
class HeadConfig(Settings):
    """Projection from the shared embedding to prototypes (paper: 2 layers of 2048 with GELU, bottleneck 256)."""

    section: ClassVar[str] = "model.head"
    hidden: Hidden = 2048
    """Width of the two hidden layers."""
    bottleneck: Width = 256
    """Width of the l2-normalised bottleneck."""
    prototypes: Annotated[int, Range(least=2, most=10_000_000)] = 65_536
    """K. About 1k-4k below 100,000 images, 65,536 beyond a million."""


@dataclass(frozen=True)
class TeacherConfig(Settings):
    """The exponential moving average that gives the targets and, in the paper, every reported number."""

    section: ClassVar[str] = "model.teacher"
    half_life: Annotated[str, Duration(words=("auto",))] = "auto"
    """Half-life of the average, e.g. '330k examples'; `auto` is min(330k, 5 % of the run)."""
    temperature: Annotated[float, Range(least=0.001, most=100)] = 0.04
    """tau_t, sharpens the targets."""
    centre_momentum: Annotated[float, Range(least=0, most=1)] = 0.9
    """m: c <- m c + (1 - m) mean of the teacher's logits over the global batch. 1: no centring."""


@dataclass(frozen=True)
class ModelConfig(Settings):
    """Two towers into one joint space; also a head and a teacher if the objective needs them."""

    section: ClassVar[str] = "model"
    image: ImageTowerConfig = field(default_factory=ImageTowerConfig)
    """Image tower F."""
    text: TextTowerConfig = field(default_factory=TextTowerConfig)
    """Text tower G."""
    embed_dim: Width = 768
    """D, width of the joint space; without a projection (MAP pooling) it is the tower's width."""
    head: HeadConfig = field(default_factory=HeadConfig)
    """Distillation head on top of the joint image embedding."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    """EMA teacher."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.image.projects and self.embed_dim != self.image.width:
            raise BadInput(
                f"model.embed_dim is {self.embed_dim} but without a projection {self.image.pool} pooling gives "
                f"model.image.width {self.image.width}; set both to the same value, or model.image.projection=linear"
            )
        if self.text.projection == "none" and self.embed_dim != self.text.width:
            raise BadInput(
                f"model.embed_dim is {self.embed_dim} but without a projection the text tower gives model.text.width "
                f"{self.text.width}; set both to the same value, or model.text.projection=linear"
            )
