"""Whole runs: repeated, interrupted, continued, started from another, on two processes, and refused."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from silc import checkpoint
from silc import config as configs
from silc.cli import main
from silc.config import Config
from silc.errors import BadInput
from silc.loading import load_run
from silc.pretraining import run
from silc.training.config import OptimConfig
from silc.training.log import history
from tests import ranks
from tests.data.conftest import sample, write_tar

CLOCK = {"samples_per_s", "data_wait"}
"""What two runs may differ in."""
NOTHING = 1e-300
"""A learning rate that is 0 in float32; 0 itself is refused."""


def curve(out: Path) -> list[dict[str, Any]]:
    """Every logged number but those of the clock."""
    return [{k: v for k, v in record.items() if k not in CLOCK} for record in history(out)]


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the newest checkpoint."""
    saved = checkpoint.read(checkpoint.find(out / "checkpoints")[0])
    return {f"{part}/{name}": t for part, tensors in saved.state_dicts.items() for name, t in tensors.items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


@pytest.mark.parametrize("name", ["silc_c", "siglip"])
def test_one_seed_gives_one_curve(small: Callable[..., Config], name: str, tmp_path: Path) -> None:
    config = small(name, duration="5 steps")
    for copy in ("a", "b"):
        run.train(replace(config, out=str(tmp_path / copy)))
    assert len(curve(tmp_path / "a")) == 5
    assert curve(tmp_path / "a") == curve(tmp_path / "b")
    assert_same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    other = replace(config, out=str(tmp_path / "c"), train=replace(config.train, seed=1))
    run.train(other)
    assert curve(tmp_path / "a") != curve(tmp_path / "c")


def test_micro_batches_give_the_run_of_whole_batches(small: Callable[..., Config], tmp_path: Path) -> None:
    config = small("silc_c", duration="4 steps")
    run.train(replace(config, out=str(tmp_path / "whole")))
    run.train(replace(config, out=str(tmp_path / "parts"), train=replace(config.train, micro_batch=4)))
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name in (name for name in whole if name.startswith("model/")):
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-3, atol=1e-4, msg=name)
    with pytest.raises(BadInput, match=r"train\.micro_batch 3 does not divide a rank's 16 pairs; give one that does"):
        run.train(replace(config, out=str(tmp_path / "none"), train=replace(config.train, micro_batch=3)))
    assert not (tmp_path / "none").exists()


def test_killed_and_resumed_equals_uninterrupted(small: Callable[..., Config], tmp_path: Path) -> None:
    """kill -9 from outside after the first checkpoint; weights, moments, teacher, centre, RNG and curve are equal."""
    config = small("silc_c", duration="60 steps", save_every="4 steps", keep=20, out=tmp_path / "whole")
    run.train(config)
    interrupted = replace(config, out=str(tmp_path / "cut"))
    configs.save(interrupted, tmp_path / "cut.yaml")
    process = ranks.start("train", str(tmp_path / "cut.yaml"), said=tmp_path / "said")
    first = tmp_path / "cut" / "checkpoints" / "step-00000004" / "manifest.json"
    deadline = time.monotonic() + ranks.TIMEOUT
    while not first.is_file() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.join()
    assert first.is_file()

    done_before = history(tmp_path / "cut")[-1]["step"]
    run.train(replace(interrupted, resume="auto"))
    assert 4 <= done_before < 60
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")
    assert_same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))


@pytest.mark.parametrize("stop", [3, 6, 7])
def test_resuming_inside_an_epoch_at_its_end_and_in_the_next(
    small: Callable[..., Config], stop: int, tmp_path: Path
) -> None:
    """96 scenes in batches of 16 are 6 steps an epoch; the checkpoint at `stop` is made the newest, then continued."""
    config = small("silc_s", duration="9 steps", save_every="1 steps", keep=9, out=tmp_path / "run")
    run.train(config)
    whole, records = weights(tmp_path / "run"), curve(tmp_path / "run")
    for path in checkpoint.find(tmp_path / "run" / "checkpoints"):
        if int(path.name.removeprefix("step-")) > stop:
            (path / checkpoint.MANIFEST).unlink()  # what has no manifest is not found
    torch.manual_seed(99)
    # Workers may change at a resume.
    run.train(replace(config, resume="auto", data=replace(config.data, workers=1)))
    assert curve(tmp_path / "run") == records
    assert_same(weights(tmp_path / "run"), whole)


