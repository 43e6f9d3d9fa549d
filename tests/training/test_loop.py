"""The loop's guard: a step that is not finite changes nothing, and a run of them stops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from silc import config as configs
from silc.batch import Batch, Views
from silc.config import Config
from silc.data.quarantine import Samples
from silc.distributed import World
from silc.errors import BadInput
from silc.objective import SilcObjective
from silc.preprocess import Preprocess
from silc.pretraining.alarm import CollapseAlarm
from silc.pretraining.learner import SilcLearner
from silc.pretraining.rates import Schedule, groups
from silc.step import Pass, StepOutput
from silc.training.loop import Hooks, Progress, TrainState, due, train
from silc.training.optim import Optimizer
from silc.training.protocols import Passes, Run


class Recorder:
    """A log that keeps what it is told."""

    def __init__(self) -> None:
        self.records: list[dict[str, float]] = []
        self.lines: list[str] = []
        self.ticks: list[tuple[int, float]] = []

    def tick(self, step: int, *, eta_seconds: float) -> None:
        self.ticks.append((step, eta_seconds))

    def step(self, record: dict[str, float], *, eta_seconds: float) -> None:
        self.records.append(record)

    def say(self, line: str) -> None:
        self.lines.append(line)

    def keep(self, name: str, value: object) -> str:
        self.kept = {name: value}
        return name


def state_of(objective: SilcObjective, optimizer: Optimizer) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in (objective.state_dict() | optimizer.state()).items()}


def run(config: Config, poison: dict[int, str], steps: int, max_skips: int = 3) -> tuple[list, Recorder, Progress]:
    """Train `steps` steps; at the poisoned ones the loss, or the gradient alone, is made NaN or infinite."""
    size, crops = config.model.image.size, config.data.crops
    torch.manual_seed(0)
    objective = SilcObjective(
        config.model, config.objective, preprocess=Preprocess(size), world=World(), vocab_size=60, eos_id=1
    )
    optimizer = Optimizer(config.train.optim, objective, groups(objective, config.train.optim))
    schedule = Schedule.of(
        replace(config.train.optim, warmup="0 steps"),
        total=steps,
        batch_size=4,
        steps_per_epoch=10,
        momentum=0.9,
        temperature=0.04,
    )
    snapshots, step = [], -1

    def batches() -> Iterator[Batch]:
        draw = lambda n, side: torch.randint(0, 256, (n, 4, 3, side, side), dtype=torch.uint8)  # noqa: E731
        while True:
            snapshots.append(state_of(objective, optimizer))
            views = Views(None, draw(2, size), draw(crops.num_local, crops.local_size))
            yield Batch(views, torch.randint(2, 60, (4, 12)), [f"key{i}" for i in range(4)])

    def forward(batch: Batch, hyper: object, asked: Pass) -> StepOutput:
        nonlocal step
        out = objective(batch, hyper, asked)
        if not asked.contrastive:
            step += not asked.terms  # the text is embedded once a step
            return out
        what = poison.get(step)
        if what == "loss":
            return replace(out, loss=out.loss * float("nan"))
        if what == "gradient":  # finite forward, broken backward
            out.loss.register_hook(lambda gradient: gradient * float("inf"))
        return out

    log, progress = Recorder(), Progress()
    settings = replace(
        config.train, batch_size=4, log_every="1 steps", save_every="never", eval_every="never", max_skips=max_skips
    )
    learner = SilcLearner(objective, settings, CollapseAlarm(config.model.head.prototypes, num_targets=8))
    data = SimpleNamespace(steps_per_epoch=10)
    run = Run(settings, {}, learner, data, schedule, Samples(10), 10.0, scores=lambda tell: None)
    hooks = Hooks(save=lambda: None, evaluate=lambda: None)
    begun = TrainState(Passes(forward), optimizer, progress)
    train(run, begun, batches(), world=World(), log=log, hooks=hooks)
    snapshots.append(state_of(objective, optimizer))
    return snapshots, log, progress


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_no_byte(small: Callable[..., Config], what: str) -> None:
    snapshots, log, progress = run(small("silc_c"), {2: what}, steps=5)
    before, after, later = snapshots[2], snapshots[3], snapshots[4]
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    assert not torch.equal(after["teacher.centre"], later["teacher.centre"])
    assert all(torch.isfinite(v).all() for v in snapshots[-1].values())
    assert progress.skipped == 1
    assert progress.step == 5
    assert any("skipped on every rank" in line for line in log.lines)
    assert log.records[-1]["skipped"] == 1


def test_several_in_a_row_stop_the_run_and_name_the_batch(small: Callable[..., Config]) -> None:
    with pytest.raises(BadInput, match=r"3 steps in a row were not finite at step 5.*not-finite\.json"):
        run(small("silc_c"), {2: "loss", 3: "gradient", 4: "loss"}, steps=8)


def test_not_in_a_row_go_on(small: Callable[..., Config]) -> None:
    _, _, progress = run(small("silc_c"), {0: "loss", 1: "loss", 3: "loss", 4: "loss"}, steps=6)
    assert progress.skipped == 4


def test_records_hold_what_is_promised(small: Callable[..., Config]) -> None:
    _, log, _ = run(small("silc_s"), {}, steps=2)
    promised = {"loss/contrastive", "loss/distill", "loss/total", "teacher/entropy", "teacher/perplexity"}
    promised |= {"teacher/kl", "teacher/centre_norm", "logit_scale", "logit_bias", "grad_norm", "data_wait"}
    promised |= {"examples_seen", "train_flops", "samples_per_s", "lr", "skipped", "step"}
    assert promised <= log.records[0].keys()
    assert [r["examples_seen"] for r in log.records] == [4, 8]
    assert [r["train_flops"] for r in log.records] == [40, 80]


@pytest.mark.parametrize("decay", ["matrices", "kernels"])
def test_vectors_do_not_decay_and_of_matrices_those_asked_for(small: Callable[..., Config], decay: str) -> None:
    config = configs.override(small("silc_c"), {"train.optim.decay": decay})
    objective = SilcObjective(
        config.model, config.objective, preprocess=Preprocess(16), world=World(), vocab_size=60, eos_id=1
    )
    optimizer = Optimizer(config.train.optim, objective, groups(objective, config.train.optim))
    decayed, others = optimizer.adamw.param_groups
    assert decayed["weight_decay"] == config.train.optim.weight_decay
    assert others["weight_decay"] == 0
    names = {id(p): n for n, p in optimizer.parameters.items()}
    free = {names[id(p)] for p in others["params"]}
    assert "student.logit_scale" in free
    vectors = {
        n
        for n in free
        if n.endswith(("bias", "norm.weight", "ln_final.weight", "logit_scale")) or "norm" in n or "ln_" in n
    }
    tables = {
        "head.prototypes",
        "student.text.positional_embedding",
        "student.text.token_embedding.weight",
        "student.visual.trunk.attn_pool.latent",
        "student.visual.trunk.pos_embed",
    }
    assert free == (vectors | tables if decay == "kernels" else vectors)
    assert not vectors & tables
    # Torch groups must sum to everything that is trained: nothing is forgotten.
    trained = {n for n, p in objective.named_parameters() if p.requires_grad}
    assert {names[id(p)] for g in optimizer.adamw.param_groups for p in g["params"]} == trained


def test_due() -> None:
    assert [step for step in range(1, 11) if due(step, 4, 10)] == [4, 8, 10]
    assert not any(due(step, 0, 10) for step in range(1, 11))


def test_optimizer_state_goes_round(small: Callable[..., Config], tmp_path: Path) -> None:
    snapshots, _, _ = run(small("silc_c"), {}, steps=2)
    state = {k: v for k, v in snapshots[-1].items() if k.endswith(("/exp_avg", "/exp_avg_sq", "/step"))}
    config = small("silc_c")
    objective = SilcObjective(
        config.model, config.objective, preprocess=Preprocess(16), world=World(), vocab_size=60, eos_id=1
    )
    optimizer = Optimizer(config.train.optim, objective, groups(objective, config.train.optim))
    optimizer.load(state)
    assert optimizer.state().keys() == state.keys()
    with pytest.raises(BadInput, match=r"of another architecture: only one of the two has head\.prototypes/exp_avg"):
        optimizer.load({k: v for k, v in state.items() if k != "head.prototypes/exp_avg"})
    Optimizer(config.train.optim, objective, groups(objective, config.train.optim)).load(
        {}
    )  # saved before any step was accepted
    assert all(torch.equal(v, state[k]) for k, v in optimizer.state().items())
