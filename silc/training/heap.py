"""What the allocator of a process does with memory that was given back."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""glibc's malloc.h."""


def keep_freed_memory() -> None:
    """Let malloc keep what is freed, where it can be told (glibc).

    A step on a CPU frees gigabytes and asks for them again. By default large pieces go back to the system each time,
    and come back page by page, zeroed: a sixth of a step in bfloat16 (docs/performance.md). What is held grows to the
    most that was needed at once and stays there.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
