"""How long an evaluation still takes, for the person who waits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from silc.terminal import console, progress, say

if TYPE_CHECKING:
    from rich.progress import Progress


class Bar:
    """Progress of an evaluation: a bar on a terminal, a line a task elsewhere (`suite.Progress`)."""

    def __init__(self, bar: Progress, speaks: bool) -> None:
        self.bar, self.speaks = bar, speaks
        self.outer, self.inner = bar.add_task("evaluate"), bar.add_task("", visible=False)

    def __call__(self, what: str, done: int, total: int) -> None:
        self.bar.update(self.outer, description=what, completed=done, total=total)
        if self.speaks and not self.bar.console.is_terminal and done < total:
            say(f"evaluating {done + 1}/{total}: {what}")

    def within(self, what: str, done: int, total: int) -> None:
        """Progress inside a task."""
        self.bar.update(self.inner, description=what, completed=done, total=total, visible=True)


@contextmanager
def evaluation_bar(speaks: bool) -> Iterator[Bar]:
    """One that says nothing on ranks that do not speak."""
    here = console()
    with progress(here, transient=True, disable=not (speaks and here.is_terminal)) as bar:
        yield Bar(bar, speaks)
