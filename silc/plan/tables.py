"""Show a plan as tables, or write its numbers as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table

from silc.durable import write_whole
from silc.plan.project import EXAMPLES, LOOKED, NODES, Plan, Sharding, micro_batch, sent
from silc.terminal import console

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GIB = 2**30
HEADINGS = {"none": "DDP", "full": "FSDP2"}


def text(renderable: Any) -> str:
    """A table as plain text, 100 characters wide."""
    paper = console(width=100, no_color=True, legacy_windows=False)
    with paper.capture() as capture:
        paper.print(renderable)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def tables(plan: Plan) -> Group:
    """All tables of one plan: first its hours and whether it fits, then the details."""
    taken = (_title(plan), _length(plan), _fit(plan), _parameters(plan), _flops(plan), _memory(plan))
    if plan.step.ranks == 1:
        return _titled(*taken, _time(plan))
    return _titled(*taken, _traffic(plan), _time(plan), _runs(plan), _scaling(plan))


def side_by_side(plans: Sequence[Plan]) -> Group:
    """Compare recipes on the same cards, one column each: memory and bytes sent without sharding, and the time."""
    memory = _table("GiB per card at the peak, DDP", *(plan.recipe for plan in plans))
    _rows(memory, [{name: size / GIB for name, size in plan.memory("none").items()} for plan in plans], "total", 2)
    memory.add_row("pairs that fit", *(_fitting(plan, "none") for plan in plans))
    if plans[0].step.ranks > 1:
        memory.add_row("  with FSDP2", *(_fitting(plan, "full") for plan in plans))
    tables = [memory]
    if plans[0].step.ranks > 1:
        tables.append(_table("MB a card sends in a step, DDP", *(plan.recipe for plan in plans)))
        _rows(tables[-1], [_sent(plan, "none") for plan in plans], "total", 1)
    time = _table("GFLOPs per example, ms per step", *(plan.recipe for plan in plans))
    time.add_row("training", *(f"{plan.flops(plan.step.ranks) / 1e9:,.0f}" for plan in plans))
    bounds = [plan.time("none", plan.step.ranks) for plan in plans]
    time.add_row("computed", *(f"{b.compute * 1e3:,.0f}" for b in bounds))
    if plans[0].step.ranks > 1:
        time.add_row("sent", *(f"{b.send * 1e3:,.1f}" for b in bounds))
    return _titled(_title(*plans), *tables, time)


def cards(held: Mapping[str, Mapping[float, int]]) -> Group:
    """Table of each recipe's largest batch on one card of each size, and of `train.micro_batch` for larger batches."""
    memory = list(next(iter(held.values())))
    table = _table("largest train.batch_size on one card", *(f"{size:g} GB" for size in memory))
    for recipe, largest in held.items():
        table.add_row(recipe, *(f"{pairs:,}" if pairs else "none" for pairs in largest.values()))
        table.add_row(
            "  larger ones: train.micro_batch",
            *(f"{micro_batch(pairs)}" if pairs else "" for pairs in largest.values()),
        )
    return _titled(table)


def as_dict(plan: Plan) -> dict[str, Any]:
    """All numbers of the tables as a dictionary, in bytes, FLOPs, seconds and hours."""
    ranks = plan.step.ranks
    engines = {
        engine: {
            "memory": plan.memory(engine),
            "fits": sum(plan.memory(engine).values()) <= plan.capacity,
            "fitting_batch_per_gpu": plan.fitting(engine),
            "collectives": [asdict(c) | {"sent": sent(c, ranks)} for c in plan.traffic(engine, ranks)],
            "step_seconds": _bounds(plan, engine, ranks),
            "hours": {name: plan.hours(engine, examples) for name, examples in _lengths(plan).items()},
            "weak_scaling": {nodes: plan.efficiency(engine, nodes) for nodes in NODES},
        }
        for engine in plan.engines
    }
    measured = {name: value for name, value in asdict(plan.step).items() if name not in ("memory", "collectives")}
    about = {"recipe": plan.recipe, "gpu": asdict(plan.gpu), "gpus": ranks, "mfu": plan.mfu, "price": plan.price}
    flops = {"flops": plan.flops(ranks), "train_flops": plan.recorded}
    return about | {"step": measured | flops, "engines": engines}


def write(plans: Sequence[Plan], file: Path) -> None:
    """Write the numbers of one plan, or of several plans as a list, as JSON."""
    numbers = [as_dict(plan) for plan in plans]
    write_whole(file, json.dumps(numbers[0] if len(numbers) == 1 else numbers, indent=1))


