"""Heads on image-text pairs, from the command line: trained, stopped, resumed, scored and used."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import silc
from silc import checkpoint
from silc.cli import main
from silc.data.scenes import write_sets
from silc.encoder import DensePredictor
from silc.errors import BadInput
from silc.eval.config import EvalConfig
from silc.predict import Model
from silc.rundir import newest_checkpoint
from tests import ranks

KINDS = ["tcl", "pacl"]
TINY = (
    *("--data.source", "scenes", "--data.scenes.num", "32", "--data.scenes.size", "24", "--data.workers", "0"),
    *("--train.duration", "4 steps", "--train.batch-size", "8", "--train.save-every", "2 steps"),
    *("--train.precision", "float32", "--train.device", "cpu", "--train.log-every", "1 steps"),
)


def asked(kind: str, init: Path, out: Path, *more: str) -> list[str]:
    """A command line; of a flag that is given again the tiny run's own is left out."""
    own = [word for pair in zip(TINY[::2], TINY[1::2], strict=True) if pair[0] not in more for word in pair]
    return ["train", kind, "--init", str(init), "--out", str(out), *own, *more]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read(newest_checkpoint(run), only=("model",)).state_dicts["model"]


def moments(run: Path) -> dict[str, torch.Tensor]:
    return checkpoint.read(newest_checkpoint(run), only=("optimizer",)).state_dicts["optimizer"]


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(x, other[name]) for name, x in one.items())


