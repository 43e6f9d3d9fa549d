"""The paper's tables, with rows of runs beside the published rows.

`published.json` holds the numbers with their sources. A run's row comes from its scores.json, so `silc eval` must score
the run first. Scores beyond the paper's columns stand to the right of these.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from silc.durable import write_whole
from silc.errors import BadInput
from silc.eval.files import text_of
from silc.eval.score_table import ways_of
from silc.eval.tasks import TASKS
from silc.page import render
from silc.records import COSTS
from silc.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NAMES = ("main", "few-shot", "sizes", "teacher-student", "ablation", "open-vocabulary", "zero-shot-segmentation")


class Column(NamedTuple):
    """One score of one task."""

    label: str
    task: str
    dataset: str
    metric: str


@dataclass(frozen=True)
class ModelRow:
    """A published model, or a run with one kind of weights."""

    name: str
    published: bool
    scores: Sequence[float | None]
    """In percent, one per column; None if a score is missing."""
    costs: Sequence[float | None] = (None,) * len(COSTS)
    """Training cost: examples seen and FLOPs."""
    spread: Sequence[float | None] = ()
    """If the row is a mean over seeds: their standard deviations, one per column."""
    run: Path | None = None
    """The run, or the file of scores, that the row is from."""


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper with added rows of runs."""

    title: str
    source: str
    columns: Sequence[Column]
    rows: Sequence[ModelRow]
    notes: Sequence[str]
    """Reasons why a row cannot be compared with the published ones."""

    @property
    def heads(self) -> list[str]:
        """Titles of the columns, and of the cost columns if any row has a cost."""
        costs = [called for called, _ in COSTS.values()] if self._costs else []
        return [*(column.label for column in self.columns), *costs]

    def cells(self, row: ModelRow) -> list[str]:
        """The texts of a row's cells, one for each title in `heads`."""
        forms = ["{:.1f}"] * len(self.columns) + [form for _, form in COSTS.values()] * self._costs
        values = [*row.scores, *row.costs][: len(forms)]
        written = ["" if value is None else form.format(value) for value, form in zip(values, forms, strict=True)]
        spreads = [*row.spread, *[None] * len(written)]
        return [
            cell if spread is None else f"{cell} ± {spread:.1f}" for cell, spread in zip(written, spreads, strict=False)
        ]

    @property
    def _costs(self) -> bool:
        return any(row.costs[0] is not None for row in self.rows)


def paper_table(name: str, runs: Sequence[Path], names: Sequence[str] = ()) -> PaperTable:
    """Lay runs out in the columns of a published table.

    Args:
        name: one of `NAMES`.
        runs: directories with a scores.json, or such files. If the paper shows the teacher, the row of a run that has
            a teacher shows it too.
        names: names of the runs; empty: the shortest ends of their paths that differ.

    Raises:
        BadInput: a run has no scores.
    """
    published = _published()
    table = published["tables"][name]
    columns = [Column(**published["columns"][key]) for key in table["columns"]]
    names = names or distinct_names([folder_of(run) for run in runs])
    own = [
        (run, *row) for name, run in zip(names, runs, strict=True) for row in _scored(run, name, shown=table["weights"])
    ]
    there = {(column.task, column.dataset) for column in columns}
    columns += _others(columns, [record for *_, records in own for record in records])
    added = len(columns) - len(table["columns"])
    theirs = [
        ModelRow(row["name"], True, [row["scores"].get(key) for key in table["columns"]] + [None] * added)
        for row in table["rows"]
    ]
    ours = [
        ModelRow(name, False, _scores(records, columns), [*map(records[0].get, COSTS)], run=run)
        for run, name, records in own
    ]
    notes = _unequal(ours)
    for _, label, records in own:
        beside = [record for record in records if (record["task"], record["dataset"]) in there]
        rest = [record for record in records if (record["task"], record["dataset"]) not in there]
        notes += [f"{label}: {note}" for note in (*_differences(beside, published), *_notes(rest))]
    return PaperTable(table["title"], table["source"], columns, [*theirs, *ours], list(dict.fromkeys(notes)))


