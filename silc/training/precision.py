"""The precision in which the towers compute, and why: bfloat16 if the device is fast at it, else float32.

A processor without instructions for bfloat16 multiplies such matrices some 25 to 50 times more slowly than float32 ones
(docs/log.md). No list says which processors have them, so both are timed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

if TYPE_CHECKING:
    from silc.distributed import World

Precision = Literal["bf16", "float32"]
Asked = Literal["auto", "bf16", "float32"]

SIDE = 256
WORTH = 1.5
"""`auto` takes bf16 on a CPU from this gain on: casts use up part of a smaller gain, and bf16 loses half of the
digits."""
SECONDS, ROUNDS = 0.02, 3
"""How long products are timed, and the least number of rounds."""


class DeviceSpeed(NamedTuple):
    """Which precisions a device is fast in."""

    best: Precision
    """The precision that `auto` takes."""
    slow: tuple[Precision, ...]
    """The precisions that are slow there."""
    why: str


class Choice(NamedTuple):
    """The precision of a run, and a line for the user about it, or ''."""

    precision: Precision
    said: str


def choose(asked: Asked, world: World, written: Asked | None = None) -> Choice:
    """The precision of a run, the same on every rank: rank 0's device decides.

    Args:
        asked: the precision in the configuration.
        written: the precision in the config.yaml of a run that resumes; `auto` keeps it. None for a new run.
    """
    kept = None if written == "auto" else written
    answer: Choice = world.from_main(_choose(asked, world.device, kept) if world.is_main else None)
    return answer


def _choose(asked: Asked, device: torch.device, written: Precision | None) -> Choice:
    if asked == "float32":
        return Choice(asked, "")  # the user wants its digits
    fit = speed_of(device)
    if asked == "auto" and written is None:
        return Choice(fit.best, f"precision: {fit.best}; {fit.why}")
    precision, reason = (asked, "as asked for") if asked != "auto" else (written or fit.best, "in which this run began")
    said = f"precision: {precision}, {reason}, is slow here: {fit.why}" if precision in fit.slow else ""
    return Choice(precision, said)


def speed_of(device: torch.device) -> DeviceSpeed:
    """Which precisions a device is fast in: a CPU is timed (some 30 ms; 0.1 s if bf16 is slow), a GPU is looked up."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return DeviceSpeed("bf16", ("float32",), f"{name} has bf16")
        return DeviceSpeed("float32", ("bf16",), f"{name} has no bf16")
    gain = cpu_gain()
    why = f"this processor multiplies matrices in bf16 {gain:.2g} times as fast as in float32"
    if gain >= WORTH:
        return DeviceSpeed("bf16", ("float32",), why)
    return DeviceSpeed("float32", ("bf16",) if gain < 1 else (), why)


def cpu_gain() -> float:
    """How many times as fast as in float32 this CPU multiplies matrices in bf16: one thread, best of several rounds.

    One thread: if something else runs, two threads wait for each other, by chance more often in one of the types.
    """
    kinds = (torch.float32, torch.bfloat16)
    matrices = {kind: torch.ones(SIDE, SIDE, dtype=kind) for kind in kinds}
    best = dict.fromkeys(kinds, float("inf"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rounds, end = 0, time.perf_counter() + SECONDS
        while rounds < ROUNDS or time.perf_counter() < end:
            rounds += 1
            for kind, matrix in matrices.items():
                start = time.perf_counter()
                torch.mm(matrix, matrix)
                best[kind] = min(best[kind], time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return best[torch.float32] / best[torch.bfloat16]
