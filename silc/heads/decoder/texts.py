"""What a decoder reads and writes, as ids: the task's prefix, the question, and what is to follow.

    <s> prefix question \\n answer </s>

Both halves are cut to half of the decoder's length, so that no text depends on what stands beside it in a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from silc.heads.decoder.tokenizer import TextTokenizer

BREAK = "\n"
"""Between what is asked and what is written."""


@dataclass(frozen=True)
class Texts:
    """Texts of a decoder of some length as ids, and back."""

    tokenizer: TextTokenizer
    length: int

    @property
    def half(self) -> int:
        """Tokens that a prompt, and what follows, have at most."""
        return self.length // 2

    def prompt(self, prefix: str, question: str = "") -> list[int]:
        """Begin, prefix, question and break; a question that is too long loses its end."""
        encode = self.tokenizer.encode
        asked = encode(f"{prefix} {one_line(question)}" if question else prefix)
        stop = encode(BREAK)
        return [self.tokenizer.begin, *asked[: self.half - 1 - len(stop)], *stop]

    def answer(self, text: str) -> list[int]:
        """What is written, and the end; a text that is too long loses its end, not the sign of it."""
        return [*self.tokenizer.encode(one_line(text))[: self.half - 1], self.tokenizer.end]

    def read(self, ids: Sequence[int]) -> str:
        """The text of what was written."""
        return self.tokenizer.decode(ids).strip()


def one_line(text: str) -> str:
    """A text with single blanks."""
    return " ".join(text.split())
