"""From one measured step to a run: memory and traffic under an engine, time, hours, money, and more nodes.

Two engines: `none`, every rank holds everything (DistributedDataParallel); `full`, every rank holds its share and
gathers a block at a time (FSDP2's fully_shard).

Time is computed, not measured: FLOPs over a share of the peak, bytes over a bandwidth. A ring carries them: of S bytes
each of n ranks sends (n-1)/n S to gather or scatter them and twice that to sum them, and as a ring passes from node to
node once, a node's network carries what one rank sends. A step lies between two bounds: everything is sent while
something is computed (the longer of both), or nothing is (their sum). Not in it: reading data, stragglers, latency,
other traffic.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from silc.plan.meter import BACKWARD, CONTRASTIVE, GRADIENTS, TEACHER_WEIGHTS, WEIGHTS
from silc.plan.step import Collective, Step, measure
from silc.run import flops_per_example
from silc.types import BadInput

if TYPE_CHECKING:
    from silc.config import Config
    from silc.plan.gpus import Gpu

Sharding = Literal["none", "full"]
MFU = 0.4
"""Share of the peak: 559 pairs/s of a CLIP g/14 on 8 A100-80 are 39 % (NVIDIA's NeMo, "CLIP: performance"). Take less
for small towers and fast cards: the same model on 8 H100 reached 21 %, open_clip's B/16 on A100-40 13 %."""
EXAMPLES = {"5 B examples (the paper's ablations)": 5e9, "20 B examples (the paper's runs)": 20e9}
NODES = (1, 16, 64)
LOOKED = 4
"""Times the plan's batch up to which a larger one is looked for."""
FLOAT, MOMENTS = 4, 8  # bytes per parameter: float32, AdamW's two moments
BUCKETS, GATHERED, OPTIMIZER = "DDP's buckets", "gathered weights", "AdamW's moments"


@dataclass(frozen=True)
class Bounds:
    """Seconds of a step."""

    compute: float
    send: float

    @property
    def overlapped(self) -> float:
        """All is sent while something is computed."""
        return max(self.compute, self.send)

    @property
    def in_turn(self) -> float:
        """Nothing is sent while something is computed."""
        return self.compute + self.send


@dataclass(frozen=True)
class Plan:
    """One recipe on some cards."""

    recipe: str
    gpu: Gpu
    mfu: float
    price: float | None
    """Of a card and hour, in any currency."""
    recorded: float
    """FLOPs per example, forward and backward, as runs record them (`train_flops`): counted at a batch of one pair."""
    step: Step
    others: tuple[Step, Step]
    """The same with other batches. What grows with the global batch lies on a line through two, memory, where an image
    meets every text, on a parabola through three."""

    @property
    def capacity(self) -> float:
        """Bytes a card holds."""
        return self.gpu.memory * 1e9

    def memory(self, sharding: Sharding, step: Step | None = None) -> dict[str, float]:
        """Bytes on each card at the peak of a step, by what they are."""
        step = step or self.step
        kept: dict[str, float] = {WEIGHTS: 0.0, TEACHER_WEIGHTS: 0.0, GRADIENTS: 0.0, **step.memory}
        kept |= {OPTIMIZER: MOMENTS * step.trained}
        if step.ranks > 1 and sharding == "none":
            kept |= {BUCKETS: FLOAT * step.trained}
        if step.ranks > 1 and sharding == "full":
            for name in (WEIGHTS, TEACHER_WEIGHTS, GRADIENTS, OPTIMIZER):
                kept[name] /= step.ranks
            kept |= {GATHERED: FLOAT * (sum(step.outside.values()) + 2 * step.block)}
        return {name: size for name, size in kept.items() if size}

    def fitting(self, sharding: Sharding) -> int:
        """The largest number of pairs a card holds: 0 where not even one fits, at most `LOOKED` times this plan's."""
        batches, held = zip(
            *((s.batch, sum(self.memory(sharding, s).values())) for s in (self.step, *self.others)), strict=True
        )

        def at(batch: int) -> float:
            total = 0.0
            for own, size in zip(batches, held, strict=True):
                total += size * math.prod((batch - b) / (own - b) for b in batches if b != own)
            return total

        return bisect.bisect_right(range(1, LOOKED * self.step.batch + 1), self.capacity, key=at)

    def traffic(self, sharding: Sharding, ranks: int) -> list[Collective]:
        """What `ranks` ranks do together in a step, each with the batch of this plan."""
        step, student = self.step, sum(n for whose, n in self.step.parameters.items() if whose != "teacher")
        if sharding == "none":
            engine = [
                Collective("all-reduce", GRADIENTS, FLOAT * step.trained),
                Collective("broadcast", "centres", step.buffers),
            ]
        else:
            resharded = student - sum(n for whose, n in step.outside.items() if whose != "teacher")
            engine = [
                Collective("all-gather", "weights, forward", FLOAT * student),
                Collective("all-gather", "weights, backward", FLOAT * resharded),
                Collective("all-gather", TEACHER_WEIGHTS, FLOAT * step.parameters.get("teacher", 0)),
                Collective("reduce-scatter", GRADIENTS, FLOAT * step.trained),
            ]
        others = {(c.kind, c.where): c.payload for c in self.others[0].collectives}
        pairs = step.batch * ranks
        objective = [
            Collective(c.kind, NAMES.get(c.where, c.where), self._at(pairs, c.payload, others[c.kind, c.where]))
            for c in step.collectives
        ]
        return [c for c in (*engine, *objective) if c.payload]

    def flops(self, ranks: int) -> float:
        """FLOPs per example among `ranks` ranks, the products of all pairs with it (forward once, backward twice)."""
        here, there = (step.forward[CONTRASTIVE] for step in (self.step, self.others[0]))
        return self.recorded + 3 * self._at(self.step.batch * ranks, here, there)

    def time(self, sharding: Sharding, ranks: int) -> Bounds:
        """Seconds of a step among `ranks` ranks."""
        compute = self.step.batch * self.flops(ranks) / (self.gpu.tflops * 1e12 * self.mfu)
        within = ranks <= self.gpu.per_node
        bandwidth = self.gpu.link if within else min(self.gpu.link, self.gpu.network)
        return Bounds(compute, sum(sent(c, ranks) for c in self.traffic(sharding, ranks)) / (bandwidth * 1e9))

    def hours(self, sharding: Sharding, examples: float) -> tuple[float, float]:
        """Of the whole run, with and without overlap."""
        ranks = self.step.ranks
        steps, time = examples / (self.step.batch * ranks), self.time(sharding, ranks)
        return steps * time.overlapped / 3600, steps * time.in_turn / 3600

    def cost(self, hours: float) -> float | None:
        """Of so many hours on all cards."""
        return None if self.price is None else hours * self.step.ranks * self.price

    def efficiency(self, sharding: Sharding, nodes: int) -> tuple[float, float]:
        """Examples per second and card on `nodes` full nodes over those on one, with and without overlap."""
        one, many = (self.time(sharding, count * self.gpu.per_node) for count in (1, nodes))
        return one.overlapped / many.overlapped, one.in_turn / many.in_turn

    def _at(self, pairs: int, ours: float, others: float) -> float:
        """A quantity at another global batch, on the line through the two measured ones."""
        here, there = (step.batch * step.ranks for step in (self.step, self.others[0]))
        return ours + (pairs - here) * (ours - others) / (here - there)


NAMES = {CONTRASTIVE: "features", BACKWARD: "features' gradients", "other losses": "centres and statistics"}
"""What the objective's collectives carry, by the part of the step they are in."""
SHARES = {"all-reduce": 2, "all-gather": 1, "reduce-scatter": 1}


def sent(collective: Collective, ranks: int) -> float:
    """Bytes a rank sends in a ring: (n-1)/n of the payload to gather or scatter it, twice that to sum it."""
    return collective.payload * SHARES.get(collective.kind, 1) * (ranks - 1) / ranks


def plan(config: Config, *, gpu: Gpu, gpus: int, mfu: float = MFU, price: float | None = None) -> Plan:
    """What a recipe takes on `gpus` cards.

    Raises:
        BadInput: its batch does not divide among them, or a number makes no sense.
    """
    size = config.train.batch_size
    if gpus < 1 or not 0 < mfu <= 1:
        raise BadInput(f"--gpus is {gpus} and --mfu {mfu}; needed at least one card and a share between 0 and 1")
    if size % gpus:
        fitting = next(n for n in range(gpus, 0, -1) if size % n == 0)
        raise BadInput(
            f"train.batch_size {size} does not divide among {gpus} cards; take {fitting}, or another --train.batch-size"
        )
    batch, vocabulary = size // gpus, config.model.text.vocab_size or config.data.vocab_size
    step, *others = (
        measure(config, batch=b, ranks=gpus, vocab_size=vocabulary) for b in (batch, 2 * batch, batch // 2 or 3)
    )
    recorded = flops_per_example(config, vocabulary, eos_id=0)
    return Plan(config.recipe, gpu, mfu, price, recorded, step, (others[0], others[1]))