def test_a_run_from_before_a_recipe_changed_keeps_what_it_began_with(
    small: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A clamp at 100 and decay on all matrices, which its config.yaml does not tell: nor does the command."""
    today = small("silc_s", duration="3 steps", save_every="1 steps", out=tmp_path / "run")
    objective = replace(today.objective, scale_max=100.0)
    train = replace(today.train, optim=replace(today.train.optim, decay="matrices"))
    run.train(replace(today, objective=objective, train=train))
    whole = weights(tmp_path / "run")
    for path in checkpoint.find(tmp_path / "run" / "checkpoints")[:2]:  # the newest first
        (path / checkpoint.MANIFEST).unlink()
    written = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert written["objective"].pop("scale_max") == 100
    assert written["train"]["optim"].pop("decay") == "matrices"
    (tmp_path / "run/config.yaml").write_text(yaml.safe_dump(written))
    capsys.readouterr()
    run.train(replace(today, resume="auto"))
    assert_same(weights(tmp_path / "run"), whole)
    said = "run began before its recipe changed; it keeps objective.scale_max 100.0, train.optim.decay matrices\n"
    assert capsys.readouterr().out.count(said) == 1
    # What somebody asks for is no change of the recipe.
    with pytest.raises(BadInput, match=r"objective.weight is 0.1 there and 1.0 here; .*train .*config.yaml --resume"):
        run.train(replace(today, resume="auto", objective=replace(today.objective, weight=1.0)))


def test_a_continued_run_from_before_goes_on_with_its_way_to_say_no_clamp(
    small: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`silc finetune` of a SigLIP wrote 1000.0, which no scale reaches."""
    today = replace(
        small("silc_s", duration="2 steps", save_every="1 steps", out=tmp_path / "run"), recipe="finetune-silc"
    )
    run.train(replace(today, objective=replace(today.objective, scale_max=1000.0)))
    whole = weights(tmp_path / "run")
    (checkpoint.find(tmp_path / "run" / "checkpoints")[0] / checkpoint.MANIFEST).unlink()
    run.train(replace(today, resume="auto"))
    assert_same(weights(tmp_path / "run"), whole)
    assert configs.load(tmp_path / "run/config.yaml").objective.scale_max == 1000
    assert "began before" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["silc_c", "silc_s"])
def test_two_processes_equal_one(small: Callable[..., Config], name: str, tmp_path: Path) -> None:
    """Same reduced losses as one process at the same global batch."""
    assert_two_equal_one(small(name, duration="4 steps", out=tmp_path / "one"), tmp_path, ranks.silc)


@pytest.mark.slow
def test_torchrun(small: Callable[..., Config], tmp_path: Path) -> None:
    """The same by `torchrun ... -m silc train`, of which other tests have only what it writes into the environment."""
    assert_two_equal_one(small("silc_c", duration="4 steps", out=tmp_path / "one"), tmp_path, torchrun)


def assert_two_equal_one(one: Config, folder: Path, two_ranks: Callable[..., object]) -> None:
    run.train(one)
    configs.save(replace(one, out=str(folder / "two")), folder / "two.yaml")
    two_ranks("train", str(folder / "two.yaml"))
    ours, theirs = curve(folder / "one"), curve(folder / "two")
    assert len(ours) == len(theirs) == 4
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for key, value in a.items():
            assert b[key] == pytest.approx(value, rel=2e-4, abs=1e-5), (a["step"], key)
    a, b = weights(folder / "one"), weights(folder / "two")
    for key in (k for k in a if k.startswith(("model/", "teacher/", "head/"))):
        torch.testing.assert_close(a[key], b[key], rtol=1e-3, atol=2e-4, msg=lambda m, k=key: f"{k}: {m}")


