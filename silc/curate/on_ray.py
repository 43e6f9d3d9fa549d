"""Distribute shards to a fixed number of Ray actors, on one machine or on a cluster whose nodes have silc installed.

It uses only Ray Core: the messages are small paths, so Ray Data's blocks, autoscaling and row checkpoints do not help.
A lost actor is restarted and its shard is repeated, a few times.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any

from silc.errors import BadInput
from silc.extras import needs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from silc.curate.scorer import Outcome, ScorePlan
    from silc.data.remote import RemoteFile

OBJECT_STORE = 100 << 20
"""Bytes of shared memory for Ray on this machine; it holds only paths and counts."""

AHEAD = 1
"""Number of shards queued at an actor beside the current one."""

TRIES = 3
"""Maximum number of tries for a shard whose actor is lost before it answers."""


class Actor:
    """A worker with the models, and with a GPU if the cluster has GPUs."""

    def __init__(self, plan: ScorePlan) -> None:
        from silc.curate.scorer import Scorer

        self._scorer: Scorer | BadInput
        try:
            self._scorer = Scorer(plan)
        except BadInput as error:  # if raised here, Ray would restart the actor for ever
            self._scorer = error

    def score(self, shard: Path | RemoteFile) -> Outcome | BadInput:
        """Score a shard as `Scorer` does. Return an error: Ray would wrap a raised one in its traceback."""
        if isinstance(self._scorer, BadInput):
            return self._scorer
        try:
            return self._scorer(shard)
        except BadInput as error:
            return error


def run_on_ray(shards: Sequence[Path | RemoteFile], plan: ScorePlan, workers: int, address: str) -> Iterator[Outcome]:
    """Score shards on Ray; see `engine.run`.

    Raises:
        BadInput: there is no cluster at the address, none can be started, or it has no room for the actors.
    """
    ray = needs("--ray", "ray", "ray")
    here = address == "local"
    settings: dict[str, Any] = {"num_cpus": workers, "object_store_memory": OBJECT_STORE} if here else {}
    try:
        ray.init(address=address, logging_level="error", log_to_driver=False, include_dashboard=False, **settings)
    except Exception as error:  # Ray raises plain Exception if its processes start too slowly
        advice = "run it again when the machine is less busy" if here else "`ray start --head` starts a cluster"
        raise BadInput(f"--ray {address}: {' '.join(str(error).split())[:200]}; {advice}") from error
    try:
        # An existing cluster may run other work; a cluster that was started here is free.
        there = ray.cluster_resources()
        share = share_of_gpu(there if here else ray.available_resources(), there, workers, plan.device)
        yield from _dealt_out(ray, shards, _maker(ray, share, plan), min(workers, len(shards)))
    finally:
        ray.shutdown()


def share_of_gpu(free: Mapping[str, float], there: Mapping[str, float], workers: int, device: str) -> float:
    """GPUs per actor: 1, or an equal part of a GPU if there are more actors than free GPUs; 0 without GPUs.

    Raises:
        BadInput: the cluster has too few free cores for the actors, or all its GPUs are taken.
    """
    if (cores := int(free.get("CPU", 0))) < workers:
        raise BadInput(
            f"the cluster has {cores} free cores, fewer than --workers {workers}; ask for fewer, each needs a core"
        )
    if device == "cpu" or not there.get("GPU", 0):
        return 0
    if not (gpus := int(free.get("GPU", 0))):
        raise BadInput("all GPUs of the cluster are taken; wait for one, or give --device cpu")
    return 1 / math.ceil(workers / gpus)


def _maker(ray: Any, share: float, plan: ScorePlan) -> Callable[[], Any]:
    """A function that creates an actor."""
    remote = ray.remote(num_cpus=1, num_gpus=share, max_restarts=-1, max_task_retries=TRIES - 1)(Actor)
    return lambda: remote.remote(plan)


def _dealt_out(
    ray: Any, shards: Sequence[Path | RemoteFile], make: Callable[[], Any], workers: int
) -> Iterator[Outcome]:
    """Yield the outcomes. Each actor has a current shard and AHEAD queued ones, so it never waits for this process."""
    from silc.curate.scorer import Outcome

    waiting, suspects = deque(shards), []
    busy: dict[Any, tuple[Any, Path | RemoteFile]] = {}

    def give(actor: Any) -> None:
        if waiting:
            shard = waiting.popleft()
            busy[actor.score.remote(shard)] = actor, shard

    for actor in [make() for _ in range(workers)] * (1 + AHEAD):
        give(actor)
    while busy:
        (done,), _ = ray.wait(list(busy))
        actor, shard = busy.pop(done)
        give(actor)
        del actor  # without work an actor ends, and its core and GPU are free for one whose node was lost
        if outcome := _outcome(ray, done):
            yield outcome
        else:
            suspects.append(shard)
    for shard in suspects:  # a lost actor also loses its queued shards: now run each shard on an actor of its own
        actor = make()
        yield _outcome(ray, actor.score.remote(shard)) or Outcome(
            shard.name,
            fault=f"{shard}: {TRIES} actors were lost at this shard, probably because memory ran out; run it again",
        )


def _outcome(ray: Any, done: Any) -> Outcome | None:
    """The actor's outcome, or None if the actor was lost; an exception in the actor is raised here unchanged."""
    try:
        found: Outcome | BadInput = ray.get(done)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayActorError:
        return None
    if isinstance(found, BadInput):
        raise found
    return found
