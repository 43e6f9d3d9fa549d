"""A batch in parts, exactly: gradient caching, for batches whose activations do not fit.

    embed every part without gradient                       # only what enters the image-text loss
    loss of all embeddings  ->  its gradient by each embedding, by scale and bias
    for each part: embed it again, with gradient; pull its embeddings along what was found; add its own
                   self-distillation, which looks at one image at a time

Gao et al. 2021 (GradCache). What enters the image-text loss goes forward twice, all else once: floors of 4/3 of a step
for CLIP, and less for SILC, whose local views and teacher are only seen in the second pass.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from silc.types import Distilled, Pairs, Part

if TYPE_CHECKING:
    from silc.objective import SilcObjective
    from silc.types import Batch, Hyper, StepOutput


@dataclass(frozen=True)
class Gradients:
    """Adds the gradients of a batch's loss to the parameters; what the loop calls once a step.

    Args:
        objective: the method.
        forward: the objective, or what DDP or a compiler made of it.
        size: pairs of a part on this rank; 0 takes the batch as a whole.
        autocast: makes the context of one forward pass. Each pass has its own: autocast keeps the weights it casts,
            and those cast without gradient must not be met again with it.
        unsynced: makes the context of every backward pass but the last (DDP's `no_sync`).
    """

    objective: SilcObjective
    forward: Callable[..., StepOutput]
    size: int = 0
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    unsynced: Callable[[], AbstractContextManager[Any]] = nullcontext

    def __call__(self, batch: Batch, hyper: Hyper) -> StepOutput:
        """Loss and metrics of the batch; its gradients were added to the parameters."""
        num = len(batch.text)
        if self.size and self.size < num:
            return self._in_parts(batch, hyper, [slice(start, start + self.size) for start in range(0, num, self.size)])
        with self.autocast():
            out = self.forward(batch, hyper)
        out.loss.backward()
        return out

    def _in_parts(self, batch: Batch, hyper: Hyper, rows: list[slice]) -> StepOutput:
        parts, share = [batch.part(own) for own in rows], 1 / len(rows)
        hidden = self.objective.draw_hidden(batch.views.globals)
        pairs = self._pairs(parts)
        contrastive = self.objective.contrastive_loss(pairs)
        contrastive.backward()
        outs = []
        for own, one in zip(rows, parts, strict=True):
            part = Part(share, _pull(pairs, own, share), None if hidden is None else hidden[:, own])
            with nullcontext() if own is rows[-1] else self.unsynced():
                with self.autocast():
                    out = self.forward(one, hyper, part)
                out.loss.backward()
            outs.append(out)
        distilled = _mean([out.distilled for out in outs])
        patches = _mean([out.patches for out in outs])
        return self.objective.output(contrastive.detach(), distilled, patches, pairs)

    @torch.no_grad()
    def _pairs(self, parts: list[Batch]) -> Pairs:
        """Embeddings of all parts, as the variables of a loss."""
        with self.autocast():
            found = [self.objective.pairs(part) for part in parts]
        whole = Pairs(
            torch.cat([pairs.images for pairs in found], dim=1),
            torch.cat([pairs.text for pairs in found]),
            found[0].scale,
            found[0].bias.detach(),
        )
        return Pairs(*(value.requires_grad_() for value in whole))


def _pull(pairs: Pairs, rows: slice, share: float) -> Pairs:
    """The gradients that these rows carry on."""
    images, text, scale, bias = (torch.zeros_like(v) if v.grad is None else v.grad for v in pairs)
    return Pairs(images[:, rows], text[rows], share * scale, share * bias)


def _mean(terms: list[Distilled | None]) -> Distilled | None:
    """Of parts of one size, what the whole would give."""
    given = [term for term in terms if term is not None]
    if not given:
        return None
    by_field = zip(*given, strict=True)
    return Distilled(*(torch.stack([value.detach() for value in values]).mean(dim=0) for values in by_field))
