"""The terms of an expression: named filters, and comparisons of columns. Each becomes a condition in SQL.

DataComp's filters keep the same rows as its `baselines/apply_filter.py` (mlfoundations/datacomp 4a8df19). A filter
reads columns of the usual names; a term can name other columns: `basic language=language_ft`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from silc.curate.balance import balanced
from silc.curate.duplicates import distinct
from silc.curate.near import image_near
from silc.curate.scores import ROW, column_name, number_in, number_of, text_of
from silc.curate.words import text_based
from silc.errors import BadInput
from silc.settings import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from silc.curate.expression import Term
    from silc.curate.lookups import Lookups
    from silc.curate.scores import Scores

COMPARISONS = ("=", "==", "!=", "<", "<=", ">", ">=")
NUMBER = re.compile(r"U?(TINY|SMALL|BIG|HUGE)INT|U?INTEGER|FLOAT|DOUBLE|DECIMAL\(.*\)")
TEXTS = ("VARCHAR", "JSON")
"""SQL types of text columns; a JSON field is text, and may hold a number."""
EXACT = 2**53
"""JSON numbers from here on (ids, for example) are compared as text, because doubles cannot distinguish them."""
LARGE, BROAD = 200, 3.0
"""DataComp's limits: minimum pixels of the shorter side, maximum ratio of longer side to shorter side."""
LAION = 0.28
"""LAION-2B's minimum CLIP score, by ViT-B/32."""


@dataclass(frozen=True)
class Asked:
    """The arguments of one filter in an expression."""

    scores: Scores
    term: Term
    lookups: Lookups
    given: Sequence[str] = ()
    columns: dict[str, str] = field(default_factory=dict)
    """{usual column: column to read instead}."""

    def column(self, name: str) -> str:
        """SQL of a column, or of the column that the term names instead."""
        return self.scores.column(self.columns.get(name, name))

    def takes(self, *what: str, columns: Sequence[str] = ()) -> Sequence[str]:
        """The arguments after the filter's name; there must be one for each name in `what`.

        Args:
            columns: the columns that the filter reads; the term may replace these.

        Raises:
            BadInput: there are more or fewer arguments, or the term replaces a column that the filter does not read.
        """
        if unknown := next((name for name in self.columns if name not in columns), None):
            reads = f"it reads {', '.join(columns)}" if columns else "it reads none"
            raise BadInput(
                f"cannot read {str(self.term)!r} of --keep: {self.term.words[0]} reads no column "
                f"{unknown!r}{nearest(unknown, columns)}; {reads}"
            )
        if len(self.given) != len(what):
            name = self.term.words[0]
            needed = " ".join([name, *what])
            other = (
                " (it is read as the filter; the column of the same name cannot be compared)"
                if name in self.scores.columns
                else ""
            )
            raise BadInput(f"cannot read {str(self.term)!r} of --keep: needed '{needed}'{other}")
        return self.given

    def number(self, text: str, what: str) -> float:
        """The text as a number above 0.

        Raises:
            BadInput: the text is no such number.
        """
        if not re.fullmatch(r"\d*\.?\d+", text) or float(text) <= 0:
            raise BadInput(f"cannot read {str(self.term)!r} of --keep: needed {what}, a number above 0, not {text!r}")
        return float(text)


def _all(asked: Asked) -> str:
    asked.takes()
    return "true"


def _basic(asked: Asked) -> str:
    asked.takes(columns=("language", "words", "chars", "width", "height"))
    width, height = number_of(asked.column("width")), number_of(asked.column("height"))
    return (
        f"({asked.column('language')} = 'en' AND {asked.column('words')} > 2 AND {asked.column('chars')} > 5 "
        f"AND least({width}, {height}) >= {LARGE} "
        f"AND greatest({width}, {height}) / least({width}, {height}) <= {BROAD})"
    )


def _caption(asked: Asked) -> str:
    asked.takes(columns=("language", "fasttext_tokens", "chars"))
    tokens, chars = asked.column("fasttext_tokens"), asked.column("chars")
    return f"({asked.column('language')} = 'en' AND {tokens} > 1 AND {chars} > 5)"


