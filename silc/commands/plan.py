"""`silc plan`: what a run will take, before it is started."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import tyro

from silc import given, places
from silc.commands import flags
from silc.config import Config
from silc.data.index_cache import expanded
from silc.data.uids import read_subset
from silc.errors import BadInput
from silc.given import Idle
from silc.settings import Range, Settings
from silc.terminal import say


@dataclass(frozen=True)
class PlanCommand(Settings):
    """What a recipe takes: parameters, FLOPs, memory, bytes sent, time, hours, cost. Several are shown side by side.

    Fields of the recipes are given after them, as in `silc train`. Nothing is trained and no GPU is needed.
    """

    idle: ClassVar[tuple[Idle, ...]] = (
        Idle(
            "gpus gpu mfu price pairs network gpus_per_node json",
            lambda c: bool(c.cards),
            "--cards shows only the largest batches of one card",
        ),
        Idle("price", lambda c: len(c.recipes) > 1 and not c.json, "recipes side by side show no cost; give --json"),
    )
    recipes: tyro.conf.Positional[tuple[str, ...]]
    """Names, or config.yaml of runs."""
    gpus: Annotated[int, Range(least=1, most=10_000_000)] = 8
    """Number of cards, over all nodes."""
    gpu: str = "h100"
    """a100-40, a100-80, h100, h200, b200, l40s or rtx4090."""
    mfu: Annotated[float, Range(above=0, most=1)] = 0.4
    """Share of the card's bf16 peak that is reached; 0.4 is high for small towers (silc/plan/project.py)."""
    price: Annotated[float | None, Range(least=0, most=1e6)] = None
    """Price of one card for one hour, for the cost."""
    pairs: Annotated[int | None, Range(least=1, most=10**12)] = None
    """Number of pairs, for a `train.duration` in epochs; by default the number that data.subset names."""
    network: Annotated[float | None, Range(above=0, most=1e6)] = None
    """GB/s that a node sends to others, in one direction; by default the card's usual value."""
    gpus_per_node: Annotated[int | None, Range(least=1, most=10_000)] = None
    """Cards in a node, instead of 8."""
    cards: str = ""
    """Memory of cards in GB, e.g. 8,24,80: only show the largest batch of each recipe that one such card holds."""
    json: str = ""
    """File for every number."""


def main(args: list[str]) -> int:
    """Print the plan of a recipe, of several side by side, or the batches that cards hold."""
    chosen, rest = flags.taken(args, [field.name for field in dataclasses.fields(PlanCommand)[1:]])
    first_flag = next((i for i, word in enumerate(rest) if word.startswith("-")), len(rest))
    names, overrides = rest[:first_flag], rest[first_flag:]
    options = [word for name, value in chosen.items() for word in (f"--{name}", value)]
    command = flags.read(PlanCommand, [*names, *options, *([] if names else overrides)], "silc plan")
    if not names:
        raise BadInput("silc plan needs a recipe, e.g. `silc plan silc_c --gpus 64 --gpu h100`")
    configurations, typed = zip(*(flags.configured("plan", [name, *overrides]) for name in names), strict=True)
    if heads := [one.kind for one in configurations if not isinstance(one, Config)]:
        raise BadInput(f"silc plan only knows steps of pretraining, not of a {heads[0]}; name recipes of pretraining")
    given.say_unread(typed[0], configurations[0])
    file = places.file(command.json, flag="--json") if command.json else None
    from silc.plan import gpus, project, tables

    if command.cards:
        held = project.largest_batches(configurations, project.sizes(command.cards))
        say(tables.text(tables.cards(held)).strip("\n"))
        return 0
    card = gpus.get(command.gpu).joined(command.network, command.gpus_per_node)
    plan = partial(project.plan, gpu=card, gpus=command.gpus, mfu=command.mfu, price=command.price)
    plans = [plan(one, pairs=command.pairs or _chosen(one)) for one in configurations]
    say(tables.text(tables.tables(plans[0]) if len(plans) == 1 else tables.side_by_side(plans)).rstrip("\n"))
    if file:
        tables.write(plans, file)
        say(f"plan: {file}")
    return 0


def _chosen(config: Config) -> int | None:
    """How many samples data.subset names; None without one."""
    return len(read_subset(expanded(config.data.subset))) if config.data.subset else None
