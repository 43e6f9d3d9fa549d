"""Progress of an evaluation on the terminal, and its list of tasks that could not be scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from silc.terminal import console, one_line, progress, say

if TYPE_CHECKING:
    from pathlib import Path

    from rich.progress import Progress

    from silc.errors import BadInput


class Bar:
    """Progress of an evaluation: a bar on a terminal, one line per task elsewhere (`suite.OnProgress`)."""

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


class Unscored:
    """The tasks that could not be scored; each is reported in one line when it fails (`suite.Failed`)."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell = tell
        self.told: set[tuple[str, str]] = set()
        self.tasks: list[str] = []

    def __call__(self, task: str, weights: str, error: BadInput) -> None:
        """Report a failed task; the same error is not reported again for other weights."""
        if (task, str(error)) not in self.told:
            self.told.add((task, str(error)))
            self.tell(one_line(f"{task} is not scored: {error}"))
        if task not in self.tasks:
            self.tasks.append(task)

    def summary(self, out: Path) -> list[str]:
        """Lines about the failed tasks for the end of the run in `out`; empty if no task failed."""
        if not self.tasks:
            return []
        return [
            f"not scored during training: {', '.join(self.tasks)}; correct their data and `silc eval {out}` scores them"
        ]


@contextmanager
def evaluation_bar(speaks: bool) -> Iterator[Bar]:
    """A progress bar; it is silent on ranks without `speaks`."""
    here = console()
    with progress(here, transient=True, disable=not (speaks and here.is_terminal)) as bar:
        yield Bar(bar, speaks)
