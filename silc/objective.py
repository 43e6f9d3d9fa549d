"""SILC: image-text contrast plus local-to-global self-distillation. Batch -> StepOutput.

    L = L_image_text + w * L_self_dist  (+ w_p * L_patches, successors' masked-patch prediction, off in SILC)

The work is done in two calls, so that code can be put between them: `features` runs the towers, `losses` the heads and
the losses, both for what a `Pass` asks for. Neither changes any state; only `after_step` writes the teacher, after an
update was accepted. The image-text loss compares all pairs of the batch, all other terms look at one image at a time,
so a step can be made of several passes (pretraining/gradients.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from silc.batch import Views
from silc.checkpoint import HEADS
from silc.losses.contrastive import sigmoid_loss, softmax_loss
from silc.losses.distill import distill_loss, other_views, patch_loss, perplexity
from silc.models.head import DistillHead, PatchHead, draw_masks, embedding_and_patches, gather_tokens
from silc.models.silc import TwoTower
from silc.models.teacher import AveragedHead, Teacher
from silc.step import Embeddings, Pass, StepOutput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch import Tensor

    from silc.batch import Batch
    from silc.distributed import World
    from silc.losses.config import ObjectiveConfig
    from silc.models.config import ModelConfig
    from silc.preprocess import Preprocess
    from silc.step import Hyper, TermOutput


WHOLE = Pass()
"""A step that is one pass."""
NO_VIEWS = Views(None, None, None)


@dataclass(frozen=True)
class TowerOutputs:
    """What the losses read: joint embeddings, not normalised, and tokens; None if a pass does not ask for them."""

    images: Tensor | None = None  # [V, B, D] student, of the views that enter the image-text loss
    text: Tensor | None = None  # [B, D] student
    globals: Tensor | None = None  # [G, B, D] student
    locals: Tensor | None = None  # [L, B, D] student
    teacher: Tensor | None = None  # [G, B, D] teacher, no gradient
    patches: Tensor | None = None  # [G, B, M, C] student, tokens of the masked global views that are predicted
    teacher_patches: Tensor | None = None  # [G, B, M, C] teacher, the same places of the whole views, no gradient


class Term(NamedTuple):
    """A term of self-supervision. If it has a head, the head's output on student views is trained towards the averaged
    head's output on teacher views."""

    name: str
    """Its loss is logged as `loss/<name>`."""
    weight: float
    loss: Callable[[TowerOutputs, Hyper], TermOutput]
    prefix: str = ""
    """Prefix of the logged names of its targets' statistics."""
    head: DistillHead | None = None
    averaged: AveragedHead | None = None


class Networks(NamedTuple):
    """The student, and the head and teacher that the losses need."""

    student: TwoTower
    head: DistillHead | None
    teacher: Teacher | None


