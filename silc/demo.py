"""What `make demo` does: train a small SILC-C on generated scenes, score it, and leave a report.

Everything is computed from a seed on the spot; the only thing given is the time. Beside the model stands a baseline
that sees colours and nothing else, and a task whose words never occurred together in training.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from silc import recipes, run
from silc.data import scenes
from silc.eval import suite
from silc.eval.config import EvalConfig
from silc.preprocess import Preprocess
from silc.types import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

CPU = torch.device("cpu")
RECIPE = "silc_c-tiny"
SUMMARY = """A ViT of width 128 and 3 blocks, trained from scratch on rendered scenes on the CPU. Each scene has 2 to 4
regions of one of 8 colours and 4 textures; its captions name them. "scenes_heldout" shows combinations of a colour and
a texture that never occurred together in training, to be told among all 32. "colour histogram" is a baseline without
learning: it matches the colour words of a text with the colours of the pixels, so what the model has beyond it, it
learnt about textures."""


def main(out: Path, *, duration: str) -> None:
    """Train, evaluate, report into `out`; an earlier demo there is replaced."""
    config = recipes.get(RECIPE)
    _clear(out)
    config = replace(config, out=str(out), train=replace(config.train, duration=duration))
    print(f"training {RECIPE} for {duration} on generated scenes; about 4 minutes on two slow cores", flush=True)
    run.train(config)
    data = out / "data"
    scenes.write_sets(data, size=config.data.scenes.size, seed=config.train.seed)
    tasks = EvalConfig(root=str(data))
    baseline = suite.run({"colour histogram": ColourHistogram(Preprocess(config.model.image.size))}, suite.tasks(tasks))
    evaluations = run.evaluate(out, tasks) + baseline
    page = run.write_results(out, evaluations, out / "scores.json", title="SILC on generated scenes", summary=SUMMARY)
    print(f"report: {page}")


def _clear(out: Path) -> None:
    """Remove an earlier demo, and nothing else."""
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / "config.yaml").is_file() or RECIPE not in (out / "config.yaml").read_text():
        raise BadInput(f"{out} holds something that is no demo; give another --out")
    shutil.rmtree(out)


@dataclass(frozen=True)
class ColourWords:
    """A `Tokenizer` that knows the colour words alone: ids [N, 8] say which occur."""

    context_length: int = len(scenes.COLOURS)
    vocab_size: int = 2
    eos_id: int = 0

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """1 where the text has the colour word, else 0."""
        return torch.tensor([[int(colour in text.lower()) for colour in scenes.COLOURS] for text in texts])


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
        palette = torch.tensor([*scenes.COLOURS.values(), scenes.GROUND], dtype=torch.float32)[:, :, None, None]
        palette = (palette / 255 - 0.5) / 0.5  # [9, 3, 1, 1]
        distance = (images[:, None] - palette).square().sum(dim=2)  # [B, 9, H, W]
        nearest = distance.argmin(dim=1)
        return F.one_hot(nearest, len(palette)).permute(0, 3, 1, 2)[:, :-1].float()
