"""Distribute weights over ranks: whole on every rank (DDP), or in shards (FSDP2), for models that one GPU cannot hold.

With FSDP2 every rank keeps a shard of each weight, moment and average. A block is gathered when it runs and freed
afterwards; what is outside the blocks (embeddings, heads, scale) stays gathered during the whole step, because it is
used in many places. Parts of a module that are sharded alike, such as a student and its average, can be combined shard
by shard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from silc.processor import choose_attention, keep_freed_memory
from silc.training.protocols import Context, Passes

if TYPE_CHECKING:
    from torch import Tensor

    from silc.distributed import World
    from silc.training.config import TrainConfig
    from silc.training.protocols import Learner

M = TypeVar("M", bound=nn.Module)


def distribute(learner: Learner, config: TrainConfig, world: World) -> Passes:
    """Move a learner to the ranks' devices; returns how passes through it are run there."""
    half, module = config.precision == "bf16", learner.module
    choose_attention(module, world.device, half=half)
    if world.device.type == "cpu":
        keep_freed_memory()
    forward: Any = module
    no_sync: Context = nullcontext
    if world.size > 1 and config.sharding == "full":
        shard(module, learner.blocks(), world)
    else:
        module.to(world.device)
        if world.size > 1:
            devices = [world.device.index] if world.device.type == "cuda" else None
            unused = not learner.uses_every_parameter
            forward = DistributedDataParallel(module, device_ids=devices, find_unused_parameters=unused)
            no_sync = forward.no_sync
    forward = torch.compile(forward) if config.compile else forward
    return Passes(forward, partial(torch.autocast, world.device.type, torch.bfloat16, enabled=half), no_sync)


def shard(module: nn.Module, blocks: Iterable[nn.Module], world: World) -> None:
    """Shard a module over the ranks, on their devices; gradients become means over the ranks, as with DDP.

    Weights are gathered in float32: only `autocast` decides what is computed in bfloat16, as without sharding.

    Args:
        blocks: parts of the module that are gathered one by one.
    """
    mesh = init_device_mesh(world.device.type, (world.size,))
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)


def unsharded(module: M, empty: Callable[[], M]) -> M:
    """The module, or a whole copy if it is sharded: for code that calls its parts not equally often on all ranks.

    Args:
        empty: makes another one on the meta device.
    """
    tensors = module.state_dict()
    if not any(is_sharded(tensor) for tensor in tensors.values()):
        return module
    copy = empty()
    copy.load_state_dict({name: full_tensor(tensor) for name, tensor in tensors.items()}, assign=True)
    return copy


def is_sharded(tensor: Tensor) -> bool:
    """Whether this rank has only a shard of a tensor."""
    return isinstance(tensor, DTensor)


def local_tensor(tensor: Tensor) -> Tensor:
    """This rank's shard of a sharded tensor; any other as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole tensor of a sharded one, on every rank; every rank must call this. Any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A copy of a whole tensor, sharded and placed as another of its shape is; every rank takes its own shard."""
    if isinstance(like, DTensor):
        # Every rank has the whole tensor, so nothing is sent. Cloned, because a view would keep the whole one in
        # memory.
        whole_one = tensor.to(like.device)
        return distribute_tensor(whole_one, like.device_mesh, like.placements, src_data_rank=None).clone()
    return tensor.to(like.device, copy=True)
