"""What a caption is, wherever it stands: in the JSON of a shard's sample, in a row of a table, in an evaluation set."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FIELDS = ("captions", "caption", "text", "title")
"""Where captions stand, the first that holds something: a text or a list of texts. `null` and `[]` hold nothing."""
SHOWN = 40
"""Characters of a wrong value that a message repeats."""

_BLANKS = re.compile(r"[ \n\r\t\v\f\0]+")


class NoCaption(Exception):
    """There is no caption, or none that can be used. `cause` is a short stable word, the message says the rest."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class Unread:
    """Stands for a caption whose row or bytes cannot be read; `why` continues the sentence "the sample ..."."""

    def __init__(self, why: str) -> None:
        self.why = why


def captions_in(fields: Mapping[str, Any], names: Sequence[str] = FIELDS) -> list[Any]:
    """What the first of these fields that holds something holds, as a list; not looked at yet."""
    for name in names:
        value = fields.get(name)
        found = [each for each in (value if isinstance(value, list) else [value]) if each is not None]
        if found:
            return found
    return []


def usable(found: Sequence[Any]) -> tuple[str, ...]:
    """Captions without the space around them, nor the empty ones; at least one.

    Raises:
        NoCaption: cause `no_caption` (there is none), `broken_caption` (one is no text), `empty_caption` (only space).
    """
    if not found:
        raise NoCaption("no_caption", "has no caption")
    for each in found:
        if isinstance(each, Unread):
            raise NoCaption("broken_caption", each.why)
        if not isinstance(each, str):
            raise NoCaption("broken_caption", f"has {_shown(each)} for a caption; needed is text in quotes")
    # JSON may escape half a surrogate pair: no text
    captions = tuple(text for caption in found if (text := caption.encode(errors="replace").decode().strip()))
    if not captions:
        raise NoCaption("empty_caption", "has only empty captions")
    return captions


def words_of(caption: str) -> tuple[int, int]:
    """Words between white space, and tokens as fastText's `tokenize` has them, which DataComp counts: ASCII blanks
    alone divide, and an end of line is a token.

    >>> words_of("a dog\\nruns")
    (3, 4)
    """
    tokens = [token for token in _BLANKS.split(caption) if token]
    return len(caption.split()), len(tokens) + caption.count("\n")


def _shown(value: Any) -> str:
    """A value of JSON in a few characters."""
    text = json.dumps(value)
    kind = {dict: "an object", list: "a list within a list", bool: "a truth value"}.get(type(value), "the number")
    return f"{kind} {text if len(text) <= SHOWN else text[: SHOWN - 3] + '...'}"
