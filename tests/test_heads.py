"""A trained head is a row of the table of kinds: commands, resuming, evaluation and `silc.load` follow."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import silc
from silc import checkpoint, checks, kinds, loading
from silc import config as configs
from silc.cli import main
from silc.config import DownstreamConfig
from silc.data.quarantine import Samples
from silc.data.scenes import write_sets
from silc.given import Idle
from silc.predict import Model
from silc.rundir import newest_checkpoint
from silc.settings import Range
from silc.training.config import OptimConfig, TrainConfig, steps_of
from silc.training.directory import CONFIG
from silc.training.fit import fit
from silc.training.protocols import Learner, Passes, Run, RunContext, Scores
from silc.training.rows import RowBatches, TensorBatch
from silc.training.schedules import LearningRate

OPTIM = OptimConfig(warmup="0 steps", cooldown="0 steps")
TRAIN = TrainConfig("4 steps", 2, optim=OPTIM, precision="float32", device="cpu", save_every="2 steps")


@dataclass(frozen=True)
class OffsetConfig(DownstreamConfig):
    """One number on top of a model's cosines."""

    kind: ClassVar[str] = "offset"
    goal: Annotated[float, Range(least=-5, most=5)] = 1.0
    """What the number goes to."""
    unread: int = 0
    """Read by nothing."""
    train: TrainConfig = field(default=TRAIN)
    """Optimisation."""


IDLE = (Idle("unread", lambda c: c.goal > 0, "goal is {0.goal}"),)


@dataclass(frozen=True)
class Out:
    loss: Tensor
    metrics: Mapping[str, Tensor]


class Offset(nn.Module, Learner):
    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(1))

    @property
    def module(self) -> nn.Module:
        return self

    def forward(self, wanted: Tensor) -> Out:
        loss = (self.offset - wanted).square().mean()
        return Out(loss, {"loss/offset": loss.detach()})

    def gradients(self, passes: Passes, batch: TensorBatch, hyper: object) -> Out:
        return passes(*batch.inputs)


class NoScores(Scores):
    def before_and_after(self) -> Mapping[str, float]:
        return {}


def train(config: OffsetConfig) -> Path:
    def compose(context: RunContext) -> Run:
        def read(rows: Sequence[int]) -> list[Tensor]:
            return [torch.full((len(rows),), config.goal)]

        batches = RowBatches(read, 4, 2, 0, context.world, {})
        total = steps_of(config.train.duration, batch_size=2, steps_per_epoch=2)
        rates = LearningRate.of(config.train.optim, total=total, batch_size=2, steps_per_epoch=2)
        values = configs.plain(replace(config, resume="never"))
        return Run(config.train, values, Offset(), batches, rates, Samples(4), 1.0, lambda _: NoScores())

    return fit(config.train, checks.training(config), compose)


@dataclass(repr=False)
class OffsetModel(Model):
    head: Offset = field(default_factory=Offset)
    rules: ClassVar[dict[str, Any]] = {}
    record: ClassVar[dict[str, Any]] = {"decoder": "offset"}

    def classes(self, names: Sequence[str], embed: Callable[..., Tensor]) -> Tensor:
        return embed(self, names).to(self.device)

    def maps(self, images: Tensor, classes: Tensor) -> Tensor:
        found = self.encode_dense(images, self.readouts[0]) @ classes.T
        return (found + self.head.offset.detach()).permute(0, 3, 1, 2)


def load(run: Path, *, device: torch.device | str, name: str) -> loading.Loaded:
    newest = newest_checkpoint(run)
    saved = checkpoint.read(newest, only=("model",))
    below, head = loading.load_any(configs.load(run / CONFIG, OffsetConfig).init, device=device), Offset()
    saved.load_into(head, "model")
    known = vars(below.best()) | {"name": name, "weights": "offset"}
    checksum = below.checksum + loading.checksum_of(run, newest)
    return loading.Loaded({"offset": OffsetModel(**known, head=head)}, 8, None, checksum, below.contrastive)


