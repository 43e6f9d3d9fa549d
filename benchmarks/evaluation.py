"""Zero-shot segmentation: memory against the number of images, and time against a loop over windows."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from benchmarks.baselines.windows import per_window
from benchmarks.measure import Row, Target, extra_memory, in_turns
from silc.eval.config import EvalConfig
from silc.eval.datasets import SegmentationSet
from silc.eval.segment import ZeroShotSegmentation
from silc.models.silc import Encoder, TwoTower
from silc.models.variants import variant
from silc.preprocess import Preprocess

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.suite import BenchConfig

WIDTH, HEIGHT, NUM_CLASSES = 500, 375, 20


def rows(config: BenchConfig) -> list[Row]:
    """Row 14."""
    kind = config.kind
    num, turns, settings = (20, 1, EvalConfig(batch_size=8)) if kind == "cpu" else (2000, 1, EvalConfig(batch_size=64))
    settings = replace(settings, templates="plain", num_pictures=0)
    model, data = random_model(kind), scenes(num)
    clock = time.process_time if kind == "cpu" else time.perf_counter

    def contenders(num: int) -> dict[str, Callable[[], Any]]:
        some = replace(data, ids=data.ids[:num])
        ours = ZeroShotSegmentation("scenes", some, settings)
        return {"loop": lambda: per_window(model, some, settings), "ours": lambda: ours(model)}

    timed = in_turns(contenders(num), turns=turns, clock=clock, warm_up=contenders(settings.batch_size))
    memory = {f"{some} images": extra_memory(contenders(some)["ours"], kind) for some in (num // 2, num)}
    half, whole = memory.values()
    figures = {
        "model": "B/16, random weights",
        "windows": settings.segmentation,
        "images": f"{num}, {WIDTH} x {HEIGHT} px, {NUM_CLASSES} classes",
        "clock": "CPU time of the process" if kind == "cpu" else "wall",
        "seconds": {name: timed.median(name) for name in timed.seconds},
        "memory MB": memory,
    }
    target = None if kind == "cpu" else Target("at least", 3)
    return [
        Row(14, "segmentation: a loop over windows over ours", timed.ratio("loop", "ours"), "x", target, figures),
        Row(14, "segmentation: memory with twice the images", whole / half, "x", Target("at most", 1.1), figures),
    ]


def random_model(device: str) -> Encoder:
    """B/16 with random weights and ids for words."""
    config = variant("b16")
    torch.manual_seed(0)
    model = TwoTower(config, vocab_size=1000, eos_id=1, scale_init=10.0, bias_init=-10.0).to(device).eval()
    return Encoder(model, model.visual, Words(), Preprocess(config.image.size), "random")


@dataclass(frozen=True)
class Words:
    """A tokenizer that gives every text ids of its own: classes alike would tie in every pixel."""

    vocab_size: int = 1000
    context_length: int = 64
    eos_id: int = 1

    def __call__(self, texts: Sequence[str]) -> Tensor:
        places = range(self.context_length)
        return torch.tensor([[2 + zlib.crc32(f"{i} {text}".encode()) % 990 for i in places] for text in texts])


class Drawn(Sequence[Any]):
    """Pictures or labels that are made when they are asked for, as files are read."""

    def __init__(self, num: int, *, labels: bool) -> None:
        self.num, self.labels = num, labels

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: Any) -> Any:
        draw = np.random.default_rng(index)
        coarse = draw.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        if self.labels:
            label = Image.fromarray(coarse[..., 0] % NUM_CLASSES)
            return np.asarray(label.resize((WIDTH, HEIGHT), Image.Resampling.NEAREST))
        return Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


def scenes(num: int) -> SegmentationSet:
    """Blurred colours with labels that have nothing to do with them."""
    return SegmentationSet(
        name="scenes",
        classes=[f"class {i}" for i in range(NUM_CLASSES)],
        ids=[str(i) for i in range(num)],
        images=Drawn(num, labels=False),
        labels=Drawn(num, labels=True),
    )
