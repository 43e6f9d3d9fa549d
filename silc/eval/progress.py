"""How long an evaluation still takes, for the person who waits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress


class Bar:
    """Progress of an evaluation: a bar on a terminal, a line a task elsewhere (`suite.Progress`)."""

    def __init__(self, bar: Progress, speaks: bool) -> None:
        self.bar, self.speaks = bar, speaks
        self.outer, self.inner = bar.add_task("evaluate"), bar.add_task("", visible=False)

    def __call__(self, what: str, done: int, total: int) -> None:
        self.bar.update(self.outer, description=what, completed=done, total=total)
        if self.speaks and not self.bar.console.is_terminal and done < total:
            print(f"evaluating {done + 1}/{total}: {what}", flush=True)

    def within(self, what: str, done: int, total: int) -> None:
        """Progress inside a task."""
        self.bar.update(self.inner, description=what, completed=done, total=total, visible=True)


@contextmanager
def evaluation_bar(speaks: bool) -> Iterator[Bar]:
    """One that says nothing on ranks that do not speak."""
    console = Console()
    with Progress(console=console, transient=True, disable=not (speaks and console.is_terminal)) as bar:
        yield Bar(bar, speaks)
