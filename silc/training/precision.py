"""Which numbers the towers are computed in, and why: bfloat16 where the device is fast at it, else float32.

A processor without instructions for bfloat16 multiplies its matrices some 25 to 50 times more slowly than float32's
(docs/log.md). No list says which processor that is, so both are tried.
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
"""`auto` takes bf16 on a CPU from this gain on: casts take a part of a smaller one, and half of the digits are gone."""
SECONDS, ROUNDS = 0.02, 3
"""How long the products are tried, and how often at least."""


class DeviceSpeed(NamedTuple):
    """What a device is good at."""

    best: Precision
    """What `auto` takes."""
    slow: tuple[Precision, ...]
    """What costs time there."""
    why: str


class Choice(NamedTuple):
    """The precision of a run, and what is to be said about it, or nothing."""

    precision: Precision
    said: str


def choose(asked: Asked, world: World, written: Asked | None = None) -> Choice:
    """The precision of a run, the same on every rank: rank 0's device decides.

    Args:
        asked: what the configuration says.
        written: what the config.yaml of a run that goes on says; `auto` keeps to it. None for a new run.
    """
    kept = None if written == "auto" else written
    answer: Choice = world.from_main(_choose(asked, world.device, kept) if world.is_main else None)
    return answer


def _choose(asked: Asked, device: torch.device, written: Precision | None) -> Choice:
    if asked == "float32":
        return Choice(asked, "")  # whoever asks for it wants its digits
    fit = speed_of(device)
    if asked == "auto" and written is None:
        return Choice(fit.best, f"precision: {fit.best}; {fit.why}")
    precision, reason = (asked, "as asked for") if asked != "auto" else (written or fit.best, "in which this run began")
    said = f"precision: {precision}, {reason}, is slow here: {fit.why}" if precision in fit.slow else ""
    return Choice(precision, said)


def speed_of(device: torch.device) -> DeviceSpeed:
    """What a device is good at: a CPU is tried (some 30 ms; 0.1 s where bf16 is slow), of a GPU torch knows it."""
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
    """How many times as fast as in float32 this CPU multiplies matrices in bf16: one thread, the best of several turns.

    One thread, as two wait for each other wherever something else runs, in either type by chance.
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