def _laion2b(asked: Asked) -> str:
    asked.takes(columns=("language", "clip_score"))
    score = number_of(asked.column("clip_score"))
    limit = _as_kept(LAION, asked.scores.columns[asked.columns.get("clip_score", "clip_score")])
    return f"({asked.column('language')} = 'en' AND {score} >= {number_in(limit)})"


def _image_near(asked: Asked) -> str:
    (targets,) = asked.takes("TARGETS", columns=("embedding",))
    name = asked.columns.get("embedding", "embedding")
    return image_near(asked.scores, name, asked.lookups.targets(targets, name), asked.lookups.centroids(name))


def _text_based(asked: Asked) -> str:
    (words,) = asked.takes("WORDS.txt", columns=("language", "caption"))
    found = text_based(asked.scores, asked.columns.get("caption", "caption"), asked.lookups.words(words))
    return f"({asked.column('language')} = 'en' AND {found})"


def _balanced(asked: Asked) -> str:
    words, most = asked.takes("WORDS.txt", "MOST", columns=("caption",))
    limit = asked.number(most, "the number of captions that an entry may keep")
    caption = asked.columns.get("caption", "caption")
    return balanced(asked.scores, caption, asked.lookups.words(words), limit, seed=asked.lookups.seed)


def _distinct(asked: Asked) -> str:
    compared = asked.given[0] if asked.given[:1] in (["sha256"], ["phash"]) else "embedding"
    (how,) = asked.takes("sha256|phash|COSINE", columns=(compared, "clip_score"))
    order = f"{_best_first(asked)}uid, {ROW}"
    if how == compared:
        column = asked.column(how)
        return f"({column} IS NULL OR {ROW} IN (SELECT first({ROW} ORDER BY {order}) FROM scored GROUP BY {column}))"
    cosine = asked.number(how, "sha256, phash or the least cosine of two images that count as the same")
    if cosine > 1:
        raise BadInput(f"cannot read {str(asked.term)!r} of --keep: no cosine is above 1; give for example 0.95")
    name = asked.columns.get("embedding", "embedding")
    return distinct(asked.scores, name, asked.lookups.centroids(name), cosine, order)


def _best_first(asked: Asked) -> str:
    """SQL to sort by the caption's score, best first; empty if there are no scores.

    Raises:
        BadInput: the scores are from several models, and the term does not choose one.
    """
    there = [name for name in asked.scores.columns if name.startswith("clip_score")]
    if "clip_score" not in (*asked.columns, *there):
        if not there:
            return ""
        raise BadInput(
            f"{str(asked.term)!r} of --keep keeps the image with the best caption, and there are several scores: "
            f"{', '.join(there)}; add clip_score={there[0]}"
        )
    return f"{number_of(asked.column('clip_score'))} DESC NULLS LAST, "


FILTERS: dict[str, Callable[[Asked], str]] = {
    "all": _all,
    "basic": _basic,
    "caption": _caption,
    "laion2b": _laion2b,
    "image_near": _image_near,
    "text_based": _text_based,
    "balanced": _balanced,
    "distinct": _distinct,
}


@dataclass(frozen=True)
class Condition:
    """The meaning of a term."""

    sql: str
    value: str = ""
    """SQL of the number that the term compares; empty if it compares none."""
    limit: float = 0.0
    """The limit for that number."""


