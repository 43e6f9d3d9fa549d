"""Select a subset by an expression over the scores, and report the effect of each term."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from silc.curate.expression import Expression, Term, condition, parse, terms
from silc.curate.filters import Condition, meaning
from silc.curate.pictures import Album
from silc.curate.scores import number_in
from silc.data.uids import BEST, UID, best_captions, halves
from silc.durable import whole
from silc.errors import BadInput
from silc.page import render

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from silc.curate.lookups import Lookups
    from silc.curate.scores import Scores

WRITTEN = 1 << 16
"""Number of uids that are written at a time."""
SHOWN = 8
"""Number of samples per term in each list of the page."""


@dataclass(frozen=True)
class Effect:
    """The effect of one term."""

    term: str
    kept: int
    """Number of samples for which the term is true."""
    alone: int
    """Number of samples that this term decides: if its value alone were reversed, so would be their result."""
    decides: str
    """SQL condition for these samples."""
    value: str = ""
    """SQL of the number that the term compares with `limit`; empty if none."""
    limit: float = 0.0


@dataclass(frozen=True)
class Choice:
    """A selected subset: counts, and the effect of each term."""

    num: int
    total: int
    """Number of samples to select from, without broken ones."""
    broken: int
    repeated: int
    """Number of kept rows minus the number of their distinct uids."""
    condition: str
    """SQL condition for the kept samples."""
    effects: Sequence[Effect]


def select(scores: Scores, keep: str, out: Path, lookups: Lookups) -> Choice:
    """Write the uids of the samples for which `keep` is true: sorted, repeated uids included, as DataComp does.

    If samples have several captions, the index of the best one is written to a file beside it (`best_captions`).

    Raises:
        BadInput: the expression is not valid, or no sample is left; then nothing is written.
    """
    expression = parse(keep)
    found = {term: meaning(scores, term, lookups) for term in terms(expression)}
    meanings = {term: f"coalesce({one.sql}, false)" for term, one in found.items()}
    kept = condition(expression, lambda term: meanings[term])
    best = "best_caption" if "best_caption" in scores.columns else "0"
    scores.con.execute(f"CREATE TABLE chosen AS SELECT uid, {best} AS best FROM scored WHERE {kept}")
    num, repeated, captioned = scores.one("SELECT count(*), count(*) - count(DISTINCT uid), max(best) FROM chosen")
    effects = [_effect(scores, expression, term, meanings, found[term]) for term in found]
    (total,) = scores.one("SELECT count(*) FROM scored")
    if not num:
        said = ", ".join(f"{effect.term} keeps {effect.kept:,}" for effect in effects)
        raise BadInput(f"none of {total:,} samples is kept: {said}; use weaker filters")
    _write(scores, out, num, with_best=bool(captioned))
    (broken,) = scores.one("SELECT (SELECT count(*) FROM everything) - (SELECT count(*) FROM sound)")
    return Choice(num, total, broken, repeated, kept, effects)


def _effect(
    scores: Scores, expression: Expression, term: Term, meanings: Mapping[Term, str], found: Condition
) -> Effect:
    """The effect of a term. It decides a sample if the sample's result depends on whether the term is true."""
    held, not_held = (
        condition(expression, lambda each, held=held: held if each == term else meanings[each])  # type: ignore[misc]
        for held in ("true", "false")
    )
    decides = f"({held}) != ({not_held})"
    passes, alone = scores.one(
        f"SELECT count(*) FILTER (WHERE {meanings[term]}), count(*) FILTER (WHERE {decides}) FROM scored"
    )
    return Effect(str(term), passes, alone, decides, found.value, found.limit)


def _write(scores: Scores, out: Path, num: int, *, with_best: bool) -> None:
    """Write the subset in blocks, because a billion uids take 16 GB."""
    places = best_captions(out)
    with ExitStack() as files:
        uids = _array(files.enter_context(whole(out)), UID, num)
        best = _array(files.enter_context(whole(places)), BEST, num) if with_best else None
        start = 0
        for batch in scores.stream("SELECT uid, best::USMALLINT AS best FROM chosen ORDER BY uid, best", WRITTEN):
            of = slice(start, start + len(batch))
            uids[of] = halves(batch.column(0).to_pylist())
            if best is not None:
                best["f0"][of], best["f1"][of] = uids["f0"][of], uids["f1"][of]
                best["best"][of] = np.asarray(batch.column(1))
            start = of.stop
        for written in (uids, best):
            if written is not None:
                written.flush()
    if not with_best:
        places.unlink(missing_ok=True)  # left by an earlier subset of this name


def _array(path: Path, dtype: np.dtype[np.void], num: int) -> np.memmap[Any, Any]:
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(num,))


def page_of(scores: Scores, keep: str, choice: Choice) -> str:
    """HTML page with the samples that each term decides; those nearest to its limit come first."""
    album, shown = Album(scores), []
    for effect in choice.effects:
        order = f"abs({effect.value} - {number_in(effect.limit)})" if effect.value else "hash(uid)"
        note = f"round({effect.value}, 4)" if effect.value else "''"
        goes, stays = f"{effect.decides} AND NOT {choice.condition}", f"{effect.decides} AND {choice.condition}"
        shown.append((effect, album.find(goes, order, SHOWN, note), album.find(stays, order, SHOWN, note)))
    return render(Path(__file__).with_name("select.html.j2"), keep=keep, choice=choice, shown=shown)


def described(choice: Choice) -> str:
    """Summary of the choice as text, for a terminal."""
    lines = [f"{choice.num:,} of {choice.total:,} samples are kept ({choice.num / choice.total:.1%})"]
    lines += [
        f"    {effect.term}: keeps {effect.kept:,}; {effect.alone:,} are decided by this term alone"
        for effect in choice.effects
    ]
    if choice.broken:
        lines.append(f"{choice.broken:,} broken samples were left out")
    if choice.repeated:
        lines.append(
            f"{choice.repeated:,} rows have the uid of another kept row; each is written, as DataComp does: "
            "training takes every sample with that uid"
        )
    return "\n".join(lines)
