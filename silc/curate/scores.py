"""The scores of all shards as one DuckDB table over parquet files, one per shard. They are never all in memory.

`silc data score` writes these files. Other files with a column `uid` work too, for example DataComp's metadata.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from silc.curate.marks import Marks
from silc.data.captions import words_of
from silc.data.uids import halves, is_subset
from silc.errors import BadInput
from silc.extras import needs
from silc.settings import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pyarrow as pa

METADATA = b"silc"
"""Key in a file's metadata for the description of its scoring (JSON)."""
ASKED = "asked-"
"""Prefix of the files that name the expected files of scores, so that missing ones are noticed."""
ALIASES = {
    "caption": ("text",),
    "width": ("original_width",),
    "height": ("original_height",),
}
"""Other names of our columns, in tables from elsewhere."""
ADVICE = "check the columns that --keep compares, or give more --memory"
"""Advice in messages about errors of DuckDB."""
ROW = "silc_row"
"""The column with a row's number (see `Marks`). `Scores.columns` does not list it."""
BATCH = 1 << 14
"""Number of rows in memory at a time."""


@dataclass
class Scores:
    """The rows of all files. In SQL, `everything` is all rows, `sound` the rows that are not broken, and `scored` the
    rows to select from."""

    con: Any
    files: Sequence[Path]
    columns: Mapping[str, str]
    """{name: SQL type} of the files' columns and of the columns derived from them."""
    about: dict[str, Any]
    """Description of the scoring, common to all files; empty for files that `silc data score` did not write."""
    missing: str = ""
    """One line about requested shards that have no scores; empty if none is missing."""
    _starts: np.ndarray | None = None
    _num_marked: int = 0

    def one(self, sql: str) -> Any:
        """The first row of a query's result; None if it has no rows."""
        return next(iter(self.con.execute(sql).fetchall()), None)

    def column(self, name: str) -> str:
        """SQL of a column. `json.NAME` is a field of the samples' own JSON, as text; `json.A.B` is a nested field.

        Raises:
            BadInput: there is no such column or field.
        """
        if name in self.columns:
            return quoted(name)
        if name.startswith("json.") and "json" in self.columns:
            return self._field(name.removeprefix("json."))
        known = ", ".join(self.columns)
        raise BadInput(f"there is no column {name!r}{nearest(name, self.columns)}; there are: {known}")

    def _field(self, name: str) -> str:
        """SQL of a field of the samples' JSON.

        Raises:
            BadInput: no sample has this field, so the name is probably wrong.
        """
        pointers = dict.fromkeys((_escaped(name), "/".join(map(_escaped, name.split(".")))))
        found = [f"json_extract_string(json, {text_of('/' + pointer)})" for pointer in pointers]
        sql = f"coalesce({', '.join(found)})"
        if self.one(f"SELECT 1 FROM scored WHERE {sql} IS NOT NULL LIMIT 1") is None:
            some = f"SELECT json FROM scored WHERE json IS NOT NULL LIMIT {BATCH}"
            keys = self.con.execute(f"SELECT DISTINCT unnest(json_keys(json)) AS k FROM ({some}) ORDER BY k LIMIT 100")
            known = [key for (key,) in keys.fetchall()]
            there = f"there are: {', '.join(known)}" if known else "there are none"
            raise BadInput(f"no sample has a field {name!r} in its JSON{nearest(name, known)}; {there}")
        return sql

    def marks(self, names: Sequence[str], passes: Callable[[pa.RecordBatch], Any], where: str = "true") -> str:
        """SQL condition that is true for the rows that the Python function `passes` accepts.

        Args:
            names: the columns that `passes` gets, after ROW.
            passes: function from a record batch of n rows to bool [n].
            where: SQL condition for the rows to test; for all other rows the result is false.
        """
        marks = self.no_marks()
        for batch in self.batches([ROW, *names], where):
            marks.add(np.asarray(batch.column(0))[np.asarray(passes(batch), bool)])
        return self.marked(marks)

    def no_marks(self) -> Marks:
        """An empty set of rows."""
        if self._starts is None:
            pq = needs("choosing among scores", "pyarrow.parquet", "curate")
            self._starts = np.cumsum([0, *(pq.read_metadata(file).num_rows for file in self.files)])
        return Marks(self._starts)

    def marked(self, marks: Marks) -> str:
        """SQL condition that is true for the rows in a set."""
        pa = needs("choosing among scores", "pyarrow", "curate")
        name, self._num_marked = f"marked_{self._num_marked}", self._num_marked + 1
        holds = lambda rows: pa.array(marks.holds(rows.to_numpy()))  # noqa: E731
        self.con.create_function(name, holds, ["BIGINT"], "BOOLEAN", type="arrow")
        return f"{name}({ROW})"

    def within(self, subset: np.ndarray) -> None:
        """Restrict `scored` to the rows whose uids are in a subset (`uids.UID` [n], sorted).

        Raises:
            BadInput: there is no such row.
        """
        inside = self.marks(["uid"], lambda batch: is_subset(halves(batch.column(1).to_pylist()), subset))
        self.con.execute(f"CREATE OR REPLACE VIEW scored AS SELECT * FROM sound WHERE {inside}")
        if not self.one("SELECT count(*) FROM scored")[0]:
            raise BadInput(f"none of the {len(subset):,} samples of --within is among these scores")

    def batches(self, names: Sequence[str], where: str = "true") -> Iterator[pa.RecordBatch]:
        """Columns of the rows of `scored` that satisfy `where`, BATCH rows at a time, in the order of the files."""
        listed = ", ".join(name if name == ROW else f"{self.column(name)} AS {quoted(name)}" for name in names)
        yield from self.stream(f"SELECT {listed} FROM scored WHERE {where}")

    def stream(self, sql: str, rows: int = BATCH) -> Iterator[pa.RecordBatch]:
        """The rows of a query, `rows` at a time, on a separate cursor, so that other queries may run in between."""
        pa = needs("choosing among scores", "pyarrow", "curate")
        with self.con.cursor() as cursor:
            reader = iter(cursor.sql(sql).to_arrow_reader(rows))
            while True:
                try:
                    batch = next(reader, None)
                except (pa.ArrowException, OSError) as error:  # pyarrow raises DuckDB's errors during reading
                    raise BadInput(f"{self.files[0].parent}: {_said(error)}; {ADVICE}") from error
                if batch is None:
                    return
                yield batch


