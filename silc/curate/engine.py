"""Distribute shards to workers: this process, a pool of processes, or Ray actors. All run the same function.

The unit of work is one shard. Its scores are written to a file that appears by a rename, and a shard with a file is
done: after a kill, a second run repeats only the unfinished shards. Processes exchange only paths and counts, never
pixels.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from silc.curate import sidecar
from silc.curate.origin import is_origin
from silc.data.remote import CONCURRENT
from silc.errors import BadInput, LostRank

if TYPE_CHECKING:
    from silc.curate.scorer import Outcome, ScorePlan
    from silc.data.remote import RemoteFile


def left_to_do(shards: Sequence[Path | RemoteFile], plan: ScorePlan) -> tuple[list[Path | RemoteFile], ScorePlan]:
    """The shards without a file of scores, and the plan with the checksums of the models that scored the others.

    Raises:
        BadInput: two shards would share a file; or an existing file was scored with other settings, belongs to another
            shard, or is damaged.
    """
    by_file: dict[Path, Path | RemoteFile] = {}
    for shard in shards:
        file = sidecar.file_of(plan.out, shard.name)
        if (other := by_file.setdefault(file, shard)) is not shard:
            raise BadInput(
                f"{other} and {shard} have the same name, which their scores would share: give each its own --out"
            )
    done = {file: shard for file, shard in by_file.items() if file.is_file()}
    with ThreadPoolExecutor(CONCURRENT) as threads:
        found = threads.map(lambda file: _checksums(file, done[file], plan), done)
        by_weights = dict(zip(found, done, strict=True))
    if len(by_weights) > 1:
        one, other, *_ = by_weights.values()
        raise BadInput(f"{one} and {other} were scored by different weights; delete the old scores, or use two --out")
    left = [shard for file, shard in by_file.items() if file not in done]
    return left, replace(plan, checksums=next(iter(by_weights), ()))


def _checksums(file: Path, shard: Path | RemoteFile, plan: ScorePlan) -> tuple[str, ...]:
    """Checksums of the models that scored a shard.

    Raises:
        BadInput: the file was scored with other settings, belongs to another shard, or is damaged.
    """
    about = sidecar.about_of(file)
    models, shard_then = about["models"], about["shard"]
    as_now = [name for name, _ in plan.models], sidecar.VERSION, plan.dtype
    if ([one["name"] for one in models], about["version"], about["dtype"]) != as_now:
        names = ", ".join(one["source"] for one in models) or "no model"
        raise BadInput(
            f"{file} was scored by {names} ({about['dtype']}), not with the models and settings of now; give another "
            "--out"
        )
    if shard_then.get("max_pixels", plan.max_pixels) != plan.max_pixels:
        raise BadInput(
            f"{file} was scored with --max-pixels {shard_then['max_pixels']}; give the same value again, or another "
            "--out"
        )
    if not is_origin(shard, shard_then):
        raise BadInput(
            f"{file} has the scores of another shard ({shard_then['path']}) than {shard} is now; delete it to score "
            "the shard again, or give another --out"
        )
    return tuple(one["checksum"] for one in models)


def run(shards: Sequence[Path | RemoteFile], plan: ScorePlan, *, workers: int, ray: str = "") -> Iterator[Outcome]:
    """Score shards; yield the outcome of each shard when it is done.

    Args:
        workers: number of processes; with 1 and without Ray, this process does the work.
        ray: address of a Ray cluster; `auto`: a running cluster; `local`: a new one on this machine; empty: no Ray.

    Raises:
        BadInput: as `Scorer`; LostRank, if a process of the pool was killed.
    """
    if ray:
        from silc.curate.on_ray import run_on_ray

        yield from run_on_ray(shards, plan, workers, ray)
    elif workers == 1 or len(shards) < 2:
        from silc.curate.scorer import Scorer

        yield from map(Scorer(plan), shards)
    else:
        yield from _in_a_pool(shards, plan, min(workers, len(shards)))


def _in_a_pool(shards: Sequence[Path | RemoteFile], plan: ScorePlan, workers: int) -> Iterator[Outcome]:
    context: Any = multiprocessing.get_context("spawn")
    numbers, under_way = context.SimpleQueue(), context.Array("q", [-1] * workers, lock=False)
    for number in range(workers):
        numbers.put(number)
    pool = ProcessPoolExecutor(workers, context, initializer=_prepare, initargs=(plan, numbers, under_way))
    try:
        for done in as_completed([pool.submit(_score, place, shard) for place, shard in enumerate(shards)]):
            yield done.result()
    except BrokenProcessPool as error:
        named = ", ".join(str(shards[place]) for place in sorted(set(under_way[:])) if place >= 0)
        raise LostRank(
            f"a process was killed, probably because memory ran out, while it scored one of: {named}; finished shards "
            "are kept: run the command again, with fewer --workers, or without the shard at which it always stops"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_own: Any = None
"""A worker's `Scorer`, or the error that prevented it."""
_number: int = 0
_under_way: Any = None
"""The shard that each worker is scoring, by the worker's number; shared memory."""


def _prepare(plan: ScorePlan, numbers: Any, under_way: Any) -> None:
    global _own, _number, _under_way
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from silc.curate.scorer import Scorer

    _number, _under_way = numbers.get(), under_way
    try:
        _own = Scorer(replace(plan, device=device_of(plan.device, _number)))
    except Exception as error:  # raising here would break the pool
        _own = error


def _end_with_parent() -> None:
    """Exit when the parent ends. Else a pool's processes outlive a killed parent and keep GPUs (cpython#111873)."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _score(place: int, shard: Path | RemoteFile) -> Outcome:
    if isinstance(_own, Exception):
        raise _own
    _under_way[_number] = place
    outcome: Outcome = _own(shard)
    return outcome


def device_of(device: str, number: int) -> str:
    """The device of worker `number`: workers take the GPUs in turn."""
    import torch

    if device not in ("auto", "cuda") or not torch.cuda.is_available():
        return device
    return f"cuda:{number % torch.cuda.device_count()}"


def described(outcomes: Sequence[Outcome], seconds: float) -> str:
    """Summary of the outcomes as text, for a terminal."""
    rows = sum(outcome.rows for outcome in outcomes)
    causes: Counter[str] = Counter()
    for outcome in outcomes:
        causes.update(dict(outcome.causes))
    faults = [outcome for outcome in outcomes if outcome.fault]
    lines = [f"{rows:,} samples of {len(outcomes) - len(faults):,} shards are scored"]
    if rows and seconds:
        lines[0] += f" in {seconds:,.0f} s ({rows / seconds:,.0f} a second)"
    if causes:
        listed = ", ".join(f"{cause} {count:,}" for cause, count in sorted(causes.items()))
        lines.append(f"broken: {listed}; each is a row with its cause")
    if cut := sum(outcome.cut_texts for outcome in outcomes):
        lines.append(
            f"{cut:,} captions are longer than the model's text length: scored by their first tokens (column cut)"
        )
    lines += [f"left out: {outcome.fault}" for outcome in faults]
    return "\n".join(lines)
