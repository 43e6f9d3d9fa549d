"""The state that a run resumes from: weights, moments, random generators, the place in the data, counts."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import torch

from silc import checkpoint
from silc.training.loop import Progress, TrainState
from silc.training.optim import Optimizer
from silc.training.sharding import distribute

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from silc.distributed import World
    from silc.training.protocols import Run, RunContext


def begin(run: Run, context: RunContext) -> TrainState:
    """Move the learner to its device, and begin, or restore everything as it was when the checkpoint was written.

    A checkpoint can resume in any layout of ranks.

    Raises:
        BadInput: the checkpoint is damaged, of another architecture or of other data.
    """
    learner, world = run.learner, context.world
    saved = checkpoint.read(context.checkpoint) if context.checkpoint is not None else None
    if saved is not None:
        run.batches.check(saved.state["loader"])
        learner.load(saved)
    # Weights are loaded before they are sharded, moments after it: an optimizer's state is of the parameters it was
    # made for.
    passes = distribute(learner, run.settings, world)
    optimizer = Optimizer(run.settings.optim, learner.module, learner.groups())
    if saved is None:
        # Faults of the source itself count once, on the main rank.
        bad = Counter(fault.cause for fault in run.samples.faults if world.is_main)
        return TrainState(passes, optimizer, Progress(bad=bad))
    optimizer.load(dict(saved.state_dicts["optimizer"]))
    _restore_generators(saved.state_dicts["rng"], world)
    state = saved.state["progress"]
    # The counts are sums over the ranks; one rank takes them all, so that later sums are right.
    bad = Counter(state["bad"]) if world.is_main else Counter()
    return TrainState(passes, optimizer, Progress(step=state["step"], skipped=state["skipped"], bad=bad))


def state_dicts_of(run: Run, optimizer: Optimizer, world: World) -> dict[str, Mapping[str, Tensor]]:
    """The tensors of a checkpoint, by file; every rank calls it."""
    generators = {"cpu": world.gather(torch.get_rng_state()[None].to(world.device))}  # one row per rank
    if world.device.type == "cuda":
        generators["cuda"] = world.gather(torch.cuda.get_rng_state(world.device)[None].to(world.device))
    return {**run.learner.state_dicts(), "optimizer": optimizer.state(), "rng": generators}


def state_of(run: Run, progress: Progress, world: World) -> dict[str, Any]:
    """The state of a checkpoint besides tensors; every rank calls it."""
    bad = dict(world.total(progress.bad))
    return {
        "progress": {"step": progress.step, "skipped": progress.skipped, "bad": bad},
        "loader": run.batches.state(progress.step),
        "cost": run.cost(progress.step),
    }


def _restore_generators(states: Mapping[str, Tensor], world: World) -> None:
    # All ranks draw the same numbers, so an additional rank takes the first one's state. Copied, because torch reads a
    # state as aligned memory, and a row of a file may lie anywhere.
    row = world.rank if world.rank < len(states["cpu"]) else 0
    torch.set_rng_state(states["cpu"][row].clone())
    if "cuda" in states and world.device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"][row].clone(), world.device)