@contextmanager
def open_scores(folder: Path, *, memory: str = "2GB") -> Iterator[Scores]:
    """Open all parquet files of a folder.

    Args:
        memory: DuckDB's memory limit; beyond this, DuckDB uses files in $TMPDIR.

    Raises:
        BadInput: there is no file, or a file is damaged, was scored differently from the others, or has no uid.
    """
    duckdb = needs("choosing among scores", "duckdb", "curate")
    files = sorted(Path(folder).glob("*.parquet")) if Path(folder).is_dir() else []
    if not files:
        raise BadInput(f"{folder} holds no scores; name the folder of *.parquet files that `silc data score` wrote")
    about = _agreed(files)
    with tempfile.TemporaryDirectory(prefix="silc-scores-") as scratch:
        con = duckdb.connect(f"{scratch}/scratch.duckdb")
        try:
            settings = {"memory_limit": memory, "temp_directory": scratch, "threads": str(_threads())}
            for name, value in (settings | {"preserve_insertion_order": "false"}).items():
                con.execute(f"SET {name} = {text_of(value)}")
            con.create_function("words_of", _words, ["VARCHAR"], "INTEGER", type="arrow")
            con.create_function("fasttext_tokens_of", _fasttext, ["VARCHAR"], "INTEGER", type="arrow")
            scores = Scores(con, files, _view(con, files), about, _missing(Path(folder)))
            _check_uids(scores, folder)
            yield scores
        except duckdb.Error as error:
            raise BadInput(f"{folder}: {_said(error)}; {ADVICE}") from error
        finally:
            con.close()


def column_name(name: str) -> str:
    """A column's name as in `Scores.columns` (lower case); names of JSON fields are unchanged."""
    return name if name.startswith("json.") else name.lower()


def quoted(name: str) -> str:
    """A name quoted for SQL."""
    return '"' + name.replace('"', '""') + '"'


