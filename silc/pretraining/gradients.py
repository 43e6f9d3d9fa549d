"""Compute a step exactly in several passes: each runs backward before the next begins, so memory holds one at a time.

Self-supervision and the image-text loss share weights but no activations, and the views of the image-text loss share
only the text's embedding. If memory allows the batch at all, it goes through in these passes, which compute nothing
twice:

    self-supervision, forward and backward
    embed the text
    for each view: embed it, loss of (view, text), backward     # the last view's goes on through the text

A single pass is the same step. It takes more memory but a third fewer gathers of sharded weights (`train.passes`); it
is the only way if a term and the image-text loss share a tower's pass.

A larger batch goes through in micro-batches, with gradient caching for the one loss that compares all pairs:

    embed every micro-batch without gradient                # only what enters the image-text loss
    loss of all embeddings  ->  its gradient by each embedding, by scale and bias: the cotangents
    for each micro-batch: its own self-supervision; then re-embed it as above, with gradient, and backpropagate its
                   cotangents

Gao et al. 2021 (GradCache). The inputs of the image-text loss go forward twice, all else once: this costs at least 4/3
of a step for CLIP, and less for SILC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from silc.objective import WHOLE
from silc.step import Embeddings, Pass, TermOutput

if TYPE_CHECKING:
    from torch import Tensor

    from silc.batch import Batch
    from silc.objective import SilcObjective
    from silc.step import Hyper, StepOutput
    from silc.training.protocols import Passes


@dataclass(frozen=True)
class Gradients:
    """Adds the gradients of a batch's loss to the parameters.

    Args:
        objective: the method.
        passes: how a pass through it is run.
        size: pairs of a micro-batch on this rank; 0 takes the batch as a whole.
        apart: whether a whole batch goes through in several passes, if possible.
    """

    objective: SilcObjective
    passes: Passes
    size: int = 0
    apart: bool = True

    def __call__(self, batch: Batch, hyper: Hyper) -> StepOutput:
        """Add the gradients of the batch to the parameters; returns its loss and metrics."""
        num = len(batch.text)
        if self.size and self.size < num:
            rows = [slice(start, start + self.size) for start in range(0, num, self.size)]
            return self._in_micro_batches(batch, hyper, rows)
        if not (self.apart and self.objective.separable):
            out: StepOutput = self.passes(batch, hyper, WHOLE)
            return out
        terms = self.passes(batch, hyper, Pass(contrastive=False), last=False).terms
        contrastive, logged = self._contrastive(batch, hyper)
        return self.objective.output(contrastive, logged, terms)

    def _contrastive(
        self,
        batch: Batch,
        hyper: Hyper,
        fraction: float = 1.0,
        cotangent: Embeddings | None = None,
        *,
        last: bool = True,
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The image-text loss, computed view by view, and the metrics of its scale."""
        text = self.passes.forward(batch, hyper, Pass(contrastive=False, terms=False)).text
        assert text is not None
        shared, losses = text.detach().requires_grad_(text.requires_grad), []
        num = self.objective.num_contrastive_views(batch)
        for view in range(num):
            final = view == num - 1
            if final and shared.grad is not None:
                text.register_hook(shared.grad.add)  # adds the text's gradients from the views before
            asked = Pass(
                terms=False,
                view=view,
                fraction=fraction / num,
                text=text if final else shared,
                cotangent=None if cotangent is None else _of_view(cotangent, view),
            )
            out = self.passes(batch, hyper, asked, last=last and final)
            losses.append(out.loss.detach())
        return torch.stack(losses).sum(), out.metrics

    def _in_micro_batches(self, batch: Batch, hyper: Hyper, rows: list[slice]) -> StepOutput:
        fraction, masked, terms = 1 / len(rows), self.objective.draw_masks(batch.views.globals), []
        embeddings = self._embeddings(batch, hyper, rows)
        contrastive = self.objective.contrastive_loss(embeddings)
        contrastive.backward()
        for own in rows:
            some = batch.micro_batch(own)
            if self.objective.terms:
                asked = Pass(contrastive=False, fraction=fraction, masked=None if masked is None else masked[:, own])
                terms.append(self.passes(some, hyper, asked, last=False).terms)
            cotangent = _cotangent(embeddings, own, fraction)
            _, logged = self._contrastive(some, hyper, fraction, cotangent, last=own is rows[-1])
        return self.objective.output(contrastive.detach(), logged, _mean(terms))

    @torch.no_grad()
    def _embeddings(self, batch: Batch, hyper: Hyper, rows: list[slice]) -> Embeddings:
        """Embeddings of all micro-batches, as leaves that collect gradients."""
        asked = Pass(terms=False, embed_only=True)
        found = [self.passes.forward(batch.micro_batch(own), hyper, asked).embeddings for own in rows]
        images, text, scales, biases = zip(*found, strict=True)
        whole = torch.cat(images, dim=1), torch.cat(text), scales[0], biases[0].detach()
        return Embeddings(*(value.requires_grad_() for value in whole))


def _cotangent(embeddings: Embeddings, rows: slice, fraction: float) -> Embeddings:
    """The gradients of these rows' embeddings, and this fraction of those of scale and bias."""
    images, text, scale, bias = (torch.zeros_like(v) if v.grad is None else v.grad for v in embeddings)
    return Embeddings(images[:, rows], text[rows], fraction * scale, fraction * bias)


def _of_view(cotangent: Embeddings, view: int) -> Embeddings:
    """The gradients of one view, and its share of those that all views have in common."""
    images, *others = cotangent
    return Embeddings(images[view : view + 1], *(value / len(images) for value in others))


def _mean(of_micro_batches: Sequence[Mapping[str, TermOutput]]) -> dict[str, TermOutput]:
    """The terms of the whole batch: means over micro-batches of one size."""
    whole = {}
    for name in of_micro_batches[0] if of_micro_batches else ():
        by_field = zip(*(terms[name] for terms in of_micro_batches), strict=True)
        means = (None if values[0] is None else torch.stack(values).detach().mean(dim=0) for values in by_field)
        whole[name] = TermOutput(*means)  # type: ignore[arg-type]
    return whole
