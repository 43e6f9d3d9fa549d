"""What is given is used, or a line says that it is not: sources of pairs, second stages, every command's flags."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from silc import cli, given, recipes
from silc import config as configs
from silc.commands.eval import EvalCommand
from silc.commands.export import ExportCommand
from silc.commands.flags import configured
from silc.commands.import_model import ImportCommand
from silc.commands.plan import PlanCommand
from silc.commands.predict import PredictCommand
from silc.config import Config
from silc.data.config import DataConfig
from silc.data.sources import open_pairs
from silc.errors import BadInput
from silc.eval.config import EvalConfig
from silc.evaluation import evaluate
from silc.interop import sources
from silc.loading import load
from silc.pretraining import run, start
from silc.training.log import history


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Two shards of 12 pairs."""
    rng = np.random.default_rng(0)
    for number in range(2):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as tar:
            for key in range(12):
                picture = io.BytesIO()
                Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(picture, "PNG")
                for suffix, data in (("png", picture.getvalue()), ("txt", f"a red thing number {key}".encode())):
                    header = tarfile.TarInfo(f"{key:03d}.{suffix}")
                    header.size = len(data)
                    tar.addfile(header, io.BytesIO(data))
    return tmp_path


@pytest.fixture
def yaml(small: Callable[..., Config], tmp_path: Path) -> str:
    """A tiny recipe on generated scenes, as a file."""
    configs.save(small("clip", duration="1 steps", batch_size=8), tmp_path / "tiny.yaml")
    return str(tmp_path / "tiny.yaml")


@pytest.mark.parametrize("name", ["{0..1}.tar", "*.tar", "0.tar::1.tar", "?.tar"])
def test_naming_shards_selects_them(
    name: str, tars: Path, yaml: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tars)
    assert cli.main(["train", yaml, "--data.train", name, "--out", "run"]) == 0
    assert f"reading 24 pairs: {name}" in capsys.readouterr().out.splitlines()
    kept = configs.load(Path("run/config.yaml")).data
    assert (kept.source, kept.train) == ("shards", name)


