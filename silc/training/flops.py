"""Training FLOPs, by torch's formulas, on tensors that hold no data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from silc.types import Batch, Hyper, Views

if TYPE_CHECKING:
    from silc.objective import SilcObjective


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


def training_flops(objective: SilcObjective, *, size: int, crops: tuple[int, int, int], text_length: int) -> float:
    """FLOPs of one training step per example: forward and backward of the student, forward of the teacher.

    Args:
        objective: built on the meta device, in a world of one.
        size: R.
        crops: number of global views, of local views, and r.
        text_length: T.
    """
    num_global, num_local, local_size = crops

    def views(num: int, side: int) -> torch.Tensor:
        return torch.zeros(num, 1, 3, side, side, dtype=torch.uint8, device="meta")

    batch = Batch(
        views=Views(views(1, size)[0], views(num_global, size), views(num_local, local_size)),
        text=torch.zeros(1, text_length, dtype=torch.int64, device="meta"),
        keys=("",),
    )
    with _Counter() as counter:
        objective(batch, Hyper(lr=0.0, momentum=1.0, temperature=1.0)).loss.backward()
    return float(counter.total)
