"""`silc probe`: how good a model's frozen features are, by k nearest neighbours and by linear layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from silc import given
from silc.commands import flags
from silc.given import Idle
from silc.probes.config import ProbeConfig
from silc.rundir import check_model
from silc.terminal import announce, say
from silc.types import BadInput

UNREAD = (
    "init train.passes train.micro_batch train.held_out"
    " train.optim.weight_decay train.optim.decay train.optim.layer_decay train.optim.freeze train.optim.lora"
)
RULES = (Idle(UNREAD, lambda _: True, "MODEL stays as it is, and linear layers have a penalty, --l2, and no towers"),)


def main(args: list[str]) -> int:
    """Probe a model and write its scores."""
    if not args or (args[0].startswith("-") and not {"-h", "--help"} & set(args)):
        raise BadInput("silc probe needs a model, e.g. `silc probe out/run --root DATA --out out/probe`")
    model, words = ("", args) if args[0].startswith("-") else (args[0], args[1:])
    typed = given.flags(ProbeConfig, words)
    config = replace(flags.parse(ProbeConfig, words, "silc probe MODEL"), init=model)
    given.refuse_unread(typed, config, RULES)
    check_model(model)
    announce(f"probe: {config.tasks} under {config.root}, of {model}, into {config.out}")
    from silc import results
    from silc.probes.run import probe

    found = probe(config)
    if found:  # on the main rank
        written, page = results.write([model], found, Path(config.out) / "scores.json", title=Path(model).name)
        say("\n".join([*(f"scores: {file}" for file in written), f"report: {page}"]))
    return 0
