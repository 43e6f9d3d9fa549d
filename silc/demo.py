"""`make demo`: train two small models that differ only in self-distillation, and compare them.

All data is generated from a seed. The demo is to take five minutes, so a slow machine runs the shorter of two
trainings.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from silc import config as configs
from silc import evaluation, places, recipes, results
from silc.data import object_sets
from silc.errors import BadInput
from silc.eval.config import EvalConfig
from silc.pretraining import run
from silc.terminal import say
from silc.training.config import examples_of
from silc.training.log import history

if TYPE_CHECKING:
    from silc.config import Config

ARMS = ("clip_views_ema", "silc_c")
"""The paper's rows without and with self-distillation: the same views, teacher and data, in the same order."""
LONG, SHORT = "20k examples", "6k examples"
"""`LONG` is long enough to show the effect (docs/evidence); a slow machine finishes `SHORT` in five minutes."""
SECONDS = 200
"""Most seconds for the steps of both long trainings; start and evaluation take the rest of the five minutes."""
TASKS = "*-zs,*-retrieval,objects-zs-seg,objects_bodies-zs-seg,objects_unseen-zs-seg"
MARKER = ".silc-demo"
"""The file that marks a directory as a demo's, which the next demo may replace."""
SUMMARY = """\
Two ViTs of width {width} and {depth} blocks, trained from scratch on the same generated pictures in the same order:
"clip_views_ema" with the image-text loss only, "silc_c" with that loss and self-distillation. A picture shows one to
three objects on a ground; its captions name them by invented words. Most of an object is its grey body, which differs
from other bodies only in its texture; a badge, a seventh of the object, is easy to tell. "objects_bodies" scores bodies
only; "objects_unseen" shows names on grounds on which training never showed them.
{length}
This is one pair of runs. Of five pairs that were trained for 20k examples in float32, "silc_c" was ahead on bodies in
each, by 5.0 to 7.6 points of mIoU. That is at equal examples; at equal training FLOPs the gain is not shown
(docs/results.md). The log of "silc_c" warns that each target is a single prototype: here the targets tell grounds
apart, and nothing else."""


def main(out: Path, *, duration: str = "") -> None:
    """Train, evaluate, report into `out`; an earlier demo there is replaced.

    Args:
        duration: how long to train each model; by default `LONG` or `SHORT`, as the measured rates allow in five
            minutes.
    """
    out = places.folder(out)
    _clear(out)
    (out / MARKER).touch()
    arms = [arm(name, out / name) for name in ARMS]
    length = f"Each was trained for {duration}, as asked for."
    if not duration:
        say("timing a few steps, to see how long to train ...")
        duration, length = chosen([measured_rate(config) for config in arms], arms[0].train.batch_size)
        say(length)
    for config in arms:
        say(f"training {config.recipe} for {duration} on generated objects")
        run.train(replace(config, train=replace(config.train, duration=duration)))
    data = out / "data"
    object_sets.write_sets(data, arms[0].data.objects, seed=arms[0].train.seed)
    runs = [Path(config.out) for config in arms]
    evaluations = [one for path in runs for one in evaluation.evaluate(path, EvalConfig(root=str(data), tasks=TASKS))]
    tower = arms[0].model.image
    summary = SUMMARY.format(width=tower.width, depth=tower.depth, length=length)
    title = "The same training without and with self-distillation"
    _, page = results.write(runs, evaluations, out / "scores.json", title=title, summary=summary)
    say(f"report: {page}")
    say(f"both in the browser, side by side: silc serve {' '.join(str(path) for path in runs)}")


def arm(name: str, out: Path) -> Config:
    """The configuration of one model, as in the study `demo` of docs/evidence. Only the precision is this machine's."""
    weight = {"objective.weight": 1.0} if name == "silc_c" else {}
    return configs.override(recipes.get(f"{name}-tiny"), {"data.source": "objects", "out": str(out), **weight})


def measured_rate(config: Config) -> float:
    """Pairs per second, measured on the last two steps of a run of four; the run is deleted."""
    trial = replace(config.train, duration="4 steps", log_every="2 steps", save_every="never")
    with contextlib.redirect_stdout(io.StringIO()):
        run.train(replace(config, train=trial))
    rate: float = history(Path(config.out))[-1]["samples_per_s"]
    shutil.rmtree(config.out)
    return rate


def chosen(rates: list[float], batch_size: int) -> tuple[str, str]:
    """`LONG` if the steps of both trainings end in time at these rates (pairs/s), else `SHORT`; and the reason."""
    seconds = sum(examples_of(LONG, batch_size=batch_size, steps_per_epoch=0) / rate for rate in rates)
    measured = " and ".join(f"{rate:.0f}" for rate in rates)
    why = f"{measured} pairs/s were measured, so {LONG} each take {seconds:.0f} seconds in all; the limit is {SECONDS}."
    if seconds <= SECONDS:
        return LONG, f"Each was trained for {LONG}: {why}"
    return SHORT, f"Each was trained for {SHORT}, too few to show a difference: {why}"


def _clear(out: Path) -> None:
    """Make an empty directory; an earlier demo there is removed, and nothing else."""
    if out.exists() and any(out.iterdir()):
        if not (out / MARKER).is_file():
            raise BadInput(f"{out} holds something that is no demo; give another --out")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