def folder_of(run: Path) -> Path:
    """The folder of a run, or of a file of scores."""
    return run.parent if run.suffix == ".json" else run


def num_columns(name: str) -> int:
    """Number of columns that a table has in the paper; added columns stand to their right."""
    return len(_published()["tables"][name]["columns"])


def _published() -> Any:
    return json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))


def distinct_names(runs: Sequence[str | Path]) -> list[str]:
    """The last parts of each path, as few as make the names differ; names like `open_clip:...` stay whole.

    >>> distinct_names([Path("out/clip/seed-0"), Path("out/silc_c/seed-0")]), distinct_names([Path("out/run")])
    (['clip/seed-0', 'silc_c/seed-0'], ['run'])
    """
    paths = [Path(run).absolute() for run in runs]
    longest, names = max((len(path.parts) for path in paths), default=1), []
    for length in range(1, longest + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(set(paths)):
            break
    return [str(run) if ":" in str(run) else name for run, name in zip(runs, names, strict=True)]


def to_markdown(table: PaperTable) -> str:
    """A Markdown table with title, source and notes."""
    lines = [
        f"**{table.title}**, in percent. Grey rows of the page, *slanted* here, are published: {table.source}.",
        "",
    ]
    lines += ["| " + " | ".join(["", *map(in_markdown, table.heads)]) + " |"]
    lines += ["| --- |" + " ---: |" * len(table.heads)]
    for row in table.rows:
        name = f"*{row.name}*" if row.published else in_markdown(row.name)
        lines.append("| " + " | ".join([name, *table.cells(row)]) + " |")
    lines += [""] * bool(table.notes) + [f"* {in_markdown(note)}" for note in table.notes]
    return "\n".join(lines) + "\n"


def in_markdown(text: str) -> str:
    r"""Any text as Markdown that shows it unchanged, also in a cell of a table.

    >>> print(in_markdown("a|b *c*"))
    a\|b \*c\*
    """
    return re.sub(r"([\\`*\[\]<>|~$&])", r"\\\1", one_line(text))


def to_latex(table: PaperTable) -> str:
    """The table in LaTeX for the package booktabs; published rows are slanted."""
    heads = " & ".join(["", *map(in_latex, table.heads)])
    lines = [f"% {one_line(table.title)}, in percent. Slanted rows are published: {one_line(table.source)}."]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(table.heads)}}}", r"\toprule", rf"{heads} \\", r"\midrule"]
    for above, row in zip([None, *table.rows], table.rows, strict=False):
        lines += [r"\midrule"] * (above is not None and above.published and not row.published)
        name = rf"\textsl{{{in_latex(row.name)}}}" if row.published else in_latex(row.name)
        cells = [cell.replace("±", r"$\pm$") for cell in table.cells(row)]
        lines.append(rf"{' & '.join([name, *cells])} \\")
    lines += [r"\bottomrule", r"\end{tabular}", *(f"% {one_line(note)}" for note in table.notes)]
    return "\n".join(lines) + "\n"


LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {letter: f"\\{letter}" for letter in "&%$#_{}"}


def in_latex(text: str) -> str:
    r"""Any text as LaTeX that shows it unchanged.

    >>> print(in_latex("a_b & 50%"))
    a\_b \& 50\%
    """
    return "".join(LATEX.get(letter, letter) for letter in one_line(text))


def to_html(table: PaperTable) -> str:
    """The table as an HTML page that loads no other file."""
    return render(Path(__file__).with_name("tables.html.j2"), title=table.title, table=table)


