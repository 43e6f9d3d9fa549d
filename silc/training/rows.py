"""Batches of rows in memory, for a learner whose data needs no loader."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from silc.errors import BadInput

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from silc.batch import Broken
    from silc.distributed import World


class TensorBatch(NamedTuple):
    """One rank's share of a batch that is tensors alone."""

    inputs: Sequence[Tensor]
    keys: Sequence[str]
    broken: Sequence[Broken] = ()

    def to(self, device: torch.device | str) -> TensorBatch:
        """The batch on a device."""
        return self._replace(inputs=[x.to(device) for x in self.inputs])


@dataclass(frozen=True)
class RowBatches:
    """Rows in an order that follows from seed and epoch; an incomplete batch at the end of an epoch is left out.

    Args:
        read: the tensors of some rows.
        num_rows: N.
        batch_size: rows over all ranks, at most N.
        source: what must be the same for a run to resume, as JSON types.
    """

    read: Callable[[Sequence[int]], Sequence[Tensor]]
    num_rows: int
    batch_size: int
    seed: int
    world: World
    source: Mapping[str, Any]

    @property
    def steps_per_epoch(self) -> int:
        return self.num_rows // self.batch_size

    def batches(self, start: int, stop: int, asked: Callable[[], bool] = bool) -> Generator[TensorBatch, None, None]:
        """This rank's batches of steps `start` to `stop`."""
        order, drawn = np.empty(0, dtype=np.int64), -1
        for step in range(start, stop):
            epoch, place = divmod(step, self.steps_per_epoch)
            if epoch != drawn:
                order, drawn = np.random.default_rng((self.seed, epoch)).permutation(self.num_rows), epoch
            rows = order[place * self.batch_size : (place + 1) * self.batch_size]
            mine = rows[self.world.rank :: self.world.size].tolist()
            yield TensorBatch(self.read(mine), [str(row) for row in mine])

    def state(self, step: int) -> dict[str, Any]:
        """The state of the data for a checkpoint; the place in the data is the step."""
        return {"step": step, **self.source}

    def check(self, state: Mapping[str, Any]) -> None:
        """
        Raises:
            BadInput: the checkpoint is of another source.
        """
        for name, now in self.source.items():
            if now != (was := state.get(name, now)):
                raise BadInput(f"{name} is {now!r} here and was {was!r} when the run began; give another --out")
