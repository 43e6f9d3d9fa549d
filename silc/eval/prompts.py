"""Class names to text features: prompt templates, canonicalisation, ensembling.

`templates.json` holds the named sets: `clip80+1` is big_vision's (CLIP's 80 ImageNet templates and the bare name),
`tcl9` TCL's nine for segmentation, `plain` the bare name.
"""

from __future__ import annotations

import difflib
import json
import re
import string
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch.nn.functional as F

from silc.eval.embed import text_features
from silc.types import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from silc.types import DualEncoder

Order = Literal["normalize, mean, normalize", "mean, normalize"]


def templates(name: str) -> list[str]:
    """The prompts of a named set, each with "{}" where the class name goes.

    Raises:
        BadInput: no such set.
    """
    sets: dict[str, list[str]] = json.loads(Path(__file__).with_name("templates.json").read_text())
    if name not in sets:
        nearest = difflib.get_close_matches(name, sets, n=1, cutoff=0)[0]
        raise BadInput(f"no prompt set '{name}'; did you mean '{nearest}'? There are {', '.join(sets)}")
    return sets[name]


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


def ensemble(features: Tensor, order: Order) -> Tensor:
    """One unit-length feature [C, D] per class from those of its P prompts [C, P, D].

    `normalize, mean, normalize` is what CLIP, big_vision and MaskCLIP do; `mean, normalize` (TCL, GroupViT) lets
    prompts with long features weigh more, so it differs only on features that are not unit length.
    """
    if order == "normalize, mean, normalize":
        features = F.normalize(features, dim=-1)
    return F.normalize(features.mean(dim=1), dim=-1)


def text_classifier(
    model: DualEncoder, names: Sequence[str], templates: Sequence[str], *, batch_size: int = 256
) -> Tensor:
    """Unit-length weights [C, D] on the CPU, one row per class name, ensembled over the templates.

    Prompts are normalised, averaged and normalised again; `encode_text` gives unit length, so TCL's order
    (`ensemble(..., "mean, normalize")`) is out of a `DualEncoder`'s reach.
    """
    texts = [text for name in names for text in prompts(name, templates)]
    features = text_features(model, texts, batch_size)  # [C * P, D]
    return ensemble(features.unflatten(0, (len(names), len(templates))), "normalize, mean, normalize")