def test_every_run_says_what_it_reads(
    small: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.train(small("clip", duration="1 steps", out=tmp_path / "run", held_out=16))
    said = "reading 80 pairs: generated scenes (data.source scenes); 16 more are held out"
    assert said in capsys.readouterr().out.splitlines()[:2]


@pytest.mark.parametrize(
    "train",
    ["/nonexistent/{000..003}.tar", "/nonexistent/*.tar", "/nonexistent/a.tar", "/nonexistent", "/nonexistent/"],
)
def test_shards_that_are_not_there(train: str, yaml: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", yaml, "--data.train", train, "--out", str(tmp_path / "run")]) == 2
    assert "nonexistent" in capsys.readouterr().err


def test_two_sources_are_refused_or_the_last_word_counts() -> None:
    tiny = recipes.get("silc_c-tiny")
    assert configs.override(tiny, {"data.train": "a.tar"}).data.source == "shards"
    assert configs.override(tiny, {"data.train": "", "lr": 1e-4}).data.source == "scenes"
    shards = configs.override(tiny, {"data.train": "a.tar"})
    assert configs.override(shards, {"data.source": "scenes"}).data.train == ""
    with pytest.raises(BadInput, match="two sources of pairs"):
        configs.override(tiny, {"data.train": "a.tar", "data.source": "scenes"})
    both = replace(tiny, data=replace(tiny.data, train="a.tar"), out="unused")
    with pytest.raises(BadInput, match="two sources of pairs; give --data"):
        run.train(both)


@pytest.mark.parametrize("asked", ["the same file", "the same flags", "shards elsewhere"])
def test_a_run_that_began_on_scenes_goes_on_with_them(
    asked: str, small: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """config.yaml of an earlier version may name shards that were never read."""
    config = small("clip", duration="4 steps", out=tmp_path / "run", save_every="2 steps")
    run.train(config)
    whole = [record["loss/total"] for record in history(tmp_path / "run") if "loss/total" in record]
    old = replace(config, data=replace(config.data, train="/data/*.tar"))
    configs.save(old, tmp_path / "run" / "config.yaml")
    configs.save(config, tmp_path / "tiny.yaml")
    (tmp_path / "run" / "checkpoints" / "step-00000004" / "manifest.json").unlink()
    capsys.readouterr()
    file, flags = {
        "the same file": (tmp_path / "run" / "config.yaml", []),
        "the same flags": (tmp_path / "tiny.yaml", ["--data.train", "/data/*.tar"]),
        "shards elsewhere": (tmp_path / "tiny.yaml", ["--data.train", "/other/*.tar"]),
    }[asked]
    assert cli.main(["train", str(file), *flags, "--out", str(tmp_path / "run"), "--resume", "auto"]) == 0
    said = capsys.readouterr().out
    assert said.count("data.train is not read") == 1
    assert "began on generated scenes" in said
    assert [record["loss/total"] for record in history(tmp_path / "run") if "loss/total" in record] == whole


@pytest.mark.parametrize("name", ["silc_c_finetune", "silc_s_finetune-tiny", "silc_c_finetune-l16"])
def test_a_second_stage_needs_a_run(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", name, "--train.device", "cpu", "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == f"silc: {name} goes on from a pre-trained run; name it with --init RUN\n"
    assert not (tmp_path / "run").exists()


def test_a_second_stage_from_before_its_recipe_changed_goes_on(
    small: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its tiny variant had a cosine; and without --init once the run is there."""
    first = run.train(small("silc_c", duration="1 steps", out=tmp_path / "first"))
    now = replace(small("silc_c_finetune", duration="2 steps", out=tmp_path / "second"), init=str(first))
    old = configs.override(now, {"train.optim.schedule": "cosine", "train.optim.cooldown": "0 steps"})
    run.train(old)
    (tmp_path / "second" / "checkpoints" / "step-00000002" / "manifest.json").unlink()
    capsys.readouterr()
    run.train(replace(now, init="", resume="auto"))
    assert "it keeps train.optim.schedule cosine, train.optim.cooldown 0 steps" in capsys.readouterr().out
    assert configs.load(tmp_path / "second" / "config.yaml").train.optim.schedule == "cosine"


@pytest.mark.parametrize(
    ("recipe", "flags", "said"),
    [
        ("silc_c-tiny", ["--data.train", "x.tar", "--data.scenes.num", "9"], "data.scenes.num (data.source is shards)"),
        ("silc_c-tiny", ["--data.max-pixels", "9"], "data.max_pixels (data.source is scenes)"),
        (
            "silc_c",
            ["--data.train", "x.tar", "--data.remote-patience", "9"],
            "data.remote_patience (data.train names no",
        ),
        ("silc_c-tiny", ["--data.photometric.jitter-prob", "0.5"], "data.photometric.jitter_prob (data.photometric.on"),
        ("clip-tiny", ["--data.photometric.on"], "data.photometric.on (the image-text loss sees"),
        ("clip-tiny", ["--data.crops.num-local", "3"], "data.crops.num_local (objective.distill is off)"),
        ("clip-tiny", ["--model.teacher.half-life", "9 steps"], "model.teacher.half_life (objective.teacher is off)"),
        ("clip-tiny", ["--model.head.hidden", "9"], "model.head.hidden (no loss uses the head)"),
        ("clip-tiny", ["--objective.weight=0.5"], "objective.weight (distill is off)"),
        ("silc_c-tiny", ["--objective.bias-init", "0"], "objective.bias_init (the softmax loss has no bias)"),
        ("silc_c-tiny", ["--objective.patch-share", "0.3"], "objective.patch_share (objective.patches is off)"),
        ("silc_c-tiny", ["--train.optim.timescale", "9"], "train.optim.timescale (train.optim.schedule is cosine)"),
        ("silc_c-tiny", ["--init-weights", "student"], "init_weights (init names nothing to start from)"),
        ("silc_c-tiny", ["--init", "r", "--data.vocab-size", "300"], "data.vocab_size (init brings its tokenizer)"),
        ("silc_c-tiny", ["--data.tokenizer", "t", "--data.vocab-size", "300"], "data.vocab_size (data.tokenizer has"),
        ("silc_s-tiny", ["--init", "r", "--objective.scale-init", "5"], "objective.scale_init (init brings its own"),
        ("silc_c-tiny", ["--eval.shots", "1", "2"], "eval.shots (train.eval_every is never)"),
        ("silc_c-tiny", ["--train.sharding", "full"], "train.sharding (one rank holds everything"),
        ("silc_c-tiny", ["--data.accept-changed-shards"], "data.accept_changed_shards"),
    ],
)
def test_idle_settings_are_named_in_one_line(
    recipe: str, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config, _ = configured("train", [recipe, *flags])
    given.say_unread(given.flags(Config, flags), config)
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1
    assert line.startswith("silc: given and not used in this run: ")


@pytest.mark.parametrize("recipe", ["silc_c-tiny", "silc_s", "clip"])
def test_what_a_recipe_leaves_idle_by_itself_is_not_said(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--train.batch-size", "64", "--train.optim.lr", "1e-4", "--eval.root", "/data", "--out", "x"]
    given.say_unread(given.flags(Config, flags), configured("train", [recipe, *flags])[0])
    assert not capsys.readouterr().err


def test_a_run_needs_no_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configs.save(Config(), tmp_path / "config.yaml")
    assert cli.main(["import", str(tmp_path), str(tmp_path / "out")]) == 2
    assert "is a run of silc, which every command takes without an import" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_is_no_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configs.save(Config(), tmp_path / "config.yaml")
    assert cli.main(["train", str(tmp_path), "--resume", "auto"]) == 2
    assert f"is a run and no recipe; name its file, {tmp_path / 'config.yaml'}" in capsys.readouterr().err


def test_idle_rules_name_settings_that_exist() -> None:
    paths = [path for path, _, _ in configs.fields(Config())]
    for rule in given.RUN:
        assert any(map(rule.has, paths)), rule
        assert set(rule.but.split()) <= set(paths)
    for command in (EvalCommand, PredictCommand, ExportCommand, ImportCommand, PlanCommand):
        names = {path for path, _ in given._hints(command)}
        for rule in command.idle:
            assert any(map(rule.has, names)), rule
            assert {path for path in rule.paths.split() if "*" not in path} | set(rule.but.split()) <= names


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (
            ["predict", "embed", "m", "a.jpg", "--names", "a,b", "--out", "x.npy"],
            "--names: names are for classify, segment and detect",
        ),
        (["predict", "embed", "m", "a.jpg", "--templates", "clip80", "--out", "x.npy"], "--templates: prompts are for"),
        (["predict", "segment", "m", "a.jpg", "--names", "a", "--templates", "clip80", "--out", "x"], "--templates"),
        (
            ["predict", "classify", "m", "a.jpg", "--names", "a", "--segmentation", "tips", "--out", "x"],
            "--segmentation",
        ),
        (
            ["predict", "embed", "hf:a/b", "a.jpg", "--weights", "teacher", "--out", "x.npy"],
            "--weights: the model is no",
        ),
        (["export", "open_clip:A/b", "out", "--weights", "student"], "--weights: the model is no run"),
        (["import", "hf:a/b", "out", "--text-pool", "first"], "--text-pool: only big_vision's .npz"),
        (["eval", "--list", "--tasks", "a-zs"], "--tasks: --list shows the tasks"),
        (["eval", "run", "--table", "main", "--segmentation", "tips"], "--segmentation: without --root"),
        (["eval", "hf:a/b", "--root", "/d", "--weights", "teacher"], "--weights: none of these is a run"),
        (
            ["eval", "run", "--root", "/d", "--tasks", "a-retrieval", "--pamr"],
            "--pamr: only <set>-zs-seg, <set>-ov-seg read it",
        ),
        (
            ["eval", "run", "--root", "/d", "--tasks", "a-zs,b-zs-seg", "--shots", "1"],
            "--shots: only <set>-fewshot read it",
        ),
        (
            ["eval", "run", "--root", "/d", "--tasks", "*-zs-seg", "--max-captions", "5"],
            "--max-captions: only <set>-retrieval read it",
        ),
        (["plan", "clip", "siglip", "--price", "2"], "--price: recipes side by side show no cost"),
        (["bench", "losses", "--images", "x.tar"], "--images: neither loader nor step"),
        (["bench", "eval", "--profile", "x"], "--profile: no step is measured"),
        (["recipes", "silc_c"], "silc recipes takes no arguments, it lists all recipes"),
    ],
)
def test_flags_that_a_command_would_not_read_are_refused(
    args: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(args) == 2
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["train", "clip", "--out", "a", "--out", "b"], "--out is given twice, as 'a' and as 'b'"),
        (["train", "clip", "--train.optim.lr=1e-3", "--train.optim.lr", "1e-4"], "--train.optim.lr is given twice"),
        (["train", "clip", "--data.crops.flip", "--data.crops.no-flip"], "is given twice, as 'True' and as 'False'"),
        (["train", "clip", "--train.batch-size", "8", "--train.batch_size", "9"], "is given twice, as '8' and as '9'"),
        (["show", "clip", "--eval.shots", "1", "2", "--eval.shots", "1"], "is given twice, as '1 2' and as '1'"),
        (["eval", "a", "--root", "x", "--root", "y"], "--root is given twice"),
        (["finetune", "--init", "a", "--init", "b"], "--init is given twice"),
        (["plan", "clip", "--gpus", "8", "--gpus", "16"], "--gpus is given twice"),
        (
            ["eval", "a", "--photographs", "False"],
            "--photographs takes no value; write --photographs or --no-photograph",
        ),
        (["show", "clip", "--data.crops.flip=true"], "write --data.crops.flip or --data.crops.no-flip"),
        (["eval", "a", "--rooot", "x"], "silc eval has no flag --rooot; did you mean '--root'? (`silc eval --help`"),
        (["probe", "a", "--train.optim.lrr", "1"], "has no flag --train.optim.lrr; did you mean '--train.optim.lr'?"),
        (["eval", "a", "--nothing.like.it", "x"], "silc eval has no flag --nothing.like.it (`silc eval --help`"),
        (["show", "clip", "--learnin-rate", "1"], "unknown field 'learnin_rate'; did you mean 'train.optim.lr'?"),
    ],
)
def test_flags_that_cannot_be_meant_are_refused(args: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(args) == 2
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1


def test_a_flag_given_twice_alike_is_one() -> None:
    assert given.flags(Config, ["--out", "a", "--out=a"]) == {"out": ["a"]}
    with pytest.raises(BadInput, match=r"'lr' and 'train.optim.lr' both mean train.optim.lr|both mean train.optim.lr"):
        configs.override(recipes.get("clip"), {"train.optim.lr": 1, "lr": 1})


def test_keywords_that_would_not_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text("{}")
    calls: list[Callable[[], Any]] = [
        lambda: load(tmp_path, weights="teacher", device="cpu"),
        lambda: load(tmp_path, text_pool="first", device="cpu"),
        lambda: sources.read(tmp_path, text_pool="mean"),
    ]
    for call in calls:
        with pytest.raises(BadInput, match="leave"):
            call()


def test_keywords_that_a_run_does_not_read(small: Callable[..., Config], tmp_path: Path) -> None:
    trained = run.train(small("clip", duration="1 steps", out=tmp_path / "run"))
    for keywords in ({"text_pool": "first"}, {"tokenizer": tmp_path}):
        with pytest.raises(BadInput, match="leave them out"):
            load(trained, device="cpu", **keywords)
    with pytest.raises(BadInput, match="tokenizer is not for runs"):
        evaluate(trained, EvalConfig(root=str(tmp_path)), device="cpu", tokenizer=tmp_path)
    other = run.train(
        configs.override(small("clip", duration="1 steps", out=tmp_path / "other", seed=3), {"data.vocab_size": 290})
    )
    config = replace(small("clip", duration="1 steps", out=tmp_path / "third"), init=str(trained))
    with pytest.raises(BadInput, match="is not the tokenizer of"):
        run.train(configs.override(config, {"data.tokenizer": str(other / "tokenizer")}))


def test_finetune_says_what_its_keywords_leave_idle(
    monkeypatch: pytest.MonkeyPatch, small: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(start, "configured", lambda init, mode, adjust: small("clip"))
    monkeypatch.setattr(run, "train", lambda config: Path("out"))
    start.finetune("a", "x.tar", "out", prototypes=64, lr=1e-4)
    assert "model.head.prototypes (no loss uses the head)" in capsys.readouterr().err


def test_init_named_anew_at_a_resume_is_told(
    small: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small("clip", duration="4 steps", out=tmp_path / "run", save_every="2 steps")
    run.train(config)
    (tmp_path / "run" / "checkpoints" / "step-00000004" / "manifest.json").unlink()
    capsys.readouterr()
    run.train(replace(config, init="elsewhere", resume="auto"))
    assert f"init elsewhere is not read: {tmp_path / 'run'} goes on from its own" in capsys.readouterr().out
    assert configs.load(tmp_path / "run" / "config.yaml").init == ""


def test_shards_named_by_an_empty_variable_are_not_scenes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for empty in (["--data.train", ""], ["--data.train="], ["--data.train", " "], ["--data.train", "\t"]):
        assert cli.main(["train", "clip-tiny", *empty, "--out", str(tmp_path / "run")]) == 2
        assert "--data.train is given and empty" in capsys.readouterr().err
    for data in ("", " "):
        with pytest.raises(BadInput, match="data is given and empty"):
            start.train("clip-tiny", data=data, out=tmp_path / "run")
    for part in ("::", "a.tar::", " :: a.tar"):
        with pytest.raises(BadInput, match="has an empty part"):
            open_pairs(DataConfig(train=part), seed=0)
    assert not (tmp_path / "run").exists()
