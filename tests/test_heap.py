"""Freed memory is kept, and used again."""

from __future__ import annotations

import subprocess
import sys

import pytest

PAGES = """
import ctypes, resource, sys
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: large pages are too few to be counted
import numpy as np
from silc.heap import keep_freed_memory, return_large_memory
if sys.argv[1] != "leave":
    keep_freed_memory()
if sys.argv[1] == "return":
    return_large_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for turn in range(4):
    before = faults()
    for megabytes in (64, 1, 7):
        np.ones(megabytes << 17)
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="malloc is told on Linux")
def test_pages_are_not_asked_for_again() -> None:
    def faults(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", PAGES, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("keep") < 50
    assert faults("return") > 10_000
    assert faults("leave") > 10_000  # 64 MB are 16,384 pages
