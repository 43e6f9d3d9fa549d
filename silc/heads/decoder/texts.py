"""Texts of a decoder as token ids: the task's prefix, the question, and the answer.

    <s> prefix question \\n answer </s>

Prompt and answer are each cut to half of the decoder's length, so that a text does not depend on others in its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from silc.heads.decoder.tokenizer import TextTokenizer

BREAK = "\n"
"""Separates the prompt from the answer."""


@dataclass(frozen=True)
class Texts:
    """Turns texts into ids, for a decoder of some length, and back."""

    tokenizer: TextTokenizer
    length: int

    @property
    def half(self) -> int:
        """Maximum tokens of a prompt, and of an answer."""
        return self.length // 2

    def prompt(self, prefix: str, question: str = "") -> list[int]:
        """Ids of begin, prefix, question and break; the end of a question that is too long is cut off."""
        begin, *asked, stop = self._asked(prefix, question)
        return [begin, *asked[: self.half - 2], stop]

    def answer(self, text: str) -> list[int]:
        """Ids of an answer and the end token; an answer that is too long is cut, but keeps the end token."""
        *written, end = self._written(text)
        return [*written[: self.half - 1], end]

    def is_cut(self, prefix: str, question: str, text: str) -> bool:
        """Whether the prompt or the answer is too long."""
        return max(len(self._asked(prefix, question)), len(self._written(text))) > self.half

    def _asked(self, prefix: str, question: str) -> list[int]:
        encode = self.tokenizer.encode
        asked = encode(f"{prefix} {one_line(question)}" if question else prefix)
        return [self.tokenizer.begin, *asked, *encode(BREAK)]

    def _written(self, text: str) -> list[int]:
        return [*self.tokenizer.encode(one_line(text)), self.tokenizer.end]

    def read(self, ids: Sequence[int]) -> str:
        """The text of generated ids."""
        return self.tokenizer.decode(ids).strip()


def one_line(text: str) -> str:
    """The text with each run of white space as one space."""
    return " ".join(text.split())
