"""README.md of an exported head: the form that the model cards of all heads share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from silc.eval.tables import in_markdown
from silc.exports.card import checked, score_rows, scores_of

if TYPE_CHECKING:
    from silc.exports.verify import Check


def front_matter(task: str, tags: Sequence[str], license: str, datasets: Sequence[str]) -> dict[str, Any]:
    """Front matter of the card, for a hub. `task` is the hub's name of the task (`pipeline_tag`)."""
    return {
        "library_name": "silc",
        "pipeline_tag": task,
        "license": license,
        "tags": ["silc", *tags],
        "datasets": list(datasets),
    }


def page(
    run: Path,
    kind: str,
    front: Mapping[str, Any],
    about: Sequence[str],
    use: str,
    trained: Sequence[str],
    checks: Sequence[Check],
    more: Sequence[str] = (),
) -> str:
    """The text of README.md.

    Args:
        run: the head's run; its name is the title, its scores are shown.
        kind: kind of the run, by which its scores are found.
        about: sections that describe the head; they come first.
        use: code that uses it.
        trained: lines about the training.
        more: sections before the checks.
    """
    sections = [
        f"---\n{yaml.safe_dump(dict(front), sort_keys=False)}---",
        f"# {in_markdown(run.name)}",
        *about,
        f"## Use\n\n{use}",
        "## Training\n\n" + "\n".join(trained),
        "## Scores\n\n" + score_rows(scores_of(run, kind)),
        *more,
        "## Checked\n\nRead back and compared with the model it was written from.\n\n" + checked(checks),
    ]
    return "\n\n".join(sections) + "\n"
