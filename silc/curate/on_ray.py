"""Shards dealt out to a fixed number of Ray actors: on one machine, or on a cluster whose nodes have silc installed.

Ray Core alone: paths are small, and Ray Data's blocks, autoscaling and row checkpoints would only be in the way. An
actor that is lost is started again, and its shard with it, a few times.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from silc.errors import BadInput
from silc.extras import needs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from silc.curate.scorer import Outcome, ScorePlan
    from silc.data.remote import RemoteFile

OBJECT_STORE = 100 << 20
"""Bytes of shared memory for Ray on this machine: only paths and counts go through it."""

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
        BadInput: there is no cluster at the address, or it has not the room for so many actors.
    """
    ray = needs("--ray", "ray", "ray")
    here = address == "local"
    settings: dict[str, Any] = {"num_cpus": workers, "object_store_memory": OBJECT_STORE} if here else {}
    try:
        ray.init(address=address, logging_level="error", log_to_driver=False, include_dashboard=False, **settings)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise BadInput(
            f"--ray {address}: {' '.join(str(error).split())[:200]}; `ray start --head` makes one"
        ) from error
    try:
        yield from _dealt_out(ray, shards, plan, min(workers, len(shards)))
    finally:
        ray.shutdown()


def _dealt_out(ray: Any, shards: Sequence[Path | RemoteFile], plan: ScorePlan, workers: int) -> Iterator[Outcome]:
    has = ray.cluster_resources()
    gpus = 1 if has.get("GPU", 0) and plan.device != "cpu" else 0
    room = int(has.get("GPU", 0) if gpus else has.get("CPU", 0))
    if room < workers:
        what = "GPUs" if gpus else "cores"
        raise BadInput(f"the cluster has {room} {what}, fewer than --workers {workers}; ask for fewer, an actor each")
    remote = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=-1, max_task_retries=TRIES - 1)(Actor)
    waiting = deque(shards)
    busy = {}
    for _ in range(workers):
        actor, shard = remote.remote(plan), waiting.popleft()
        busy[actor.score.remote(shard)] = actor, shard
    while busy:
        done, _ = ray.wait(list(busy))
        actor, shard = busy.pop(done[0])
        outcome = _outcome(ray, done[0], shard)
        if isinstance(outcome, BadInput):
            raise outcome
        if waiting:
            shard = waiting.popleft()
            busy[actor.score.remote(shard)] = actor, shard
        yield outcome


def _outcome(ray: Any, done: Any, shard: Path | RemoteFile) -> Outcome | BadInput:
    """What an actor says, or that it does not live to say it; what it raised is raised as it was there."""
    from silc.curate.scorer import Outcome

    try:
        found: Outcome | BadInput = ray.get(done)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayActorError as error:
        said = " ".join(str(error).split())[:200]
        return Outcome(shard.name, fault=f"{shard}: the actor that scored it was lost {TRIES} times ({said})")
    return found
