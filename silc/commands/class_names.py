"""Class names that a person gave, in a list or a file."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from silc.data.index_cache import expanded
from silc.errors import BadInput
from silc.eval.files import distinct, lines_of, text_of


def names_of(given: str) -> Sequence[str]:
    """Class names of a comma-separated list, or of a file: one a line, a line with commas, or a JSON list.

    Raises:
        BadInput: there is none, one comes twice, or what looks like a file is none.
    """
    file = expanded(given)
    if given.strip() and os.path.isdir(file):  # a list may be too long for a name, at which pathlib stumbles
        raise BadInput(f"--names {given} is a folder; give a file with one class name a line")
    if os.path.isfile(file):
        names = _names_in(file)
    elif "," not in given and re.search(r"[/\\]|\.\w{1,5}$", given):
        raise BadInput(f"--names {given} does not exist; give a file with one class name a line, or 'road, car, sky'")
    else:
        names = [name.strip() for name in given.split(",")]
    if not names or not all(names):
        raise BadInput("class names are needed: --names 'road, car, sky', or a file with one a line")
    return distinct(names, f"--names {given}")


def _names_in(file: Path) -> list[str]:
    if file.suffix.lower() == ".json":
        try:
            names = json.loads(text_of(file))
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{file} is no JSON: {error}") from error
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise BadInput(f'{file} must be a JSON list of names, e.g. ["road", "car"]')
        return [name.strip() for name in names]
    lines = lines_of(file)
    return [name.strip() for name in lines[0].split(",")] if len(lines) == 1 else lines
