"""Detect a collapse of self-distillation from the statistics of the teacher's targets.

| sign                                                                    | heeded                |
| ----------------------------------------------------------------------- | --------------------- |
| batch-marginal perplexity below 1 % of K and 5 % of the batch's targets | at once               |
| mean entropy of a target above 98 % of ln K (every target is uniform)   | after five half-lives |
| mean entropy of a target below 2 % of ln K (every target is certain)    | after five half-lives |

A healthy run may start near ln K, because the teacher is young; it never starts on a few prototypes. The figures
behind the thresholds are in docs/reliability.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

LOW_OF_PROTOTYPES, LOW_OF_TARGETS = 0.01, 0.05
LEAST_PERPLEXITY = 1.5
"""The least threshold of the perplexity: one prototype is always used."""
UNIFORM, CERTAIN = 0.98, 0.02
HALF_LIVES = 5


@dataclass
class CollapseAlarm:
    """Looks for a collapse in the logged metrics of a run.

    Args:
        num_prototypes: K.
        num_targets: teacher targets in a global batch, G B.
    """

    num_prototypes: int
    num_targets: int
    _sounding: str = field(default="", init=False)

    def check(self, step: int, metrics: Mapping[str, float], momentum: float) -> str:
        """One line when a sign of collapse is first seen, and again when it comes back; else empty.

        Args:
            step: steps done.
            metrics: `teacher/perplexity` and `teacher/entropy` (nats) over the global batch; without them nothing
                is judged.
            momentum: lambda of the average, from which its half-life follows.
        """
        sign = self._sign(step, metrics, momentum) if "teacher/perplexity" in metrics else ""
        new, self._sounding = sign if sign.partition(" ")[0] != self._sounding else "", sign.partition(" ")[0]
        return new

    def _sign(self, step: int, metrics: Mapping[str, float], momentum: float) -> str:
        perplexity, share = metrics["teacher/perplexity"], metrics["teacher/entropy"] / math.log(self.num_prototypes)
        least = min(LOW_OF_PROTOTYPES * self.num_prototypes, LOW_OF_TARGETS * self.num_targets)
        least = max(LEAST_PERPLEXITY, least)
        if perplexity < least:
            return (
                f"narrow collapse: the batch uses {perplexity:.1f} of {self.num_prototypes} prototypes (alarm below "
                f"{least:.1f}); check that model.teacher.centre_momentum is below 1, or raise model.teacher.temperature"
            )
        if step <= HALF_LIVES * half_life(momentum):
            return ""
        if share > UNIFORM:
            return (
                f"uniform collapse: targets have {share:.1%} of the maximum entropy, so they tell nothing; "
                "lower model.teacher.temperature, or model.teacher.half_life if the teacher never began to learn"
            )
        if share < CERTAIN:
            return (
                f"certain collapse: targets have {share:.1%} of the maximum entropy: each is a single prototype; "
                "raise model.teacher.temperature"
            )
        return ""


def half_life(momentum: float) -> float:
    """Steps in which half of the average is renewed; infinite for a teacher that never changes."""
    return -math.log(2) / math.log(momentum) if 0 < momentum < 1 else (math.inf if momentum else 0.0)
