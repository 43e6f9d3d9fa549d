"""A training step: against open_clip's, against a naive SILC, and against what this machine's matmuls allow.

Batches are made up and lie on the device, but in row 11 (fed.py). On a GPU the towers are ViT-B's; on a CPU ViT-S's, of
half their depth where steps are compared with each other, so that the benchmark ends in minutes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks import fed
from benchmarks.measure import Row, Sense, Target, extra_memory, in_turns, not_measured
from silc import recipes
from silc.batch import Batch
from silc.config import Config
from silc.distributed import World
from silc.extras import install
from silc.objective import SilcObjective
from silc.pretraining.build import blank_batch, flops_per_example
from silc.pretraining.gradients import Gradients
from silc.pretraining.rates import groups
from silc.processor import choose_attention, keep_freed_memory
from silc.step import Hyper
from silc.training.optim import Optimizer
from silc.training.precision import speed_of
from silc.training.protocols import Passes

if TYPE_CHECKING:
    from benchmarks.measure import Turns
    from benchmarks.suite import BenchConfig

VOCABULARY, EOS = 32_000, 1
HYPER = Hyper(lr=1e-3, momentum=0.99, temperature=0.04)
NEEDS_GPU = "needs a CUDA device"
IN_BOTH = (6, 7, 8, 9, 12)
"""Rows that a CPU gives in float32 and in bf16."""


@dataclass(frozen=True)
class Setting:
    """On what a ratio is taken."""

    kind: str
    towers: str
    size: int
    depth: int
    batch: int
    half: bool
    turns: int

    def recipe(self, name: str) -> Config:
        """A recipe at this size."""
        config = recipes.get(f"{name}-{self.towers}")
        image = replace(config.model.image, depth=self.depth, size=self.size)
        text = replace(config.model.text, depth=self.depth)
        model = replace(config.model, image=image, text=text)
        train = replace(config.train, precision="bf16" if self.half else "float32", batch_size=self.batch)
        return replace(config, model=model, train=train)

    def timed(self, runs: dict[str, Callable[[], Any]], turns: int = 0) -> Turns:
        """In turns; on a CPU by the time of this process, which other work disturbs less."""
        clock = time.process_time if self.kind == "cpu" else time.perf_counter
        settle = torch.cuda.synchronize if self.kind == "cuda" else lambda: None
        return in_turns(runs, turns=turns or self.turns, clock=clock, settle=settle)


ON_GPU = Setting("cuda", "b16", 224, 12, 64, half=True, turns=10)


def rows(config: BenchConfig) -> Iterator[Row]:
    """Rows 6 to 12, each as soon as it is there."""
    if config.kind == "cuda":
        setting = ON_GPU
    else:
        setting = Setting("cpu", "s16", 256, 6, 8, half=False, turns=3)
        keep_freed_memory()  # as a run on a CPU does, for all contenders alike
    half = replace(setting, half=True)
    torch.manual_seed(0)
    yield from in_parts(setting)
    yield from side_by_side(setting)
    if config.profile:
        profile(setting, Path(config.profile).expanduser())
    if config.kind == "cuda":
        yield from compiled(replace(setting, batch=128), config.images)
        return
    fit = speed_of(torch.device("cpu"))
    settings = [setting] if "bf16" in fit.slow else [setting, half]
    if half in settings:
        yield from in_parts(half)
        yield from side_by_side(half)
    else:  # minutes would become hours
        for number in IN_BOTH:
            yield not_measured(number, "the same in bf16", None, fit.why)
    what = "H100, B/16, bf16, compiled: share of the bf16 peak"
    yield not_measured(10, what, Target("at least", 0.4), NEEDS_GPU)
    yield not_measured(11, "the same step fed by tars over the synthetic one", fed.TARGET, NEEDS_GPU)
    for one in settings:
        whole = replace(one, depth=12)
        yield share_of_peak(whole, OurStep(whole.recipe("silc_c"), one.kind), 12, 0.6)


def side_by_side(setting: Setting) -> list[Row]:
    """Rows 7 to 9: one batch through every step, all in turns."""
    clip, silc = setting.recipe("clip"), setting.recipe("silc_c")
    pairs, views = batch_of(clip, setting.batch, setting.kind), batch_of(silc, setting.batch, setting.kind)
    steps: dict[str, Callable[[], Any]] = {
        "clip": partial(OurStep(clip, setting.kind), pairs),
        "silc": partial(OurStep(silc, setting.kind), views),
    }
    missing = ""
    try:
        from benchmarks.baselines import training
    except ImportError:
        missing = f"open_clip is not installed: {install('interop')}"
    else:
        half, normal = autocast_of(setting.kind, setting.half), clip.pixels.preprocess(setting.size).normalize
        floats: Any = pairs.views.map(normal), views.views.map(normal)  # open_clip's loader hands out floats
        theirs = training.clip_step(clip, VOCABULARY, setting.kind, half)
        steps["open_clip"] = partial(theirs, floats[0].original, pairs.text)
        naive = training.silc_step(silc, VOCABULARY, setting.kind, half)
        steps["naive silc"] = partial(naive, floats[1].globals, floats[1].locals, views.text)
    timed = setting.timed(steps)
    memory = {name: extra_memory(step, setting.kind) for name, step in steps.items()}
    flops, precision = flops_of(silc) / flops_of(clip), "bf16" if setting.half else "float32"
    kept = figures(setting, timed) | {"memory MB": memory, "FLOPs of SILC over CLIP": flops}

    def row(number: int, what: str, value: Callable[[], float], sense: Sense, bound: float, *, theirs: bool) -> Row:
        what = f"{what}, {precision}"
        if theirs and missing:
            return not_measured(number, what, Target(sense, bound), missing)
        return Row(number, what, value(), "x", Target(sense, bound), kept)

    silc_over_clip = lambda: timed.ratio("silc", "clip") / flops  # noqa: E731
    saved = lambda: memory["naive silc"] / memory["silc"]  # noqa: E731
    slower = partial(timed.ratio, "naive silc", "silc")
    return [
        row(7, "CLIP step over open_clip's", partial(timed.ratio, "clip", "open_clip"), "at most", 1.0, theirs=True),
        row(8, "SILC step over CLIP step, over their FLOPs'", silc_over_clip, "at most", 1.1, theirs=False),
        row(9, "naive SILC's time over ours", slower, "at least", 1.3, theirs=True),
        row(9, "naive SILC's memory over ours", saved, "at least", 1.5, theirs=True),
    ]


def in_parts(setting: Setting) -> list[Row]:
    """Row 6: two parts, of as many pairs as the other rows have in a batch."""
    setting, part = replace(setting, batch=2 * setting.batch, turns=max(2, setting.turns // 2)), setting.batch
    found = []
    for name, bound in (("clip", 1.4), ("silc_c", 1.25)):
        config = setting.recipe(name)
        batch = batch_of(config, setting.batch, setting.kind)
        steps: dict[str, Callable[[], Any]] = {
            "whole": partial(OurStep(config, setting.kind), batch),
            "parts": partial(OurStep(config, setting.kind, micro_batch=part), batch),
        }
        timed = setting.timed(steps)
        kept = figures(setting, timed) | {"memory MB": {run: extra_memory(steps[run], setting.kind) for run in steps}}
        what = f"{name} in two parts over the whole batch, {'bf16' if setting.half else 'float32'}"
        found.append(Row(6, what, timed.ratio("parts", "whole"), "x", Target("at most", bound), kept))
    return found


def compiled(setting: Setting, images: str) -> Iterator[Row]:
    """Rows 10 and 11, of one step: compiling takes minutes."""
    config = setting.recipe("silc_c")
    step = OurStep(config, setting.kind, compile=True)
    yield share_of_peak(setting, step, 10, 0.4)
    synthetic = batch_of(config, setting.batch, setting.kind)
    yield fed.fed_by_tars(config, step, synthetic, torch.device(setting.kind), images)


def share_of_peak(setting: Setting, step: OurStep, number: int, bound: float) -> Row:
    """Rows 10 and 12: FLOPs of a SILC step by its time, over what matmuls reach in the same run."""
    config = setting.recipe("silc_c")
    batch = batch_of(config, setting.batch, setting.kind)
    large = [(8192, 8192, 8192)]
    shapes = large if setting.kind == "cuda" else shapes_of(config, setting.batch)
    matmuls = Matmuls(shapes, setting.kind, torch.bfloat16 if setting.half else torch.float32)
    timed = setting.timed({"matmul": matmuls, "step": lambda: step(batch)})
    step_flops = flops_of(config) * setting.batch
    peak = matmuls.flops / timed.median("matmul")
    rate = step_flops / timed.median("step")
    kept = figures(setting, timed) | {"GFLOP/s": {"matmul": peak / 1e9, "step": rate / 1e9}}
    share = step_flops / matmuls.flops / timed.ratio("step", "matmul")
    where = f"{torch.cuda.get_device_name()}, compiled" if setting.kind == "cuda" else f"CPU, {setting.towers}"
    what = f"{where}, {'bf16' if setting.half else 'float32'}: share of the matmul rate"
    return Row(number, what, share, "", Target("at least", bound), kept)


class OurStep:
    """The loop's step: gradients, clipping, update, after_step."""

    def __init__(self, config: Config, device: str, *, micro_batch: int = 0, compile: bool = False) -> None:
        self.objective = SilcObjective(
            config.model,
            config.objective,
            preprocess=config.pixels.preprocess(config.model.image.size),
            world=World(device=torch.device(device)),
            vocab_size=VOCABULARY,
            eos_id=EOS,
        ).to(device)
        choose_attention(self.objective, torch.device(device), half=config.train.precision == "bf16")
        self.optimizer = Optimizer(config.train.optim, self.objective, groups(self.objective, config.train.optim))
        forward: Any = torch.compile(self.objective) if compile else self.objective
        half = autocast_of(device, config.train.precision == "bf16")
        self.gradients = Gradients(self.objective, Passes(forward, half), micro_batch)

    def __call__(self, batch: Batch) -> float:
        out = self.gradients(batch, HYPER)
        self.optimizer.clip()
        self.optimizer.step(HYPER)
        self.objective.after_step(out, HYPER)
        self.optimizer.zero_grad()
        return out.loss.item()


