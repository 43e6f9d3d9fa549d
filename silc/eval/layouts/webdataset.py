"""CLIP_benchmark's WebDataset layout: `classnames.txt`, `{train,test}/nshards.txt` and shards `0.tar`, `1.tar`, ...

Members are read in place by their offsets; nothing is extracted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from silc.data.tar import Members, walk
from silc.errors import BadInput
from silc.eval.datasets import ClassificationSet, Lazy, RetrievalSet
from silc.eval.files import lines_in, lines_of
from silc.images import READ, BadImage, decode_rgb
from silc.regular import regular

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image


class Member(NamedTuple):
    """The place of a member in a tar file."""

    shard: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """The member's bytes."""
        with regular(self.shard).open("rb") as handle:
            handle.seek(self.offset)
            return handle.read(self.size)


def is_sharded(folder: Path) -> bool:
    """Whether a folder holds a data set in this layout."""
    return (folder / "test" / "nshards.txt").is_file()


def read_wds_classification(folder: Path, split: str = "test") -> ClassificationSet:
    """Samples of an image with a `.cls`; templates are written with "{c}".

    Raises:
        BadInput: something is missing, or a label is outside the class list.
    """
    classes = lines_of(folder / "classnames.txt")
    samples = _samples(folder / split, "cls")
    prompts = folder / "zeroshot_classification_templates.txt"
    templates = [line.replace("{c}", "{}") for line in lines_of(prompts)] if prompts.is_file() else []
    images = [_image_of(sample, key) for key, sample in samples.items()]
    labels = []
    for key, sample in samples.items():
        text = _text(sample["cls"], key).strip() if "cls" in sample else ""
        if not text.isdecimal() or int(text) >= len(classes):
            raise BadInput(
                f"{folder}: {key} has the label '{text}'; a label must be a number from 0 to {len(classes) - 1}"
            )
        labels.append(int(text))
    shards = sorted({member.shard for member in images})
    return ClassificationSet(folder.name, split, classes, Lazy(images, _decode), labels, templates, files=shards)


def read_wds_retrieval(folder: Path) -> RetrievalSet:
    """Samples of an image with a `.txt` of one caption per line.

    Raises:
        BadInput: something is missing.
    """
    samples = _samples(folder / "test", "txt")
    images = [_image_of(sample, key) for key, sample in samples.items()]
    captions = []
    for key, sample in samples.items():
        text = _text(sample["txt"], key) if "txt" in sample else ""
        own = lines_in(text)
        if not own:
            raise BadInput(f"{folder}: {key} has no caption")
        captions.append(own)
    return RetrievalSet(folder.name, Lazy(images, _decode), captions, files=sorted({member.shard for member in images}))


def _samples(folder: Path, text: str) -> dict[str, dict[str, Member]]:
    """{key: {extension: member}} of the shards 0.tar, 1.tar, ... in order; any image has the extension `image`.

    Raises:
        BadInput: a shard is missing, damaged, or has a member that cannot be used: a set is scored whole or not at all.
    """
    count = lines_of(folder / "nshards.txt")[0]
    if not (count.isdecimal() and len(count) < 10):
        raise BadInput(f"{folder / 'nshards.txt'} says '{count[:40]}'; it must hold a number")
    if (folder / f"{int(count)}.tar").exists():
        raise BadInput(f"{folder / 'nshards.txt'} says {count}, but {folder / f'{int(count)}.tar'} exists too")
    samples: dict[str, dict[str, Member]] = {}
    for shard in (folder / f"{number}.tar" for number in range(int(count))):
        try:
            found = walk(shard, Members((text,)))
        except BadInput as error:
            raise BadInput(f"cannot read the shard {shard}: {error}") from error
        if found.damage:
            raise BadInput(f"cannot read the shard {shard}: {found.damage}; download it again")
        if found.ignored:
            raise BadInput(
                f"{shard}: {found.ignored[0]} is a link, a device or a sparse file, or has an unsafe name; pack the "
                "shard again"
            )
        for sample in found.samples:
            if sample.duplicate:
                raise BadInput(f"{shard} holds {sample.key} twice; leave one of them out")
            members = {extension: Member(shard, *where) for extension, where in sample.fields.items()}
            samples[f"{shard.stem}/{sample.key.removeprefix('./')}"] = members
    if not samples:
        raise BadInput(f"{folder} holds no samples")
    return samples


def _image_of(sample: dict[str, Member], key: str) -> Member:
    if "image" not in sample:
        raise BadInput(f"{key} has no image ({', '.join(READ)}), only {', '.join(sorted(sample))}")
    return sample["image"]


def _text(member: Member, key: str) -> str:
    try:
        return member.read().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read the text of {key} in {member.shard}: {error}") from error


def _decode(member: Member) -> Image.Image:
    try:
        return decode_rgb(member.read())
    except (OSError, BadImage) as error:
        raise BadInput(f"cannot read an image of {member.shard} at byte {member.offset}: {error}") from error