def torchrun(*args: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "silc", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr, done.stderr
    # One rank speaks.
    assert done.stdout.count("done: ") <= 1


def test_init_takes_weights_and_not_the_position(small: Callable[..., Config], tmp_path: Path) -> None:
    first = small("silc_c", duration="3 steps", out=tmp_path / "first")
    run.train(first)
    second = small("silc_c_finetune", duration="2 steps", out=tmp_path / "second")
    # A learning rate of nothing and a centre that stays show what was taken over.
    frozen = replace(second.train, optim=replace(second.train.optim, lr=NOTHING))
    still = replace(second.model, teacher=replace(second.model.teacher, centre_momentum=1.0))
    run.train(replace(second, init=str(tmp_path / "first"), train=frozen, model=still))
    before, after = weights(tmp_path / "first"), weights(tmp_path / "second")
    for key in before:
        if key.startswith(("model/", "head/")):
            assert torch.equal(before[key], after[key]), key
    assert checkpoint.find(tmp_path / "second" / "checkpoints")[0].name == "step-00000002"
    assert (tmp_path / "first/tokenizer/tokenizer.json").read_text() == (
        tmp_path / "second/tokenizer/tokenizer.json"
    ).read_text()
    assert before["teacher/centre"].abs().sum() > 0
    assert torch.equal(after["teacher/centre"], before["teacher/centre"])
    # Two more steps of the average towards a student that stands still.
    kept = history(tmp_path / "second")[-1]["teacher/momentum"] ** 2
    for key in (k for k in after if k.startswith(("teacher/visual.", "teacher/head."))):
        student = before[key.replace("teacher/visual.", "model/visual.").replace("teacher/head.", "head/")]
        expected = kept * before[key] + (1 - kept) * student
        torch.testing.assert_close(after[key], expected, rtol=1e-5, atol=1e-7, msg=key)


def test_a_clip_run_goes_on_as_silc(small: Callable[..., Config], tmp_path: Path) -> None:
    """Late SILC: teacher := student, fresh head."""
    run.train(small("clip", duration="2 steps", out=tmp_path / "clip"))
    config = small("silc_c", duration="1 steps", out=tmp_path / "late")
    config = replace(config, init=str(tmp_path / "clip"))
    frozen = replace(config.train, optim=replace(config.train.optim, lr=NOTHING))
    run.train(replace(config, train=frozen))
    after = weights(tmp_path / "late")
    assert all(torch.equal(after[k], after[f"model/{k[8:]}"]) for k in after if k.startswith("teacher/visual."))
    assert all(torch.equal(after[k], after[f"head/{k[13:]}"]) for k in after if k.startswith("teacher/head."))


@pytest.mark.parametrize(("one", "other"), [("clip_views_ema", "silc_c"), ("silc_c", "clip_views_ema")])
def test_rows_of_the_ablation_start_from_one_another(
    small: Callable[..., Config], one: str, other: str, tmp_path: Path
) -> None:
    """With and without a head: the averaged tower is taken over, the head starts fresh or is left out."""
    run.train(small(one, duration="3 steps", out=tmp_path / "one"))
    config = small(other, duration="1 steps", out=tmp_path / "other")
    frozen = replace(config.train, optim=replace(config.train.optim, lr=NOTHING))
    run.train(replace(config, init=str(tmp_path / "one"), train=frozen))
    before, after = weights(tmp_path / "one"), weights(tmp_path / "other")
    kept = history(tmp_path / "other")[-1]["teacher/momentum"]
    for key in (k for k in after if k.startswith("teacher/visual.")):
        student = before[key.replace("teacher/visual.", "model/visual.")]
        torch.testing.assert_close(after[key], kept * before[key] + (1 - kept) * student, rtol=1e-5, atol=1e-7)
    assert load_run(tmp_path / "other").models.keys() == {"student", "teacher"}


def test_a_checkpoint_is_always_written_at_the_end(small: Callable[..., Config], tmp_path: Path) -> None:
    run.train(small("clip", duration="3 steps", save_every="never", out=tmp_path / "run"))
    assert [p.name for p in checkpoint.find(tmp_path / "run" / "checkpoints")] == ["step-00000003"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: replace(c, train=replace(c.train, duration="3 examples")), "is less than one step of 16 pairs"),
        (
            lambda c: replace(c, model=replace(c.model, teacher=replace(c.model.teacher, half_life="0 examples"))),
            "half_life is '0 examples'; needed a duration",
        ),
    ],
)
def test_what_is_refused_claims_no_directory(
    small: Callable[..., Config], change: Callable[[Config], Config], message: str, tmp_path: Path
) -> None:
    config = small("silc_c", out=tmp_path / "run")
    with pytest.raises(BadInput, match=message):
        run.train(change(config))
    run.train(replace(config, train=replace(config.train, duration="1 steps")))


