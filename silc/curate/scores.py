"""The scores of all shards as one table, by DuckDB: a parquet a shard, never all of them in memory.

`silc data score` writes these files. Others will do that have a column `uid`, DataComp's metadata for one.
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
"""Key of a file's metadata under which stands what scored it (JSON)."""
ASKED = "asked-"
"""How the names of files begin that list which files of scores there are to be."""
ALIASES = {
    "caption": ("text",),
    "width": ("original_width",),
    "height": ("original_height",),
}
"""Names that other people's tables have for our columns."""
ADVICE = "check the columns that --keep compares, or give more --memory"
"""What to do where the data base refuses."""
ROW = "silc_row"
"""The column that numbers the rows: the file's number, and the row's in it. It is not among `Scores.columns`."""
BATCH = 1 << 14
"""Rows of a file in memory at a time."""


@dataclass
class Scores:
    """The rows of all files. SQL knows them as `everything`, those that are no broken samples as `sound`, and what is
    chosen among as `scored`."""

    con: Any
    files: Sequence[Path]
    columns: Mapping[str, str]
    """Of the files, and those that are made of them: name and type in SQL."""
    about: dict[str, Any]
    """What scored them: shared by all; empty for files that `silc data score` did not write."""
    missing: str = ""
    """What is not scored of the shards that were asked for, in a line; empty if nothing is missing."""
    _starts: np.ndarray | None = None
    _num_marked: int = 0

    def one(self, sql: str) -> Any:
        """The one row of a query; None, if there is none."""
        return next(iter(self.con.execute(sql).fetchall()), None)

    def column(self, name: str) -> str:
        """SQL of a column; `json.NAME` is a field of the samples' own JSON, as text, and `json.A.B` one within another.

        Raises:
            BadInput: there is none.
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
            BadInput: no sample has it; a field that no one has would be taken for one that is missing in each.
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
        """A condition that holds for the rows for which `passes` says so, which sees them a batch at a time.

        Args:
            names: the columns that it sees.
            passes: record batch of n rows to bool [n].
            where: SQL of the rows that it sees; it holds for no other.
        """
        marks = self.no_marks()
        for batch in self.batches([ROW, *names], where):
            marks.add(np.asarray(batch.column(0))[np.asarray(passes(batch), bool)])
        return self.marked(marks)

    def no_marks(self) -> Marks:
        """A set of rows that is empty yet."""
        if self._starts is None:
            pq = needs("choosing among scores", "pyarrow.parquet", "curate")
            self._starts = np.cumsum([0, *(pq.read_metadata(file).num_rows for file in self.files)])
        return Marks(self._starts)

    def marked(self, marks: Marks) -> str:
        """A condition that holds for the rows in a set."""
        pa = needs("choosing among scores", "pyarrow", "curate")
        name, self._num_marked = f"marked_{self._num_marked}", self._num_marked + 1
        holds = lambda rows: pa.array(marks.holds(rows.to_numpy()))  # noqa: E731
        self.con.create_function(name, holds, ["BIGINT"], "BOOLEAN", type="arrow")
        return f"{name}({ROW})"

    def within(self, subset: np.ndarray) -> None:
        """Let `scored` be the rows alone whose uids are in a subset (`uids.UID` [n], sorted).

        Raises:
            BadInput: there is none.
        """
        inside = self.marks(["uid"], lambda batch: is_subset(halves(batch.column(1).to_pylist()), subset))
        self.con.execute(f"CREATE OR REPLACE VIEW scored AS SELECT * FROM sound WHERE {inside}")
        if not self.one("SELECT count(*) FROM scored")[0]:
            raise BadInput(f"none of the {len(subset):,} samples of --within is among these scores")

    def batches(self, names: Sequence[str], where: str = "true") -> Iterator[pa.RecordBatch]:
        """Columns of all rows, some thousand rows at a time, in the files' order."""
        listed = ", ".join(name if name == ROW else f"{self.column(name)} AS {quoted(name)}" for name in names)
        yield from self.stream(f"SELECT {listed} FROM scored WHERE {where}")

    def stream(self, sql: str, rows: int = BATCH) -> Iterator[pa.RecordBatch]:
        """The rows of a query, so many at a time, on a connection of their own: between two others may be written."""
        pa = needs("choosing among scores", "pyarrow", "curate")
        with self.con.cursor() as cursor:
            reader = iter(cursor.sql(sql).to_arrow_reader(rows))
            while True:
                try:
                    batch = next(reader, None)
                except (pa.ArrowException, OSError) as error:  # what DuckDB meets in the middle comes by pyarrow
                    raise BadInput(f"{self.files[0].parent}: {_said(error)}; {ADVICE}") from error
                if batch is None:
                    return
                yield batch


