"""The engine with a method that is not SILC's: a line through points."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from silc import checkpoint, processor
from silc.batch import Broken
from silc.checkpoint import load_into
from silc.data.quarantine import Samples
from silc.errors import BadInput, Preempted
from silc.training import fit as engine
from silc.training.config import OptimConfig, TrainConfig
from silc.training.directory import claim
from silc.training.fit import fit
from silc.training.log import history
from silc.training.protocols import ParamGroup, Passes, Run, RunContext
from silc.training.schedules import LearningRate

ENGINE = Path(engine.__file__).parent


@dataclass(frozen=True)
class Points:
    x: Tensor
    keys: tuple[str, ...] = ("a",)
    broken: tuple[Broken, ...] = ()
    bad: Mapping[str, int] = field(default_factory=dict)

    def to(self, device: object) -> Points:
        return self


class PointBatches:
    steps_per_epoch = 5

    def __init__(self, name: str = "points") -> None:
        self.name = name

    def batches(self, start: int, stop: int, asked: Callable[[], bool] = bool) -> Generator[Points, None, None]:
        for step in range(start, stop):
            yield Points(torch.randn(4, 3, generator=torch.Generator().manual_seed(step)))

    def state(self, step: int) -> dict[str, Any]:
        return {"name": self.name, "step": step}

    def check(self, state: Mapping[str, Any]) -> None:
        if state["name"] != self.name:
            raise BadInput("the checkpoint is of other points")


@dataclass(frozen=True)
class Out:
    loss: Tensor
    metrics: Mapping[str, Tensor]


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.line = nn.Linear(3, 1)

    def forward(self, batch: Points) -> Out:
        # A random draw: what was not resumed would be seen.
        wanted = batch.x.sum(dim=1, keepdim=True) + 0.01 * torch.rand(1)
        loss = (self.line(batch.x) - wanted).square().mean()
        return Out(loss, {"loss/squares": loss.detach()})


class LineLearner:
    uses_every_parameter = True
    methods = ()

    def __init__(self) -> None:
        self.module, self.accepted = Line(), 0

    def blocks(self) -> tuple[nn.Module, ...]:
        return (self.module.line,)

    def groups(self) -> dict[str, ParamGroup]:
        return {"line.weight": ParamGroup(), "line.bias": ParamGroup(0.5, decays=False)}

    def gradients(self, passes: Passes, batch: Points, hyper: object) -> Out:
        return passes(batch)

    def after_step(self, out: Out, hyper: object) -> None:
        self.accepted += 1

    def state_dicts(self) -> dict[str, dict[str, Tensor]]:
        return {"line": self.module.state_dict()}

    def load(self, saved: checkpoint.Checkpoint) -> None:
        load_into(self.module, saved.state_dicts["line"], saved.path / "line.safetensors")

    def warning(self, step: int, metrics: Mapping[str, float], hyper: object) -> str:
        return "half way" if step == 5 else ""


@dataclass(frozen=True)
class Rate:
    lr: float

    def logged(self) -> dict[str, float]:
        return {"lr": self.lr}


class Rates(LearningRate):
    def at(self, step: int) -> Rate:
        return Rate(self.lr(step))


class NoScores:
    def __init__(self, tell: Callable[[str], None]) -> None:
        self.asked = 0

    def during_training(self) -> dict[str, float]:
        self.asked += 1
        return {"eval/line": float(self.asked)}

    def before_and_after(self) -> dict[str, float]:
        return {}

    def summary(self, out: Path) -> list[str]:
        return [f"a line: {out}"]


SETTINGS = TrainConfig(
    duration="10 steps",
    batch_size=4,
    precision="float32",
    device="cpu",
    log_every="1 steps",
    save_every="2 steps",
    eval_every="5 steps",
    optim=OptimConfig(lr=0.1, warmup="2 steps", cooldown="2 steps"),
)


def compose(context: RunContext, *, name: str = "points", stop_after: int | None = None) -> Run:
    context.out.mkdir(parents=True, exist_ok=True)
    batches, learner = PointBatches(name), LineLearner()
    rates = Rates.of(SETTINGS.optim, total=10, batch_size=4, steps_per_epoch=5)
    if stop_after is not None:
        after_step = learner.after_step

        def signalled(out: Out, hyper: object) -> None:
            after_step(out, hyper)
            if learner.accepted == stop_after:
                context.preemption.name = "SIGTERM"

        learner.after_step = signalled  # type: ignore[method-assign]
    values = {"kind": "line", "train": {"duration": "10 steps"}}
    return Run(SETTINGS, values, learner, batches, rates, Samples(20), 6.0, NoScores, said=["a line through points"])


def weights(out: Path) -> dict[str, Tensor]:
    read = checkpoint.read(checkpoint.find(out / "checkpoints")[0])
    return {f"{part}/{name}": tensor for part, tensors in read.state_dicts.items() for name, tensor in tensors.items()}


def curve(out: Path) -> list[tuple[int, float]]:
    return [(record["step"], record["loss/squares"]) for record in history(out) if "loss/squares" in record]


def test_any_method_runs_through_the_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = fit(SETTINGS, claim(str(tmp_path / "run"), "never"), compose)
    told = capsys.readouterr().out
    for line in ("a line through points", "step 5: half way", f"a line: {out}", "squares"):
        assert line in told
    losses = [loss for _, loss in curve(out)]
    assert len(losses) == 10
    assert losses[-1] < losses[0]
    assert [record["eval/line"] for record in history(out) if "eval/line" in record] == [1.0, 2.0]
    assert history(out)[0]["train_flops"] == 24
    environment = json.loads((out / "env.json").read_text())
    assert (environment["ranks"], environment["processor"]) == (1, processor.name())
    assert "kind: line" in (out / "config.yaml").read_text()
    assert set(weights(out)) >= {"line/line.weight", "optimizer/line.bias/exp_avg", "rng/cpu"}


def test_stopped_and_resumed_is_the_same_to_the_bit(tmp_path: Path) -> None:
    whole = fit(SETTINGS, claim(str(tmp_path / "whole"), "never"), compose)
    with pytest.raises(Preempted, match="saved step 5 of 10"):
        fit(SETTINGS, claim(str(tmp_path / "cut"), "never"), partial(compose, stop_after=4))
    with pytest.raises(BadInput, match="of other points"):
        fit(SETTINGS, claim(str(tmp_path / "cut"), "auto"), partial(compose, name="others"))
    cut = fit(SETTINGS, claim(str(tmp_path / "cut"), "auto"), compose)
    assert curve(cut) == curve(whole)
    expected, found = weights(whole), weights(cut)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_the_engine_knows_no_method() -> None:
    """It imports no model, loss or objective."""
    for path in ENGINE.glob("*.py"):
        for name in _imported(path):
            known = name.startswith(("silc.models", "silc.losses", "silc.objective", "silc.pretraining", "silc.probes"))
            assert not known, f"{path.name} imports {name}"
        if path.name != "config.py":
            assert not {"teacher", "distill", "probe"} & set(path.read_text().lower().split()), path.name