def test_shards_may_move_between_two_halves_of_a_run(
    small: Callable[..., Config], silc_data: Path, tmp_path: Path
) -> None:
    """Another folder with the same shards is the same data; other shards are not."""
    config = small("clip", duration="2 steps", save_every="1 steps", out=tmp_path / "run")
    shard = "flickr8k-000000.tar"
    (tmp_path / "a").symlink_to(silc_data / "train")
    (tmp_path / "b").symlink_to(silc_data / "train")
    config = replace(config, data=replace(config.data, source="shards", train=str(tmp_path / "a" / shard)))
    run.train(config)
    moved = replace(config, resume="auto", data=replace(config.data, train=str(tmp_path / "b" / shard)))
    run.train(moved)
    other = replace(moved, data=replace(moved.data, train=str(tmp_path / "b" / "flickr8k-000001.tar")))
    with pytest.raises(BadInput, match="fingerprint of the samples"):
        run.train(other)


def test_a_changed_list_of_shards_is_refused_or_accepted_by_its_flag(
    small: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        members = [member for i in range(20 * number, 20 * number + 20) for member in sample(i)]
        write_tar(tmp_path / f"{number}.tar", members)
    config = small("clip", duration="4 steps", save_every="1 steps", keep=4, out=tmp_path / "run")
    configs.save(replace(config, data=replace(config.data, source="shards")), tmp_path / "base.yaml")

    def train(shards: str, *flags: str) -> int:
        return main(["train", str(tmp_path / "base.yaml"), "--data.train", str(tmp_path / shards), *flags])

    assert train("{0..1}.tar") == 0  # 40 samples, 2 batches an epoch
    before = curve(tmp_path / "run")
    for path in checkpoint.find(tmp_path / "run" / "checkpoints")[:2]:
        (path / checkpoint.MANIFEST).unlink()  # as if stopped after step 2
    capsys.readouterr()
    assert train("{0..2}.tar", "--resume", "auto") == 2
    assert "accept these shards with --data.accept-changed-shards" in capsys.readouterr().err
    assert train("{0..2}.tar", "--resume", "auto", "--data.accept-changed-shards") == 0
    assert curve(tmp_path / "run")[:2] == before[:2]
    assert [record["step"] for record in curve(tmp_path / "run")] == [1, 2, 3, 4]
    saved = json.loads((checkpoint.find(tmp_path / "run" / "checkpoints")[0] / "state.json").read_text())["loader"]
    assert (saved["samples"], saved["epoch"]) == (64, 1)  # 60 samples are 3 batches an epoch
    assert train("{0..2}.tar", "--resume", "auto") == 0  # it is the list of this run now


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c, r"already holds a run; go on with --resume auto"),
        (
            lambda c: replace(c, resume="auto", train=replace(c.train, batch_size=8)),
            r"train.batch_size is 16 there and 8",
        ),
        (lambda c: replace(c, resume="auto", train=replace(c.train, seed=5)), r"train.seed is 0 there and 5"),
        (
            lambda c: replace(c, resume="auto", objective=replace(c.objective, contrastive="sigmoid")),
            r"another run: objective.contrastive is 'softmax' there and 'sigmoid' here; give another --out",
        ),
    ],
)
def test_a_directory_of_another_run_is_left_alone(
    small: Callable[..., Config], change: Callable[[Config], Config], message: str, tmp_path: Path
) -> None:
    config = small("silc_c", duration="1 steps", out=tmp_path / "run")
    run.train(config)
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(BadInput, match=message):
        run.train(change(config))
    assert before == {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}


