"""SILC's learner for the engine: its module, passes, rates and parts of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from silc.checkpoint import load_into
from silc.models import lora
from silc.pretraining.gradients import Gradients
from silc.pretraining.rates import groups

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor, nn

    from silc.batch import Batch
    from silc.checkpoint import Checkpoint
    from silc.objective import SilcObjective
    from silc.pretraining.alarm import CollapseAlarm
    from silc.step import Hyper, StepOutput
    from silc.training.config import TrainConfig
    from silc.training.protocols import ParamGroup, Passes


@dataclass(frozen=True)
class SilcLearner:
    """The `Learner` (training/protocols.py) of an objective.

    Args:
        module: the objective.
        config: of the training.
        alarm: looks for a collapse in the logged metrics.
    """

    module: SilcObjective
    config: TrainConfig
    alarm: CollapseAlarm

    @property
    def uses_every_parameter(self) -> bool:
        """False if the last pass is the image-text loss alone and the heads were used in an earlier pass."""
        return not (self.module.terms and (self.config.micro_batch > 0 or (self._apart and self.module.separable)))

    @property
    def _apart(self) -> bool:
        return self.config.passes == "apart"

    def blocks(self) -> Iterable[nn.Module]:
        """The blocks of the towers."""
        return self.module.blocks()

    def groups(self) -> Mapping[str, ParamGroup]:
        """Parameters grouped by layer and by weight decay (rates.py)."""
        return groups(self.module, self.config.optim)

    def gradients(self, passes: Passes, batch: Batch, hyper: Hyper) -> StepOutput:
        """The exact gradients of the whole batch (gradients.py)."""
        return Gradients(self.module, passes, self.config.micro_batch, self._apart)(batch, hyper)

    def after_step(self, out: StepOutput, hyper: Hyper) -> None:
        """Update teacher and centres, and clamp the scale."""
        self.module.after_step(out, hyper)

    def state_dicts(self) -> Mapping[str, Mapping[str, Tensor]]:
        """The student's merged weights, LoRA's matrices if it has them, and the objective's other networks."""
        student = self.module.student
        state_dicts: dict[str, Mapping[str, Tensor]] = {"model": lora.merged(student)}
        if beside := lora.added(student):
            state_dicts["lora"] = beside
        return state_dicts | {name: module.state_dict() for name, module in self.module.heads.items()}

    def load(self, saved: Checkpoint) -> None:
        """Take over a checkpoint; raises BadInput if it is of another architecture."""
        student = lora.unmerged(self.module.student, saved.state_dicts["model"], saved.state_dicts.get("lora", {}))
        load_into(self.module.student, student, saved.path / "model.safetensors")
        for name, module in self.module.heads.items():
            saved.load_into(module, name)

    def warning(self, step: int, metrics: Mapping[str, float], hyper: Hyper) -> str:
        """One line at a sign of collapse (alarm.py), else empty."""
        return self.alarm.check(step, metrics, hyper.momentum)


def adapt(objective: SilcObjective, rank: int) -> str:
    """Freeze the towers and add LoRA's matrices; returns a line that says how many numbers learn."""
    student = objective.student
    whole = sum(p.numel() for p in student.parameters())
    for tower in (student.visual, student.text):
        lora.adapt(tower, rank)
    learning = sum(p.numel() for p in student.parameters() if p.requires_grad)
    return f"LoRA: {learning:,} weights are trained beside the {whole:,} weights of the towers"