def to_json(table: PaperTable) -> str:
    """The table as JSON for programs: rows of scores by column."""
    labels = [column.label for column in table.columns]
    rows = [
        {"name": row.name, "published": row.published, "scores": dict(zip(labels, row.scores, strict=True))}
        | dict(zip(COSTS, row.costs, strict=True))
        | ({"spread": dict(zip(labels, row.spread, strict=True))} if row.spread else {})
        for row in table.rows
    ]
    content = {"title": table.title, "source": table.source, "rows": rows, "notes": list(table.notes)}
    return json.dumps(content, indent=1) + "\n"


def write(table: PaperTable, stem: Path) -> list[Path]:
    """Write <stem>.md, .html, .json and .tex."""
    texts = {".md": to_markdown(table), ".html": to_html(table), ".json": to_json(table), ".tex": to_latex(table)}
    files = {stem.with_name(stem.name + suffix): text for suffix, text in texts.items()}
    for file, text in files.items():
        write_whole(file, text)
    return list(files)


def _scored(run: Path, name: str, *, shown: str) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """(label, records) of each model and weights in a run's scores; with `shown` "teacher" only a teacher's, if any."""
    file = run if run.suffix == ".json" else run / "scores.json"
    if not file.is_file():
        raise BadInput(f"{run} has no scores yet; first `silc eval {run} --root DATA`")
    found, rows = read_scores(file), []
    models = list(dict.fromkeys(model for model, _ in found))
    for model in models:
        by_weights = {weights: records for (owner, weights), records in found.items() if owner == model}
        chosen = ["teacher"] if shown == "teacher" and "teacher" in by_weights else list(by_weights)
        label = name if run.suffix != ".json" and len(models) == 1 else model
        for weights in chosen:
            ways = _by_way(by_weights[weights], weights)
            called = [label] if weights == label else [label, weights]  # a head and its folder often have one name
            rows += [(", ".join(filter(None, (*called, way))), own) for way, own in ways]
    return rows


def _by_way(records: Sequence[Mapping[str, Any]], weights: str) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """(way, records) for each way of segmentation; records of other tasks are in each.

    The way is empty if there is only one, unless its decoder is neither the default nor the head called `weights`."""
    protocols = [record["protocol"] for record in records]
    decoders = {one.get("decoder", UNSAID["decoder"]) for one in protocols if "readout" in one}
    unusual = [one for one in decoders if len(decoders) == 1 and one.lower() not in (UNSAID["decoder"], weights)]
    ways = ways_of(protocols)
    different = list(dict.fromkeys(filter(None, ways))) or [""]
    return [
        (" ".join(filter(None, (*unusual, one))), [r for r, way in zip(records, ways, strict=True) if way in ("", one)])
        for one in different
    ]


PARTS = {"model": str, "weights": str, "task": str, "dataset": str, "metrics": dict, "protocol": dict}
"""Parts of a record that a table needs, with their types."""


def read_scores(file: Path) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """The records of a scores.json by model and weights.

    Raises:
        BadInput: it is no list of records, or one of them lacks a part.
    """
    try:
        records = json.loads(text_of(file))
    except ValueError as error:
        raise BadInput(f"{file} is no list of records as `silc eval` writes it: {error!r}") from error
    if not isinstance(records, list):
        raise BadInput(f"{file} is no list of records as `silc eval` writes it, but a {type(records).__name__}")
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for number, record in enumerate(records, 1):
        wrong = _wrong_part(record)
        if wrong:
            raise BadInput(f"{file} is no list of records as `silc eval` writes it: record {number} has no {wrong}")
        found.setdefault((record["model"], record["weights"]), []).append(record)
    return found


def _wrong_part(record: Any) -> str:
    """The part that a record lacks or that has another type; empty if the record is complete."""
    own = record if isinstance(record, dict) else {}
    missing = [name for name, kind in PARTS.items() if not isinstance(own.get(name), kind)]
    if missing:
        return missing[0]
    return next((f"number for {name}" for name, x in own["metrics"].items() if type(x) not in (int, float)), "")


