"""Whether the page's tests miss a part of the page: each part is taken out of a copy, and the tests are run on it.

python -m scripts.page_mutants            (minutes each; needs chromium)
python -m scripts.page_mutants split link (those whose name has one of these words)

Parts: every handler of a control, and every line that draws a class, heat, components, likeness, boxes or a legend.
The exit code is the number of parts that no test missed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = "silc/serve/page"
DRAWN = {
    "overlay": ("drawing.js", r"return overlay\(.*?\);", "return image;"),
    "components": ("drawing.js", r"return mixed\(.*?\);", "return image;"),
    "like a patch": (
        "drawing.js",
        r'if \(shown === "similar"\) return heat\(.*?\);',
        'if (shown === "similar") return image;',
    ),
    "heat": ("drawing.js", r"return heat\(image, pixelsOf\(map.*?\);", "return image;"),
    "boxes": ("drawing.js", r'if \(view\(\) === "boxes"\).*?;', ""),
    "second picture": ("drawing.js", r"drawSecond\(shown\[0\]\);", ""),
    "mark": ("drawing.js", r"mark\(shown\[0\]\);\n", "\n"),
    "legend": ("drawing.js", r"legend\(shown\);\n\}", "}"),
    "right side": ("drawing.js", r"if \(right\) context\.putImageData\(.*?\);", ""),
    **{
        f"overlay of class {index}": ("draw.js", r"hidden\.has\(labels\[at\]\)", f"labels[at] === {index}")
        for index in range(3)
    },
}
"""Of the page's drawing: file, what is there, what stands there instead."""


def parts() -> Iterator[tuple[str, str, str]]:
    """(name, file, its text without the part)"""
    page = (ROOT / PAGE / "page.js").read_text()
    for line in re.findall(r"^ +(?:for \(.*?\) )?on\(.*;$", page, flags=re.MULTILINE):
        yield f"handler {line.strip()}", "page.js", page.replace(line + "\n", "")
    for name, (file, there, instead) in DRAWN.items():
        before = (ROOT / PAGE / file).read_text()
        after, times = re.subn(there, instead, before, count=1, flags=re.DOTALL)
        assert times == 1, f"{name} is not where it was: {there}"
        yield name, file, after


def missed_by(file: str, text: str) -> str:
    """The first test that fails without the part; empty: none does."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("silc", "tests", "docs"):
            shutil.copytree(ROOT / name, Path(folder) / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        (Path(folder) / PAGE / file).write_text(text)
        command = [sys.executable, "-m", "pytest", "tests/serve/test_page.py", "-m", "slow", "-x", "-q"]
        environment = {**os.environ, "PYTHONPATH": folder}
        said = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if said.returncode not in (0, 1):
        raise SystemExit(said.stdout + said.stderr)
    return next(iter(re.findall(r"^(?:FAILED|ERROR) \S+::(\S+)", said.stdout, flags=re.MULTILINE)), "")


def main(words: list[str]) -> int:
    """Take out one part after the other."""
    lived = 0
    for name, file, text in parts():
        if words and not any(word in name for word in words):
            continue
        by = missed_by(file, text)
        lived += not by
        print(f"{'missed by ' + by if by else 'NO TEST MISSED IT':<70} {name}", flush=True)
    return lived


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
