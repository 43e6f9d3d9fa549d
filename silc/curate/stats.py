"""HTML page about the scores, to read before a selection: distributions, deciles, languages, words, copies."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from silc.curate.pictures import Album, Shown
from silc.curate.scores import ROW, number_in, number_of, quoted
from silc.durable import write_whole
from silc.page import bare, render, svg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markupsafe import Markup
    from matplotlib.figure import Figure

    from silc.curate.scores import Scores

PAGE, NUMBERS = "stats.html", "stats.json"
SIDE, ASPECT = "least(width, height)", "greatest(width, height)::DOUBLE / nullif(least(width, height), 0)"
DECILES = [tenth / 10 for tenth in range(11)]
EACH, BINS, WORDS, COPIES = 4, 40, 40, 6
"""Numbers of samples per decile, bars of a histogram, words in the list, and groups of copies."""
READ = 1_000_000
"""Number of randomly drawn captions whose words are counted."""
BAR = "#3b82f6"


@dataclass(frozen=True)
class Distribution:
    """The distribution of one number over all samples."""

    name: str
    sql: str
    num: int
    cuts: Sequence[float]
    """Minimum, deciles (approximate, from a sketch) and maximum."""
    drawing: Markup


def write_stats(scores: Scores, out: Path) -> dict[str, Any]:
    """Write the page and its numbers into a folder. Return the numbers."""
    found = [distribution for name, sql in _numbers(scores) if (distribution := _distribution(scores, name, sql))]
    numbers = {
        "samples": scores.one("SELECT count(*) FROM scored")[0],
        "causes": _counts(scores, "cause", "everything", 20) if "cause" in scores.columns else {},
        "languages": _counts(scores, "language", "scored", 12) if "language" in scores.columns else {},
        "words": _words(scores) if "caption" in scores.columns else {},
        "copies": {name: _surplus(scores, name) for name in ("sha256", "phash") if name in scores.columns},
        "distributions": {one.name: [round(cut, 6) for cut in one.cuts] for one in found},
    }
    album = Album(scores)
    page = render(
        Path(__file__).with_name("stats.html.j2"),
        about=scores.about,
        files=len(scores.files),
        numbers=numbers,
        distributions=found,
        deciles=[(one.name, _at_deciles(album, one)) for one in found if one.name.startswith("clip_score")],
        copies=_copies(scores, album),
    )
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / NUMBERS, json.dumps(numbers, indent=1) + "\n")
    write_whole(out / PAGE, page)
    return numbers


def _numbers(scores: Scores) -> list[tuple[str, str]]:
    """(name, SQL) of the numbers to show as histograms; the SQL gives NULL for values that are not finite."""
    named = [name for name in scores.columns if name.startswith("clip_score") or name in ("english", "words", "chars")]
    found = [(name, quoted(name)) for name in named]
    if {"width", "height"} <= set(scores.columns):
        found += [("shorter side", SIDE), ("aspect", ASPECT)]
    return [(name, f"CASE WHEN isfinite({number_of(sql)}) THEN {number_of(sql)} END") for name, sql in found]


def _distribution(scores: Scores, name: str, sql: str) -> Distribution | None:
    (num, least, greatest) = scores.one(f"SELECT count({sql}), min({sql}), max({sql}) FROM scored")
    if not num:
        return None
    (tenths,) = scores.one(f"SELECT approx_quantile({sql}, {DECILES[1:-1]}) FROM scored")
    cuts = [float(cut) for cut in (least, *tenths, greatest)]
    low, high = (
        cuts[0],
        max(cuts[-2] * 1.5, cuts[6]) if name in ("words", "chars", "shorter side", "aspect") else cuts[-1],
    )
    width = max(high - low, 1e-9) / BINS
    place = f"least(floor(({sql} - {number_in(low)}) / {number_in(width)}), {BINS - 1})::INTEGER"
    bars = dict(
        scores.con.execute(f"SELECT {place} AS b, count(*) FROM scored WHERE {sql} IS NOT NULL GROUP BY b").fetchall()
    )

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        heights = [bars.get(number, 0) for number in range(BINS)]
        axes.bar([low + width * (number + 0.5) for number in range(BINS)], heights, width=0.9 * width, color=BAR)
        bare(axes, name, grid="y")

    return Distribution(name, sql, num, cuts, svg(draw, (4.2, 2.2), salt=name, layout="constrained"))


def _at_deciles(album: Album, one: Distribution) -> list[tuple[str, list[Shown]]]:
    """For each decile, the samples just above it; for the last one, the samples with the highest values."""
    shown = []
    for tenth, cut in zip(DECILES, one.cuts, strict=True):
        last = tenth == 1.0
        where = f"{one.sql} IS NOT NULL" if last else f"{one.sql} >= {number_in(cut)}"
        order = f"{one.sql} DESC" if last else one.sql
        shown.append((f"{tenth:.0%}: {cut:.3f}", album.find(where, order, EACH, f"round({one.sql}, 3)")))
    return shown


def _counts(scores: Scores, column: str, table: str, most: int) -> dict[str, int]:
    sql = (
        f"SELECT {column}, count(*) AS n FROM {table} WHERE {column} IS NOT NULL "
        f"GROUP BY 1 ORDER BY n DESC, 1 LIMIT {most}"
    )
    return dict(scores.con.execute(sql).fetchall())


def _words(scores: Scores) -> dict[str, int]:
    drawn = f"SELECT caption FROM scored USING SAMPLE reservoir({READ} ROWS) REPEATABLE (0)"
    split = f"SELECT unnest(regexp_extract_all(lower(caption), '[\\p{{L}}\\p{{N}}]+')) AS word FROM ({drawn})"
    counted = (
        f"SELECT word, count(*) AS n FROM ({split}) WHERE length(word) > 3 "
        f"GROUP BY word ORDER BY n DESC, word LIMIT {WORDS}"
    )
    return dict(scores.con.execute(counted).fetchall())


def _surplus(scores: Scores, column: str) -> int:
    """Number of duplicates: samples minus distinct values."""
    (surplus,) = scores.one(f"SELECT count({column}) - count(DISTINCT {column}) FROM scored")
    return int(surplus)


def _copies(scores: Scores, album: Album) -> list[tuple[int, list[Shown]]]:
    """Groups of samples with the same perceptual hash, the largest first."""
    if "phash" not in scores.columns:
        return []
    groups = scores.con.execute(
        "SELECT phash, count(*) AS n FROM scored WHERE phash IS NOT NULL GROUP BY phash HAVING n > 1 "
        f"ORDER BY n DESC, phash LIMIT {COPIES}"
    ).fetchall()
    key = "key" if "key" in scores.columns else "''"
    return [(count, album.find(f"phash = {phash}::UBIGINT", ROW, EACH, key)) for phash, count in groups]


def described(numbers: dict[str, Any]) -> str:
    """Summary of the numbers as text, for a terminal."""
    lines = [f"{numbers['samples']:,} samples"]
    lines += [
        f"{name}: " + ", ".join(f"{key} {count:,}" for key, count in numbers[name].items())
        for name in ("causes", "languages")
        if numbers[name]
    ]
    lines += [
        f"{name}: {cuts[0]:.3g} to {cuts[-1]:.3g}, median {cuts[5]:.3g}"
        for name, cuts in numbers["distributions"].items()
    ]
    if numbers["copies"]:
        lines.append("copies: " + ", ".join(f"{count:,} by {name}" for name, count in numbers["copies"].items()))
    return "\n".join(lines)
