"""Probes as a person runs them: three tasks, scores beside chance, killed and resumed, on two ranks, sharded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from silc import checkpoint
from silc.cli import main
from silc.data.scenes import write_sets
from silc.probes.tasks import Classification
from tests import ranks

SHORT = {
    **{"--train.duration": "8 steps", "--train.save-every": "4 steps", "--train.log-every": "4 steps"},
    **{"--train.batch-size": "32", "--train.device": "cpu", "--segmentation-batch": "4", "--k": "5", "--l2": "1e-3"},
}


def write_probe_sets(root: Path, *, train: int, test: int, images: int) -> None:
    """Scenes of one combination to classify and of several to segment, with training images of other seeds."""
    write_sets(root, size=24, seed=0, num_retrieval=1, num_segmentation=images, per_class=test)
    write_sets(root / "other", size=24, seed=1, num_retrieval=1, num_segmentation=2 * images, per_class=train)
    for folder, split in (("classification/scenes_seen", "test"), ("segmentation/scenes", "")):
        shutil.copytree(root / "other" / folder / split, root / folder / "train")
    shutil.rmtree(root / "other")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("probes") / "data"
    write_probe_sets(root, train=2, test=1, images=5)
    return root


@pytest.fixture(scope="module")
def command(data: Path, finished: Callable[..., Path]) -> Callable[..., list[str]]:
    """The words of a probe into a folder."""

    def make(out: Path, **flags: str) -> list[str]:
        task = flags.get("tasks", "")
        unread = {"linear": ("--k", "--segmentation-batch"), "seg": ("--k", "--train.batch-size")}
        short = {flag: value for flag, value in SHORT.items() if flag not in unread.get(task.rpartition("-")[2], ())}
        given = short | {f"--{name.replace('_', '-')}": value for name, value in flags.items()}
        words = [word for flag in given.items() for word in flag]
        return ["probe", str(finished("silc_c")), "--root", str(data), "--out", str(out), *words]

    return make


@pytest.fixture(scope="module")
def whole(command: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three probes, finished."""
    out = tmp_path_factory.mktemp("probe") / "whole"
    assert main(command(out)) == 0
    return out


def heads(run: Path) -> dict[str, torch.Tensor]:
    saved = checkpoint.read(checkpoint.find(run / "checkpoints")[0])
    return {f"{part}/{name}": value for part, own in saved.state_dicts.items() for name, value in own.items()}


