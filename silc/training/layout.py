"""Where a learner's weights lie: on this rank's device, whole or in shares."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.parallel import DistributedDataParallel

from silc.heap import keep_freed_memory
from silc.models.attention import choose_attention
from silc.training.passes import Context, Passes
from silc.training.sharding import shard

if TYPE_CHECKING:
    from silc.distributed import World
    from silc.training.config import TrainConfig
    from silc.training.protocols import Learner


def placed(learner: Learner, config: TrainConfig, world: World) -> Passes:
    """Move a learner to the ranks' devices, and say how passes through it are run there."""
    half, module = config.precision == "bf16", learner.module
    choose_attention(module, world.device, half=half)
    if world.device.type == "cpu":
        keep_freed_memory()
    forward: Any = module
    unsynced: Context = nullcontext
    if world.size > 1 and config.sharding == "full":
        shard(module, learner.blocks(), learner.methods, world)
    else:
        module.to(world.device)
        if world.size > 1:
            devices = [world.device.index] if world.device.type == "cuda" else None
            unused = not learner.meets_every_parameter
            forward = DistributedDataParallel(module, device_ids=devices, find_unused_parameters=unused)
            unsynced = forward.no_sync
    forward = torch.compile(forward) if config.compile else forward
    return Passes(forward, partial(torch.autocast, world.device.type, torch.bfloat16, enabled=half), unsynced)
