"""How time and memory grow with the work: batch, views, prototypes, image size, classes.

    python -m scripts.scaling docs/performance/scaling      # .json and .svg; about two minutes of CPU time

One thread, CPU time of the process, the better of two runs after one that is not counted. Steps are of four blocks
of width 192, float32; the loss alone is at the paper's bottleneck. Expected: straight lines of time, and memory of the
loss that does not grow with the batch beyond its gradient.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import torch
import torch.nn.functional as F

from benchmarks.baselines.dino import double_loop
from benchmarks.losses import Case
from benchmarks.measure import extra_memory
from benchmarks.step import OurStep, batch_of
from silc import recipes
from silc.config import Config
from silc.eval.score_map import Box, ScoreMap, Window

matplotlib.use("svg")
import matplotlib.pyplot as plt

Points = list[dict[str, float]]


def measured(run: Callable[[], Any]) -> tuple[float, float]:
    """CPU seconds and extra megabytes."""
    run()
    seconds = []
    for _ in range(2):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return min(seconds), extra_memory(run, "cpu")


def points(values: list[int], make: Callable[[int], Callable[[], Any]]) -> Points:
    found = []
    for value in values:
        seconds, memory = measured(make(value))
        found.append({"x": value, "seconds": seconds, "MB": memory})
        print(found[-1], flush=True)
    return found


def step(*, batch: int = 8, size: int = 96, num_local: int = 8) -> Callable[[], Any]:
    base = recipes.get("silc_c-ti16")
    image, text = replace(base.model.image, depth=4, size=size), replace(base.model.text, depth=4)
    head = replace(base.model.head, prototypes=4096)
    crops = replace(base.data.crops, num_local=num_local, local_size=48)
    config: Config = replace(
        base,
        model=replace(base.model, image=image, text=text, head=head),
        data=replace(base.data, crops=crops),
        train=replace(base.train, precision="float32"),
    )
    ours, drawn = OurStep(config, "cpu"), batch_of(config, batch, "cpu")
    return lambda: ours(drawn)


def labels(num_classes: int) -> Callable[[], Any]:
    scores = F.normalize(torch.randn(num_classes, 64, 85), dim=0)
    maps = ScoreMap([Window(Box(0, 0, 64, 85), scores, 64, 85)], 64, 85)
    return lambda: maps.labels(375, 500)


def main(stem: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    series: dict[str, dict[str, Points]] = {
        "batch (step)": {"SILC": points([4, 8, 16, 32], lambda n: step(batch=n))},
        "local views (step)": {"SILC": points([2, 4, 8, 16], lambda n: step(num_local=n))},
        "image size, px (step)": {"SILC": points([64, 96, 128, 192], lambda n: step(size=n))},
        "batch (distillation loss, K = 16,384)": {
            "blocks": points([8, 16, 32, 64], lambda n: Case(n, "cpu", 16_384).blocks),
            "double loop": points([8, 16, 32, 64], lambda n: Case(n, "cpu", 16_384).naive(double_loop)),
        },
        "K (distillation loss, batch 16)": {
            "blocks": points([4096, 16_384, 32_768, 65_536], lambda k: Case(16, "cpu", k).blocks),
            "double loop": points([4096, 16_384, 32_768, 65_536], lambda k: Case(16, "cpu", k).naive(double_loop)),
        },
        "classes (label map)": {"segmentation": points([20, 60, 171, 459, 847], labels)},
    }
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".json").write_text(json.dumps(series, indent=1) + "\n")
    figure, axes = plt.subplots(2, len(series), figsize=(3 * len(series), 5.5), squeeze=False)
    for column, (name, lines) in zip(axes.T, series.items(), strict=True):
        for axis, key in zip(column, ("seconds", "MB"), strict=True):
            for label, found in lines.items():
                axis.plot([p["x"] for p in found], [p[key] for p in found], marker="o", label=label)
            axis.set_ylim(bottom=0)
            axis.set_xlim(left=0)
            axis.set_ylabel("CPU seconds" if key == "seconds" else "extra MB")
        column[1].set_xlabel(name)
        if len(lines) > 1:
            column[0].legend()
    figure.tight_layout()
    figure.savefig(stem.with_suffix(".svg"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