def meaning(scores: Scores, term: Term, lookups: Lookups) -> Condition:
    """The condition of a term.

    Raises:
        BadInput: there is no such filter or column (the message names the nearest), or its arguments are wrong.
    """
    name, *rest = column_name(term.words[0]), *term.words[1:]
    if name in FILTERS:
        given, columns = _renamed(rest)
        return Condition(FILTERS[name](Asked(scores, term, lookups, given, columns)))
    is_column = name in scores.columns or name.startswith("json.")
    if is_column and len(rest) == 2 and rest[0] == "top":
        return _top(scores, term, scores.column(name), rest[1])
    if is_column and len(rest) >= 2 and rest[0] in COMPARISONS:
        return _compared(scores, term, name)
    if is_column:
        raise BadInput(
            f"cannot read {str(term)!r} of --keep: needed '{name} top 30%', or one of {' '.join(COMPARISONS)}"
        )
    known = [*FILTERS, *scores.columns]
    raise BadInput(
        f"unknown filter or column {name!r} in --keep{nearest(name, known)}; filters are {', '.join(FILTERS)}; columns "
        f"are {', '.join(scores.columns)}"
    )


def _renamed(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Split the words of a filter into its arguments and its replaced columns (written `ours = theirs`)."""
    given, columns, left = [], dict[str, str](), list(words)
    while left:
        word = left.pop(0)
        if left[:1] == ["="] and len(left) > 1:
            columns[word] = column_name(left[1])
            del left[:2]
        else:
            given.append(word)
    return given, columns


def _top(scores: Scores, term: Term, column: str, share: str) -> Condition:
    """DataComp's fraction: the threshold is the value at index int(n * fraction) in descending order; ties are kept."""
    if not re.fullmatch(r"\d*\.?\d+%?", share):
        raise BadInput(f"cannot read {str(term)!r} of --keep: needed a share, as in 'top 30%' or 'top 0.3'")
    fraction = float(Fraction(share[:-1]) / 100) if share.endswith("%") else float(share)
    if not 0 < fraction < 1:
        raise BadInput(f"cannot read {str(term)!r} of --keep: needed more than 0 % and less than 100 %")
    value = number_of(column)
    (num,) = scores.one(f"SELECT count({value}) FROM scored")
    if not num:
        raise BadInput(f"{str(term)!r} of --keep: no sample has a number in this column")
    (threshold,) = scores.one(
        f"SELECT {value} FROM scored WHERE {value} IS NOT NULL ORDER BY 1 DESC LIMIT 1 OFFSET {int(num * fraction)}"
    )
    return Condition(f"{value} >= {number_in(threshold)}", value, threshold)


def _compared(scores: Scores, term: Term, name: str) -> Condition:
    """The comparison of a column with one word, as numbers, as text, or in the column's own type.

    Raises:
        BadInput: there are several words, or a number is needed and the word is none.
    """
    _, how, word, *more = term.words
    if more:
        raise BadInput(
            f"cannot read {str(term)!r} of --keep: is an 'and' missing before {more[0]!r}? Put text of several "
            "words in quotes"
        )
    column, type_ = scores.column(name), scores.columns.get(name, "JSON")
    how = "=" if how == "==" else how
    number = None if 2 in term.quoted else _number(word)
    text = f"{column} {how} {text_of(word)}"
    if NUMBER.fullmatch(type_) or (type_ in TEXTS and how not in ("=", "!=")):
        if number is None:
            raise BadInput(f"cannot read {str(term)!r} of --keep: needed a number after {how}, not {word!r}")
        number = _as_kept(number, type_)
        whole = "INT" in type_ and re.fullmatch(r"[+-]?\d+", word)  # exact to the last digit, for hashes
        compared = f"{column} {how} {int(word)}" if whole else f"{number_of(column)} {how} {number_in(number)}"
        return Condition(compared, number_of(column), number)
    if type_ not in TEXTS:  # a boolean or a date: DuckDB converts the word
        return Condition(f"{text}::{type_}")
    if type_ == "JSON" and number is not None and abs(number) < EXACT:
        return Condition(f"{number_of(column)} {how} {number_in(number)}", number_of(column), number)
    return Condition(text)


def _number(word: str) -> float | None:
    try:
        found = float(word)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _as_kept(number: float, type_: str) -> float:
    """A number rounded to the column's type: 0.7 in 32 bits is less than 0.7 in 64, and numpy compares in 32 bits."""
    return float(np.float32(number)) if type_ == "FLOAT" else number
