"""Shards dealt out to a fixed number of Ray actors: on one machine, or on a cluster whose nodes have silc installed.

Ray Core alone: paths are small, and Ray Data's blocks, autoscaling and row checkpoints would only be in the way. An
actor that is lost is started again, and its shard with it, a few times.
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
"""Bytes of shared memory for Ray on this machine: only paths and counts go through it."""

AHEAD = 1
"""Shards that an actor is handed beside the one under way."""

TRIES = 3
"""How often a shard is given to an actor that does not live to say what became of it."""


class Actor:
    """A worker: it has the models, and a GPU where the cluster has some."""

    def __init__(self, plan: ScorePlan) -> None:
        from silc.curate.scorer import Scorer

        self._scorer: Scorer | BadInput
        try:
            self._scorer = Scorer(plan)
        except BadInput as error:  # raised here, it would be a lost actor, and started again for ever
            self._scorer = error

    def score(self, shard: Path | RemoteFile) -> Outcome | BadInput:
        """As `Scorer`; what is wrong comes as a value, without Ray's traceback around it."""
        if isinstance(self._scorer, BadInput):
            return self._scorer
        try:
            return self._scorer(shard)
        except BadInput as error:
            return error


def run_on_ray(shards: Sequence[Path | RemoteFile], plan: ScorePlan, workers: int, address: str) -> Iterator[Outcome]:
    """Score shards, as `engine.run`.

    Raises:
        BadInput: there is no cluster at the address, none can be begun, or it has not the room for so many actors.
    """
    ray = needs("--ray", "ray", "ray")
    here = address == "local"
    settings: dict[str, Any] = {"num_cpus": workers, "object_store_memory": OBJECT_STORE} if here else {}
    try:
        ray.init(address=address, logging_level="error", log_to_driver=False, include_dashboard=False, **settings)
    except Exception as error:  # Ray raises that itself, where its processes are slow to start
        advice = "run it again when the machine is less busy" if here else "`ray start --head` makes one"
        raise BadInput(f"--ray {address}: {' '.join(str(error).split())[:200]}; {advice}") from error
    try:
        # A cluster may be at other work as well; one that was begun here is free.
        there = ray.cluster_resources()
        share = share_of_gpu(there if here else ray.available_resources(), there, workers, plan.device)
        yield from _dealt_out(ray, shards, _maker(ray, share, plan), min(workers, len(shards)))
    finally:
        ray.shutdown()


def share_of_gpu(free: Mapping[str, float], there: Mapping[str, float], workers: int, device: str) -> float:
    """What an actor asks for: a GPU, or where fewer are free than there are actors, as large a part as all can have.

    Raises:
        BadInput: the cluster has not the cores for so many actors, or all of its GPUs are taken.
    """
    if (cores := int(free.get("CPU", 0))) < workers:
        raise BadInput(
            f"the cluster has {cores} free cores, fewer than --workers {workers}; ask for fewer, a core each"
        )
    if device == "cpu" or not there.get("GPU", 0):
        return 0
    if not (gpus := int(free.get("GPU", 0))):
        raise BadInput("all GPUs of the cluster are taken; wait for one, or give --device cpu")
    return 1 / math.ceil(workers / gpus)


def _maker(ray: Any, share: float, plan: ScorePlan) -> Callable[[], Any]:
    """What makes an actor."""
    remote = ray.remote(num_cpus=1, num_gpus=share, max_restarts=-1, max_task_retries=TRIES - 1)(Actor)
    return lambda: remote.remote(plan)


def _dealt_out(
    ray: Any, shards: Sequence[Path | RemoteFile], make: Callable[[], Any], workers: int
) -> Iterator[Outcome]:
    """Each actor has a shard under way and others ahead, so that it does not wait for this process in between."""
    from silc.curate.scorer import Outcome

    waiting, suspects = deque(shards), []
    actors = [make() for _ in range(workers)]
    busy = {}
    for actor in actors * (1 + AHEAD):
        if waiting:
            shard = waiting.popleft()
            busy[actor.score.remote(shard)] = actor, shard
    while busy:
        done, _ = ray.wait(list(busy))
        actor, shard = busy.pop(done[0])
        if waiting:
            following = waiting.popleft()
            busy[actor.score.remote(following)] = actor, following
        if outcome := _outcome(ray, done[0]):
            yield outcome
        else:
            suspects.append(shard)
    del actor, actors  # which frees their cores and GPUs
    for shard in suspects:  # an actor that is lost takes those with it that it had ahead: each is alone now
        actor = make()
        yield _outcome(ray, actor.score.remote(shard)) or Outcome(
            shard.name, fault=f"{shard}: {TRIES} actors were lost at it, when memory ran out, say; run it again"
        )


def _outcome(ray: Any, done: Any) -> Outcome | None:
    """What an actor says, None if it does not live to say it; what it raised is raised as it was there."""
    try:
        found: Outcome | BadInput = ray.get(done)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayActorError:
        return None
    if isinstance(found, BadInput):
        raise found
    return found