def _bounds(plan: Plan, engine: Sharding, ranks: int) -> dict[str, float]:
    time = plan.time(engine, ranks)
    return asdict(time) | {"overlapped": time.overlapped, "in_turn": time.in_turn}


def _title(plan: Plan, *others: Plan) -> str:
    step, gpu = plan.step, plan.gpu
    names = ", ".join(one.recipe for one in (plan, *others))
    if step.ranks == 1:
        return f"{names}: 1 x {gpu.name}, {step.batch:,} pairs per step"
    return f"{names}: {step.ranks} x {gpu.name}, {step.batch} pairs each, {step.batch * step.ranks:,} per step"


def _table(title: str, *columns: str) -> Table:
    table = Table("", title=title, box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _titled(*shown: str | Table) -> Group:
    """Put the titles of tables on separate lines, because a table wraps its title at its own width."""
    lines: list[str | Table] = []
    for one in shown:
        if isinstance(one, Table):
            lines.append(f"\n{one.title}")
            one.title = None
        lines.append(one)
    return Group(*lines)


def _rows(table: Table, columns: Sequence[dict[str, float]], total: str, digits: int) -> None:
    """Add one row for each name that any column has, and a row with the columns' sums."""
    for name in dict.fromkeys(name for column in columns for name in column):
        table.add_row(name, *(f"{column[name]:,.{digits}f}" if name in column else "" for column in columns))
    table.add_row(total, *(f"{sum(column.values()):,.{digits}f}" for column in columns), style="bold")


def _headings(plan: Plan) -> list[str]:
    return [HEADINGS[engine] for engine in plan.engines] if len(plan.engines) > 1 else [""]


def _length(plan: Plan) -> str:
    """Text with hours and cost of the configured run."""
    if plan.examples is None:
        return "train.duration is in epochs: give the number of pairs, --pairs N, to see the hours."
    fast, slow = plan.hours("none", plan.examples)
    steps = plan.examples / (plan.step.batch * plan.step.ranks)
    said = f"{plan.examples:,.0f} examples, {steps:,.0f} steps: {_span(fast, slow)} hours"
    if plan.step.ranks > 1:
        said += f", {_span(fast * plan.step.ranks, slow * plan.step.ranks)} card hours"
    if plan.price is not None:
        said += f", cost {_span(plan.cost(fast) or 0.0, plan.cost(slow) or 0.0)}"
    return f"{said} (projection)."


def _span(least: float, most: float) -> str:
    digits = 0 if most >= 10 else 2
    low, high = f"{least:,.{digits}f}", f"{most:,.{digits}f}"
    return low if low == high else f"{low} - {high}"


def _parameters(plan: Plan) -> Table:
    table = _table("millions of parameters", "")
    _rows(table, [{name: n / 1e6 for name, n in plan.step.parameters.items()}], "total", 1)
    return table


def _flops(plan: Plan) -> Table:
    table = _table("GFLOPs per example", "")
    _rows(table, [{name: n / 1e9 for name, n in plan.step.forward.items()}], "forward", 2)
    table.add_row("forward and backward", f"{plan.flops(plan.step.ranks) / 1e9:,.2f}")
    table.add_row("  as the run will record it", f"{plan.recorded / 1e9:,.2f}")
    return table


def _memory(plan: Plan) -> Table:
    table = _table("GiB per card at the peak of a step", *_headings(plan))
    _rows(table, [{k: size / GIB for k, size in plan.memory(engine).items()} for engine in plan.engines], "total", 2)
    table.add_row(f"a card's {plan.gpu.memory:g} GB", *([f"{plan.capacity / GIB:,.2f}"] * len(plan.engines)))
    table.add_row("pairs that fit", *(_fitting(plan, engine) for engine in plan.engines))
    return table


def _fitting(plan: Plan, engine: Sharding) -> str:
    number = plan.fitting(engine)
    return f"{number} or more" if number == LOOKED * plan.step.batch else str(number)


def _fit(plan: Plan) -> str:
    """Text that says whether the plan fits, and what would fit if not."""
    step, size = plan.step, plan.step.batch * plan.step.ranks
    held, room = sum(plan.memory("none").values()), plan.fitting("none")
    if held <= plan.capacity:
        most = f"{room * step.ranks:,} ({room:,} pairs each)" if step.ranks > 1 else f"{room:,}"
        beyond = " or more" if room == LOOKED * step.batch else ""
        of = f"{held / GIB:,.1f} of {plan.capacity / GIB:,.1f} GiB per card"
        return f"It fits: {of}. The largest train.batch_size that fits: {most}{beyond}."
    ways = []
    if step.ranks > 1 and sum(plan.memory("full").values()) <= plan.capacity:
        ways.append("sharding (FSDP2) on these cards")
    if room:
        more = (n for n in range(plan.gpu.per_node, size + 1, plan.gpu.per_node) if size % n == 0 and size // n <= room)
        if (cards := next(more, None)) is not None:
            ways.append(f"{cards} cards with {size // cards} pairs each")
        micro = next(n for n in range(room, 0, -1) if step.batch % n == 0)
        ways.append(f"--train.micro-batch {micro}, the same step in parts, at the cost of more computation")
        even = room // 8 * 8 or room
        ways.append(f"--train.batch-size {even * step.ranks} ({even} pairs each) on these cards")
    engine = " with DDP" if step.ranks > 1 else ""
    return (
        f"It does not fit{engine}: {held / GIB:,.1f} GiB of {plan.capacity / GIB:,.1f}. This would fit: "
        + ("; ".join(ways) or "a larger card, or smaller towers")
        + "."
    )


def _sent(plan: Plan, engine: Sharding) -> dict[str, float]:
    ranks = plan.step.ranks
    return {f"{c.where} ({c.kind})": sent(c, ranks) / 1e6 for c in plan.traffic(engine, ranks)}


def _traffic(plan: Plan) -> Table:
    table = _table("MB a card sends in a step", *_headings(plan))
    _rows(table, [_sent(plan, engine) for engine in plan.engines], "total", 1)
    return table


def _time(plan: Plan) -> Table:
    ranks, gpu = plan.step.ranks, plan.gpu
    joined = (
        f"; {gpu.link:g} GB/s per card within a node, {gpu.network:g} GB/s per node between them" if ranks > 1 else ""
    )
    table = _table(
        f"ms of a step: {plan.mfu:.0%} of {gpu.tflops:g} TFLOPS" + joined,
        *_headings(plan),
    )
    bounds = [plan.time(engine, ranks) for engine in plan.engines]
    table.add_row("computing", *(f"{b.compute * 1e3:,.1f}" for b in bounds))
    if ranks == 1:
        table.add_row("pairs per second", *(f"{plan.step.batch / b.compute:,.0f}" for b in bounds))
        return table
    table.add_row("sending", *(f"{b.send * 1e3:,.1f}" for b in bounds))
    table.add_row(
        "step, with full or no overlap", *(f"{b.overlapped * 1e3:,.1f} - {b.in_turn * 1e3:,.1f}" for b in bounds)
    )
    rates = [(plan.step.batch / b.in_turn, plan.step.batch / b.overlapped) for b in bounds]
    table.add_row("pairs per second and card", *(f"{slow:,.0f} - {fast:,.0f}" for slow, fast in rates))
    return table


def _lengths(plan: Plan) -> dict[str, float]:
    """Lengths of runs in examples: the usual ones, and this recipe's own if it is different."""
    if plan.examples is None or plan.examples in EXAMPLES.values():
        return EXAMPLES
    return EXAMPLES | {f"{plan.examples:,.0f} examples (train.duration)": plan.examples}


def _runs(plan: Plan) -> Table:
    table = _table("hours (projection)", *_headings(plan))
    for name, examples in _lengths(plan).items():
        hours = [plan.hours(engine, examples) for engine in plan.engines]
        table.add_row(name, *(f"{fast:,.0f} - {slow:,.0f}" for fast, slow in hours))
        table.add_row("  card hours", *(f"{f * plan.step.ranks:,.0f} - {s * plan.step.ranks:,.0f}" for f, s in hours))
        if plan.price is not None:
            costs = [[plan.cost(h) or 0.0 for h in pair] for pair in hours]
            table.add_row(f"  at {plan.price:g} a card hour", *(f"{fast:,.0f} - {slow:,.0f}" for fast, slow in costs))
    return table


def _scaling(plan: Plan) -> Table:
    table = _table(
        f"weak scaling (projection), {plan.step.batch} pairs per card: rate per card over that on one node, %",
        *_headings(plan),
    )
    for nodes in NODES:
        shares = [sorted(plan.efficiency(engine, nodes)) for engine in plan.engines]
        table.add_row(
            f"{nodes} x {plan.gpu.per_node} cards", *(f"{100 * low:.1f} - {100 * high:.1f}" for low, high in shares)
        )
    return table
