"""Self-distillation: the student's local views against the teacher's global ones, and its masked patches (iBOT).

Legend: V views of the student, G of the teacher, B images, M predicted patches of each, K prototypes, C width of the
bottleneck.

Logits [V, B, K] are never stored as a whole. At K = 65,536 they would fill the memory, and they are cheap to compute:
the bottleneck times the prototypes. So the loss takes these two and goes over the prototypes in blocks, twice: once for
the normalisers, once for probabilities, loss and gradients. Each block of prototypes is normalised inside this loop: a
normalised copy of all and its gradient would cost more memory, and in small batches more time, than the loss itself.
Everything is computed in float32. On a GPU under autocast, products take bfloat16 inputs and sum in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from silc.losses.guards import eager, no_autocast
from silc.step import TermOutput

if TYPE_CHECKING:
    from torch import Tensor

    from silc.step import FactoredLogits, Targets

Product = Callable[["Tensor", "Tensor"], "Tensor"]
BLOCKS = {"cpu": (256, 1024, 2**19), "cuda": (256, 2**16, 2**23)}
"""For a block: minimum and maximum prototypes, and maximum logits. With fewer prototypes products are slow. Larger
blocks do not fit into a CPU's cache. A GPU needs large blocks, or launching kernels takes most of the time."""


def distill_loss(
    student: FactoredLogits, targets: Targets, temperature: float, pairs: Tensor | None = None
) -> TermOutput:
    """Mean cross-entropy over the G x V pairs of views (SILC paper, L_self_dist), and statistics of its targets.

        for g in globals: for v in views:                        # 2 x 8 = 16 pairs
            loss += -mean_b sum_k q[g, b, k] log softmax(s[v, b] / tau_s)[k]
        loss /= G * V

    With s = x.w the term of q is linear in x, so targets and student's logits are never needed together:

        sum_k q_k log softmax(x.w / tau_s)_k = x.m / tau_s - logsumexp(x.w / tau_s),   m = sum_k q_k w_k

    Gradients are formed in the forward pass, block by block; there is no second derivative.

    Args:
        student: x [V, B, C] and the student's prototypes w [K, C].
        targets: the teacher's; no gradient flows into them.
        temperature: tau_s.
        pairs: weight of each pair [V, G] in the loss, with sum 1; None is 1 / (V G) for all.
    """
    x, y = student.bottleneck, targets.projection.bottleneck
    if pairs is None:
        pairs = torch.full((len(x), len(y)), 1 / (len(x) * len(y)), device=x.device)
    precision = _precision(x)
    with no_autocast(x):
        return TermOutput(*_apply(x.float(), student.prototypes.float(), targets, pairs, temperature, precision))


def patch_loss(student: FactoredLogits, targets: Targets, temperature: float) -> TermOutput:
    """Mean cross-entropy over views, images and patches (iBOT's L_MIM; iBOT++ where M is every patch).

        for v in views: for b in images: for m in patches:
            loss += -sum_k q[v, b, m, k] log softmax(s[v, b, m] / tau_s)[k]
        loss /= V * B * M

    Patches take the place of images in self-distillation, with one view of each. iBOT weights each image by one over
    the number of its masked patches; here this number is the same for all images.

    Args:
        student: bottleneck [V, B, M, C] of the patches of the masked view, and the prototypes.
        targets: the teacher's, for the same patches of the whole view [V, B, M, C]; no gradient flows into them.
        temperature: tau_s.
    """
    x, y = student.bottleneck.flatten(0, 2)[None], targets.projection.bottleneck.flatten(0, 2)[None]
    own = targets.projection._replace(bottleneck=y)
    return distill_loss(student._replace(bottleneck=x), targets._replace(projection=own), temperature)


def _precision(x: Tensor) -> torch.dtype:
    """Type of the products' inputs: float32, or the autocast type on a GPU under autocast."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if kind == "cuda" and torch.is_autocast_enabled(kind) else torch.float32


def _product_in(precision: torch.dtype, a: Tensor, b: Tensor) -> Tensor:
    """a @ b of float32 tensors, with inputs in `precision`; sums and result are float32."""
    if precision is torch.float32:
        return a @ b
    return torch.mm(a.to(precision), b.to(precision), out_dtype=torch.float32)


def other_views(num_local: int, num_global: int, device: torch.device) -> Tensor:
    """Weights [L + G, G] of DINO's pairs: the student's local and global views; 0 for a view with itself.

    >>> other_views(1, 2, torch.device("cpu")) * 4
    tensor([[1., 1.],
            [0., 1.],
            [1., 0.]])
    """
    same = torch.eye(num_global, device=device)
    shares = torch.cat([torch.ones(num_local, num_global, device=device), 1 - same])
    return shares / shares.sum()


class _Teacher:
    """A teacher's targets, computed for blocks of the prototypes."""

    def __init__(self, targets: Targets, blocks: Iterable[slice], product: Product) -> None:
        self.bottleneck, self.prototypes = (values.float() for values in targets.projection)
        self.y = self.bottleneck.flatten(0, 1) / targets.temperature  # [G B, C]
        self.c, self.product = targets.centre.float() / targets.temperature, product
        self.log_z = _log_normaliser(self._logits(block) for block in blocks)  # [G B, 1]

    def log_q(self, block: slice) -> Tensor:  # [G B, k]
        return self._logits(block).sub_(self.log_z)

    def mean_logits(self) -> Tensor:  # [K]
        lengths = self.prototypes.norm(dim=1).clamp_(min=1e-12)
        return (self.prototypes @ self.bottleneck.mean(dim=(0, 1))).div_(lengths)

    def _logits(self, block: slice) -> Tensor:
        return self.product(self.y, F.normalize(self.prototypes[block], dim=-1).T).sub_(self.c[block])


