"""Masked-patch prediction: the student's patches against the teacher's of the same view.

Legend: V views, B images, M predicted patches of each, C width of the bottleneck, K prototypes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from silc.losses.distill import distill_loss

if TYPE_CHECKING:
    from silc.step import Projection, Targets, TermOutput


def patch_loss(student: Projection, targets: Targets, temperature: float) -> TermOutput:
    """Mean cross-entropy over views, images and patches (iBOT's L_MIM; iBOT++ where M is every patch).

        for v in views: for b in images: for m in patches:
            loss += -sum_k q[v, b, m, k] log softmax(s[v, b, m] / tau_s)[k]
        loss /= V * B * M

    Patches are to each other what images are in self-distillation, with one view of each. iBOT weighs each image by one
    over the number of its masked patches; here it is the same number for all.

    Args:
        student: of the patches of the masked view [V, B, M, C].
        targets: of the same patches of the whole view [V, B, M, C]; no gradient flows into them.
        temperature: tau_s.
    """
    x, y = student.bottleneck.flatten(0, 2)[None], targets.projection.bottleneck.flatten(0, 2)[None]
    own = targets.projection._replace(bottleneck=y)
    return distill_loss(student._replace(bottleneck=x), targets._replace(projection=own), temperature)