def _others(columns: Sequence[Column], records: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Columns for the headline scores that the table does not have."""
    there = {(column.task, column.dataset, column.metric) for column in columns}
    found = {
        (record["task"], record["dataset"], metric): None
        for record in records
        if record["task"] in TASKS
        for metric in TASKS[record["task"]].headlines
        if metric in record["metrics"] and (record["task"], record["dataset"], metric) not in there
    }
    return [
        Column(f"{dataset} {TASKS[task].headlines[metric]}", task, dataset, metric) for task, dataset, metric in found
    ]


def _unequal(rows: Sequence[ModelRow]) -> list[str]:
    """Notes on runs with over 5 % more training FLOPs than the cheapest; numbers of examples say little about cost."""
    known = [(row.costs[1], row) for row in rows if row.costs[1]]
    if not known:
        return []
    least, cheapest = min(known, key=lambda one: one[0])
    alike: dict[tuple[float, bool], list[str]] = {}  # rows of one model by several decoders cost the same
    for flops, row in known:
        names = alike.setdefault((flops, row.costs[0] == cheapest.costs[0]), []) if flops > 1.05 * least else []
        if row.name not in names:  # rows of several seeds have one name
            names.append(row.name)
    return [
        f"{names[0]}{f' and {len(names) - 1} more' if names[1:] else ''} took {flops / least:.1f} times the training "
        f"FLOPs of {cheapest.name}{' for the same examples' if same else ''}"
        for (flops, same), names in alike.items()
    ]


def _scores(records: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> list[float | None]:
    found = {(r["task"], r["dataset"], metric): 100 * r["metrics"][metric] for r in records for metric in r["metrics"]}
    return [found.get((column.task, column.dataset, column.metric)) for column in columns]


UNSAID = {"decoder": "cosine"}
"""Defaults that a record of segmentation leaves out."""
UNCOMPARED = (
    *("num_images", "num_texts", "num_classes", "split", "shots", "image_size"),  # properties of the set and the column
    *("names_sha256", "num_words", "background_ignored", "background_names"),  # follow from the names and the set
    "ensemble",  # no effect with one prompt
    *("readout", "exif_orientation"),  # the paper does not give these
)
"""Entries of a record that do not count as a difference of protocol if published rows lack them."""


def _differences(records: Sequence[Mapping[str, Any]], published: Mapping[str, Any]) -> list[str]:
    """How a row's records differ in protocol from published rows; data sets with the same differences share a note.

    The paper says whose protocol it follows, but not every setting; `published.json` has the settings of these authors.
    """
    alike: dict[str, list[str]] = {}
    for record in records:
        ours = (UNSAID if "readout" in record["protocol"] else {}) | record["protocol"]
        theirs, sizes = published["protocols"][record["task"]], published["num_images"].get(record["dataset"], [])
        said = [
            f"{name} {_said(ours[name])}, not {_said(value)}"
            for name, value in theirs.items()
            if name in ours and ours[name] != value
        ]
        said += [
            f"{name} {_said(value)}"
            for name, value in ours.items()
            if name not in theirs and name not in UNCOMPARED and value
        ]
        if sizes and ours.get("num_images", sizes[0]) not in sizes:
            said.append(f"{ours['num_images']:,} images, not {' or '.join(f'{size:,}' for size in sizes)}")
        if said:
            where = alike.setdefault("; ".join(said), [])
            where += [record["dataset"]] * (record["dataset"] not in where)
    return [f"{', '.join(where)}: {said}" for said, where in alike.items()]


def _said(value: Any) -> str:
    """A protocol's value in readable form."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"'{value}'" if isinstance(value, str) and ", " in value else str(value)


def _notes(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Notes on records that are refined or tuned on labels, for scores without published ones to compare with."""
    notes = []
    for dataset, protocol in ((record["dataset"], record["protocol"]) for record in records):
        notes += [f"{dataset} is refined ({protocol['refined']})"] if protocol.get("refined") else []
        notes += [f"{dataset} uses numbers tuned on labels"] if protocol.get("tuned_on_labels") else []
    return notes
