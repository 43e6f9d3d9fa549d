"""`silc bench`: run parts of the benchmark, print the table, keep the JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from silc.types import BadInput

if TYPE_CHECKING:
    from silc.bench.measure import Row


@dataclass(frozen=True)
class BenchConfig:
    """What to measure, and on what."""

    parts: tuple[str, ...] = ("all",)
    device: str = "auto"
    images: str = ""
    """Tar shards of photographs for the loader; without them it makes JPEGs of its own."""
    out: str = ""
    """File for the JSON; nothing is written without one."""


PARTS: dict[str, Callable[[BenchConfig], list[Row]]] = {}
"""Parts by name. Each imports what it needs when it runs."""


def chosen(names: Sequence[str]) -> list[str]:
    """Names of parts, `all` spelt out.

    Raises:
        BadInput: there is no such part.
    """
    for name in names:
        if name != "all" and name not in PARTS:
            raise BadInput(f"no part '{name}' of the benchmark; it has: {', '.join(PARTS)}, all")
    return list(PARTS) if "all" in names else list(names)


def write(rows: Sequence[Row], environment: dict[str, object], file: Path) -> None:
    """Keep rows and what they were measured on."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [asdict(row) | {"met": row.met} for row in rows]
    file.write_text(json.dumps({"environment": environment, "rows": lines}, indent=1) + "\n")


def table(rows: Sequence[Row]) -> Table:
    """The rows as people read them."""
    lines = Table("#", "what", "value", "target", "met")
    for row in rows:
        met = "" if row.met is None else ("yes" if row.met else "no")
        lines.add_row(str(row.number), row.what, f"{row.value:.3g} {row.unit}".strip(), str(row.target or ""), met)
    return lines
