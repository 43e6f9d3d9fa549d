"""Find and check captions: in the JSON of a shard's sample, in a row of a table, in an evaluation set."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FIELDS = ("captions", "caption", "text", "title")
"""Fields for captions; the first one that is not empty counts. It holds a text or a list of texts; `null` and `[]` are
empty."""
SHOWN = 40
"""Maximum number of characters of a wrong value in a message."""

_BLANKS = re.compile(r"[ \n\r\t\v\f\0]+")


class NoCaption(Exception):
    """There is no usable caption. `cause` is a short stable word; the message gives the details."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class Unread:
    """Placeholder for a caption that cannot be read; `why` continues the sentence "the sample ..."."""

    def __init__(self, why: str) -> None:
        self.why = why


def captions_in(fields: Mapping[str, Any], names: Sequence[str] = FIELDS) -> list[Any]:
    """The value of the first of these fields that is not empty, as a list; its elements are not checked."""
    for name in names:
        value = fields.get(name)
        found = [each for each in (value if isinstance(value, list) else [value]) if each is not None]
        if found:
            return found
    return []


def usable(found: Sequence[Any]) -> tuple[str, ...]:
    """The non-empty captions, with the space around them stripped; at least one.

    Raises:
        NoCaption: with cause `no_caption` (nothing found), `broken_caption` (one is no text) or `empty_caption` (only
            white space).
    """
    if not found:
        raise NoCaption("no_caption", "has no caption")
    for each in found:
        if isinstance(each, Unread):
            raise NoCaption("broken_caption", each.why)
        if not isinstance(each, str):
            raise NoCaption("broken_caption", f"has {_shown(each)} for a caption; a caption must be text in quotes")
    # JSON may escape half a surrogate pair, which is not valid text.
    captions = tuple(text for caption in found if (text := caption.encode(errors="replace").decode().strip()))
    if not captions:
        raise NoCaption("empty_caption", "has only empty captions")
    return captions


def words_of(caption: str) -> tuple[int, int]:
    """Number of words between white space, and number of tokens of fastText's `tokenize`, which DataComp counts: only
    ASCII blanks separate tokens, and an end of line is a token.

    >>> words_of("a dog\\nruns")
    (3, 4)
    """
    tokens = [token for token in _BLANKS.split(caption) if token]
    return len(caption.split()), len(tokens) + caption.count("\n")


def _shown(value: Any) -> str:
    """A JSON value, shortened for a message."""
    text = json.dumps(value)
    kind = {dict: "an object", list: "a list within a list", bool: "a truth value"}.get(type(value), "the number")
    return f"{kind} {text if len(text) <= SHOWN else text[: SHOWN - 3] + '...'}"
