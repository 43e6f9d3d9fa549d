"""What protection costs: time and memory of saves, time of guards, logs and checksums."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from silc import checkpoint, recipes
from silc.batch import Batch, Views
from silc.distributed import World
from silc.losses.distill import perplexity
from silc.objective import SilcObjective
from silc.preprocess import Preprocess
from silc.pretraining.alarm import CollapseAlarm
from silc.pretraining.rates import groups
from silc.step import Hyper
from silc.training.log import Log
from silc.training.optim import Optimizer
from silc.training.saver import Saver

from .outcome import Row, step_of
from .run import SMALL, Run


def blocked_and_whole(folder: Path, parts: dict[str, dict[str, torch.Tensor]], tries: int) -> tuple[float, float]:
    """Median seconds that training waits for a save of `parts`, and that writing them takes it without a thread."""
    saver, behind, before = Saver(folder / "behind", 1, World()), [], []
    saver.save(0, parts, {})  # the first allocates the copy
    for step in range(1, tries + 1):
        saver.finish()
        start = time.perf_counter()
        saver.save(step, parts, {})
        behind.append(time.perf_counter() - start)
        saver.finish()
        start = time.perf_counter()
        checkpoint.write(folder / "before", step, parts, {}, keep=1)
        before.append(time.perf_counter() - start)
    return statistics.median(behind), statistics.median(before)


def asynchronous(folder: Path, short: bool) -> Iterator[Row]:
    """What training waits for when it saves, against a save it would wait for; and memory after many."""
    config = recipes.get("silc_c-ti16")
    objective = SilcObjective(
        config.model, config.objective, preprocess=Preprocess(256), world=World(), vocab_size=1000, eos_id=1
    )
    weights = objective.state_dict()
    moments = {f"{name}/{key}": torch.rand_like(w) for name, w in weights.items() for key in ("exp_avg", "exp_avg_sq")}
    parts, tries = {"model": weights, "optimizer": moments}, 3 if short else 10
    blocked, whole = blocked_and_whole(folder, parts, tries)
    size = sum(t.nbytes for tensors in parts.values() for t in tensors.values()) / 1e6
    figure = f"{size:.0f} MB: {blocked:.3f} s of {whole:.2f} s ({blocked / whole:.1%})"
    yield Row("training waits for < 10 % of a save", 1, int(blocked < 0.1 * whole), figure)
    fields = [*SMALL, "--train.duration", "100000 steps", "--train.save-every", "1 steps", "--train.keep", "1"]
    run = Run(folder / "many", *fields, "--train.log-every", "1000 steps", ranks=2)
    sizes = []
    for saved in (10, 60):
        run.wait_for(lambda saved=saved: step_of(folder / "many/checkpoints") >= saved)  # type: ignore[misc]
        sizes.append([int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6 for pid in run.ranks()])
    run.kill()
    grown = max(late - early for early, late in zip(*sizes, strict=True))
    yield Row("50 saves in a row", 1, int(grown < 20), f"2 ranks; the one that grew most grew by {grown:.1f} MB")


def overhead(folder: Path, short: bool) -> Iterator[Row]:
    """What the guards, the teacher's statistics, the logs and the checksums cost, in CPU time of the same steps.

    SILC-C with Ti/16 towers at 128 and 48 px, batch 8, 2 + 8 views; every step is logged, ten times as often as by
    default. The checksums are weighed against the steps of ten minutes, a short time between two saves.
    """
    torch.set_num_threads(1)
    config = recipes.get("silc_c-ti16")
    image = replace(config.model.image, size=128)
    config = replace(config, model=replace(config.model, image=image, head=replace(config.model.head, prototypes=4096)))
    objective = SilcObjective(
        config.model, config.objective, preprocess=Preprocess(128), world=World(), vocab_size=1000, eos_id=1
    )
    optimizer = Optimizer(config.train.optim, objective, groups(objective, config.train.optim))
    hyper, alarm = Hyper(lr=1e-4, momentum=0.99, temperature=0.04), CollapseAlarm(4096, 16)
    draw = lambda *shape: torch.randint(0, 256, shape, dtype=torch.uint8)  # noqa: E731
    batch = Batch(
        Views(None, draw(2, 8, 3, 128, 128), draw(8, 8, 3, 48, 48)), torch.randint(2, 1000, (8, 64)), ["x"] * 8
    )
    steps, training, guarding = 2 if short else 10, 0.0, 0.0
    folder.mkdir(parents=True, exist_ok=True)
    with Log(folder, start=0, total=steps) as log:
        for step in range(1, steps + 1):
            start = time.process_time()
            out = objective(batch, hyper)
            out.loss.backward()
            norm = optimizer.clip()
            between = time.process_time()
            World().all_true(torch.stack([torch.isfinite(out.loss) & torch.isfinite(norm)]))
            guarded = time.process_time() - between
            between = time.process_time()
            optimizer.step(hyper)
            objective.after_step(out, hyper)
            optimizer.zero_grad()
            training += time.process_time() - between + (between - start) - guarded
            between = time.process_time()
            perplexity(torch.rand(4096).softmax(dim=-1))
            metrics = {name: float(value) for name, value in out.metrics.items()} | {"samples_per_s": 1.0, "lr": 1.0}
            alarm.check(step, metrics, hyper.momentum)
            log.step({"step": step} | metrics, eta_seconds=0.0)
            guarding += guarded + time.process_time() - between
    parts = {"model": objective.state_dict(), "optimizer": optimizer.state()}
    saved = checkpoint.write(folder / "checkpoints", 1, parts, {}, keep=1)
    start = time.process_time()
    checkpoint.verify(saved)
    hashing = (time.process_time() - start) / 600
    share = guarding / training + hashing
    figure = f"guards, statistics, logs {guarding / training:.2%} of a step of {training / steps:.1f} s; "
    yield Row("overhead below 2 %", 1, int(share < 0.02), figure + f"checksums {hashing:.3%} at a save in 10 min")
