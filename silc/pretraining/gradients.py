"""A step in several passes, exactly: each pass goes back before the next begins, so memory holds one at a time.

Self-supervision and the image-text loss share weights and no activations; nor do the views that enter the image-text
loss share more than the text's embedding. Where memory allows the batch at all, it goes through in these passes, which
compute nothing twice:

    self-supervision, forward and backward
    embed the text
    for each view: embed it, loss of (view, text), backward     # the last one's goes on through the text

All in one pass is the same step. It takes more memory, and where weights are sharded a third fewer of their gathers
(`train.passes`); and it is the only way where a term and the image-text loss share a tower's pass.

A larger batch goes through in parts, with gradient caching for the one loss that looks across it:

    embed every part without gradient                       # only what enters the image-text loss
    loss of all embeddings  ->  its gradient by each embedding, by scale and bias
    for each part: its own self-supervision; then re-embed it as above, with gradient, and backpropagate the cached
                   embedding gradients

Gao et al. 2021 (GradCache). What enters the image-text loss goes forward twice, all else once: at least 4/3 of a step
for CLIP, and less for SILC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from silc.objective import WHOLE
from silc.step import Distilled, Embeddings, Pass

if TYPE_CHECKING:
    from torch import Tensor

    from silc.batch import Batch
    from silc.objective import SilcObjective
    from silc.step import Hyper, StepOutput
    from silc.training.passes import Passes


@dataclass(frozen=True)
class Gradients:
    """Adds the gradients of a batch's loss to the parameters.

    Args:
        objective: the method.
        passes: how a pass through it is run.
        size: pairs of a part on this rank; 0 takes the batch as a whole.
        apart: whether a whole batch goes through in several passes where it can.
    """

    objective: SilcObjective
    passes: Passes
    size: int = 0
    apart: bool = True

    def __call__(self, batch: Batch, hyper: Hyper) -> StepOutput:
        """Loss and metrics of the batch; its gradients were added to the parameters."""
        num = len(batch.text)
        if self.size and self.size < num:
            return self._in_parts(batch, hyper, [slice(start, start + self.size) for start in range(0, num, self.size)])
        if not (self.apart and self.objective.separable):
            return self._pass(batch, hyper, WHOLE)
        terms = self._pass(batch, hyper, Pass(pairs=False), last=False).terms
        contrastive, scale = self._image_text(batch, hyper)
        return self.objective.output(contrastive, scale, terms)

    def _pass(self, batch: Batch, hyper: Hyper, asked: Pass, *, last: bool = True) -> StepOutput:
        out: StepOutput = self.passes(batch, hyper, asked, last=last)
        return out

    def _image_text(
        self, batch: Batch, hyper: Hyper, share: float = 1.0, pull: Embeddings | None = None, *, last: bool = True
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The image-text loss, view by view, and what is logged of its scale."""
        text = self.passes.forward(batch, hyper, Pass(pairs=False, terms=False)).text
        assert text is not None
        shared, losses = text.detach().requires_grad_(text.requires_grad), []
        num = self.objective.num_entering(batch)
        for view in range(num):
            final = view == num - 1
            if final and shared.grad is not None:
                text.register_hook(shared.grad.add)  # what the views before it owe the text
            own = None if pull is None else _of_view(pull, view)
            asked = Pass(terms=False, view=view, share=share / num, text=text if final else shared, pull=own)
            out = self._pass(batch, hyper, asked, last=last and final)
            losses.append(out.loss.detach())
        return torch.stack(losses).sum(), out.metrics

    def _in_parts(self, batch: Batch, hyper: Hyper, rows: list[slice]) -> StepOutput:
        share, hidden = 1 / len(rows), self.objective.draw_hidden(batch.views.globals)
        pairs = self._pairs([batch.part(own) for own in rows])
        contrastive = self.objective.contrastive_loss(pairs)
        contrastive.backward()
        found = []
        for own in rows:
            part = batch.part(own)
            if self.objective.terms:
                asked = Pass(pairs=False, share=share, hidden=None if hidden is None else hidden[:, own])
                found.append(self._pass(part, hyper, asked, last=False).terms)
            _, scale = self._image_text(part, hyper, share, _pull(pairs, own, share), last=own is rows[-1])
        return self.objective.output(contrastive.detach(), scale, _mean(found))

    @torch.no_grad()
    def _pairs(self, parts: list[Batch]) -> Embeddings:
        """Embeddings of all parts, as the variables of a loss."""
        with self.passes.autocast():
            found = [self.objective.pairs(part) for part in parts]
        whole = Embeddings(
            torch.cat([pairs.images for pairs in found], dim=1),
            torch.cat([pairs.text for pairs in found]),
            found[0].scale,
            found[0].bias.detach(),
        )
        return Embeddings(*(value.requires_grad_() for value in whole))


def _pull(pairs: Embeddings, rows: slice, share: float) -> Embeddings:
    """The gradients that these rows carry on."""
    images, text, scale, bias = (torch.zeros_like(v) if v.grad is None else v.grad for v in pairs)
    return Embeddings(images[:, rows], text[rows], share * scale, share * bias)


def _of_view(pull: Embeddings, view: int) -> Embeddings:
    """A view's gradients, and its share of those that all views carry on."""
    num = len(pull.images)
    return Embeddings(pull.images[view : view + 1], pull.text / num, pull.scale / num, pull.bias / num)


def _mean(parts: Sequence[Mapping[str, Distilled]]) -> dict[str, Distilled]:
    """Of parts of one size, what the whole would give."""
    whole = {}
    for name in parts[0] if parts else ():
        by_field = zip(*(part[name] for part in parts), strict=True)
        whole[name] = Distilled(*(torch.stack([value.detach() for value in values]).mean(dim=0) for values in by_field))
    return whole