def networks(model: ModelConfig, config: ObjectiveConfig, *, vocab_size: int, eos_id: int) -> Networks:
    """Untrained towers and head, and a teacher that equals the student."""
    student = TwoTower(
        model, vocab_size=vocab_size, eos_id=eos_id, scale_init=config.initial_scale, bias_init=config.bias_init
    )
    head = DistillHead(model.head, model.embed_dim) if config.distill else None
    averaged = None if config.head_only_ema else student.visual
    return Networks(student, head, Teacher(averaged, head) if config.teacher else None)


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
        world: World,
        vocab_size: int,
        eos_id: int,
    ) -> None:
        super().__init__()
        self.config = config
        self.centre_momentum = model_config.teacher.centre_momentum
        self.preprocess, self.world = preprocess, world
        self.student, self.head, self.teacher = networks(model_config, config, vocab_size=vocab_size, eos_id=eos_id)
        if config.contrastive == "softmax":
            # InfoNCE ignores the bias, and DDP would stop at a parameter without gradient.
            self.student.logit_bias.requires_grad_(False)
        with_patches = config.patches != "off"
        self.patch_head = PatchHead(model_config.head, model_config.image.width) if with_patches else None
        self.patch_teacher = AveragedHead(self.patch_head.head) if self.patch_head is not None else None

    def forward(self, batch: Batch, hyper: Hyper, asked: Pass = WHOLE) -> StepOutput:
        """Loss and metrics of this rank's share of a global batch.

        If the step has several passes, this is the loss of one of them, and their gradients add up to the step's.
        `output` makes the step's loss and metrics.
        """
        return self.losses(self.features(batch, asked), hyper, asked)

    def features(self, batch: Batch, asked: Pass = WHOLE) -> TowerOutputs:
        """Run the towers: the text once per pair, the global views in one pass, the local views in another."""
        used = self._contrastive_views(batch.views, asked.view) if asked.contrastive else NO_VIEWS
        views = replace(batch.views, original=used.original) if asked.terms else used
        views = views.map(self.preprocess.normalize)
        images, student_globals = self._images(self._contrastive_views(views)) if asked.contrastive else (None, None)
        text = asked.text
        if text is None and (asked.contrastive or not asked.terms):
            text = self.student.text(batch.text)
        features = TowerOutputs(images, text, student_globals)
        return self._supervised(features, views, asked.masked) if asked.terms else features

    def num_contrastive_views(self, batch: Batch) -> int:
        """Number of views that enter the image-text loss."""
        used = self._contrastive_views(batch.views)
        return (used.original is not None) + (0 if used.globals is None else len(used.globals))

    def _contrastive_views(self, views: Views, number: int | None = None) -> Views:
        """Views that enter the image-text loss: all, or only the one at index `number`, where the original is first."""
        original = views.original if self.config.needs_original else None
        global_ones = None if self.config.contrastive_views == "original" else views.globals
        if number is None:
            return Views(original, global_ones, None)
        before = original is not None
        if before and number == 0:
            return Views(original, None, None)
        assert global_ones is not None
        return Views(None, global_ones[number - before :][:1], None)

    @property
    def heads(self) -> dict[str, nn.Module]:
        """The networks beside the student's towers, by the name of their file in a checkpoint."""
        return {name: module for name in HEADS if (module := getattr(self, name)) is not None}

    def blocks(self) -> Iterable[nn.Module]:
        """Blocks of the student's towers, and of the teacher's tower if it has its own."""
        towers: list[Any] = [self.student.visual]
        if self.teacher is not None and self.teacher.visual is not None:
            towers.append(self.teacher.visual)
        return chain(self.student.text.transformer.resblocks, *(tower.trunk.blocks for tower in towers))

    @property
    def terms(self) -> list[Term]:
        """The terms that are minimised beside the image-text loss."""
        config, found = self.config, []
        if self.head is not None and self.teacher is not None:
            found.append(Term("distill", config.weight, self._distillation, "teacher", self.head, self.teacher))
        if self.patch_head is not None and self.patch_teacher is not None:
            head, average = self.patch_head.head, self.patch_teacher
            found.append(Term("patches", config.patch_weight, self._patch_prediction, "patches", head, average))
        return found

    @property
    def separable(self) -> bool:
        """Whether there are terms, and none of them shares a tower's pass with the image-text loss."""
        return bool(self.terms) and not self.config.student_globals

    def _images(self, views: Views) -> tuple[Tensor, Tensor | None]:
        """Embeddings [V, B, D] of the given original and global views; and those of the global views alone."""
        embeddings, student_globals = [], None
        if views.original is not None:
            embeddings.append(self.student.visual(views.original)[None])
        if views.globals is not None:
            student_globals = _per_view(self.student.visual, views.globals)
            embeddings.append(student_globals)
        return torch.cat(embeddings), student_globals

    def _supervised(self, features: TowerOutputs, views: Views, masked: Tensor | None) -> TowerOutputs:
        """`features` with the outputs that self-supervision reads."""
        student_globals, student_locals, patches = features.globals, None, None
        if self.config.student_globals and student_globals is None:
            student_globals = _per_view(self.student.visual, views.globals)
        if self.config.distill:
            student_locals = _per_view(self.student.visual, views.locals)
        masked = self.draw_masks(views.globals) if masked is None else masked
        if self.patch_head is not None and masked is not None and views.globals is not None:
            images = views.globals.flatten(0, 1)
            tokens = self.patch_head.masked_tokens(self.student.visual, images, masked.flatten(0, 1))
            patches = self._predicted(tokens, masked)
        from_teacher, teacher_patches = self._teacher_features(views.globals, masked)
        return TowerOutputs(
            features.images, features.text, student_globals, student_locals, from_teacher, patches, teacher_patches
        )

    @torch.no_grad()
    def _teacher_features(self, views: Tensor | None, masked: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The teacher's embeddings [G, B, D], and its patches at the predicted places, of whole global views.

        Call it after the student's passes: autocast keeps the weights that are cast here, and these have no gradient.
        """
        if views is None or self.teacher is None or not (self.config.distill or masked is not None):
            return None, None
        tower = self.student.visual if self.teacher.visual is None else self.teacher.visual
        embedding, tokens = embedding_and_patches(tower, views.flatten(0, 1))
        return embedding.unflatten(0, views.shape[:2]), None if masked is None else self._predicted(tokens, masked)

    def draw_masks(self, views: Tensor | None) -> Tensor | None:
        """This rank's share [G, B, M] of the global batch's masks. Each rank draws all of them, so they do not depend
        on the number of ranks."""
        if self.patch_head is None or views is None:
            return None
        num_views, num, rank = *views.shape[:2], self.world.rank
        num_patches = (views.shape[-2] // self.student.visual.patch) * (views.shape[-1] // self.student.visual.patch)
        everyone = (num_views, num * self.world.size)
        return draw_masks(everyone, num_patches, self.config.patch_share, views.device)[:, rank * num :][:, :num]

    def _predicted(self, tokens: Tensor, masked: Tensor) -> Tensor:
        """The predicted tokens [G, B, M, C] among all [G B, T, C]: the masked ones, or every one."""
        predicted: Tensor = tokens if self.config.patches == "all" else gather_tokens(tokens, masked.flatten(0, 1))
        return predicted.unflatten(0, masked.shape[:2])  # type: ignore[no-any-return]

    def losses(self, features: TowerOutputs, hyper: Hyper, asked: Pass = WHOLE) -> StepOutput:
        """Heads and losses on the towers' embeddings."""
        terms = {term.name: term.loss(features, hyper) for term in (self.terms if asked.terms else ())}
        if not asked.contrastive:
            return StepOutput(asked.fraction * self._weighted(terms), {}, terms, features.text)
        assert features.images is not None
        assert features.text is not None
        scale, bias = self.student.logit_scale.exp(), self.student.logit_bias
        embeddings = Embeddings(features.images, features.text, scale, bias)
        if asked.embed_only:
            return StepOutput(self._weighted({}), {}, embeddings=embeddings)
        logged = {"logit_scale": scale[0].detach()}
        if self.config.contrastive == "sigmoid":
            # Copied: the parameter changes before it is logged, and a sharded parameter is freed.
            logged["logit_bias"] = bias[0].detach().clone()
        if asked.whole:
            return self.output(self.contrastive_loss(embeddings), logged, terms)
        if asked.cotangent is None:
            own = asked.fraction * self.contrastive_loss(embeddings)
        else:
            own = _surrogate(embeddings, asked.cotangent)
        return StepOutput(own + asked.fraction * self._weighted(terms), logged, terms)

    def contrastive_loss(self, embeddings: Embeddings) -> Tensor:
        """Mean over the V views of the image-text loss of (view, text)."""
        image, text = (F.normalize(x.float(), dim=-1) for x in (embeddings.images, embeddings.text))
        if self.config.contrastive == "softmax":
            return softmax_loss(image, text, embeddings.scale, self.world)
        return sigmoid_loss(image, text, embeddings.scale, embeddings.bias, self.world)

    def _distillation(self, features: TowerOutputs, hyper: Hyper) -> TermOutput:
        assert self.teacher is not None
        assert self.head is not None
        assert features.teacher is not None
        assert features.locals is not None
        targets, views, weights = self.teacher.targets(features.teacher, hyper.temperature), features.locals, None
        if self.config.student_globals and features.globals is not None:
            weights = other_views(len(views), len(features.globals), views.device)
            views = torch.cat([views, features.globals])
        return distill_loss(self.head(views), targets, self.config.student_temperature, weights)

    def _patch_prediction(self, features: TowerOutputs, hyper: Hyper) -> TermOutput:
        assert self.patch_head is not None
        assert self.patch_teacher is not None
        assert features.teacher_patches is not None
        targets = self.patch_teacher.targets(features.teacher_patches, hyper.temperature)
        return patch_loss(self.patch_head.head(features.patches), targets, self.config.student_temperature)

    def _weighted(self, terms: Mapping[str, TermOutput]) -> Tensor:
        none = torch.zeros((), device=self.student.logit_scale.device)  # `new_zeros` of a sharded scale is sharded
        return sum((term.weight * terms[term.name].loss for term in self.terms if term.name in terms), start=none)

    def output(self, contrastive: Tensor, logged: Mapping[str, Tensor], terms: Mapping[str, TermOutput]) -> StepOutput:
        """The total loss, and the metrics of its terms; `logged` holds those of scale and bias."""
        metrics = {"loss/contrastive": contrastive, **logged}
        for term in self.terms:
            loss, entropy, targets, _ = terms[term.name]
            metrics[f"loss/{term.name}"] = loss
            if entropy is not None and targets is not None:
                metrics[f"{term.prefix}/entropy"] = entropy
                metrics[f"{term.prefix}/perplexity"] = perplexity(self.world.mean(targets))
                if self.teacher is not None and term.averaged is self.teacher:
                    metrics["teacher/kl"] = loss - entropy
                    metrics["teacher/centre_norm"] = self.teacher.centre.norm()
        total = contrastive + self._weighted(terms)
        metrics["loss/total"] = total
        return StepOutput(total, {name: value.detach() for name, value in metrics.items()}, terms)

    @torch.no_grad()
    def after_step(self, out: StepOutput, hyper: Hyper) -> None:
        """Update the EMA of tower and heads and the centres, clamp the scale. Once per accepted update, each rank."""
        if self.config.scale_max is not None:
            self.student.logit_scale.clamp_(max=math.log(self.config.scale_max))
        if self.teacher is not None:
            self.teacher.update(self.student.visual, self.head, hyper.momentum)
        for term in self.terms:
            if term.averaged is not None and (logits := out.terms[term.name].logits) is not None:
                if term.averaged is not self.teacher:
                    term.averaged.update_head(term.head, hyper.momentum)
                term.averaged.update_centre(self.world.mean(logits), self.centre_momentum)


def _surrogate(embeddings: Embeddings, cotangent: Embeddings) -> Tensor:
    """A scalar whose gradients by embeddings, scale and bias are those of `cotangent`."""
    each = ((gradient.float() * value.float()).sum() for gradient, value in zip(cotangent, embeddings, strict=True))
    return sum(each, start=embeddings.scale.new_zeros(()))


def _per_view(module: Any, views: Any) -> Tensor:
    """Apply a module to views [V, B, ...] of one shape in one pass."""
    out: Tensor = module(views.flatten(0, 1)).unflatten(0, views.shape[:2])
    return out
