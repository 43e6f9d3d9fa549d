"""Settings of the objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from silc.errors import BadInput
from silc.settings import Range, Settings

WEIGHT, TEMPERATURE, SCALE = Range(least=0, most=1000), Range(least=0.001, most=100), Range(least=0.001, most=1e6)


@dataclass(frozen=True)
class ObjectiveConfig(Settings):
    """L = L_image_text + w L_self_dist (paper, eq. of the combined loss)."""

    section: ClassVar[str] = "objective"
    contrastive: Literal["softmax", "sigmoid"] = "softmax"
    """Image-text loss: `softmax` is CLIP's symmetric InfoNCE (SILC-C), `sigmoid` SigLIP's pairwise loss (SILC-S)."""
    contrastive_views: Literal["globals", "original", "both"] = "globals"
    """Image views that enter the image-text loss, averaged. SILC: every global view does; local views never do."""
    teacher: bool = True
    """Keep an EMA teacher. Without self-distillation it is only evaluated (ablation row '+ EMA')."""
    head_only_ema: bool = False
    """The teacher uses the student's tower, without gradient; only its heads are averaged (TIPSv2)."""
    distill: bool = True
    """Local-to-global self-distillation; needs the teacher."""
    weight: Annotated[float, WEIGHT] = 1.0
    """w. 1 is the paper's plain sum; small data may need less (MaskCLIP: 0.05)."""
    student_temperature: Annotated[float, TEMPERATURE] = 0.1
    """tau_s, the student's temperature."""
    patches: Literal["off", "masked", "all"] = "off"
    """Masked-patch prediction on the global views: predict the masked patches (iBOT), or all (iBOT++, TIPSv2)."""
    patch_weight: Annotated[float, WEIGHT] = 0.0625
    """Weight of masked-patch prediction: SigLIP 2's for size B, a quarter of its 0.25 for self-distillation."""
    patch_share: Annotated[float, Range(above=0, below=1)] = 0.5
    """Mask ratio: fraction of the patches that is masked for the student (SigLIP 2)."""
    student_globals: bool = False
    """DINO's pairs: the student also sees the global views, but no pair has the same view twice (18 pairs, not 16)."""
    scale_init: Annotated[float | None, SCALE] = None
    """Initial exp(scale); None is 1/0.07 for softmax and 10 for sigmoid."""
    bias_init: Annotated[float, Range(least=-1000, most=1000)] = -10.0
    """Initial bias of the sigmoid loss."""
    scale_max: Annotated[float | None, Range(least=0.001, most=1e6, advice="None: no clamp")] = 100.0
    """Upper limit of exp(scale) (CLIP); None: no limit (SigLIP, whose trained scales are near 117)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distill and not self.teacher:
            raise BadInput("objective.distill needs objective.teacher: the targets come from it")
        if self.patches != "off" and not self.teacher:
            raise BadInput("objective.patches needs objective.teacher: the targets come from it")
        if self.head_only_ema and not (self.distill or self.patches != "off"):
            raise BadInput(
                "objective.head_only_ema needs objective.distill or objective.patches: "
                "otherwise there is no head to average"
            )

    @property
    def initial_scale(self) -> float:
        """exp(scale) at the first step."""
        if self.scale_init is not None:
            return self.scale_init
        return 1 / 0.07 if self.contrastive == "softmax" else 10.0

    @property
    def needs_globals(self) -> bool:
        """Whether any term uses the global views."""
        return self.distill or self.patches != "off" or self.contrastive_views != "original"

    @property
    def needs_original(self) -> bool:
        """Whether any term uses the whole image."""
        return self.contrastive_views != "globals"
