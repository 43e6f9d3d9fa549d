"""All output to the terminal; nothing else in the package prints. Names of files and captions are shown as plain text:
markup and emoji codes are not interpreted, and no control character is sent.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TextIO

    from rich.console import Console
    from rich.progress import Progress

Item = TypeVar("Item")
# Control characters (they can move, colour or retitle a terminal), lone surrogates (bytes that are no text), line ends
# that only some programs know, and characters that reverse the direction of writing.
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def plain(text: object) -> str:
    r"""Text in which every invisible character is escaped.

    >>> plain("a\x1b[31mb\r")
    'a\\x1b[31mb\\r'
    """
    return UNSEEN.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), str(text))


def one_line(text: object) -> str:
    """As `plain`, on one line."""
    return plain(text).replace("\n", "\\n")


def say(text: object, *, error: bool = False) -> None:
    """Print lines to stdout or stderr and flush them, because a run may take days. A closed pipe is no error."""
    stream = sys.stderr if error else sys.stdout
    try:
        print(plain(text), file=stream, flush=True)
    except UnicodeEncodeError:
        _replacing(stream)
        print(plain(text), file=stream, flush=True)
    except BrokenPipeError:
        _to_nobody(stream)
    except OSError:
        _to_nobody(stream)  # otherwise the interpreter tries again at its end
        raise


def complain(text: object) -> None:
    """Print an error as one line on stderr."""
    say(f"silc: {one_line(text)}", error=True)


def is_heard() -> bool:
    """Whether this process prints for its group before the group is joined: it is the only one, or torchrun's first."""
    return os.environ.get("RANK", "0") == "0"


def announce(line: str, *, error: bool = False) -> None:
    """Print what is about to be done, on one rank only; needs no torch, which takes seconds to load."""
    if is_heard():
        say(line, error=error)


def prepare() -> None:
    """Set up the process's streams and warnings so that every name can be printed."""
    for stream in (sys.stdout, sys.stderr):
        _replacing(stream)
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Plain())


def finish() -> None:
    """Flush stdout, while an error can still be handled."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        _to_nobody(sys.stdout)


def console(*, stderr: bool = False, width: int | None = None, **settings: Any) -> Console:
    """rich's console for plain text; use `rich.text.Text` for style."""
    from rich.console import Console

    class Plain(Console):
        def render_str(self, text: str, **given: Any) -> Any:
            return super().render_str(plain(text), **given)

        def on_broken_pipe(self) -> None:
            self.quiet = True
            _to_nobody(sys.stderr if self.stderr else sys.stdout)

    return Plain(stderr=stderr, width=width, markup=False, emoji=False, highlight=False, **settings)


def page(renderable: Any, *, width: int) -> None:
    """Show a table; without a terminal it is `width` characters wide."""
    here = console()
    (here if here.is_terminal else console(width=width)).print(renderable)


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Show rows under the names of their columns."""
    from rich.table import Table

    shown = Table(*columns, title=title, title_justify="left")
    for row in rows:
        shown.add_row(*row)
    page(shown, width=200)


def progress(console: Console, *columns: Any, **settings: Any) -> Progress:
    """Progress bars, each with a description in plain text; `columns` replace the usual ones."""
    from rich.progress import BarColumn, Progress, TimeRemainingColumn

    usual = (BarColumn(), words("{task.percentage:>3.0f}%"), TimeRemainingColumn())
    return Progress(words("{task.description}"), *(columns or usual), console=console, **settings)


def track(items: Iterable[Item], what: str, show: bool, total: int | None = None) -> Iterator[Item]:
    """Iterate over the items with a bar that goes away at the end; without a terminal or `show` there is none."""
    from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

    here = console(stderr=True)
    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with progress(here, *columns, transient=True, disable=not (show and here.is_terminal)) as bar:
        yield from bar.track(items, total=total, description=what)


def words(template: str) -> Any:
    """A column of plain text in a bar."""
    from rich.progress import TextColumn

    class Words(TextColumn):
        def render(self, task: Any) -> Any:
            from rich.text import Text

            return Text(one_line(self.text_format.format(task=task)), style=self.style, justify=self.justify)

    return Words(template, markup=False)


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return plain(super().format(record))


def _replacing(stream: TextIO | None) -> None:
    """Escape characters that the stream's encoding lacks."""
    if reconfigure := getattr(stream, "reconfigure", None):
        reconfigure(errors="backslashreplace")


def _to_nobody(stream: TextIO | None) -> None:
    """Discard what waits in the stream and all later output."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())  # type: ignore[union-attr]
        os.close(nowhere)
