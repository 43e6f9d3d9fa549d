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
        begin, *asked, stop = self._asked(prefix, question)
        return [begin, *asked[: self.half - 2], stop]

    def answer(self, text: str) -> list[int]:
        """What is written, and the end; a text that is too long loses its end, not the sign of it."""
        *written, end = self._written(text)
        return [*written[: self.half - 1], end]

    def is_cut(self, prefix: str, question: str, text: str) -> bool:
        """Whether what is asked or what is written is too long."""
        return max(len(self._asked(prefix, question)), len(self._written(text))) > self.half

    def _asked(self, prefix: str, question: str) -> list[int]:
        encode = self.tokenizer.encode
        asked = encode(f"{prefix} {one_line(question)}" if question else prefix)
        return [self.tokenizer.begin, *asked, *encode(BREAK)]

    def _written(self, text: str) -> list[int]:
        return [*self.tokenizer.encode(one_line(text)), self.tokenizer.end]

    def read(self, ids: Sequence[int]) -> str:
        """The text of what was written."""
        return self.tokenizer.decode(ids).strip()


def one_line(text: str) -> str:
    """A text with single blanks."""
    return " ".join(text.split())
