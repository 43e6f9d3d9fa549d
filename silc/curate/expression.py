"""Parser of the expressions of --keep: terms, `and`, `or`, `not` and parentheses.

    clip_score top 30% and image_near targets.npy and (basic or language = de)

`and` binds more tightly than `or`. A term is a filter with its arguments, or a column with a comparison; `filters`
gives terms their meaning. Names with spaces or parentheses must be in quotes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from silc.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_TOKEN = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|([()])|(<=|>=|!=|==|<|>|=)|([^\s()<>=!"']+))""")
_WORDS = ("and", "or", "not")


@dataclass(frozen=True)
class Term:
    """A filter with its arguments, or a column with a comparison."""

    words: tuple[str, ...]
    quoted: frozenset[int] = field(default=frozenset())
    """Indices of the words that were in quotes."""

    def __str__(self) -> str:
        in_quotes = lambda place, word: place in self.quoted or re.search(r"[\s()]", word)  # noqa: E731
        return " ".join(f'"{word}"' if in_quotes(place, word) else word for place, word in enumerate(self.words))


@dataclass(frozen=True)
class Joined:
    """Expressions joined by `and` (all must hold) or by `or` (at least one must hold)."""

    how: str
    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Not:
    """The negation of an expression."""

    part: Expression


Expression = Term | Joined | Not


def parse(text: str) -> Expression:
    """Parse an expression.

    Raises:
        BadInput: the text is not a valid expression; the message names the position.
    """
    tokens = list(_tokens(text))
    if not tokens:
        raise BadInput("--keep is empty; give a filter, for example 'clip_score top 30%'")
    reader = _Reader(text, tokens)
    try:
        found = reader.either()
    except RecursionError:
        raise BadInput("--keep has hundreds of nested parentheses or nots; write it with fewer") from None
    if reader.place < len(tokens):
        raise reader.stopped("'and', 'or' or the end")
    return found


def terms(expression: Expression) -> Iterator[Term]:
    """The terms of an expression in their order, each once."""
    yield from dict.fromkeys(_terms(expression))


def condition(expression: Expression, meaning: Callable[[Term], str]) -> str:
    """SQL of an expression; `meaning` returns the SQL of a term."""
    match expression:
        case Term():
            return f"coalesce({meaning(expression)}, false)"
        case Not():
            return f"(NOT {condition(expression.part, meaning)})"
        case Joined():
            return f"({f' {expression.how} '.join(condition(part, meaning) for part in expression.parts)})"


def _terms(expression: Expression) -> Iterator[Term]:
    match expression:
        case Term():
            yield expression
        case Not():
            yield from _terms(expression.part)
        case Joined():
            for part in expression.parts:
                yield from _terms(part)


def _tokens(text: str) -> Iterator[tuple[str, bool]]:
    """The words of the text: (word, whether it was in quotes)."""
    place, end = 0, len(text.rstrip())
    while place < end:
        found = _TOKEN.match(text, place)
        if found is None:
            raise BadInput(
                f"cannot read {text[place:].strip()!r} of --keep {text!r}; close the quotes, or leave it out"
            )
        word = next(group for group in found.groups() if group is not None)
        yield word, found[1] is not None or found[2] is not None
        place = found.end()


@dataclass
class _Reader:
    text: str
    tokens: Sequence[tuple[str, bool]]
    place: int = 0

    def either(self) -> Expression:
        return self._joined("or", self._all)

    def _all(self) -> Expression:
        return self._joined("and", self._one)

    def _joined(self, how: str, part: Callable[[], Expression]) -> Expression:
        parts = [part()]
        while self._takes(how):
            parts.append(part())
        return parts[0] if len(parts) == 1 else Joined(how, tuple(parts))

    def _one(self) -> Expression:
        if self._takes("not"):
            return Not(self._one())
        if self._takes("("):
            inside = self.either()
            if not self._takes(")"):
                raise self.stopped("')'")
            return inside
        begun = self.place
        while self.place < len(self.tokens):
            word, quoted = self.tokens[self.place]
            if not quoted and (word in "()" or word.lower() in _WORDS):
                break
            self.place += 1
        read = self.tokens[begun : self.place]
        if not read:
            raise self.stopped("a filter or a column")
        in_quotes = frozenset(place for place, (_, quoted) in enumerate(read) if quoted)
        return Term(tuple(word for word, _ in read), in_quotes)

    def _takes(self, word: str) -> bool:
        here = self.tokens[self.place] if self.place < len(self.tokens) else ("", True)
        if here[1] or here[0].lower() != word:
            return False
        self.place += 1
        return True

    def stopped(self, needed: str) -> BadInput:
        """The error for text that is no valid expression at the current word."""
        at = self.tokens[self.place][0] if self.place < len(self.tokens) else "the end"
        return BadInput(f"cannot read --keep {self.text!r}: at {at!r} needed {needed}")
