"""How long torch's threads keep a core while they wait for each other, where it can be told (GNU OpenMP, Linux)."""

from __future__ import annotations

import os

SPINS = "1000"
"""Turns of waiting before a thread sleeps: what GNU OpenMP takes by itself where it sees more threads than cores."""


def wait_briefly() -> None:
    """Let a thread that waits for the others give up its core soon; call before torch is imported, which reads it.

    By default it waits for about a millisecond, at each of a step's thousands of products. Where something else runs,
    be it the loader's own workers, the one waited for has no core meanwhile: two threads took 12 times as long as one,
    and told so twice as long (docs/log.md). What a person has set stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
