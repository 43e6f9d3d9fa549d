"""Checkpoints written while training goes on: a snapshot in the main rank's memory, which a thread makes durable.

Training waits for the copy alone. The thread knows no other rank and takes part in no collective, so nothing that it
does can stop one; writing, hashing and flushing leave the interpreter to training.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch

from silc import checkpoint
from silc.training.sharding import whole
from silc.types import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from silc.distributed import World


class Saver:
    """Writes checkpoints below a folder, one at a time.

    Args:
        root, keep: as `checkpoint.write` takes them.
        world: whose main rank writes; tensors are whole or sharded over it.
    """

    def __init__(self, root: Path, keep: int, world: World) -> None:
        self.root, self.keep, self.world = root, keep, world
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")  # an exit of the process waits for it
        self.pending: Future[Path] | None = None
        self.snapshot: dict[str, dict[str, Tensor]] = {}
        self.step = -1

    def save(self, step: int, parts: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
        """Copy everything, and leave the rest to the thread once it is done with the one before; every rank calls it.

        A step that was saved already is not saved again.

        Raises:
            BadInput: on every rank, where the one before could not be written.
        """
        self.finish()
        if step == self.step:
            return
        self.snapshot, self.step = self._copied(parts), step
        if self.world.is_main:
            self.pending = self.thread.submit(checkpoint.write, self.root, step, self.snapshot, state, keep=self.keep)

    def failed(self) -> bool:
        """Whether the last one is known not to have been written; `finish` says why."""
        return self.pending is not None and self.pending.done() and self.pending.exception() is not None

    def finish(self) -> None:
        """Wait until what was saved is durable; every rank calls it.

        Raises:
            BadInput: on every rank, where it could not be written.
        """
        complaint, pending, self.pending = "", self.pending, None
        try:
            if pending is not None:
                pending.result()
        except BadInput as error:
            complaint = str(error)
        if complaint := self.world.collect(complaint)[0]:
            raise BadInput(complaint)

    def _copied(self, parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
        """The tensors, whole, in the main rank's memory; in that of the snapshot before, where there was one."""
        copies: dict[str, dict[str, Tensor]] = {}
        for part, tensors in parts.items():
            own = copies.setdefault(part, {})
            buffers = self.snapshot.get(part, {})
            for name, tensor in tensors.items():
                value = whole(tensor.detach())
                if self.world.is_main:
                    buffer = buffers.get(name)
                    if buffer is None:
                        buffer = torch.empty(value.shape, dtype=value.dtype, pin_memory=value.is_cuda)
                    own[name] = buffer.copy_(value, non_blocking=True)
        if self.world.device.type == "cuda":
            torch.cuda.synchronize(self.world.device)
        return copies
