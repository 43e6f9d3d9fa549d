"""Project one measured step to a run: memory and traffic with an engine, time, hours, money, and more nodes.

There are two engines. `none`: every rank holds all weights (DistributedDataParallel). `full`: every rank holds a shard
and gathers one block at a time (FSDP2's fully_shard).

Time is computed, not measured: FLOPs / (peak * MFU), and bytes / bandwidth. Collectives are rings: for S bytes, each of
n ranks sends (n-1)/n S in an all-gather or reduce-scatter, and twice that in an all-reduce. A ring crosses from node to
node once, so a node's network carries the bytes of one rank. A step's time has two bounds: full overlap of computing
and sending (the longer of both), or no overlap (their sum). Not included: reading data, stragglers, latency, other
traffic.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from silc.errors import BadInput
from silc.plan.meter import BACKWARD, CONTRASTIVE, GRADIENTS, LOSSES, TEACHER_WEIGHTS
from silc.plan.step import Collective, Step, measure
from silc.pretraining.build import flops_per_example
from silc.settings import amount_of
from silc.terminal import say
from silc.training.config import examples_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from silc.config import Config
    from silc.plan.gpus import Gpu

Sharding = Literal["none", "full"]
MFU = 0.4
"""Model FLOPs utilisation, the fraction of the peak: 559 pairs/s of a CLIP g/14 on 8 A100-80 are 39 % (NVIDIA's NeMo,
"CLIP: performance"). Use less for small towers and fast cards: the same model on 8 H100 reached 21 %, open_clip's B/16
on A100-40 13 %."""
EXAMPLES = {"5 B examples (the paper's ablations)": 5e9, "20 B examples (the paper's runs)": 20e9}
NODES = (1, 16, 64)
LOOKED = 4
"""Search for a fitting batch up to this multiple of the planned one."""
FLOAT, MOMENTS = 4, 8  # bytes per parameter: float32, AdamW's two moments
BUCKETS, OPTIMIZER = "DDP's buckets", "AdamW's moments"


@dataclass(frozen=True)
class Bounds:
    """Seconds of computing and of sending in a step."""

    compute: float
    send: float

    @property
    def overlapped(self) -> float:
        """Seconds of a step if computing and sending overlap fully."""
        return max(self.compute, self.send)

    @property
    def in_turn(self) -> float:
        """Seconds of a step if computing and sending do not overlap."""
        return self.compute + self.send


@dataclass(frozen=True)
class Plan:
    """The plan of one recipe on some cards."""

    recipe: str
    gpu: Gpu
    mfu: float
    price: float | None
    """Price per card and hour, in any currency."""
    examples: float | None
    """Length of the run in examples; None if it is in epochs and the number of pairs is unknown (no data is read)."""
    recorded: float
    """FLOPs per example, forward and backward, as runs record them (`train_flops`): counted with a batch of one."""
    step: Step
    sharded: Step
    """The same step with sharding; equal to `step` on one card."""
    others: tuple[Step, Step]
    """The same step with two other batches, not sharded. FLOPs and payloads grow linearly with the global batch (two
    points); memory grows quadratically, because every image is compared with every text (three points)."""

    @property
    def engines(self) -> tuple[Sharding, ...]:
        """The engines to compare; only `none` on one card, where sharding changes nothing."""
        return ("none", "full") if self.step.ranks > 1 else ("none",)

    @property
    def capacity(self) -> float:
        """Memory of a card in bytes."""
        return self.gpu.memory * 1e9

    def memory(self, sharding: Sharding) -> dict[str, float]:
        """Bytes on each card at the peak of a step, by kind."""
        step = self.step if sharding == "none" else self.sharded
        kept: dict[str, float] = {**step.memory, OPTIMIZER: MOMENTS * step.trained}
        if sharding == "full":
            kept[OPTIMIZER] /= step.ranks
        elif step.ranks > 1:
            kept[BUCKETS] = FLOAT * step.trained
        return kept

    def fitting(self, sharding: Sharding) -> int:
        """The largest number of pairs that fits on a card: 0 if none fits, at most `LOOKED` times this plan's batch."""
        steps = (self.step, *self.others)
        batches = [step.batch for step in steps]
        apart = sum(self.memory(sharding).values()) - sum(self.step.memory.values())  # does not depend on the batch
        held = [sum(step.memory.values()) + apart for step in steps]

        def at(batch: int) -> float:
            total = 0.0
            for own, size in zip(batches, held, strict=True):
                total += size * math.prod((batch - b) / (own - b) for b in batches if b != own)
            return total

        return bisect.bisect_right(range(1, LOOKED * self.step.batch + 1), self.capacity, key=at)

    def traffic(self, sharding: Sharding, ranks: int) -> list[Collective]:
        """The collectives of a step with `ranks` ranks, each with this plan's batch per card."""
        whole, shares, others = (_payloads(step) for step in (self.step, self.sharded, self.others[0]))
        pairs = self.step.batch * ranks
        done = [
            Collective(kind, NAMES.get(where, where), round(self._at(pairs, payload, others[kind, where])))
            for (kind, where), payload in whole.items()
        ]
        if sharding == "none":
            gradients = Collective("all-reduce", GRADIENTS, FLOAT * self.step.trained)
            return [c for c in (gradients, Collective("broadcast", "centres", self.step.buffers), *done) if c.payload]
        weights: Counter[tuple[str, str]] = Counter()
        for (kind, where), payload in (shares - whole).items():
            weights[kind, _carried(kind, where)] += payload
        return [*(Collective(kind, what, payload) for (kind, what), payload in weights.items()), *done]

    def flops(self, ranks: int) -> float:
        """FLOPs per example with `ranks` ranks, including the image-text loss on all pairs, forward and gradient."""
        here, there = (step.forward[CONTRASTIVE] for step in (self.step, self.others[0]))
        return self.recorded + self._at(self.step.batch * ranks, here, there)

    def time(self, sharding: Sharding, ranks: int) -> Bounds:
        """Seconds of a step with `ranks` ranks."""
        compute = self.step.batch * self.flops(ranks) / (self.gpu.tflops * 1e12 * self.mfu)
        within = ranks <= self.gpu.per_node
        bandwidth = self.gpu.link if within else min(self.gpu.link, self.gpu.network)
        return Bounds(compute, sum(sent(c, ranks) for c in self.traffic(sharding, ranks)) / (bandwidth * 1e9))

    def hours(self, sharding: Sharding, examples: float) -> tuple[float, float]:
        """Hours of a run of `examples` examples, with and without overlap."""
        ranks = self.step.ranks
        steps, time = examples / (self.step.batch * ranks), self.time(sharding, ranks)
        return steps * time.overlapped / 3600, steps * time.in_turn / 3600

    def cost(self, hours: float) -> float | None:
        """Cost of `hours` hours on all cards; None without a price."""
        return None if self.price is None else hours * self.step.ranks * self.price

    def efficiency(self, sharding: Sharding, nodes: int) -> tuple[float, float]:
        """Examples per second and card on `nodes` full nodes, divided by that on one node; with and without overlap."""
        one, many = (self.time(sharding, count * self.gpu.per_node) for count in (1, nodes))
        return one.overlapped / many.overlapped, one.in_turn / many.in_turn

    def _at(self, pairs: int, ours: float, others: float) -> float:
        """A quantity at a global batch of `pairs`, on the line through the two measured values."""
        here, there = (step.batch * step.ranks for step in (self.step, self.others[0]))
        return ours + (pairs - here) * (ours - others) / (here - there)


