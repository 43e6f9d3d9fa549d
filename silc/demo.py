"""What `make demo` does: train a small SILC-C on generated scenes, score it, and leave a report.

Everything is computed from a seed on the spot; the only thing given is the time, and a slow machine takes the shorter
of two trainings. Beside the model stands a baseline that sees colours and nothing else, and a task whose words never
occurred together in training.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from silc import evaluation, places, recipes, results
from silc.data import scenes
from silc.errors import BadInput
from silc.eval import suite
from silc.eval.config import EvalConfig
from silc.preprocess import Preprocess
from silc.pretraining import run
from silc.terminal import say
from silc.training.config import examples_of
from silc.training.log import history

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from silc.config import Config

CPU = torch.device("cpu")
RECIPE = "silc_c-tiny"
LONG, SHORT = recipes.get(RECIPE).train.duration, "6k examples"
"""What is trained on: the recipe's, or what a slow machine ends in five minutes all the same."""
SECONDS = 210
"""The longest that the steps of the long training may take; the rest of the five minutes is start and evaluation."""
MARKER = ".silc-demo"
"""Says that a directory is a demo's, and may be replaced by the next."""
SUMMARY = """\
A ViT of width {width} and {depth} blocks, trained from scratch on rendered scenes. Each scene has 2 to 4
regions, each of one of {colours} colours and {textures} textures; its captions name them. "scenes_heldout" shows
combinations of a colour and a texture that never occurred together in training, to be told among all combinations.
{length}
"colour histogram" is a baseline without learning: it matches the colour words of a text with the colours of the
pixels, so what the model has beyond it, it learnt about textures."""


def main(out: Path, *, duration: str = "") -> None:
    """Train, evaluate, report into `out`; an earlier demo there is replaced.

    Args:
        duration: how long to train; by default what the measured rate allows in five minutes, `LONG` or `SHORT`.
    """
    config = recipes.get(RECIPE)
    out = places.folder(out)
    _clear(out)
    (out / MARKER).touch()
    length = f"Trained for {duration}, as asked for."
    if not duration:
        say("timing a few steps, to see how long to train ...")
        duration, length = chosen(measured_rate(config, out / "trial"), config.train.batch_size)
        say(length)
    config = replace(config, out=str(out), train=replace(config.train, duration=duration))
    say(f"training {RECIPE} for {duration} on generated scenes")
    run.train(config)
    data = out / "data"
    scenes.write_sets(data, size=config.data.scenes.size, seed=config.train.seed)
    tasks = EvalConfig(root=str(data))
    histogram = ColourHistogram(config.pixels.preprocess(config.model.image.size))
    baseline = suite.run({"colour histogram": histogram}, suite.tasks(tasks))
    evaluations = evaluation.evaluate(out, tasks) + baseline
    tower = config.model.image
    seen = {"colours": len(scenes.COLOURS), "textures": len(scenes.TEXTURES)}
    summary = SUMMARY.format(width=tower.width, depth=tower.depth, length=length, **seen)
    _, page = results.write([out], evaluations, out / "scores.json", title="SILC on generated scenes", summary=summary)
    say(f"report: {page}")
    say(f"in the browser: silc serve {out}")


def measured_rate(config: Config, out: Path) -> float:
    """Pairs per second of a run of four steps, the last two of them; nothing of it is left in `out`."""
    trial = replace(config.train, duration="4 steps", log_every="2 steps", save_every="never")
    with contextlib.redirect_stdout(io.StringIO()):
        run.train(replace(config, out=str(out), train=trial))
    rate: float = history(out)[-1]["samples_per_s"]
    shutil.rmtree(out)
    return rate


def chosen(rate: float, batch_size: int) -> tuple[str, str]:
    """The long training if its steps end in time at this many pairs per second, else the short one; and why."""
    needed = examples_of(LONG, batch_size=batch_size, steps_per_epoch=0) / SECONDS
    if rate >= needed:
        return LONG, f"Trained for {LONG}: {rate:.0f} pairs/s were measured; below {needed:.0f} it is {SHORT}."
    return SHORT, f"Trained for {SHORT}: {rate:.0f} pairs/s were measured; from {needed:.0f} on it is {LONG}."


def _clear(out: Path) -> None:
    """Make an empty directory; an earlier demo there is removed, and nothing else."""
    if out.exists() and any(out.iterdir()):
        if not (out / MARKER).is_file():
            raise BadInput(f"{out} holds something that is no demo; give another --out")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True)
class ColourWords:
    """A `Tokenizer` that knows the colour words alone: ids [N, 8] say which occur."""

    context_length: int = len(scenes.COLOURS)
    vocab_size: int = 2
    eos_id: int = 0

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """1 where the text has the colour word, else 0."""
        words = [set(re.findall(r"[a-z]+", text.lower())) for text in texts]
        return torch.tensor([[int(colour in own) for colour in scenes.COLOURS] for own in words])


@dataclass(frozen=True)
class ColourHistogram:
    """A `DualEncoder` that learns nothing: how much of each named colour an image, or a patch of it, has."""

    preprocess: Preprocess
    name: str = ""
    tokenizer: ColourWords = ColourWords()
    patch_size: int = 8
    readouts: tuple[str, ...] = ("histogram",)
    device: torch.device = CPU

    def encode_image(self, images: Tensor) -> Tensor:
        """Share of the pixels nearest to each colour [B, 8], unit length."""
        return F.normalize(self.encode_pooled(images), dim=-1)

    def encode_dense(self, images: Tensor, readout: str) -> Tensor:
        """The same of each patch [B, h, w, 8]."""
        return F.avg_pool2d(self._nearest(images), self.patch_size).permute(0, 2, 3, 1)

    def encode_pooled(self, images: Tensor) -> Tensor:
        """Share of the pixels nearest to each colour [B, 8]."""
        return self._nearest(images).mean(dim=(-2, -1))

    def encode_text(self, ids: Tensor, *, normalize: bool = True) -> Tensor:
        """Which colour words occur [B, 8]."""
        return F.normalize(ids.float(), dim=-1) if normalize else ids.float()

    def _nearest(self, images: Tensor) -> Tensor:
        """One-hot maps [B, 8, H, W] of the nearest named colour; the dark ground of textures belongs to none."""
        palette = torch.tensor([*scenes.COLOURS.values(), scenes.GROUND])[:, :, None, None]
        palette = self.preprocess.normalize(palette)  # [9, 3, 1, 1]
        distance = (images[:, None] - palette).square().sum(dim=2)  # [B, 9, H, W]
        nearest = distance.argmin(dim=1)
        return F.one_hot(nearest, len(palette)).permute(0, 3, 1, 2)[:, :-1].float()
