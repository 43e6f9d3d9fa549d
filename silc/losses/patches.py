"""Masked-patch prediction: the student's patches against the teacher's of the same view.

Legend: V views, B images, M predicted patches of each, K prototypes. Everything is computed in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from silc.losses.distill import cross_entropy
from silc.losses.precision import no_autocast

if TYPE_CHECKING:
    from torch import Tensor


def patch_loss(student: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Mean cross-entropy over views, images and patches (iBOT's L_MIM; iBOT++ where M is every patch).

        for v in views: for b in images: for m in patches:
            loss += -sum_k q[v, b, m, k] log softmax(s[v, b, m] / tau_s)[k]
        loss /= V * B * M

    iBOT weighs each image by one over the number of its masked patches; here it is the same number for all.

    Args:
        student: s, logits of the patches of the masked view [V, B, M, K].
        targets: q, the teacher's probabilities of the same patches of the whole view [V, B, M, K]; no gradient flows
            into them.
        temperature: tau_s.

    Returns:
        The loss [].
    """
    with no_autocast(student):
        return cross_entropy(student, targets.detach().float(), temperature)
