"""Versions with known holes cannot be installed: floors in pyproject.toml, and what the lock pins."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
FLOORS = {
    "torch": "2.10.0",  # CVE-2026-24747 (the weights_only unpickler), CVE-2025-32434
    "transformers": "5.3.0",  # CVE-2026-4372 (code from config.json), CVE-2026-1839
    "pillow": "12.3.0",  # CVE-2026-59200 and a dozen beside it
    "gradio": "6.7.0",  # CVE-2026-28414, CVE-2026-28416
    "python-multipart": "0.0.27",  # CVE-2026-42561
    "starlette": "0.49.1",  # CVE-2025-62727 (a Range header that costs quadratic time)
    "h11": "0.16.0",  # CVE-2025-43859 (request smuggling)
    "lightning": "2.6.1",  # CVE-2026-31221
}


def asked_for() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(line) for lines in (project["dependencies"], *extras) for line in lines]


def pinned() -> dict[str, Version]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return {m[1]: Version(m[2]) for line in lines if (m := re.match(r"([a-z0-9-]+)==([^\s;]+)", line))}


@pytest.mark.parametrize(("name", "floor"), FLOORS.items())
def test_floor(name: str, floor: str) -> None:
    for requirement in asked_for():
        if requirement.name.lower() == name:
            bounds = [Version(bound.version) for bound in requirement.specifier if bound.operator == ">="]
            assert bounds, f"{requirement} has no lower bound"
            assert max(bounds) >= Version(floor), requirement
    if name in pinned():
        assert pinned()[name] >= Version(floor)


def test_the_floors_that_matter_are_asked_for() -> None:
    names = {requirement.name.lower() for requirement in asked_for()}
    assert {"torch", "transformers", "pillow"} <= names
    assert {"torch", "transformers", "pillow"} <= pinned().keys()


def test_what_would_be_resolved_to_something_old() -> None:
    """Pitfalls: open_clip's training extra pins webdataset, and beside a newer one the resolver takes an open_clip of
    years ago; no optimum-onnx goes with transformers 5; CLIP_benchmark stops on numpy 2.4."""
    asked = {requirement.name.lower(): requirement for requirement in asked_for()}
    assert not asked["open_clip_torch"].extras
    assert not asked["open_clip_torch"].specifier.contains("2.26.1")
    assert not {"optimum", "optimum-onnx", "clip-benchmark", "img2dataset"} & asked.keys()
