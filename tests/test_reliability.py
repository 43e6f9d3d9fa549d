"""docs/reliability.md names tests and scripts that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "reliability.md").read_text()


def test_its_proofs_exist() -> None:
    nodes = re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", TEXT)
    assert len(nodes) > 10
    for file, name in nodes:
        assert (ROOT / file).is_file(), file
        assert not name or f"def {name}(" in (ROOT / file).read_text(), f"{file}::{name}"
    for script in re.findall(r"(?<!tests/)scripts/\w+\.py", TEXT):
        assert (ROOT / script).is_file(), script


def test_every_cause_is_named() -> None:
    from silc.data.check import MEANINGS

    assert set(MEANINGS) <= set(re.findall(r"`(\w+)`", TEXT))