class _Distill(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        prototypes: Tensor,
        targets: Targets,
        pairs: Tensor,
        temperature: float,
        precision: torch.dtype,
    ) -> tuple[Tensor, ...]:
        num_views, num, _ = student.shape
        product = partial(_product_in, precision)
        x = student.flatten(0, 1) / temperature  # [V B, C]
        blocks = in_blocks(len(prototypes), len(x), x.device.type)

        def logits(w: Tensor) -> Tensor:
            return product(x, w.T)

        log_z = _log_normaliser(logits(F.normalize(prototypes[block], dim=-1)) for block in blocks)  # [V B, 1]
        teacher = _Teacher(targets, blocks, product)

        # d loss / d logits of view v = (share_v p - sum_g pairs_vg q_g) / B, where share_v = sum_g pairs_vg.
        share = (pairs.sum(dim=1) / num).repeat_interleave(num)[:, None]  # [V B, 1]
        weighted = share * x
        towards = torch.einsum("vg,vbc->gbc", pairs / num, x.unflatten(0, (num_views, num))).flatten(0, 1)  # [G B, C]
        m, pushed = torch.zeros_like(teacher.y), torch.zeros_like(x)  # sum_k q_k w_k and sum_k p_k w_k
        entropy, mean_target = torch.zeros_like(teacher.log_z), torch.empty_like(teacher.c)
        by_prototypes = torch.empty_like(prototypes) if any(ctx.needs_input_grad) else None
        for block in blocks:
            length = prototypes[block].norm(dim=1, keepdim=True).clamp_(min=1e-12)
            w = prototypes[block] / length  # [k, C]
            log_q = teacher.log_q(block)
            q = log_q.exp()
            entropy -= log_q.mul_(q).sum(dim=1, keepdim=True)
            mean_target[block] = q.mean(dim=0)
            m += product(q, w)
            if by_prototypes is not None:
                p = logits(w).sub_(log_z).exp_()  # [V B, k]
                pushed += product(p, w)
                by_w = product(p.T, weighted).sub_(product(q.T, towards))
                along = torch.linalg.vecdot(by_w, w)[:, None]  # no gradient along w: a prototype's length has no effect
                torch.div(by_w.addcmul_(along, w, value=-1), length, out=by_prototypes[block])
        loss = (share * log_z).sum() - (towards * m).sum()
        pulled = torch.einsum("vg,gbc->vbc", pairs / num, m.unflatten(0, (-1, num))).flatten(0, 1)
        ctx.by_student = pushed.mul_(share).sub_(pulled).div_(temperature).view_as(student)
        ctx.by_prototypes = by_prototypes
        mean_entropy, mean_logits = entropy.mean(), teacher.mean_logits()
        ctx.mark_non_differentiable(mean_entropy, mean_target, mean_logits)
        return loss, mean_entropy, mean_target, mean_logits

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        # Scaled in place: at K = 65,536 a copy would need more memory than all the rest here.
        by_student, by_prototypes = ctx.by_student.mul_(gradients[0]), ctx.by_prototypes.mul_(gradients[0])
        ctx.by_student = ctx.by_prototypes = None
        return by_student, by_prototypes, None, None, None, None


# A compiler would unroll the loops over blocks into one graph; compiling helps only the towers.
_apply = eager(_Distill.apply)


def in_blocks(num_prototypes: int, num_rows: int, device: str) -> Iterable[slice]:
    """Slices of the prototypes; their size limits the number of logits in a block."""
    least, most, logits = BLOCKS.get(device, BLOCKS["cuda"])
    width = min(most, max(least, logits // max(1, num_rows)))
    return [slice(start, min(start + width, num_prototypes)) for start in range(0, num_prototypes, width)]


def _log_normaliser(blocks: Iterator[Tensor]) -> Tensor:
    """logsumexp [N, 1] over the columns of logits given in blocks [N, k]; the blocks are overwritten."""
    highest = total = None
    for z in blocks:
        top = z.amax(dim=1, keepdim=True)
        if highest is None or total is None:
            highest, total = top, z.sub_(top).exp_().sum(dim=1, keepdim=True)
        else:
            new = torch.maximum(highest, top)
            total.mul_(highest.sub_(new).exp_()).add_(z.sub_(new).exp_().sum(dim=1, keepdim=True))
            highest = new
    assert highest is not None
    assert total is not None
    return highest + total.log()


def perplexity(distribution: Tensor) -> Tensor:
    """exp(entropy) of a distribution [K]: 1 if one prototype takes all, K if all are used equally."""
    exponential: Tensor = torch.special.entr(distribution).sum().exp()
    return exponential