@contextmanager
def open_scores(folder: Path, *, memory: str = "2GB") -> Iterator[Scores]:
    """All parquet files of a folder.

    Args:
        memory: what DuckDB may take; what needs more goes to files in $TMPDIR.

    Raises:
        BadInput: there is none, one is damaged, was not scored as the others were, or has no uid.
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
    """A column as `Scores.columns` has it; fields of JSON stay as they are written."""
    return name if name.startswith("json.") else name.lower()


def quoted(name: str) -> str:
    """A name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def text_of(text: str) -> str:
    """A text in SQL."""
    return "'" + text.replace("'", "''") + "'"


def number_of(column: str) -> str:
    """SQL of a column's number; NULL where it is none, NaN included, which SQL takes for the greatest of all.

    `nullif(..., 'nan')` would not do: NaN is in no file's statistics, by which DuckDB drops the comparison.
    """
    number = f"try_cast({column} AS DOUBLE)"
    return f"CASE WHEN NOT isnan({number}) THEN {number} END"


def number_in(number: float) -> str:
    """A number in SQL, to the bit: without quotes it would be a decimal first."""
    return f"'{number!r}'::DOUBLE"


def _escaped(field: str) -> str:
    """A name within a JSON pointer (RFC 6901)."""
    return field.replace("~", "~0").replace("/", "~1")


def shard_of(file: Path) -> str:
    """Where the shard lay whose scores a file holds; the file's own name, where it does not say."""
    pq = needs("reading scores", "pyarrow.parquet", "curate")
    about = json.loads((pq.read_schema(file).metadata or {}).get(METADATA, b"{}"))
    return str(about.get("shard", {}).get("path", file))


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _threads() -> int:
    asked = re.match(r"[1-9]\d*", os.environ.get("OMP_NUM_THREADS", ""))  # '4,2' is for nested loops
    return int(asked[0]) if asked else os.cpu_count() or 1


def _agreed(files: Sequence[Path]) -> dict[str, Any]:
    """What all files say of how they were scored.

    Raises:
        BadInput: one is no parquet, or is cut; two were scored differently, or are of one shard.
    """
    pa, pq = (needs("reading scores", module, "curate") for module in ("pyarrow", "pyarrow.parquet"))
    first: tuple[Path, dict[str, Any]] | None = None
    shards: dict[str, Path] = {}
    for file in files:
        try:
            schema = pq.read_schema(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise BadInput(
                f"{file} is half a parquet file or none ({_said(error)}); delete it and score again"
            ) from error
        about = json.loads((schema.metadata or {}).get(METADATA, b"{}"))
        shard = about.pop("shard", {}).get("path", str(file))
        if (other := shards.setdefault(shard, file)) != file:
            raise BadInput(f"{other} and {file} are both of the shard {shard}; delete one")
        if first is None:
            first = file, about
        elif _models(about) != _models(first[1]):
            raise BadInput(f"{file} is {_by(about)}, {first[0]} {_by(first[1])}; choose among scores of one model")
    assert first is not None
    return first[1]


def _missing(folder: Path) -> str:
    asked = {name for file in folder.glob(f"{ASKED}*.json") for name in json.loads(file.read_text())}
    there = sum((folder / name).is_file() for name in asked)
    if there == len(asked):
        return ""
    return f"{folder} has scores of {there:,} of {len(asked):,} shards; `silc data score` with the same --out goes on"


def _models(about: dict[str, Any]) -> dict[str, Any]:
    """What scored a file, whatever path the models had: their checksums tell."""
    models = [{name: value for name, value in one.items() if name != "source"} for one in about.get("models", ())]
    return about | {"models": models}


def _by(about: dict[str, Any]) -> str:
    models = ", ".join(f"{one['source']} ({one['checksum'][:8]})" for one in about.get("models", ()))
    return f"by {models}" if models else "by no model"


def _view(con: Any, files: Sequence[Path]) -> dict[str, str]:
    """Make `scored`, and say what columns it has, of which types."""
    # Each name is a pattern to DuckDB, whose `[*]` is an asterisk.
    listed = ", ".join(text_of(re.sub(r"[\[*?]", r"[\g<0>]", str(file))) for file in files)
    source = f"read_parquet([{listed}])"
    # Names are alike to SQL whatever their case; ours are in small letters.
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
