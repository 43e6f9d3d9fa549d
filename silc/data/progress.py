"""How long reading still takes, for the person who waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

from silc.terminal import console, progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Item = TypeVar("Item")


def track(items: Iterable[Item], what: str, show: bool, total: int | None = None) -> Iterator[Item]:
    """The items, with a bar on a terminal that goes away at the end; nothing elsewhere, or without `show`."""
    here = console(stderr=True)
    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with progress(here, *columns, transient=True, disable=not (show and here.is_terminal)) as bar:
        yield from bar.track(items, total=total, description=what)