def test_scores_of_three_tasks(whole: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = {record["task"]: record for record in json.loads((whole / "scores.json").read_text())}
    assert list(records) == ["knn_classification", "linear_probe_classification", "linear_probe_segmentation"]
    for record in records.values():
        assert record["weights"] == "teacher"
        assert record["chance"].keys() >= {"miou" if "seg" in record["task"] else "acc1"}
        assert record["intervals"].keys() == record["metrics"].keys()
    assert records["linear_probe_classification"]["protocol"]["held_back"] == "26 of 52 training images"
    assert "Linear segmentation of frozen patches" in (whole / "report.html").read_text()
    assert main(["eval", "--list", "--root", str(data)]) == 0
    said = capsys.readouterr().out
    for task in ("scenes_seen-zs", "scenes_seen-knn", "scenes_seen-linear", "scenes-zs-seg", "scenes-linear-seg"):
        assert task in said


@pytest.mark.parametrize("along", ["never", "8 steps"])
def test_the_penalty_is_chosen_on_training_images(
    along: str, command: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best of those held back, of equal ones the strongest; the head that is scored learnt from all images, and is
    scored once where training scored it at its last step."""
    found: list[int] = []
    scores = iter([0.3, 0.5, 0.5] * 2)  # before the first step and after the last
    monkeypatch.setattr(Classification, "score", lambda self, heads, head: next(scores))
    evaluation = Classification.evaluation
    monkeypatch.setattr(
        Classification,
        "evaluation",
        lambda self, heads, head, told: found.append(head) or evaluation(self, heads, head, told),
    )
    words = command(tmp_path / "out", tasks="*-linear", **{"train.eval-every": along})
    words[words.index("1e-3") : words.index("1e-3") + 1] = ["1e-3", "1e-1", "1e-2"]
    assert main(words) == 0
    (record,) = json.loads((tmp_path / "out/scores.json").read_text())
    assert found == [4, 4]
    assert record["protocol"]["l2"] == 1e-2
    assert record["protocol"]["held_back_scores"] == {"0.1": 0.3, "0.01": 0.5, "0.001": 0.5}


@pytest.mark.parametrize("task", ["scenes_seen-linear", "scenes-linear-seg"])
def test_killed_and_resumed_it_is_the_same_to_the_bit(
    task: str, command: Callable[..., list[str]], whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole / task, tmp_path / "cut" / task, symlinks=True)
    newest = checkpoint.find(tmp_path / "cut" / task / "checkpoints")[0]
    (newest / checkpoint.MANIFEST).unlink()
    assert main(command(tmp_path / "cut", tasks=task, resume="auto")) == 0
    before, after = heads(whole / task), heads(tmp_path / "cut" / task)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    (record,) = json.loads((tmp_path / "cut/scores.json").read_text())
    assert record in json.loads((whole / "scores.json").read_text())


@pytest.mark.parametrize(
    ("sharding", "tasks"),
    [
        ("none", ["scenes-linear-seg"]),
        pytest.param("full", ["scenes_seen-linear", "scenes-linear-seg"], marks=pytest.mark.slow),
    ],
)
def test_two_ranks_learn_what_one_does(
    sharding: str, tasks: list[str], command: Callable[..., list[str]], whole: Path, tmp_path: Path
) -> None:
    for task in tasks:
        ranks.silc(*command(tmp_path / task, tasks=task, **{"train.sharding": sharding}))
        (together,) = json.loads((tmp_path / task / "scores.json").read_text())
        alone = next(r for r in json.loads((whole / "scores.json").read_text()) if r["task"] == together["task"])
        assert together["metrics"] == pytest.approx(alone["metrics"], abs=1e-2)
        one, two = heads(whole / task), heads(tmp_path / task / task)
        for name in (name for name in one if name.startswith("model/")):
            assert torch.allclose(one[name], two[name], rtol=1e-3, atol=1e-4), name


def test_another_model_or_setting_is_not_gone_on_with(
    command: Callable[..., list[str]],
    tmp_path: Path,
    finished: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = Path(shutil.copytree(finished("silc_c"), tmp_path / "model", symlinks=True))
    words = command(tmp_path / "out", tasks="scenes_seen-linear")
    words[1] = str(model)
    assert main(words) == 0
    assert main(words) == 2
    assert "already holds a run; go on with --resume auto" in capsys.readouterr().err
    assert main([*words, "--resume", "auto", "--held-back", "0.3"]) == 2
    assert "held_back is 0.3 here and was 0.1 when the run began; give another --out" in capsys.readouterr().err
    shutil.rmtree(model)
    shutil.copytree(finished("silc_s"), model, symlinks=True)
    assert main([*words, "--resume", "auto"]) == 2
    assert "model is '" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"tasks": "scenes_heldout-linear"}, "scenes_heldout-linear learns from labelled training images, and"),
        ({"tasks": "scene-knn"}, "did you mean 'scenes_seen-knn'?"),
        ({"k": "100"}, "k is 100, but there are 52 training images; give at most that"),
        ({"tasks": "*-linear", "k": "3"}, "no task is k-NN"),
        ({"tasks": "*-knn"}, "no task trains a layer"),
        ({"train.optim.lora": "4"}, "linear layers have no towers, and their penalty is --l2"),
        ({"train.duration": "0.1 examples", "tasks": "*-linear"}, "is less than one step"),
        ({"train.optim.warmup": "9 steps", "tasks": "*-linear"}, "warm"),
    ],
)
def test_bad_input_is_one_line(
    flags: dict[str, str],
    said: str,
    command: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(command(tmp_path / "out", **flags)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_weights_are_chosen_of_runs_alone(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "silc.json").write_text("{}")
    words = ["probe", str(tmp_path), "--root", str(data), "--out", str(tmp_path / "out"), "--weights", "student"]
    assert main(words) == 2
    assert "--weights: the model is no run with a student and a teacher" in capsys.readouterr().err
