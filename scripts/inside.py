"""What is inside a run that was trained on generated objects: where the names are, and what the prototypes stand for.

    python scripts/inside.py out/run [out/run2 ...]

Patches are sorted by what they show (body, head, badge, ground; patches that show two things alike are left out). For
each: how often the nearest of the 12 names is the object's own (of the 6 grounds, on the ground), by every dense
readout; and how often a linear layer on frozen tokens tells it, after each block. On the ground: how often the nearest
name is one of an object elsewhere in the image, and how often it would be by chance; this is what tokens carry of the
whole image. Then the teacher's targets: how many prototypes are used, and what they tell of ground and name.
Cost: about ten seconds of a core for a tiny model.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from silc import checkpoint
from silc import config as configs
from silc.data.object_sets import LEARNT, SEGMENTATION, TESTED, Shown, World
from silc.data.objects import GROUNDS, NAMES
from silc.eval.embed import text_classifier
from silc.eval.prompts import templates
from silc.loading import load_run
from silc.models.silc import Encoder
from silc.objective import networks
from silc.preprocess import resample
from silc.rundir import newest_checkpoint
from silc.training.directory import CONFIG

PARTS = ("body", "head", "badge", "ground")
MOSTLY = 0.6
"""Share of a patch that must show one thing."""
NUM = 200
"""Images that are looked at; as many others train the linear layers."""


class Patches(NamedTuple):
    """What patches of images show, each int64 [N, h, w], -1 where they show two things alike."""

    part: np.ndarray
    name: np.ndarray  # -1 on the ground
    ground: np.ndarray


def what_patches_show(shown: Sequence[Shown], grid: int) -> Patches:
    """By the majority of their pixels."""
    part, name = (np.full((len(shown), grid, grid), -1) for _ in range(2))
    ground = np.stack([np.full((grid, grid), one.layout.ground) for one in shown])
    for number, (_, layout, drawing) in enumerate(shown):
        size = len(drawing.part)
        edges = np.linspace(0, size, grid + 1).round().astype(int)
        for row in range(grid):
            for column in range(grid):
                inside = slice(edges[row], edges[row + 1]), slice(edges[column], edges[column + 1])
                seen = Counter(zip(drawing.part[inside].ravel(), drawing.thing[inside].ravel(), strict=True))
                (own, thing), many = seen.most_common(1)[0]
                if many >= MOSTLY * seen.total():
                    part[number, row, column] = own if own >= 0 else len(PARTS) - 1
                    name[number, row, column] = layout.things[thing].name if thing >= 0 else -1
    return Patches(part, name, ground)


def pixels_of(model: Encoder, shown: Sequence[Shown]) -> Tensor:
    """Normalised images [N, 3, R, R] at the model's size."""
    from PIL import Image

    size, rule = model.preprocess.size, model.preprocess.interpolation
    images = [resample(Image.fromarray(one.drawing.pixels), size, size, rule) for one in shown]
    return model.preprocess.normalize(torch.stack(images))


def naming(model: Encoder, shown: Sequence[Shown], patches: Patches, pixels: Tensor) -> list[str]:
    """A line for each readout: accuracy of the nearest text on each part, and names of the image on its ground."""
    prompts = templates("plain")
    names, grounds = (text_classifier(model, words, prompts) for words in (NAMES, GROUNDS))
    lines = []
    for readout in model.readouts:
        dense = F.normalize(model.encode_dense(pixels, readout), dim=-1)
        said, ground = (dense @ names.T).argmax(-1).numpy(), (dense @ grounds.T).argmax(-1).numpy()
        right = np.where(patches.name >= 0, said == patches.name, ground == patches.ground)
        cells = [right[patches.part == part].mean() for part in range(len(PARTS))]
        there = np.array([[name in {thing.name for thing in one.layout.things} for name in range(12)] for one in shown])
        on_ground = patches.part == len(PARTS) - 1
        which = np.broadcast_to(np.arange(len(shown))[:, None, None], said.shape)
        whole = there[which[on_ground], said[on_ground]].mean()
        chance = there[which[on_ground]].mean()
        lines.append(_row(f"nearest text, {readout}", [*cells, whole, chance]))
    return lines