NAMES = {CONTRASTIVE: "features", LOSSES: "centres and statistics"}
"""Contents of the objective's collectives, by phase of the step."""


def _payloads(step: Step) -> Counter[tuple[str, str]]:
    return Counter({(c.kind, c.where): c.payload for c in step.collectives})


def _carried(kind: str, where: str) -> str:
    """Contents of a collective that sharding adds."""
    if kind == "reduce-scatter":
        return GRADIENTS
    return TEACHER_WEIGHTS if where == "teacher" else f"weights, {'backward' if where == BACKWARD else 'forward'}"


SHARES = {"all-reduce": 2, "all-gather": 1, "reduce-scatter": 1}


def sent(collective: Collective, ranks: int) -> float:
    """Bytes that a rank sends in a ring: (n-1)/n of the payload for all-gather or reduce-scatter, twice that for
    all-reduce, the whole payload for a send."""
    if collective.kind == "send":
        return collective.payload
    return collective.payload * SHARES.get(collective.kind, 1) * (ranks - 1) / ranks


def plan(
    config: Config, *, gpu: Gpu, gpus: int, mfu: float = MFU, price: float | None = None, pairs: int | None = None
) -> Plan:
    """Plan a recipe on `gpus` cards; `pairs` is the size of the data set, for durations in epochs.

    Raises:
        BadInput: the batch size is no multiple of `gpus`, or `gpus` or `mfu` is out of range.
    """
    size = config.train.batch_size
    if gpus < 1 or not 0 < mfu <= 1:
        raise BadInput(f"--gpus is {gpus} and --mfu {mfu}; needed at least one card and a share between 0 and 1")
    if size % gpus:
        fitting = next(n for n in range(gpus, 0, -1) if size % n == 0)
        raise BadInput(
            f"train.batch_size {size} does not divide among {gpus} cards; use {fitting} cards, or another "
            "--train.batch-size"
        )
    batch, vocabulary = size // gpus, config.model.text.vocab_size or config.data.vocab_size

    def measured(pairs: int, *, sharded: bool = False) -> Step:
        how = ", sharded" if sharded else ""
        say(f"plan: {config.recipe}: a step of {pairs} pairs per card{how}, on tensors without data", error=True)
        return measure(config, batch=pairs, ranks=gpus, vocab_size=vocabulary, sharded=sharded)

    step, *others = (measured(pairs) for pairs in (batch, 2 * batch, batch // 2 or 3))
    sharded = measured(batch, sharded=True) if gpus > 1 else step
    recorded = flops_per_example(config, vocabulary, eos_id=0)
    duration = config.train.duration
    pairs = config.data.generated.num if pairs is None and config.data.generated else pairs
    unknown = amount_of(duration)[1] == "epoch" and pairs is None
    examples = None if unknown else examples_of(duration, batch_size=size, steps_per_epoch=(pairs or 0) // size)
    return Plan(config.recipe, gpu, mfu, price, examples, recorded, step, sharded, (others[0], others[1]))


BATCHES = 64, 512
"""Batches to measure. Memory is taken as linear in the batch: SILC S/16 really needs 0.8 % less at 128 pairs, and the
same at 700."""


def sizes(given: str) -> list[float]:
    """Parse a list of gigabytes, such as '8,24,80'.

    Raises:
        BadInput: the text is no such list.
    """
    try:
        found = [float(word) for word in given.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < size < 1e6 for size in found):
        raise BadInput(f"--cards is {given!r}; needed gigabytes with commas between them, e.g. 8,24,80")
    return found


def largest_batches(configs: Sequence[Config], gigabytes: Sequence[float]) -> dict[str, dict[float, int]]:
    """The largest batch of each recipe on one card, for each size in gigabytes (10^9); 0 if not even one pair fits."""
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
    """A `train.micro_batch` for a card that fits `largest` pairs: a power of two, at most half of `largest`.

    The other half is for data of the whole batch (views and embeddings), and for the extra tenth that micro-batches
    need.
    """
    return 1 << (largest // 2).bit_length() - 1 if largest > 1 else largest