class Matmuls:
    """Products of given shapes (rows, in, out), each as in a linear layer: forward and both gradients."""

    def __init__(self, shapes: list[tuple[int, int, int]], device: str, dtype: torch.dtype) -> None:
        self.cases = [
            (
                torch.randn(n, i, device=device, dtype=dtype),
                torch.randn(o, i, device=device, dtype=dtype),
                torch.randn(n, o, device=device, dtype=dtype),
            )
            for n, i, o in shapes
        ]
        self.flops = sum(3 * 2.0 * n * i * o for n, i, o in shapes)

    def __call__(self) -> None:
        for x, w, g in self.cases:
            x @ w.T
            g @ w
            g.T @ x


def shapes_of(config: Config, batch: int) -> list[tuple[int, int, int]]:
    """The linear layers of a block, on the tokens of all views and of the text."""
    image, crops = config.model.image, config.data.crops
    width, mlp = image.width, image.mlp
    tokens = [
        crops.num_global * (image.size // image.patch) ** 2,
        crops.num_local * (crops.local_size // image.patch) ** 2,
    ]
    layers = [(width, 3 * width), (width, width), (width, mlp), (mlp, width)]
    return [(batch * n, i, o) for n in [*tokens, config.model.text.length] for i, o in layers]


def batch_of(config: Config, num: int, device: str) -> Batch:
    """Random 8-bit views and text, on the device; in memory as the loader's."""
    blank, generator = blank_batch(config, num), torch.Generator().manual_seed(0)
    views = blank.views.map(lambda pixels: pixels.random_(0, 256, generator=generator))
    text = torch.randint(2, VOCABULARY, blank.text.shape, generator=generator)
    return Batch(views, text, [str(i) for i in range(num)]).to(device)


def autocast_of(device: str, half: bool) -> Callable[[], AbstractContextManager[Any]]:
    """bfloat16 or nothing."""
    return partial(torch.autocast, device, torch.bfloat16, enabled=half)


def flops_of(config: Config) -> float:
    """Training FLOPs per pair."""
    return flops_per_example(config, VOCABULARY, EOS)


def figures(setting: Setting, timed: Turns) -> dict[str, Any]:
    """What a ratio of steps was computed from."""
    return {
        "towers": f"{setting.towers}, {setting.depth} blocks, {setting.size} px",
        "batch": setting.batch,
        "precision": "bf16" if setting.half else "float32",
        "clock": "CPU time of the process" if setting.kind == "cpu" else "wall",
        "seconds": {name: timed.median(name) for name in timed.seconds},
    }


def profile(setting: Setting, file: Path) -> None:
    """torch's profile of one SILC step, the most expensive operators first."""
    from torch.profiler import ProfilerActivity

    config = setting.recipe("silc_c")
    step, batch = OurStep(config, setting.kind), batch_of(config, setting.batch, setting.kind)
    step(batch)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setting.kind == "cuda" else [])]
    with torch.profiler.profile(activities=activities) as found:
        step(batch)
    table = found.key_averages().table(sort_by=f"self_{setting.kind}_time_total", row_limit=40)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(table)
