"""The largest batch that one card of a size holds, for several recipes and sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silc.errors import BadInput
from silc.plan.project import MOMENTS
from silc.plan.step import measure
from silc.terminal import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from silc.config import Config

BATCHES = 64, 512
"""Measured. Between and around them memory lies on a line: SILC S/16 holds 0.8 % less at 128 pairs, as much at 700."""


def sizes(given: str) -> list[float]:
    """Gigabytes of cards, from '8,24,80'.

    Raises:
        BadInput: it is no such list.
    """
    try:
        found = [float(word) for word in given.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < size < 1e6 for size in found):
        raise BadInput(f"--cards is {given!r}; needed gigabytes with commas between them, e.g. 8,24,80")
    return found


def largest_batches(configs: Sequence[Config], gigabytes: Sequence[float]) -> dict[str, dict[float, int]]:
    """The largest batch of each recipe on one card of so many gigabytes (10^9); 0 where not even one pair fits."""
    found = {}
    for config in configs:
        say(f"plan: {config.recipe}: steps of {BATCHES[0]} and {BATCHES[1]} pairs, on tensors without data", error=True)
        vocabulary = config.model.text.vocab_size or config.data.vocab_size
        steps = [measure(config, batch=batch, ranks=1, vocab_size=vocabulary) for batch in BATCHES]
        few, many = (sum(step.memory.values()) + MOMENTS * step.trained for step in steps)
        a_pair = (many - few) / (BATCHES[1] - BATCHES[0])
        apart = few - BATCHES[0] * a_pair
        found[config.recipe] = {size: max(0, int((size * 1e9 - apart) / a_pair)) for size in gigabytes}
    return found


def micro_batch(largest: int) -> int:
    """A `train.micro_batch` where so many pairs fit at once: a power of two, at most half of them.

    The other half is for what a larger batch keeps whole: views and embeddings, and a tenth more for parts.
    """
    return 1 << (largest // 2).bit_length() - 1 if largest > 1 else largest