@pytest.fixture(scope="module", params=KINDS)
def trained(request, finished: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A finished run of each kind."""
    out = tmp_path_factory.mktemp(request.param) / "run"
    assert main(asked(request.param, finished("silc_c"), out)) == 0
    return request.param, out


def test_it_goes_on_to_the_bit(trained, finished, tmp_path: Path) -> None:
    """TCL's checkpoint is of its first phase, in which the last block has no moments yet."""
    kind, run = trained
    again = tmp_path / "again"
    shutil.copytree(run, again)
    for file in (newest_checkpoint(again), again / "checkpoints" / "latest"):
        shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink(missing_ok=True)
    assert newest_checkpoint(again).name == "step-00000002"
    assert not equal(weights(again), weights(run))
    assert main(asked(kind, finished("silc_c"), again, "--resume", "auto")) == 0
    assert equal(weights(again), weights(run))
    assert equal(moments(again), moments(run))


@pytest.mark.parametrize("kind", KINDS)
def test_in_bfloat16_losses_are_float32(kind: str, finished, tmp_path: Path) -> None:
    out = tmp_path / "run"
    lines = []
    for precision in ("bf16", "float32"):
        more = ["--train.precision", precision, "--train.duration", "1 steps"]
        assert main(asked(kind, finished("silc_c"), out / precision, *more)) == 0
        lines.append(json.loads((out / precision / "metrics.jsonl").read_text().splitlines()[0]))
    for name, value in lines[1].items():
        if name.startswith("loss/"):
            assert lines[0][name] == pytest.approx(value, abs=0.02), name
            assert torch.tensor(lines[0][name]).bfloat16().item() != lines[0][name]  # it has more digits


def test_it_tells_each_loss(trained) -> None:
    kind, run = trained
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [record for record in records if any(name.startswith("loss/") for name in record)]
    assert len(losses) == 4
    assert losses[0]["train_flops"] > 0
    names = {name for name in losses[0] if name.startswith("loss/")}
    assert names == (
        {"loss/image_text"}
        if kind == "pacl"
        else {
            f"loss/{name}" for name in (*("image", "feature", "area", "other_area", "feature_smooth", "mask_smooth"),)
        }
    )
    if kind == "tcl":
        assert [record["alone"] for record in losses] == [1, 1, 0, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_scores_along_training_are_of_the_weights_there_are(kind: str, finished, tmp_path: Path) -> None:
    """The last ones are those of the run as it is loaded; those before it learnt were others; none is made twice."""
    root, out = tmp_path / "data", tmp_path / "run"
    write_sets(root, size=24, seed=0, num_retrieval=4, num_segmentation=3, per_class=1)
    along = ["--train.eval-every", "4 steps", "--eval.root", str(root), "--eval.tasks", "*-zs-seg"]
    assert main(asked(kind, finished("silc_c"), out, *along, "--train.optim.lr", "1e-2")) == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    found = [[x for name, x in line.items() if name.startswith(f"eval/{kind}/")] for line in lines]
    first, last = [scores for scores in found if scores]
    (scored,) = silc.evaluate(out, root=str(root), tasks="*-zs-seg", device="cpu")
    assert last == pytest.approx(list(scored.record.metrics.values()), abs=1e-9)
    assert first != last


def test_images_and_texts_go_through_pacls_towers_some_at_a_time(finished, tmp_path: Path, monkeypatch) -> None:
    """And what is learnt is that of all at once."""
    assert main(asked("pacl", finished("silc_c"), tmp_path / "whole")) == 0
    sizes = {"encode_dense": [], "encode_text": []}
    for name, seen in sizes.items():
        encode = getattr(Model, name)

        def counted(*args: Any, encode: Any = encode, seen: list[int] = seen) -> torch.Tensor:
            seen.append(len(args[1]))
            return encode(*args)

        monkeypatch.setattr(Model, name, counted)
    monkeypatch.setattr("silc.heads.pacl.model.IMAGES_AT_ONCE", 3)
    monkeypatch.setattr("silc.heads.pairs.TEXTS_AT_ONCE", 3)
    assert main(asked("pacl", finished("silc_c"), tmp_path / "parts")) == 0
    assert [max(seen) for seen in sizes.values()] == [3, 3]
    ours, theirs = weights(tmp_path / "parts"), weights(tmp_path / "whole")
    assert all(torch.allclose(x, theirs[name], atol=1e-5) for name, x in ours.items())


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns(kind: str, finished, tmp_path: Path) -> None:
    """The image-text losses fall, of the head alone on towers that stay."""
    more = ["--train.duration", "24 steps", "--train.optim.lr", "3e-3", "--train.batch-size", "16"]
    assert main(asked(kind, finished("silc_c"), tmp_path / "run", *more)) == 0
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    name = "loss/image_text" if kind == "pacl" else "loss/feature"
    losses = [record[name] for record in records if name in record]
    assert sum(losses[-4:]) < 0.95 * sum(losses[:4])


def test_it_is_scored_beside_the_model_below(trained, finished, tmp_path: Path, capsys) -> None:
    kind, run = trained
    root, out = tmp_path / "data", tmp_path / "scores.json"
    write_sets(root, size=24, seed=0, num_retrieval=4, num_segmentation=3, per_class=1)
    common = ["--root", str(root), "--out", str(out), "--device", "cpu"]
    assert main(["eval", str(run), str(finished("silc_c")), *common, "--tasks", "*-zs-seg,*-retrieval"]) == 0
    records = {(one["task"], one["weights"]): one for one in json.loads(out.read_text())}
    segmented = records["zeroshot_segmentation", kind]
    assert segmented["protocol"]["decoder"] == kind.upper()
    assert not segmented["protocol"]["tuned_on_labels"]
    assert records["zeroshot_retrieval", kind]["metrics"] == records["zeroshot_retrieval", "teacher"]["metrics"]
    mixed = ["eval", str(run), *common, "--tasks", "*-zs-seg", "--mix", "value_block+map_value"]
    if kind == "tcl":
        assert main([*mixed, "--pamr"]) == 0
        (record,) = json.loads(out.read_text())
        assert record["protocol"]["tuned_on_labels"] is True
        assert record["protocol"]["mix"] == "0.7 own + 0.3 value_block+map_value"
        assert record["protocol"]["refined"] == "PAMR"
        assert main(["eval", str(run), *common, "--tasks", "*-zs-seg", "--background", "0.5"]) == 2
        assert "leaves out no background" in capsys.readouterr().err
    else:
        assert main(mixed) == 2
        assert "makes class maps itself; leave out eval.decoder, eval.readout and eval.mix" in capsys.readouterr().err


def test_it_is_loaded_and_used(trained) -> None:
    kind, run = trained
    model = silc.load(run, device="cpu")
    assert isinstance(model, DensePredictor)
    found = model.segment(Image.new("RGB", (20, 24), "red"), ["red", "blue"])
    assert found.labels.shape == (24, 20)
    half = silc.load(run, device="cpu", dtype="bfloat16")
    pixels = model.preprocess.normalize(torch.randint(0, 255, (1, 3, 16, 16), dtype=torch.uint8))
    names = torch.nn.functional.normalize(torch.randn(3, 32), dim=-1)
    maps = model.maps(pixels, names)
    assert maps.shape == ((1, 3, 8, 8) if kind == "tcl" else (1, 3, 2, 2))
    torch.testing.assert_close(half.maps(pixels, names), maps, atol=0.1, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_is_told_in_one_line(kind: str, finished, tmp_path: Path, capsys) -> None:
    out = str(tmp_path / "out")
    init = ["--init", str(finished("silc_c"))]
    (tmp_path / "imported").mkdir()
    (tmp_path / "imported" / "silc.json").write_text("{}")
    for more, said in (
        (["--data.source", "scenes"], "a head is trained on an existing model; name one"),
        (init, "data.train is empty; name tar shards"),
        ([*init, "--data.source", "scenes", "--train.batch-size", "1"], "needed at least 2"),
        ([*init, "--data.source", "scenes", "--data.train", "a.tar"], "two sources of pairs"),
        (["--init", str(tmp_path / "none"), "--data.source", "scenes"], "is no model"),
        (["--init", str(tmp_path / "imported"), "--weights", "student"], "is no run with a student and a teacher"),
        ([*init, "--data.train", str(tmp_path / "none.tar")], "does not exist"),
        ([*init, "--data.source", "scenes", "--data.scenes.num", "4"], "4 samples are fewer than one global batch"),
    ):
        assert main(["train", kind, "--out", out, "--train.device", "cpu", *more]) == 2, more
        told = capsys.readouterr().err.strip().splitlines()
        assert said in told[-1], more
        assert len(told) == 1, told
    if kind == "tcl":
        assert main(["train", kind, "--out", out, *init, "--data.source", "scenes", "--temperature", "0.005"]) == 2
        assert "which has no gradient; give at least 0.01" in capsys.readouterr().err
    assert main(["train", kind, "--out", str(tmp_path / "none"), "--data.source", "scenes"]) == 2
    assert not (tmp_path / "none").exists()


def test_a_head_is_no_model_for_a_head(trained, tmp_path: Path, capsys) -> None:
    kind, run = trained
    assert main(asked("pacl", run, tmp_path / "out")) == 2
    assert f"is of a run of kind '{kind}', not of kind 'pretrain'" in capsys.readouterr().err


def test_another_model_below_is_refused(trained, finished, tmp_path: Path, capsys) -> None:
    """Where a run goes on, and where it is loaded: one that lies where its own did."""
    kind, run = trained
    again = tmp_path / "again"
    shutil.copytree(run, again)
    below = tmp_path / "below"
    shutil.copytree(finished("silc_c"), below)
    (below / "config.yaml").write_text((below / "config.yaml").read_text() + "\n")
    assert main(asked(kind, below, again, "--resume", "auto")) == 2
    assert "another model than the one that this head was trained on" in capsys.readouterr().err
    config = again / "config.yaml"
    config.write_text(config.read_text().replace(str(finished("silc_c")), str(below)))
    with pytest.raises(BadInput, match="another model than the one that this head was trained on"):
        silc.load(again, device="cpu")


def test_idle_settings_are_told(finished, tmp_path: Path, capsys) -> None:
    more = ["--data.vocab-size", "400", "--data.crops.num-local", "3", "--train.optim.lora", "2"]
    more += ["--train.optim.decay", "kernels", "--train.micro-batch", "4"]
    assert main(asked("pacl", finished("silc_c"), tmp_path / "run", "--train.duration", "1 steps", *more)) == 0
    told = capsys.readouterr().err
    for name in ("data.vocab_size", "data.crops.num_local", "train.optim.lora", "train.optim.decay"):
        assert name in told
    assert "train.micro_batch (a head takes the whole batch at once)" in told
    more = ["--train.duration", "1 steps", "--train.sharding", "full"]
    assert main(asked("pacl", finished("silc_c"), tmp_path / "shared", *more)) == 0
    assert "train.sharding (one rank holds everything" in capsys.readouterr().err


def test_the_guides_commands_are_commands(monkeypatch, tmp_path: Path, capsys) -> None:
    """Flags are known; what they are about is not there."""
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[2] / "docs/guides/baselines.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("silc ")]
    assert len(lines) == 4
    for line in lines:
        assert main(shlex.split(line)[1:]) == 2
        assert "out/silc_c is no model" in capsys.readouterr().err or "--paper" in line


def test_masks_below_a_threshold_are_background(trained) -> None:
    """TCL's threshold on its masks, which PACL has none of; 0 is the background."""
    kind, run = trained
    model, image = silc.load(run, device="cpu"), Image.effect_noise((24, 24), 90).convert("RGB")
    if kind == "pacl":
        with pytest.raises(BadInput, match=r"eval.background needs masks from 0 to 1, and .* makes none; set it to 0"):
            model.segment(image, ["red", "blue"], EvalConfig(background=0.5))
        return
    found = model.segment(image, ["red", "blue"], EvalConfig(background=0.5))
    masks = model.segment(image, ["red", "blue"]).scores
    assert found.names == ["background", "red", "blue"]
    whole = torch.nn.functional.interpolate(masks[None], (24, 24), mode="bilinear")[0]
    assert torch.equal(found.labels == 0, whole.amax(0) <= 0.5)


@pytest.mark.parametrize(
    ("kind", "sharding"),
    [
        ("tcl", "none"),
        pytest.param("tcl", "full", marks=pytest.mark.slow),
        pytest.param("pacl", "none", marks=pytest.mark.slow),
        pytest.param("pacl", "full", marks=pytest.mark.slow),
    ],
)
def test_two_ranks_learn_what_one_does(kind: str, sharding: str, finished, tmp_path: Path) -> None:
    """In what each weight becomes since the start, which a run at next to no rate stays at."""
    start, one, two = tmp_path / "start", tmp_path / "one", tmp_path / "two"
    rate = ["--train.optim.lr", "1e-2"]
    assert main(asked(kind, finished("silc_c"), start, "--train.optim.lr", "1e-12")) == 0
    assert main(asked(kind, finished("silc_c"), one, *rate)) == 0
    ranks.silc(*asked(kind, finished("silc_c"), two, *rate, "--train.sharding", sharding), ranks=2)
    before, theirs = weights(start), weights(two)
    learnt = {name: x - before[name] for name, x in weights(one).items()}
    away = {name: (theirs[name] - before[name] - x).norm() / x.norm() for name, x in learnt.items() if x.norm() > 1e-2}
    assert len(away) > len(learnt) / 2
    assert max(away.values()) < 0.01, away
