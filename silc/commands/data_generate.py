"""`silc data generate`: sets of a generated world to train heads on and to score, in the layouts of real ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import tyro

from silc import places
from silc.commands import flags
from silc.data.config import ObjectsConfig
from silc.given import Idle
from silc.settings import NATURAL, Range, Settings
from silc.terminal import announce, say

MANY = Range(least=1, most=10_000_000)


@dataclass(frozen=True)
class GenerateCommand(Settings):
    """Write sets of generated objects: label maps, classes, captions, boxes and questions; see silc/data/object_sets.py
    for the list. `--data.source objects` trains on the same world.
    """

    out: tyro.conf.Positional[str]
    """A new or empty folder."""
    seed: Annotated[int, NATURAL] = 0
    """Of the images; training images of no seed are among them."""
    num: Annotated[int, MANY] = 200
    """Images of each part that is scored."""
    num_train: Annotated[int, MANY] = 1000
    """Images of each training part."""
    num_retrieval: Annotated[int, MANY] = 500
    """Images of the retrieval set."""
    objects: ObjectsConfig = field(default_factory=ObjectsConfig)
    """The world, as in data.objects."""
    idle: ClassVar = (Idle("objects.num objects.caption_noise", lambda _: True, "sets have clean captions, and --num"),)


def main(args: list[str]) -> int:
    """Write the sets."""
    command = flags.read(GenerateCommand, args, "silc data generate")
    out = places.empty_folder(command.out)
    announce(f"data generate: objects of {command.objects.size} pixels into {out}")
    from silc.data.object_sets import write_sets

    counts = {"num": command.num, "num_train": command.num_train, "num_retrieval": command.num_retrieval}
    write_sets(out, command.objects, seed=command.seed, **counts)
    say(f"sets: `silc eval MODEL --root {out} --list` names what can be scored")
    return 0
