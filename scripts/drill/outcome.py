"""What became of a run: how far it came, what it saved, whether that equals another's; and the line that says so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from silc import checkpoint
from silc.training.log import history


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    scenario: str
    tries: int
    survived: int
    figure: str

    @property
    def lost(self) -> int:
        return self.tries - self.survived


def steps_done(out: Path) -> int:
    """Last logged step of a run."""
    records = history(out)
    return records[-1]["step"] if records else 0


def step_of(root: Path) -> int:
    found = checkpoint.find(root)
    return checkpoint.step_of(found[0]) if found else 0


def everything(out: Path) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """Tensors and state of the newest checkpoint."""
    saved = checkpoint.read(checkpoint.find(out / "checkpoints")[0])
    return {
        f"{part}/{name}": t for part, tensors in saved.state_dicts.items() for name, t in tensors.items()
    }, saved.state


def same(a: Path, b: Path) -> bool:
    """Whether weights, moments, teacher, centre, generators, position and counts are equal, bit for bit."""
    (tensors, state), (others, other_state) = everything(a), everything(b)
    return (
        state == other_state
        and tensors.keys() == others.keys()
        and all(torch.equal(value, others[name]) for name, value in tensors.items())
    )


def alike(a: Path, b: Path) -> bool:
    """Whether every step was trained once, its loss within 1e-5 relative."""
    ours, theirs = history(a), history(b)
    return [record["step"] for record in ours] == [record["step"] for record in theirs] and all(
        abs(x["loss/total"] - y["loss/total"]) <= 1e-5 * abs(y["loss/total"]) for x, y in zip(ours, theirs, strict=True)
    )
