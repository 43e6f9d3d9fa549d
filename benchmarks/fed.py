"""A training step fed by tars against the same step on a batch that lies on the device already."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.loader import photographs, write_shard
from benchmarks.measure import Row, Target, in_turns, not_measured
from silc.data.remote import without_secrets
from silc.data.sources import open_pairs
from silc.data.tokenizer import BPETokenizer
from silc.distributed import World
from silc.pretraining import run

if TYPE_CHECKING:
    from benchmarks.measure import Turns
    from silc.batch import Batch
    from silc.config import Config

WORKERS = 16
"""The target's; fewer where there are fewer cores."""
PREFETCH = 2
"""Batches that torch's DataLoader keeps ready for each worker."""
REFILL = 5.0
"""Seconds in which workers that keep up have made all they may; whatever needs none of it leaves them so long."""
NUM_IMAGES, NUM_SAMPLES, NUM_CAPTIONS = 32, 1000, 1000
LEAST_STEPS, TURNS = 20, 3
ENDLESS = 2**40
TARGET = Target("at most", 1.05)
SHARED_MEMORY = Path("/dev/shm")


def fed_by_tars(
    config: Config, step: Callable[[Batch], Any], synthetic: Batch, device: torch.device, images: str = ""
) -> Row:
    """Row 11: seconds of a step whose batches come from tars over its seconds on one batch that stays on the device.

    The loader is a training run's, with a worker for each core. Both contenders do the same work on the device, but
    that the fed one also brings its batch there. Tars made here lie in the page cache: what is measured is reading,
    decoding, cropping and the transfer, not a disk.

    Before a measured run all batches that were made in the meantime are thrown away, or they would hide a loader that
    is too slow. The workers all begin anew then, so the first batch is late; a few steps pass unmeasured, and what is
    measured is whole rounds of the workers.

    Args:
        config: the step's; its batch size and its data settings.
        step: takes a batch on the device.
        synthetic: such a batch, of the shapes and the layout that the loader gives, or a compiler starts again.
        images: shards of the user's; without them JPEGs are made.
    """
    cores = usable_cores()
    workers = min(WORKERS, cores)
    what = f"the same step fed by tars, {workers} workers on {cores} cores, over the synthetic one"
    if lacking := _lacking_memory(synthetic, workers):
        return not_measured(11, what, TARGET, lacking)
    steps = workers * max(2, math.ceil(LEAST_STEPS / workers))
    with tempfile.TemporaryDirectory() as folder:
        data = replace(config.data, source="shards", train=images or _made(Path(folder)), workers=workers)
        # What is made here leaves no trace in the user's cache.
        config = replace(config, data=data if images else replace(data, index_cache="off"))
        pairs = open_pairs(config.data, seed=config.train.seed)
        tokenizer = BPETokenizer.train(pairs.captions(NUM_CAPTIONS), data.vocab_size, config.model.text.length)
        loader = run.loader_of(config, pairs, tokenizer, World(device=device))
        with closing(loader.batches(0, ENDLESS)) as batches:
            turns = _in_turns(config, batches, lambda batch: step(batch.to(device)), synthetic, steps)
    num = steps * config.train.batch_size
    figures = {
        "workers": workers,
        "cores": cores,
        "batch": config.train.batch_size,
        "images": without_secrets(images) or "made here, in the page cache",
        "colours changed": data.photometric.on,
        "seconds a step": {name: turns.median(name) / steps for name in ("synthetic", "fed")},
        "images a second": {name: num / turns.median(name) for name in ("synthetic", "fed", "loader")},
    }
    return Row(11, what, turns.ratio("fed", "synthetic"), "x", TARGET, figures)


def _in_turns(
    config: Config, batches: Iterator[Batch], step: Callable[[Batch], Any], synthetic: Batch, steps: int
) -> Turns:
    """So many steps on one batch and on those of the loader, and the loader alone."""
    workers = config.data.workers

    def draw_only(num: int = steps) -> None:
        for _ in islice(batches, num):
            pass

    def fed(num: int = steps) -> None:
        for batch in islice(batches, num):
            step(batch)

    def begin_anew(name: str) -> None:
        if name in ("fed", "loader"):
            draw_only(PREFETCH * workers)
        else:
            time.sleep(REFILL)
        if name == "fed":
            fed(3)

    contenders: dict[str, Callable[[], Any]] = {
        "synthetic": lambda: [step(synthetic) for _ in range(steps)],
        "fed": fed,
        "loader": draw_only,
    }
    settle = torch.cuda.synchronize if synthetic.text.is_cuda else lambda: None
    return in_turns(contenders, turns=TURNS, settle=settle, before=begin_anew)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _made(folder: Path) -> str:
    return str(write_shard(folder / "0.tar", photographs(NUM_IMAGES), NUM_SAMPLES))


def _lacking_memory(batch: Batch, workers: int) -> str:
    """Why so many workers cannot hand over their batches, or nothing: they would die of a bus error."""
    tensors = (batch.views.original, batch.views.globals, batch.views.locals, batch.text)
    needed = (PREFETCH * workers + 1) * sum(tensor.nbytes for tensor in tensors if tensor is not None)
    free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else needed
    if free >= needed:
        return ""
    return f"needs {needed / 1e9:.1f} GB of shared memory, {SHARED_MEMORY} has {free / 1e9:.1f}; in Docker --ipc=host"
