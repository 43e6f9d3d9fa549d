"""`silc probe`: how good a model's frozen features are, by k nearest neighbours and by linear layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from silc import given, places
from silc.commands import flags
from silc.errors import BadInput
from silc.eval.asked import probes_asked_for
from silc.eval.tasks import TASKS
from silc.given import Idle
from silc.probes.config import ProbeConfig
from silc.rundir import check_model
from silc.terminal import announce, say

IMPORT, LINEAR = "import", {"linear", "linear-seg"}
IDLE = (
    Idle(
        "init train.passes train.micro_batch train.held_out train.optim.weight_decay train.optim.decay"
        " train.optim.layer_decay train.optim.freeze train.optim.lora",
        lambda _: True,
        "MODEL is not trained; linear layers have no towers, and their penalty is --l2",
    ),
    Idle("weights", lambda about: IMPORT in about, flags.WEIGHTS_OF_RUNS.because),
    Idle("k temperature", lambda about: "knn" not in about, "no task is k-NN"),
    Idle("l2 held_back train.*", lambda about: not about & LINEAR, "no task trains a layer", but="train.device"),
    Idle("segmentation_batch feature_cache_gb", lambda about: "linear-seg" not in about, "no task segments"),
    Idle("train.batch_size", lambda about: "linear" not in about, "in segmentation it is --segmentation-batch"),
)
"""Rules whose conditions get a set of words: suffixes of the tasks asked for, and `import` if the model is no run."""


def main(args: list[str]) -> int:
    """Probe a model and write its scores."""
    if not args or (args[0].startswith("-") and not {"-h", "--help"} & set(args)):
        raise BadInput("silc probe needs a model, e.g. `silc probe out/run --root DATA --out out/probe`")
    model, words = ("", args) if args[0].startswith("-") else (args[0], args[1:])
    typed = given.flags(ProbeConfig, words)
    config = replace(flags.parse(ProbeConfig, words, "silc probe MODEL"), init=model)
    check_model(model)
    places.folder(config.out)
    tasks = probes_asked_for(config.root, config.tasks)
    about = {TASKS[task.kind].suffix for task in tasks} | ({IMPORT} if flags.is_import(model) else set())
    given.refuse_unread(typed, about, IDLE)
    announce(f"probe: {', '.join(task.name for task in tasks)} under {config.root}, of {model}, into {config.out}")
    from silc import results
    from silc.probes.run import probe

    found = probe(config)
    if found:  # on the main rank
        written, page = results.write([model], found, Path(config.out) / "scores.json", title=Path(model).name)
        say("\n".join([*(f"scores: {file}" for file in written), f"report: {page}"]))
    return 0
