"""FSDP2: every rank keeps a share of each weight, moment and average, for models that one GPU cannot hold.

A block of a tower is put together when it runs and let go after; what is outside the blocks (embeddings, heads, scale)
stays together from the beginning of a step to its end, for it is used in many places. The teacher is sharded like the
student, so its average is taken share by share.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

if TYPE_CHECKING:
    from torch import Tensor

    from silc.distributed import World
    from silc.objective import SilcObjective


def shard(objective: SilcObjective, world: World) -> None:
    """Spread an objective over the ranks, on their devices; gradients become means over the ranks, as DDP's.

    Weights are gathered in float32: `autocast` alone says what is computed in bfloat16, as without sharding.
    """
    mesh = init_device_mesh(world.device.type, (world.size,))
    student, teacher = objective.student, objective.teacher
    towers: list[Any] = (
        [student.visual] if teacher is None or teacher.visual is None else [student.visual, teacher.visual]
    )
    for block in chain(student.text.transformer.resblocks, *(tower.trunk.blocks for tower in towers)):
        fully_shard(block, mesh=mesh)
    fully_shard(objective, mesh=mesh)
    register_fsdp_forward_method(objective, "pairs")


def is_sharded(tensor: Tensor) -> bool:
    """Whether this rank has a share of a tensor and not all of it."""
    return isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """This rank's share of a sharded tensor; any other as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """The tensor that a sharded one is a share of, on every rank; every rank calls it. Any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def share(tensor: Tensor, like: Tensor) -> Tensor:
    """A copy of a whole tensor, sharded (every rank takes its share) and placed as another of its shape is."""
    if isinstance(like, DTensor):
        # Every rank has the same whole one: nothing needs to be sent. A share that were not cloned would keep it all.
        whole_one = tensor.to(like.device)
        return distribute_tensor(whole_one, like.device_mesh, like.placements, src_data_rank=None).clone()
    return tensor.to(like.device, copy=True)