def layers(model: Encoder, learnt: tuple[Patches, Tensor], tested: tuple[Patches, Tensor]) -> list[str]:
    """A line for each block: accuracy of a linear layer on its tokens, names on objects and grounds on the ground."""
    depth = len(model.visual.trunk.blocks)

    def tokens(pixels: Tensor) -> list[np.ndarray]:
        kept = model.visual.trunk.tokens(pixels, layers=range(depth)).layers
        return [model.visual.without_prefix(one).reshape(-1, one.shape[-1]).numpy() for one in kept]

    with torch.no_grad():
        train, test = tokens(learnt[1]), tokens(tested[1])
    lines = []
    for block in range(depth):
        cells = []
        for part in range(len(PARTS)):
            own, other = (patches.part.ravel() == part for patches, _ in (learnt, tested))
            what = ["ground" if part == len(PARTS) - 1 else "name"] * 2
            y, truth = (
                getattr(p, w).ravel()[m] for (p, _), w, m in zip((learnt, tested), what, (own, other), strict=True)
            )
            fitted = LogisticRegression(C=1.0, max_iter=300).fit(_unit(train[block][own]), y)
            cells.append(fitted.score(_unit(test[block][other]), truth))
        lines.append(_row(f"linear, block {block + 1} of {depth}", [*cells, math.nan, math.nan]))
    return lines


def _unit(x: np.ndarray) -> np.ndarray:
    """Of zero mean and unit variance in all, which suits the penalty."""
    return np.asarray((x - x.mean(0)) / x.std())


def prototypes(run: Path, config: configs.Config, encoder: Encoder, world: World) -> list[str]:
    """What the targets of a teacher, of whole images, tell; nothing for a run without self-distillation."""
    if not config.objective.distill:
        return []
    saved = checkpoint.read(newest_checkpoint(run), only=("teacher",))
    _, _, teacher = networks(config.model, config.objective, vocab_size=encoder.tokenizer.vocab_size, eos_id=1)
    assert teacher is not None
    saved.load_into(teacher, "teacher")
    shown = list(islice(world.images(SEGMENTATION, TESTED, most=1), NUM))
    with torch.no_grad():
        embedding = encoder.visual(pixels_of(encoder, shown))
        (bottleneck, vectors), centre, temperature = teacher.targets(embedding, config.model.teacher.temperature)
        targets = ((bottleneck @ F.normalize(vectors, dim=-1).T - centre) / temperature).softmax(-1)
    chosen = targets.argmax(-1).tolist()
    entropy = float(-(targets * targets.clamp(min=1e-30).log()).sum(-1).mean())
    grounds = [one.layout.ground for one in shown]
    names = [one.layout.things[0].name for one in shown]
    of_name = _told(chosen, names)
    return [
        "",
        f"targets of {NUM} images with one object: entropy {entropy:.2f} of {math.log(targets.shape[1]):.2f} nats, "
        f"{len(set(chosen))} of {targets.shape[1]} prototypes are the largest of one; they tell "
        f"{_told(chosen, grounds):.0%} of the entropy of grounds and {of_name:.0%} of that of names "
        f"(a ground alone tells {_told(grounds, names):.0%} of a name)",
    ]


def _told(x: Sequence[int], y: Sequence[int]) -> float:
    """Mutual information of x and y as a share of the entropy of y."""

    def entropy(counts: Counter[Any]) -> float:
        return -sum(n / counts.total() * math.log(n / counts.total()) for n in counts.values())

    return (entropy(Counter(x)) + entropy(Counter(y)) - entropy(Counter(zip(x, y, strict=True)))) / entropy(Counter(y))


def _row(label: str, cells: Sequence[float]) -> str:
    return f"| {label} | " + " | ".join("" if math.isnan(cell) else f"{100 * cell:.1f}" for cell in cells) + " |"


def look(run: Path) -> str:
    """The page of one run, in Markdown."""
    config = configs.load(run / CONFIG)
    world = World(config.data.objects, seed=0)
    learnt, tested = ([*islice(world.images(SEGMENTATION, part), NUM)] for part in (LEARNT, TESTED))
    models = load_run(run).models
    last = list(models.values())[-1]  # the teacher, where its tower is one of its own
    grid = last.preprocess.size // last.patch_size
    sides = [(what_patches_show(shown, grid), pixels_of(last, shown)) for shown in (learnt, tested)]
    counts = [int((sides[1][0].part == part).sum()) for part in range(len(PARTS))]
    heads = [f"{part} ({count})" for part, count in zip(PARTS, counts, strict=True)]
    heads += ["image's name on ground", "chance"]
    lines = [f"## {run}", ""]
    for weights, model in models.items():
        lines += [f"| {weights} | {' | '.join(heads)} |", "| --- |" + " ---: |" * len(heads)]
        lines += naming(model, tested, *sides[1])
        lines += [*layers(model, sides[0], sides[1]), ""]
    return "\n".join([*lines, *prototypes(run, config, last, world), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    for run in parser.parse_args().runs:
        print(look(run), flush=True)


if __name__ == "__main__":
    main()