@pytest.fixture(autouse=True)
def _the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it names is in this module, by a name that can be imported."""
    monkeypatch.setitem(sys.modules, "offset_head", sys.modules[__name__])
    names = ("OffsetConfig", "train", "load", "IDLE")
    monkeypatch.setitem(kinds.KINDS, "offset", kinds.Kind(*(f"offset_head:{name}" for name in names)))


@pytest.fixture
def head(finished: Callable[..., Path], tmp_path: Path) -> Path:
    """A finished run of the kind."""
    return silc.train("offset", out=tmp_path / "head", init=str(finished("silc_c")))


def weight(run: Path) -> Tensor:
    return checkpoint.read(newest_checkpoint(run), only=("model",)).state_dicts["model"]["offset"]


def test_it_is_trained_and_resumed_to_the_bit(
    head: Path, finished: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (head / CONFIG).read_text().startswith("kind: offset\n")
    capsys.readouterr()
    again, init = tmp_path / "again", str(finished("silc_c"))
    asked = ["train", "offset", "--init", init, "--out", str(again), "--unread", "1"]
    assert main(asked) == 0
    told = capsys.readouterr()
    assert f"train: offset begins in {again}" in told.out
    assert told.err == "silc: given and not used in this run: unread (goal is 1.0)\n"
    assert main(asked) == 2
    assert "already holds a run" in capsys.readouterr().err
    shutil.rmtree(newest_checkpoint(again))
    (again / "checkpoints" / "latest").unlink(missing_ok=True)
    assert main([*asked, "--resume", "auto", "--goal", "2"]) == 2
    assert "goal is 1.0 there and 2.0 here; give another --out" in capsys.readouterr().err
    assert main(["train", str(again / CONFIG), "--resume", "auto"]) == 0
    assert f"train: offset goes on in {again}" in capsys.readouterr().out
    assert weight(head).item() > 0
    assert torch.equal(weight(head), weight(again))


def test_its_settings_are_shown_and_checked(head: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command, code, said in (
        (["show", "offset", "--goal", "2"], 0, "What the number goes to."),
        (["show", str(head / CONFIG)], 0, "What the number goes to."),
        (["recipes"], 0, "offset            One number on top of a model's cosines."),
        (["train", "ofset"], 2, "unknown recipe 'ofset'; did you mean 'offset'?"),
        (["train", "offset", "--goall", "2"], 2, "unknown field 'goall'; did you mean 'goal'? (`silc show offset`"),
        (["train", "offset", "--num-workers", "2"], 2, "unknown field 'num_workers'"),
        (["train", "offset", "--goal", "7"], 2, "--goal is 7.0; needed a number at least -5 and at most 5"),
        (["train", "offset"], 2, "no output directory; give --out DIR"),
        (["plan", "offset"], 2, "silc plan only knows steps of pretraining"),
    ):
        assert main(command) == code, command
        told = capsys.readouterr()
        assert said in " ".join([told.out, told.err]), command
        assert told.err.count("\n") == (code == 2), command
    with pytest.raises(SystemExit):
        main(["train", "offset", "--help"])
    assert "--goal" in capsys.readouterr().out


def test_it_is_scored_loaded_and_used(
    head: Path, finished: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Segmentation by the head, other tasks by its towers; beside the model that it was trained on."""
    root, out = tmp_path / "data", tmp_path / "scores.json"
    write_sets(root, size=16, seed=0, num_retrieval=4, num_segmentation=4, per_class=1)
    asked = ["eval", str(head), str(finished("silc_c")), "--root", str(root), "--out", str(out), "--device", "cpu"]
    assert main([*asked, "--tasks", "*-zs-seg,*-retrieval"]) == 0
    records = {(one["task"], one["weights"]): one for one in json.loads(out.read_text())}
    segmented = records["zeroshot_segmentation", "offset"]
    assert segmented["protocol"]["decoder"] == "offset"
    assert records["zeroshot_retrieval", "offset"]["metrics"] == records["zeroshot_retrieval", "teacher"]["metrics"]
    assert main([*asked[:2], *asked[3:], "--tasks", "*-zs-seg", "--weights", "student"]) == 2
    assert "is of a run of kind 'offset', loaded as it was trained" in capsys.readouterr().err
    model = silc.load(head, device="cpu", dtype="bfloat16")
    assert isinstance(model, OffsetModel)
    assert model.dtype == torch.bfloat16
    names, image = ["red", "blue"], Image.new("RGB", (20, 24), "red")
    assert model.segment(image, names).labels.shape == (24, 20)
    (scored,) = silc.evaluate(silc.load(head), root=str(root), tasks="*-zs-seg")
    assert scored.record.metrics == segmented["metrics"]
    image.save(tmp_path / "red.png")
    predict = ["predict", "segment", str(head), str(tmp_path / "red.png"), "--names", "red,blue", "--out"]
    assert main([*predict, str(tmp_path / "masks")]) == 0


def test_a_command_that_needs_another_kind_says_so_in_one_line(
    head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    for command in (
        ["export", str(head), str(tmp_path / "out")],
        ["finetune", "--init", str(head), "--data.train", "a.tar", "--out", str(tmp_path / "out")],
        ["train", "silc_c-tiny", "--init", str(head), "--out", str(tmp_path / "out"), "--train.device", "cpu"],
        ["train", "silc_c-tiny", "--out", str(head), "--resume", "auto"],
    ):
        assert main(command) == 2, command
        told = capsys.readouterr().err.strip()
        assert "is of a run of kind 'offset', not of kind 'pretrain'; `silc train` goes on with it" in told
        assert "\n" not in told, command
