"""Class names to prompts: published names, prompt templates, canonicalisation. Imports no torch.

`templates.json` holds the prompts (`clip7` to `cifar18` are CLIP's, `tcl9` TCL's, `scene5` MaskCLIP's), `classes/`
the names with their sources. Two named sets join others: `clip80+1` is big_vision's, `maskclip85` MaskCLIP's.
"""

from __future__ import annotations

import json
import re
import string
from pathlib import Path
from typing import TYPE_CHECKING

from silc.errors import BadInput
from silc.settings import nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

HERE = Path(__file__).parent
COMPOSED = {"clip80+1": ("clip80", "plain"), "maskclip85": ("clip80", "scene5")}


def templates(name: str) -> list[str]:
    """The prompts of a named set, each with "{}" where the class name goes.

    Raises:
        BadInput: no such set.
    """
    sets, known = _sets(), template_sets()
    if name not in known:
        raise BadInput(f"no prompt set '{name}'{nearest(name, known) or ';'} There are {', '.join(known)}")
    return [template for part in COMPOSED.get(name, (name,)) for template in sets[part]]


def template_sets() -> list[str]:
    """The names of all prompt sets."""
    return [*_sets(), *COMPOSED]


def _sets() -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads((HERE / "templates.json").read_text(encoding="utf-8"))
    return found


def class_names(name: str) -> list[str]:
    """A published list of names, unchanged, in the order of its labels; 'bed ' of ade_150 ends with a blank."""
    return (HERE / "classes" / f"{name}.txt").read_text(encoding="utf-8").splitlines()


def canonicalize(text: str, *, keep_braces: bool = False) -> str:
    """Lower case without punctuation; underscores and runs of blanks become one blank (big_vision's rule).

    `keep_braces` keeps "{}", for templates:

    >>> canonicalize("A photo_of  the {}.", keep_braces=True)
    'a photo of the {}'
    """
    kept = text.split("{}") if keep_braces else [text]
    bare = str.maketrans({"_": " "} | dict.fromkeys(string.punctuation.replace("_", "")))
    return re.sub(r"\s+", " ", "{}".join(part.translate(bare) for part in kept)).strip().lower()


def prompts(name: str, templates: Sequence[str]) -> list[str]:
    """One prompt per template for a class name."""
    return [template.replace("{}", name) for template in templates]
