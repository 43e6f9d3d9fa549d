"""Training FLOPs, by torch's formulas, on tensors that hold no data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from silc.types import Hyper

if TYPE_CHECKING:
    from silc.objective import SilcObjective
    from silc.types import Batch


class _Counter(TorchDispatchMode):
    """Adds up what torch's FlopCounterMode adds up, but keeps no tree of modules beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (formula := flop_registry.get(func.overloadpacket)) is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def training_flops(objective: SilcObjective, batch: Batch) -> float:
    """FLOPs of a training step: forward and backward of the student, forward of the teacher.

    Args:
        objective: built on the meta device, in a world of one.
        batch: on the meta device too; of one pair for FLOPs per example.
    """
    with _Counter() as counter:
        objective(batch, Hyper(lr=0.0, momentum=1.0, temperature=1.0)).loss.backward()
    return float(counter.total)
