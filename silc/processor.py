"""A processor's name, and what makes it faster: threads that wait briefly, freed memory that is kept, attention without
fused kernels.

Threads and memory where GNU OpenMP and glibc can be told. Importing this module imports no torch.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

SPINS = "1000"
"""Turns of waiting before a thread sleeps: what GNU OpenMP takes by itself where it sees more threads than cores."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
"""glibc's malloc.h."""
CPUINFO = Path("/proc/cpuinfo")


def name() -> str:
    """What people call this processor, where Linux says it: "AMD EPYC 7B13"; else its architecture."""
    said = re.search(r"^model name\s*: (.+)$", CPUINFO.read_text() if CPUINFO.is_file() else "", re.MULTILINE)
    return said[1].strip() if said else platform.machine()


def wait_briefly() -> None:
    """Let a thread that waits for the others give up its core soon; call before torch is imported, which reads it.

    By default it waits for about a millisecond, at each of a step's thousands of products. Where something else runs,
    be it the loader's own workers, the one waited for has no core meanwhile: two threads took 12 times as long as one,
    and told so twice as long (docs/log.md). What a person has set stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


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
    import ctypes  # here, as the command line reads this module before all else

    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        for name, value in settings:
            mallopt(name, value)


def choose_attention(model: nn.Module, device: torch.device, *, half: bool) -> None:
    """Switch every attention of a model to the faster code.

    The fused kernel for bfloat16 on a CPU takes seven times as long as plain products on a local view's 36 tokens and
    three times on a global view's 256 (torch 2.15, AVX-512, forward and backward; docs/performance.md). Everywhere else
    it is the faster one, and keeps no attention matrix.
    """
    fused = not (half and device.type == "cpu")
    module: Any
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
