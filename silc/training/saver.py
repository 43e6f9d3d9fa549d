"""Write checkpoints while training continues: a thread writes a snapshot in host memory to disk.

Training waits only for the copy; writing, hashing and flushing leave the interpreter free. If tensors are sharded,
each rank copies its own share, and the threads send the shares to the main rank over a group of their own: training and
the threads never wait in each other's collectives.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from silc import checkpoint
from silc.distributed import PATIENCE
from silc.errors import BadInput
from silc.training.sharding import is_sharded, local_tensor

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from silc.distributed import World


class Saver:
    """Writes checkpoints below a folder, one at a time; every rank calls each of its methods but `failed` and `wait`.

    Args:
        root, keep: as `checkpoint.write` takes them.
        world: whose main rank writes; tensors are whole, or sharded over it by rows.
        saved: the step from which the run resumed, whose checkpoint exists.
    """

    def __init__(self, root: Path, keep: int, world: World, saved: int | None = None) -> None:
        self.root, self.keep, self.world = root, keep, world
        self.group: Any = dist.new_group(backend="gloo", timeout=PATIENCE) if world.size > 1 else None
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")  # an exit of the process waits for it
        self.pending: Future[None] | None = None
        self.step: int | None = saved
        self.snapshot: dict[str, dict[str, Tensor]] = {}
        self.shares: list[Tensor] = []
        """The snapshot's sharded tensors: full-size buffers to fill on the main rank, local shards elsewhere."""

    def save(self, step: int, state_dicts: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
        """Copy everything and leave the rest to the thread; first wait for the checkpoint before, if the thread still
        writes it.

        A step that was already saved is not saved again.

        Raises:
            BadInput: on every rank, if the checkpoint before could not be written.
        """
        self.finish()
        if step != self.step:
            self.step = step
            self._copy(state_dicts)
            self.pending = self.thread.submit(self._write, step, state)

    def failed(self) -> bool:
        """Whether the last checkpoint is known to have failed; `finish` says why."""
        return self.pending is not None and self.pending.done() and self.pending.exception() is not None

    def wait(self) -> None:
        """Wait for this rank's thread, even if it fails; a rank may call it alone."""
        if self.pending is not None:
            self.pending.exception()

    def finish(self) -> None:
        """Wait until the last checkpoint is on disk.

        Raises:
            BadInput: on every rank, if it could not be written.
        """
        complaint, pending, self.pending = "", self.pending, None
        try:
            if pending is not None:
                pending.result()
        except BadInput as error:
            complaint = str(error)
        # Writing may take longer than a collective in training.
        if complaint := self.world.from_main(complaint):
            raise BadInput(complaint)

    def _copy(self, state_dicts: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Copy what this rank has to give, into the memory of the snapshot before."""
        before, self.snapshot, self.shares = self.snapshot, {}, []
        for file, tensors in state_dicts.items():
            self.snapshot[file] = {}
            for name, tensor in tensors.items():
                own, sharded = local_tensor(tensor.detach()), is_sharded(tensor)
                if not (self.world.is_main or sharded):
                    continue
                buffer = before.get(file, {}).get(name)
                if buffer is None:
                    shape = tensor.shape if self.world.is_main else own.shape
                    buffer = torch.empty(shape, dtype=own.dtype, pin_memory=own.is_cuda)
                mine = self._by_rank(buffer)[0] if sharded and self.world.is_main else buffer
                mine.copy_(own, non_blocking=True)
                self.snapshot[file][name] = buffer
                self.shares += [buffer] * sharded
        if self.world.device.type == "cuda":
            torch.cuda.synchronize(self.world.device)

    def _write(self, step: int, state: Mapping[str, Any]) -> None:
        """The work of the thread: bring the shares to the main rank, which writes the checkpoint."""
        for share in self.shares:
            if self.world.is_main:
                for rank, rows in enumerate(self._by_rank(share)[1:], start=1):
                    dist.recv(rows, rank, self.group)
            elif share.numel():
                dist.send(share, 0, self.group)
        if self.world.is_main:
            checkpoint.write(self.root, step, self.snapshot, state, keep=self.keep)

    def _by_rank(self, whole: Tensor) -> tuple[Tensor, ...]:
        """The rows of each rank, as FSDP2 deals them; the last ranks may have none."""
        return whole.chunk(self.world.size)
