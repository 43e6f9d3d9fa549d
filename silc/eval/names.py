"""The words for the classes of segmentation: the published names, other published lists, or a user's own list.

A class may have several words. Each word is scored separately, and a class has the highest probability of its words, as
SCLIP, OpenSeg and ODISE merge synonyms. So a pixel's class is the owner of its best word. Imports no torch.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from silc.data.index_cache import expanded
from silc.errors import BadInput
from silc.eval.files import lines_of
from silc.eval.prompts import class_names
from silc.settings import one_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from silc.eval.datasets import SegmentationSet

LISTS: Mapping[str, Mapping[str, str]] = {
    "mmseg": {},
    "maskclip": {
        # First the lists that MaskCLIP keeps as published, then those in which it changes names.
        **{name: name for name in ("ade_150", "cityscapes_19")},
        **{
            name: f"{name}_maskclip" for name in ("voc_20", "pascal_context_59", "pascal_context_459", "coco_stuff_171")
        },
    },
    "catseg": {
        **{name: name for name in ("ade_150", "voc_20", "pascal_context_459", "coco_stuff_171")},
        "pascal_context_59": "pascal_context_59_catseg",
    },
    "synonyms": {
        "ade_847": "ade_847",
        **{name: f"{name}_synonyms" for name in ("ade_150", "voc_20", "pascal_context_59", "cityscapes_19")},
    },
}
"""For each value of `eval.names`: by published list of classes, the file in classes/ with the names to use."""


class Wording(NamedTuple):
    """The words that are embedded, and the class that each stands for."""

    words: Sequence[str]  # W
    owner: Sequence[int]
    """The class of each label in a score map, where labels are words; with `threshold`, label 0 is the background."""
    sha256: str
    """Checksum (16 digits) of the words of all classes, one class per line."""


def wording(
    data: SegmentationSet, names: str = "mmseg", *, background_names: bool = False, threshold: bool = False
) -> Wording:
    """The words of a set's classes.

    Args:
        names: a name of LISTS; a file with one class per line, words separated by commas; or a folder with SET.txt.
        background_names: the background is named by what is usually there, not by the word "background".
        threshold: the background is where no class scores high, and has no words.

    Raises:
        BadInput: no such list, none for this set, not one line per class, or `background_names` where there are none.
    """
    lines = _own(data, _file(names, data.name)) if _is_path(names) else _published(data, names)
    if background_names:
        if not data.background_words or threshold or _is_path(names):
            raise BadInput(_why_no_background_names(data, names))
        lines = [data.background_words, *lines[1:]]
    if threshold and not data.background_words:
        lines = [["background"], *lines]
    owners = [(word, owner) for owner, words in enumerate(lines) for word in words if owner or not threshold]
    text = "\n".join(", ".join(words) for words in lines)
    checksum = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Wording([word for word, _ in owners], [0] * threshold + [owner for _, owner in owners], checksum)


def _published(data: SegmentationSet, names: str) -> Sequence[Sequence[str]]:
    """The words of each class by a list of LISTS."""
    found, own = one_of(LISTS, names, "list of names"), data.words or [[name] for name in data.classes]
    if not found:
        return own
    if data.published not in found:
        raise BadInput(
            f"{data.name} has no list of names '{names}'; leave out eval.names to use its own, or name a file "
            f"with its {len(data.classes)} classes, one per line, words separated by commas"
        )
    head = own[:1] if data.background_words else []
    # COCO-Object's classes are the first classes of COCO-Stuff.
    return [*head, *map(_split, class_names(found[data.published])[: len(own) - len(head)])]


def _own(data: SegmentationSet, file: Path) -> Sequence[Sequence[str]]:
    """The words of each class by a user's file."""
    lines = [_split(line) for line in lines_of(file)]
    for number, words in enumerate(lines, 1):
        if not all(words):
            raise BadInput(f"{file}: line {number} has an empty word; separate words by single commas")
    if len(lines) != len(data.classes):
        first = ", the background first" if data.background_words else ""
        raise BadInput(
            f"{file} names {len(lines)} classes, and {data.name} has {len(data.classes)}; write one line for each "
            f"class, in the order of its labels{first}"
        )
    return lines


def _split(line: str) -> list[str]:
    return [word.strip() for word in line.split(",")]


def _is_path(names: str) -> bool:
    return names not in LISTS and ("/" in names or names.endswith(".txt") or Path(names).exists())


def _file(names: str, dataset: str) -> Path:
    """The given file or, in a given folder, the file of the data set."""
    path = expanded(names)
    return path / f"{dataset}.txt" if path.is_dir() else path


def _why_no_background_names(data: SegmentationSet, names: str) -> str:
    if not data.background_words:
        return f"{data.name} has no list of names for its background; leave out eval.background_names"
    if _is_path(names):
        return f"{names} names the background itself, in its first line; leave out eval.background_names"
    return "eval.background finds the background by a threshold, without names; leave out eval.background_names"
