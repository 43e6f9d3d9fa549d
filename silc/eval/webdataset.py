"""CLIP_benchmark's WebDataset layout: `classnames.txt`, `{train,test}/nshards.txt` and shards `0.tar`, `1.tar`, ...

Members are read in place by their offsets; nothing is extracted.
"""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING, NamedTuple

from silc.eval.datasets import ClassificationSet, Lazy, RetrievalSet, lines_of
from silc.images import BadImage, decode_rgb
from silc.types import BadInput

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image


class Member(NamedTuple):
    """Where a tar file's member is."""

    shard: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """Its bytes."""
        with self.shard.open("rb") as handle:
            handle.seek(self.offset)
            return handle.read(self.size)


def read_wds_classification(folder: Path, split: str = "test") -> ClassificationSet:
    """Samples of `.jpg`, `.png` or `.webp` with a `.cls`; templates are written with "{c}".

    Raises:
        BadInput: something is missing, or a label is outside the class list.
    """
    classes = lines_of(folder / "classnames.txt")
    samples = _samples(folder / split)
    prompts = folder / "zeroshot_classification_templates.txt"
    templates = [line.replace("{c}", "{}") for line in lines_of(prompts)] if prompts.is_file() else []
    images = [_image_of(sample, key) for key, sample in samples.items()]
    labels = []
    for key, sample in samples.items():
        text = sample["cls"].read().decode(errors="replace").strip() if "cls" in sample else ""
        if not text.isdecimal() or int(text) >= len(classes):
            raise BadInput(f"{folder}: {key} has the label '{text}', needed is a number from 0 to {len(classes) - 1}")
        labels.append(int(text))
    shards = sorted({member.shard for member in images})
    return ClassificationSet(folder.name, split, classes, Lazy(images, _decode), labels, templates, shards)


def read_wds_retrieval(folder: Path, split: str = "test") -> RetrievalSet:
    """Samples of an image with a `.txt` of one caption per line.

    Raises:
        BadInput: something is missing.
    """
    samples = _samples(folder / split)
    images = [_image_of(sample, key) for key, sample in samples.items()]
    captions = []
    for key, sample in samples.items():
        text = sample["txt"].read().decode(errors="replace") if "txt" in sample else ""
        own = [line.strip() for line in text.splitlines() if line.strip()]
        if not own:
            raise BadInput(f"{folder}: {key} has no caption")
        captions.append(own)
    return RetrievalSet(folder.name, Lazy(images, _decode), captions, files=sorted({member.shard for member in images}))


def _samples(folder: Path) -> dict[str, dict[str, Member]]:
    """{key: {extension: member}} of the shards 0.tar, 1.tar, ... in order; nothing is extracted."""
    count = lines_of(folder / "nshards.txt")[0]
    if not count.isdecimal():
        raise BadInput(f"{folder / 'nshards.txt'} says '{count}', needed is a number")
    samples: dict[str, dict[str, Member]] = {}
    for shard in (folder / f"{number}.tar" for number in range(int(count))):
        try:
            with tarfile.open(shard, "r:") as tar:
                for member in tar:
                    key, _, extension = member.name.partition(".")
                    if member.isreg():
                        where = Member(shard, member.offset_data, member.size)
                        samples.setdefault(f"{shard.stem}/{key}", {})[extension.lower()] = where
        except (OSError, tarfile.TarError) as error:
            raise BadInput(f"cannot read the shard {shard}: {error}") from error
    if not samples:
        raise BadInput(f"{folder} holds no samples")
    return samples


def _image_of(sample: dict[str, Member], key: str) -> Member:
    found = [sample[extension] for extension in ("jpg", "jpeg", "png", "webp") if extension in sample]
    if not found:
        raise BadInput(f"{key} has no .jpg, .jpeg, .png or .webp, only {', '.join(sorted(sample))}")
    return found[0]


def _decode(member: Member) -> Image.Image:
    try:
        return decode_rgb(member.read())
    except (OSError, BadImage) as error:
        raise BadInput(f"cannot read an image of {member.shard} at byte {member.offset}: {error}") from error
