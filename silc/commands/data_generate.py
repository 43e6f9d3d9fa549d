"""`silc data generate`: sets of a generated world to train heads on and to score, in the layouts of real ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from silc import places
from silc.commands import flags
from silc.data.config import ObjectsConfig
from silc.given import Idle
from silc.settings import SEED, Range, Settings
from silc.terminal import announce, say

if TYPE_CHECKING:
    from PIL import Image

SHOWN, ENLARGED = 12, 3
"""Images of the overview, and the factor by which they are enlarged."""
MANY = Range(least=1, most=10_000_000)


@dataclass(frozen=True)
class GenerateCommand(Settings):
    """Write sets of generated objects: label maps, classes, captions, boxes and questions; see silc/data/object_sets.py
    for the list. `--data.source objects` trains on the same world.
    """

    out: tyro.conf.Positional[str]
    """A new or empty folder."""
    seed: Annotated[int, SEED] = 0
    """Seed of the images; no training image, of any seed, is among them."""
    num: Annotated[int, MANY] = 200
    """Images of each part that is scored."""
    num_train: Annotated[int, MANY] = 1000
    """Images of each training part."""
    num_retrieval: Annotated[int, MANY] = 500
    """Images of the retrieval set."""
    objects: ObjectsConfig = field(default_factory=ObjectsConfig)
    """The world, as in data.objects."""
    idle: ClassVar = (
        Idle(
            "objects.num objects.caption_noise", lambda _: True, "captions of sets are clean, and --num is their size"
        ),
    )


def main(args: list[str]) -> int:
    """Write the sets."""
    command = flags.read(GenerateCommand, args, "silc data generate")
    out = places.empty_folder(command.out)
    announce(f"data generate: objects of {command.objects.size} pixels into {out}")
    from silc.data.object_sets import write_sets

    counts = {"num": command.num, "num_train": command.num_train, "num_retrieval": command.num_retrieval}
    write_sets(out, command.objects, seed=command.seed, **counts)
    _overview(command).save(out / "overview.png")
    say(f"overview: {out / 'overview.png'}")
    say(f"sets: `silc eval MODEL --root {out} --list` lists the tasks on them")
    return 0


def _overview(command: GenerateCommand) -> Image.Image:
    """Images with their boxes, beside the classes of their pixels, over a caption."""
    import numpy as np
    from PIL import Image, ImageDraw

    from silc.data.object_sets import SEGMENTATION, TESTED, World, boxes, labels
    from silc.data.objects import captions
    from silc.eval.pictures import colour_overlay, contact_sheet
    from silc.records import Picture

    pictures = []
    images = World(command.objects, command.seed).images(SEGMENTATION, TESTED)
    for number, shown in enumerate(islice(images, SHOWN)):
        image = Image.fromarray(shown.drawing.pixels.repeat(ENLARGED, 0).repeat(ENLARGED, 1))
        truth = labels(shown, things=True, ground=True).repeat(ENLARGED, 0).repeat(ENLARGED, 1)
        overlay = colour_overlay(image, truth.astype(np.int64))
        pen = ImageDraw.Draw(image)
        for _, (x, y, width, height), _ in boxes(shown):
            pen.rectangle(
                [ENLARGED * x, ENLARGED * y, ENLARGED * (x + width) - 1, ENLARGED * (y + height) - 1], outline="white"
            )
        both = Image.fromarray(np.concatenate([np.asarray(image), np.asarray(overlay)], axis=1))
        pictures.append(Picture(f"{number:05d}", captions(shown.layout, shown.seed, noise=0)[0], both))
    return contact_sheet(pictures, columns=3)