def text_of(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def number_of(column: str) -> str:
    """SQL of a column's value as a number; NULL if it is no number or NaN (SQL treats NaN as the greatest number).

    `nullif(..., 'nan')` does not work: the files' statistics omit NaN, so DuckDB removes the comparison.
    """
    number = f"try_cast({column} AS DOUBLE)"
    return f"CASE WHEN NOT isnan({number}) THEN {number} END"


def number_in(number: float) -> str:
    """A number as an exact SQL literal; without the quotes, SQL would read it as a decimal."""
    return f"'{number!r}'::DOUBLE"


def _escaped(field: str) -> str:
    """A name escaped for a JSON pointer (RFC 6901)."""
    return field.replace("~", "~0").replace("/", "~1")


def shard_of(file: Path) -> str:
    """Path of the shard whose scores are in a file; the file's own path if the shard is not recorded."""
    pq = needs("reading scores", "pyarrow.parquet", "curate")
    about = json.loads((pq.read_schema(file).metadata or {}).get(METADATA, b"{}"))
    return str(about.get("shard", {}).get("path", file))


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _threads() -> int:
    asked = re.match(r"[1-9]\d*", os.environ.get("OMP_NUM_THREADS", ""))  # '4,2' is for nested loops
    return int(asked[0]) if asked else os.cpu_count() or 1


def _agreed(files: Sequence[Path]) -> dict[str, Any]:
    """The description of the scoring, which must be the same in all files.

    Raises:
        BadInput: a file is no parquet or is cut; two files were scored differently, or belong to the same shard.
    """
    pa, pq = (needs("reading scores", module, "curate") for module in ("pyarrow", "pyarrow.parquet"))
    first: tuple[Path, dict[str, Any]] | None = None
    shards: dict[str, Path] = {}
    for file in files:
        try:
            schema = pq.read_schema(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise BadInput(f"{file} is no complete parquet file ({_said(error)}); delete it and score again") from error
        about = json.loads((schema.metadata or {}).get(METADATA, b"{}"))
        shard = about.pop("shard", {}).get("path", str(file))
        if (other := shards.setdefault(shard, file)) != file:
            raise BadInput(f"{other} and {file} both have the scores of the shard {shard}; delete one")
        if first is None:
            first = file, about
        elif _models(about) != _models(first[1]):
            raise BadInput(
                f"{file} was scored {_by(about)}, {first[0]} {_by(first[1])}; select among scores of one model"
            )
    assert first is not None
    return first[1]


def _missing(folder: Path) -> str:
    asked = {name for file in folder.glob(f"{ASKED}*.json") for name in json.loads(file.read_text())}
    there = sum((folder / name).is_file() for name in asked)
    if there == len(asked):
        return ""
    rest = "`silc data score` with the same --out scores the others"
    return f"{folder} has scores of {there:,} of {len(asked):,} shards; {rest}"


def _models(about: dict[str, Any]) -> dict[str, Any]:
    """The description without the models' paths: models are compared by checksum."""
    models = [{name: value for name, value in one.items() if name != "source"} for one in about.get("models", ())]
    return about | {"models": models}


def _by(about: dict[str, Any]) -> str:
    models = ", ".join(f"{one['source']} ({one['checksum'][:8]})" for one in about.get("models", ()))
    return f"by {models}" if models else "by no model"


def _view(con: Any, files: Sequence[Path]) -> dict[str, str]:
    """Create the views `everything`, `sound` and `scored`. Return {column: type}."""
    # DuckDB reads each name as a glob pattern, where `[*]` means a plain asterisk.
    listed = ", ".join(text_of(re.sub(r"[\[*?]", r"[\g<0>]", str(file))) for file in files)
    source = f"read_parquet([{listed}])"
    # SQL ignores the case of names; ours are in lower case.
    there = [name.lower() for name, *_ in con.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()]
    if "uid" not in there:
        raise BadInput(f"{files[0].parent} has tables without a column uid; their columns are: {', '.join(there)}")
    made = {
        name: quoted(other)
        for name, others in ALIASES.items()
        for other in others
        if other in there and name not in there
    }
    if "caption" in (*there, *made):
        caption = made.get("caption", '"caption"')
        counts = {"chars": "length", "words": "words_of", "fasttext_tokens": "fasttext_tokens_of"}
        made |= {name: f"{function}({caption})" for name, function in counts.items() if name not in there}
    more = "".join(f", {sql} AS {name}" for name, sql in made.items())
    con.execute(
        f"CREATE VIEW everything AS SELECT *, (file_index::BIGINT << 32) | file_row_number AS {ROW}{more} FROM {source}"
    )
    sound = "cause IS NULL" if "cause" in there else "true"
    con.execute(f"CREATE VIEW sound AS SELECT * FROM everything WHERE {sound}")
    con.execute("CREATE VIEW scored AS SELECT * FROM sound")
    types = {name.lower(): str(type_) for name, type_, *_ in con.execute("DESCRIBE scored").fetchall()}
    return {name: types[name] for name in (*there, *made)}


def _check_uids(scores: Scores, folder: Path) -> None:
    wrong = scores.one(
        "SELECT uid FROM everything WHERE uid IS NULL OR NOT regexp_full_match(uid, '[0-9a-f]{32}') LIMIT 1"
    )
    if wrong:
        raise BadInput(f"{wrong[0]!r} in {folder} is no uid; needed 32 hexadecimal digits in lower case")


def _words(captions: Any) -> Any:
    return _counted(captions, lambda caption: words_of(caption)[0])


def _fasttext(captions: Any) -> Any:
    return _counted(captions, lambda caption: words_of(caption)[1])


def _counted(captions: Any, count: Callable[[str], int]) -> Any:
    pa = needs("choosing among scores", "pyarrow", "curate")
    return pa.array([None if each is None else count(each) for each in captions.to_pylist()], pa.int32())
