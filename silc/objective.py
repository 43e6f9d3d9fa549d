"""SILC: image-text contrast plus local-to-global self-distillation. Batch -> StepOutput.

    L = L_image_text + w * L_self_dist  (+ w_p * L_patches, successors' masked-patch prediction, off in SILC)

Two calls, so that others can stand between them: `features` runs the towers, `losses` the heads and the losses.
Neither changes any state; `after_step` alone writes the teacher, after an update was accepted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from silc.losses.contrastive import sigmoid_loss, softmax_loss
from silc.losses.distill import distill_loss, perplexity, target_stats
from silc.losses.patches import patch_loss
from silc.models.head import DistillHead
from silc.models.patches import PatchHead, at, draw_hidden, embedding_and_patches
from silc.models.silc import TwoTower
from silc.models.teacher import AveragedHead, Teacher
from silc.types import StepOutput

if TYPE_CHECKING:
    from torch import Tensor

    from silc.losses.config import ObjectiveConfig
    from silc.models.config import ModelConfig
    from silc.preprocess import Preprocess
    from silc.types import Batch, Collectives, Hyper


@dataclass(frozen=True)
class Features:
    """What the towers make of a batch: joint embeddings, not normalised. V views enter the image-text loss."""

    text: Tensor  # [B, D]
    contrast: Tensor  # [V, B, D] student, original and/or global views
    globals: Tensor | None = None  # [G, B, D] student, the part of `contrast` that is global views
    locals: Tensor | None = None  # [L, B, D] student
    teacher: Tensor | None = None  # [G, B, D] teacher, no gradient
    patches: Tensor | None = None  # [G, B, M, C] student, tokens of the masked global views that are predicted
    teacher_patches: Tensor | None = None  # [G, B, M, C] teacher, the same places of the whole views, no gradient


class SilcObjective(nn.Module):
    """Student, teacher and losses in one module, so that DDP and compilers see one forward.

    Args:
        model_config: towers, head, teacher.
        config: which terms, on which views.
        preprocess: how 8-bit views become the towers' input.
        world: rank, size, shift, mean.
        vocab_size, eos_id: of the tokenizer.
    """

    def __init__(
        self,
        model_config: ModelConfig,
        config: ObjectiveConfig,
        *,
        preprocess: Preprocess,
        world: Collectives,
        vocab_size: int,
        eos_id: int,
    ) -> None:
        super().__init__()
        self.config = config
        self.centre_momentum = model_config.teacher.centre_momentum
        self.preprocess, self.world = preprocess, world
        self.student = TwoTower(
            model_config,
            vocab_size=vocab_size,
            eos_id=eos_id,
            scale_init=config.initial_scale,
            bias_init=config.bias_init,
        )
        if config.contrastive == "softmax":
            # InfoNCE does not see a bias; a parameter without gradient would only stop DDP.
            self.student.logit_bias.requires_grad_(False)
        self.head = DistillHead(model_config.head, model_config.embed_dim) if config.distill else None
        averaged = None if config.head_only_ema else self.student.visual
        self.teacher = Teacher(averaged, self.head) if config.teacher else None
        with_patches = config.patches != "off"
        self.patch_head = PatchHead(model_config.head, model_config.image.width) if with_patches else None
        self.patch_teacher = AveragedHead(self.patch_head.head) if self.patch_head is not None else None

    def forward(self, batch: Batch, hyper: Hyper) -> StepOutput:
        """Loss and metrics of this rank's share of a global batch."""
        return self.losses(self.features(batch), hyper)

    def features(self, batch: Batch) -> Features:
        """Run the towers: the text once per pair, the global views in one pass, the local views in another."""
        views = batch.views.map(self.preprocess.normalize)
        text = self.student.text(batch.text)
        contrast, student_globals, student_locals, hidden, patches = [], None, None, None, None
        if self.config.needs_original:
            contrast.append(self.student.visual(views.original)[None])
        if self.config.contrastive_views != "original" or self.config.student_globals:
            student_globals = _per_view(self.student.visual, views.globals)
        if self.config.contrastive_views != "original":
            contrast.append(student_globals)
        if self.config.distill:
            student_locals = _per_view(self.student.visual, views.locals)
        if self.patch_head is not None and views.globals is not None:
            hidden = self._draw_hidden(views.globals)  # [G, B, M]
            images = views.globals.flatten(0, 1)
            masked = self.patch_head.masked_tokens(self.student.visual, images, hidden.flatten(0, 1))
            patches = self._predicted(masked, hidden)
        from_teacher, teacher_patches = self._teacher_features(views.globals, hidden)
        return Features(
            text, torch.cat(contrast), student_globals, student_locals, from_teacher, patches, teacher_patches
        )

    @torch.no_grad()
    def _teacher_features(self, views: Tensor | None, hidden: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The teacher's embeddings [G, B, D], and its patches at the predicted places, of whole global views.

        Called after the student's passes: autocast would hand them the weights that were cast here without gradient.
        """
        if views is None or not (self.config.distill or hidden is not None):
            return None, None
        assert self.teacher is not None
        tower = self.student.visual if self.teacher.visual is None else self.teacher.visual
        embedding, tokens = embedding_and_patches(tower, views.flatten(0, 1))
        return embedding.unflatten(0, views.shape[:2]), None if hidden is None else self._predicted(tokens, hidden)

    def _draw_hidden(self, views: Tensor) -> Tensor:
        """This rank's part [G, B, M] of what is hidden in the global batch: ranks draw alike, and change nothing."""
        num_views, num, rank = *views.shape[:2], self.world.rank
        num_patches = (views.shape[-2] // self.student.visual.patch) * (views.shape[-1] // self.student.visual.patch)
        everyone = (num_views, num * self.world.size)
        return draw_hidden(everyone, num_patches, self.config.patch_share, views.device)[:, rank * num :][:, :num]

    def _predicted(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        """The tokens [G, B, M, C] that are predicted of all [G B, T, C]: the hidden ones, or every one."""
        predicted: Tensor = tokens if self.config.patches == "all" else at(tokens, hidden.flatten(0, 1))
        return predicted.unflatten(0, hidden.shape[:2])  # type: ignore[no-any-return]

    def losses(self, features: Features, hyper: Hyper) -> StepOutput:
        """Heads and losses on the towers' embeddings."""
        contrastive = self.contrastive_loss(features)
        metrics = {"loss/contrastive": contrastive, "logit_scale": self.student.logit_scale.exp()[0]}
        if self.config.contrastive == "sigmoid":
            metrics["logit_bias"] = self.student.logit_bias[0]
        total, teacher_mean, patch_mean = contrastive, None, None
        if self.config.distill:
            distill, teacher_mean, measured = self._distillation(features, hyper)
            total, metrics = total + self.config.weight * distill, metrics | measured
        if self.patch_head is not None:
            patches, patch_mean, measured = self._patch_prediction(features, hyper)
            total, metrics = total + self.config.patch_weight * patches, metrics | measured
        return StepOutput(total, _detached(metrics | {"loss/total": total}), teacher_mean, patch_mean)

    def _distillation(self, features: Features, hyper: Hyper) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """L_self_dist, the mean of the teacher's logits [K], and what a collapse would show in."""
        assert self.teacher is not None
        with torch.no_grad():
            teacher_logits = _per_view(self.teacher.head, features.teacher)  # [G, B, K]
            targets = self.teacher.targets(teacher_logits, hyper.temperature)
            stats = target_stats(targets)
        student_globals = None
        if self.config.student_globals:
            student_globals = _per_view(self.head, features.globals)
        distill = distill_loss(
            _per_view(self.head, features.locals),
            targets,
            self.config.student_temperature,
            student_globals=student_globals,
        )
        metrics = {
            "loss/distill": distill,
            "teacher/entropy": stats.entropy,
            "teacher/perplexity": perplexity(self.world.mean(stats.mean)),
            "teacher/kl": distill - stats.entropy,
            "teacher/centre_norm": self.teacher.centre.norm(),
        }
        return distill, teacher_logits.float().mean(dim=(0, 1)), metrics

    def _patch_prediction(self, features: Features, hyper: Hyper) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """L_patches, the mean of the teacher's patch logits [K], and what a collapse would show in."""
        assert self.patch_head is not None
        assert self.patch_teacher is not None
        with torch.no_grad():
            teacher_logits = _per_view(self.patch_teacher.head, features.teacher_patches)  # [G, B, M, K]
            targets = self.patch_teacher.targets(teacher_logits, hyper.temperature)
            stats = target_stats(targets.flatten(1, 2))
        loss = patch_loss(_per_view(self.patch_head.head, features.patches), targets, self.config.student_temperature)
        metrics = {
            "loss/patches": loss,
            "patches/entropy": stats.entropy,
            "patches/perplexity": perplexity(self.world.mean(stats.mean)),
        }
        return loss, teacher_logits.float().mean(dim=(0, 1, 2)), metrics

    def contrastive_loss(self, features: Features) -> Tensor:
        """Mean over the V views of the image-text loss of (view, text)."""
        image, text = (F.normalize(x.float(), dim=-1) for x in (features.contrast, features.text))
        scale = self.student.logit_scale.exp()
        if self.config.contrastive == "softmax":
            return softmax_loss(image, text, scale, self.world)
        return sigmoid_loss(image, text, scale, self.student.logit_bias, self.world)

    @torch.no_grad()
    def after_step(self, out: StepOutput, hyper: Hyper) -> None:
        """EMA of tower and heads, centres, clamp of the scale. Call once per accepted update, on every rank."""
        self.student.logit_scale.clamp_(max=math.log(self.config.scale_max))
        if self.teacher is None:
            return
        self.teacher.update(self.student.visual, self.head, hyper.momentum)
        if out.teacher_mean is not None:
            self.teacher.update_centre(self.world.mean(out.teacher_mean), self.centre_momentum)
        if self.patch_head is not None and self.patch_teacher is not None and out.patch_mean is not None:
            self.patch_teacher.update_head(self.patch_head.head, hyper.momentum)
            self.patch_teacher.update_centre(self.world.mean(out.patch_mean), self.centre_momentum)


def _per_view(module: Any, views: Any) -> Tensor:
    """Apply a module to views [V, B, ...] of one shape in one pass."""
    out: Tensor = module(views.flatten(0, 1)).unflatten(0, views.shape[:2])
    return out


def _detached(metrics: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in metrics.items()}
