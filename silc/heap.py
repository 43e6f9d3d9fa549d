"""What malloc does with memory that was given back, where it can be told (glibc)."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
"""glibc's malloc.h."""


def keep_freed_memory() -> None:
    """Let this process keep all that it frees.

    A step on a CPU frees gigabytes and asks for them again. By default large pieces go back to the system each time,
    and come back page by page, zeroed: a sixth of a step in bfloat16 (docs/performance.md). What is held grows to the
    most that was needed at once and stays there.
    """
    _tell((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1))


def return_large_memory() -> None:
    """Let this process give back what is large, as malloc by itself ends up doing; for a fork of one that keeps all."""
    _tell((M_MMAP_MAX, 65536), (M_MMAP_THRESHOLD, 32 << 20), (M_TRIM_THRESHOLD, 64 << 20))


def _tell(*settings: tuple[int, int]) -> None:
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        for name, value in settings:
            mallopt(name, value)
