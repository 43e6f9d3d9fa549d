"""The processor's name, and what makes it faster: threads that wait briefly, freed memory that is kept, attention
without fused kernels.

The settings of threads need GNU OpenMP, those of memory glibc. Importing this module imports no torch.
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
"""Turns of waiting before a thread sleeps: GNU OpenMP's own value if it sees more threads than cores."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
"""Constants of glibc's malloc.h."""
CPUINFO = Path("/proc/cpuinfo")


def name() -> str:
    """The processor's name, if Linux says it: "AMD EPYC 7B13"; else its architecture."""
    said = re.search(r"^model name\s*: (.+)$", CPUINFO.read_text() if CPUINFO.is_file() else "", re.MULTILINE)
    return said[1].strip() if said else platform.machine()


def wait_briefly() -> None:
    """Let a thread that waits for others give up its core soon. Call this before torch is imported.

    By default a thread waits actively for about a millisecond, at each of a step's thousands of products. If something
    else runs, such as the loader's own workers, the thread that it waits for may have no core: two threads took 12
    times as long as one, and with this setting twice as long (docs/log.md). The setting is an environment variable,
    which is read when torch is imported. A value that the user has set stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def keep_freed_memory() -> None:
    """Let this process keep all that it frees.

    A step on a CPU frees gigabytes and asks for them again. By default large pieces go back to the system each time,
    and come back page by page, zeroed: this takes a sixth of a step in bfloat16 (docs/performance.md). The memory held
    grows to the most that was needed at once and stays there.
    """
    _tell((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1))


def return_large_memory() -> None:
    """Let this process give large memory back, as malloc does by default; for a fork of a process that keeps all."""
    _tell((M_MMAP_MAX, 65536), (M_MMAP_THRESHOLD, 32 << 20), (M_TRIM_THRESHOLD, 64 << 20))


def _tell(*settings: tuple[int, int]) -> None:
    import ctypes  # imported here: the command line imports this module before all else

    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        for name, value in settings:
            mallopt(name, value)


def choose_attention(model: nn.Module, device: torch.device, *, half: bool) -> None:
    """Switch every attention of a model to the faster code.

    The fused kernel for bfloat16 on a CPU takes seven times as long as plain products on a local view's 36 tokens and
    three times on a global view's 256 (torch 2.15, AVX-512, forward and backward; docs/performance.md). In all other
    cases the fused kernel is faster, and it keeps no attention matrix.
    """
    fused = not (half and device.type == "cpu")
    module: Any
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