@pytest.mark.parametrize(("done", "schedule"), [("4 steps", "rsqrt"), ("7 steps", "rsqrt"), ("4 steps", "cosine")])
def test_an_extended_run_is_from_there_on_the_longer_run(
    small: Callable[..., Config], done: str, schedule: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the schedule does not depend on the length, all is equal bit for bit; else the rates are from there on.

    96 scenes in batches of 16 are 6 steps an epoch, so the run is extended inside the first and the second.
    """
    optim = OptimConfig(lr=1e-3, schedule=schedule, warmup="2 steps", cooldown="0 steps")  # type: ignore[arg-type]
    longer = small("silc_c", duration="9 steps", optim=optim, out=tmp_path / "longer")
    run.train(longer)
    short = replace(longer, out=str(tmp_path / "short"), train=replace(longer.train, duration=done))
    run.train(short)
    steps, was = int(done[0]), curve(tmp_path / "short")[-1]["lr"]
    capsys.readouterr()
    run.train(replace(longer, out=short.out, resume="auto", extend=True))
    planned, extended = curve(tmp_path / "longer"), curve(tmp_path / "short")
    if schedule == "rsqrt":
        assert extended == planned
        assert_same(weights(tmp_path / "short"), weights(tmp_path / "longer"))
    else:
        assert [r["lr"] for r in extended[:steps]] != [r["lr"] for r in planned[:steps]]
    assert [r["lr"] for r in extended[steps:]] == [r["lr"] for r in planned[steps:]]
    now = planned[steps]["lr"]
    said = f"extended from {steps} to 9 steps: the learning rate goes from {was:.1e} to {now:.1e} at step {steps}\n"
    assert capsys.readouterr().out.count(said) == 1
    written = configs.load(tmp_path / "short/config.yaml")
    assert (written.train.duration, written.extend, written.resume) == ("9 steps", False, "never")


def test_what_cannot_be_extended_is_refused_and_left_as_it_is(
    small: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small("clip", duration="3 steps", out=tmp_path / "run")
    with pytest.raises(BadInput, match=r"run holds no run to extend; give the --out of one, or leave --extend out"):
        run.train(replace(config, resume="auto", extend=True))
    assert not (tmp_path / "run").exists()
    run.train(config)
    written = (tmp_path / "run/config.yaml").read_text()
    assert "extend: false\n" in written
    written = written.replace("extend: false\n", "")  # a run from before there was the field
    (tmp_path / "run/config.yaml").write_text(written)

    def lasting(duration: str, **fields: object) -> Config:
        train = replace(config.train, duration=duration)
        return replace(config, resume="auto", train=train, **fields)  # type: ignore[arg-type]

    for asked, message in (
        (
            lasting("5 steps"),
            r"train.duration is '3 steps' there and '5 steps' here; add --extend to lengthen it, give",
        ),
        (
            lasting("2 steps", extend=True),
            r"'2 steps' is 2 steps, and .*run has 3 of 3 steps done; --extend makes a run",
        ),
        (
            replace(lasting("5 steps", extend=True), init_weights="teacher"),
            r"another run: init_weights is 'all' there and 'teacher' here; give another --out",
        ),
    ):
        with pytest.raises(BadInput, match=message):
            run.train(asked)
    assert (tmp_path / "run/config.yaml").read_text() == written
    capsys.readouterr()
    run.train(lasting("48 examples", extend=True))  # as long as it is, in another unit
    assert "extended from" not in capsys.readouterr().out


def test_a_run_goes_on_by_its_own_configuration_wherever_it_lies(
    small: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`silc train RUN/config.yaml --resume auto`, and the same with a longer duration, on a run that was moved."""
    monkeypatch.chdir(tmp_path)
    run.train(small("clip", duration="3 steps", out="out/run"))
    (tmp_path / "out/run").rename(tmp_path / "moved")
    again = ["train", "moved/config.yaml"]
    assert main(again) == 2  # it holds a run, and nobody said that it goes on
    assert main([*again, "--resume", "auto"]) == 0
    assert main([*again, "--resume", "auto", "--duration", "4 steps"]) == 2
    assert main([*again, "--resume", "auto", "--extend", "--duration", "4 steps"]) == 0
    assert [record["step"] for record in curve(tmp_path / "moved")] == [1, 2, 3, 4]
    assert main(["train", "moved/config.yaml", "--out", "out/other"]) == 0  # the same once more, elsewhere
    assert len(curve(tmp_path / "out/other")) == 4
    assert not (tmp_path / "out/run").exists()


def test_a_checkpoint_of_another_architecture(small: Callable[..., Config], tmp_path: Path) -> None:
    run.train(small("silc_c", duration="1 steps", out=tmp_path / "first"))
    config = small("silc_c", duration="1 steps", out=tmp_path / "second")
    image = dataclasses.replace(config.model.image, depth=2)
    config = replace(config, init=str(tmp_path / "first"), model=replace(config.model, image=image))
    with pytest.raises(
        BadInput, match=r"model\.safetensors is of another architecture: it lacks visual\.trunk\.blocks\.1"
    ):
        run.train(config)
    with pytest.raises(BadInput, match="is no model: neither a run of"):
        run.train(replace(config, init=str(tmp_path / "nothing"), out=str(tmp_path / "third")))


def test_a_changed_list_of_samples_is_noticed_at_resume(small: Callable[..., Config], tmp_path: Path) -> None:
    config = small("silc_c", duration="2 steps", save_every="1 steps", out=tmp_path / "run")
    run.train(config)
    state = checkpoint.find(tmp_path / "run" / "checkpoints")[0]
    assert json.loads((state / "state.json").read_text())["loader"]["samples"] == 32
    stored = configs.load(tmp_path / "run" / "config.yaml")
    grown = replace(stored.data, scenes=replace(stored.data.scenes, num=200))
    configs.save(replace(stored, data=grown), tmp_path / "run" / "config.yaml")
    with pytest.raises(BadInput, match="fingerprint of the samples"):
        run.train(replace(stored, data=grown, resume="auto"))


def test_a_run_is_read_back(small: Callable[..., Config], tmp_path: Path) -> None:
    config = small("silc_c", duration="3 steps", out=tmp_path / "run")
    run.train(config)
    loaded = load_run(tmp_path / "run")
    assert loaded.examples_seen == 48
    assert loaded.train_flops == pytest.approx(history(tmp_path / "run")[-1]["train_flops"])
    student, teacher = loaded.models["student"], loaded.models["teacher"]
    assert student.model is teacher.model
    image = torch.rand(2, 3, 16, 16)
    assert not torch.equal(student.encode_image(image), teacher.encode_image(image))
    for model in (student, teacher):
        assert model.encode_image(image).norm(dim=-1) == pytest.approx([1, 1], abs=1e-5)
        text = model.encode_text(model.tokenizer(["plain red", "a"]))
        assert text.norm(dim=-1) == pytest.approx([1, 1], abs=1e-5)
    with pytest.raises(BadInput, match="holds no run"):
        load_run(tmp_path)


def test_a_run_without_teacher_says_so(small: Callable[..., Config], tmp_path: Path) -> None:
    run.train(small("clip", duration="1 steps", out=tmp_path / "run"))
    assert load_run(tmp_path / "run").models.keys() == {"student"}
    with pytest.raises(BadInput, match="has no teacher; use --weights student"):
        load_run(tmp_path / "run", weights="teacher")
