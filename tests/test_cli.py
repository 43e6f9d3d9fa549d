"""The command line: no torch for help, one line and exit code 2 for every kind of bad input."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from silc import cli, commands
from silc import config as configs
from silc.cli import main
from silc.commands import data
from silc.config import Config
from silc.pretraining import run


def jpeg(number: int = 0, size: tuple[int, int] = (24, 20)) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def png(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def shard(path: Path, samples: dict[str, dict[str, bytes]]) -> Path:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, members in samples.items():
            for suffix, data in members.items():
                header = tarfile.TarInfo(f"{key}.{suffix}")
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))
    return path


def good(count: int) -> dict[str, dict[str, bytes]]:
    return {f"{i:04d}": {"jpg": jpeg(i), "txt": f"a red thing number {i}".encode()} for i in range(count)}


@pytest.fixture
def trains(small: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run `silc train` on a shard; gives what it said on stderr after checking the exit code."""

    def command(train: str, *args: str, code: int = 2) -> str:
        base = small("silc_c", duration="2 steps", batch_size=8)
        configs.save(base, tmp_path / "base.yaml")
        fixed = ["--data.source", "shards", "--data.train", train, "--out", str(tmp_path / "out")]
        assert main(["train", str(tmp_path / "base.yaml"), *fixed, *args]) == code
        return capsys.readouterr().err

    return command


def one_line(text: str) -> str:
    assert text.startswith("silc: ")
    assert text.count("\n") == 1, text
    return text


def test_importing_and_helping_load_no_torch() -> None:
    code = (
        "import sys, contextlib\n"
        "import silc, silc.cli\n"
        "assert silc.cli.main(['--help']) == 0\n"
        "assert not [name for name in sys.modules if name.startswith('silc.commands.')], 'not before it is called'\n"
        "assert silc.cli.main(['show', 'silc_c']) == 0\n"
        "for command in (*silc.cli.COMMANDS, 'train silc_c', 'data check'):\n"
        "    with contextlib.suppress(SystemExit): silc.cli.main([*command.split(), '--help'])\n"
        "heavy = {'torch', 'torchvision', 'timm', 'open_clip', 'transformers', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--data.crops.num-local" in done.stdout
    assert "tau_t, sharpens the targets" in done.stdout


def test_a_line_of_help_per_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Each is a module of its own, and every module that runs something is a command."""
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("    silc ")] == list(cli.COMMANDS)
    assert max(map(len, lines)) <= 120
    package = Path(commands.__path__[0])
    running = {file.stem for file in package.glob("*.py") if "\ndef main(" in file.read_text(encoding="utf-8")}
    below = {module for module, _, _ in data.COMMANDS.values()}
    assert running == {command.module for command in cli.COMMANDS.values()} | below


def test_python_m_silc() -> None:
    done = subprocess.run([sys.executable, "-m", "silc", "nonsense"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "unknown command 'nonsense'" in one_line(done.stderr)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train", "silc_cc"], "unknown recipe 'silc_cc'; did you mean 'silc_c'?"),
        (["show", "slic_c-b16"], "unknown recipe 'slic_c-b16'; did you mean 'silc_c-b16'?"),
        (["train"], "silc train needs a recipe"),
        (["trian"], "unknown command 'trian'; did you mean 'train'?"),
        (["train", "silc_c"], "no output directory; give --out DIR"),
        (["train", "nowhere.yaml"], "cannot read nowhere.yaml"),
        (["train", "silc_c", "--data.crops.local-size", "100"], "multiple of model.image.patch 16; use 96 or 112"),
        (["train", "silc_c", "--model.image.size", "250"], "multiple of model.image.patch 16; use 240 or 256"),
        (["train", "silc_c", "--data.crops.num-global", "0"], "the objective uses global views; use at least 1"),
        (["eval", "nowhere", "--root", "/nonexistent"], "nowhere is no model: neither a run"),
    ],
)
def test_one_line_and_two(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(args) == 2
    assert message in one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--data.workrs", "3"], "unknown field 'data.workrs'; did you mean 'data.workers'?"),
        (["--data.crops.no-flp"], "did you mean 'data.crops.flip'?"),
        (["--train.batch-size", "many"], "invalid literal for int() with base 10: 'many'"),
        (["--train.precision", "fp8"], "bf16"),
        (["--train.log-every", "10"], "train.log_every is '10'; needed a duration like '500 steps'"),
        (["stray"], "stray"),
    ],
)
def test_a_field_that_is_wrong(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "silc_c", *args]) == 2
    assert message in one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("short", "whole"),
    [
        (["--lr", "2e-4"], ["--train.optim.lr", "2e-4"]),
        (["--batch-size=64", "--duration", "5 epochs"], ["--train.batch-size", "64", "--train.duration", "5 epochs"]),
        (["--crops.no-flip"], ["--data.crops.no-flip"]),
        (["--local-size", "96", "--freeze", "text"], ["--data.crops.local-size", "96", "--train.optim.freeze", "text"]),
    ],
)
def test_the_end_of_a_name_is_enough(short: list[str], whole: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for flags in (short, whole):
        assert main(["show", "silc_c", *flags]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]


@pytest.mark.parametrize(
    ("flag", "field"),
    [
        ("--learning-rate", "train.optim.lr"),
        ("--epochs", "train.duration"),
        ("--batch", "train.batch_size"),
        ("--train.optim.learning_rate", "train.optim.lr"),
        ("--num-workers", "data.workers"),
        ("--output-dir", "out"),
    ],
)
def test_other_projects_names_lead_to_ours(flag: str, field: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "silc_c", flag, "1"]) == 2
    assert f"did you mean '{field}'?" in one_line(capsys.readouterr().err)


def test_synonyms_lead_to_fields_and_hide_none() -> None:
    known = [path for path, _, _ in configs.fields(configs.Config())]
    assert set(configs.SYNONYMS.values()) <= set(known)
    assert not set(configs.SYNONYMS) & {path.split(".")[-1] for path in known}


def test_version_says_what_a_bug_report_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"silc [\d.]+, torch [\d.+\w]+, Python [\d.]+\n", capsys.readouterr().out)


def test_flags_can_be_turned_off(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "silc_c", "--data.crops.no-flip", "--data.crops.local-area", "0.1", "0.3"]) == 0
    shown = capsys.readouterr().out
    assert "(0.1, 0.3)" in shown
    assert "False" in shown


def test_show_lists_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "silc_s-l16"]) == 0
    shown = "".join(capsys.readouterr().out.split())
    assert all(path in shown for path, _, _ in configs.fields(configs.Config()))
    assert "'sigmoid'" in shown


def test_no_shard_matches(trains: Callable[..., str], tmp_path: Path) -> None:
    assert "none*.tar' matches no file" in one_line(trains(str(tmp_path / "none*.tar")))
    assert "does not exist" in one_line(trains(str(tmp_path / "{000..002}.tar")))


def test_fewer_samples_than_a_batch(trains: Callable[..., str], tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", good(5))
    assert "5 samples are fewer than one global batch of 8; lower the batch size" in one_line(trains(str(path)))


def test_not_a_tar(trains: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"<html>404</html>" * 100)
    assert str(path) in one_line(trains(str(path)))


def test_a_shard_cut_short_is_used_up_to_the_cut(trains: Callable[..., str], tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", good(20))
    path.write_bytes(path.read_bytes()[:-12_000])
    trains(str(path), code=0)
    last = json.loads((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["bad/cut_shard"] == 1


BAD = {
    "no_image": {"jpg": b"<html>not found</html>", "txt": b"a red thing"},
    "broken_image": {"jpg": jpeg(1, (64, 64))[:700], "txt": b"a red thing"},
    "no_caption": {"jpg": jpeg(2)},
    "empty_caption": {"jpg": jpeg(3), "txt": b"  \n"},
    "too_large": {"png": png(Image.new("L", (3000, 3000)), compress_level=9), "txt": b"a bomb"},
}


@pytest.mark.parametrize("cause", BAD)
def test_broken_samples_are_skipped_counted_and_reported(
    cause: str, trains: Callable[..., str], tmp_path: Path
) -> None:
    path = shard(tmp_path / "a.tar", good(15) | {"zz": BAD[cause]})
    trains(str(path), "--data.max-pixels", "4000000", code=0)
    last = json.loads((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last[f"bad/{cause}"] == 1  # 2 steps of 8 are one epoch of the 16


def test_over_the_rate_the_run_stops_and_says_why(trains: Callable[..., str], tmp_path: Path) -> None:
    bad = {f"bad{i}": BAD["no_image"] for i in range(8)}
    path = shard(tmp_path / "a.tar", good(8) | bad)
    said = one_line(trains(str(path), "--data.max-bad-rate", "0.2"))
    assert "broken" in said
    assert "no_image 8" in said
    assert "raise data.max_bad_rate" in said


def test_other_modes_are_converted(trains: Callable[..., str], tmp_path: Path) -> None:
    """Grey, CMYK, 16-bit, palette, transparent and animated images train like any other."""
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)) for _ in range(2)]
    cmyk, animated = io.BytesIO(), io.BytesIO()
    frames[0].convert("CMYK").save(cmyk, "JPEG")
    frames[0].save(animated, "WEBP", save_all=True, append_images=frames[1:])
    images = {
        "grey": {"png": png(frames[0].convert("L"))},
        "cmyk": {"jpg": cmyk.getvalue()},
        "deep": {"png": png(Image.fromarray(rng.integers(0, 65_536, (20, 24)).astype(np.uint16)))},
        "palette": {"png": png(frames[0].convert("P"))},
        "alpha": {"png": png(frames[0].convert("RGBA"))},
        "animated": {"webp": animated.getvalue()},
    }
    path = shard(tmp_path / "a.tar", good(10) | {k: v | {"txt": b"a red thing"} for k, v in images.items()})
    trains(str(path), code=0)
    last = json.loads((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()[-1])
    assert not [key for key in last if key.startswith("bad/")]


def test_eval_of_a_run_on_folders(
    small: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole way: train, write evaluation scenes, `silc eval`, records of student and teacher with chance beside."""
    from silc.data.scenes import write_sets

    run.train(small("silc_c", duration="2 steps", out=tmp_path / "run", eval_every="never"))
    write_sets(tmp_path / "sets", size=24, seed=0, num_retrieval=6, num_segmentation=3, per_class=1)
    scores = tmp_path / "scores.json"
    args = ["eval", str(tmp_path / "run"), "--root", str(tmp_path / "sets"), "--out", str(scores), "--device", "cpu"]
    asked = [*args, "--tasks", "*-zs,*-retrieval,*-zs-seg"]
    assert main(asked) == 0
    records = json.loads(scores.read_text())
    assert {(r["dataset"], r["weights"]) for r in records} == {
        (dataset, weights)
        for dataset in ("scenes", "scenes_seen", "scenes_heldout")
        for weights in ("student", "teacher")
    }
    assert {r["task"] for r in records} == {
        "zeroshot_classification",
        "zeroshot_retrieval",
        "zeroshot_segmentation",
    }
    for r in records:
        assert r["chance"]
        assert r["examples_seen"] == 32
        assert r["train_flops"] > 0
    assert "scenes-zs-seg" in capsys.readouterr().out
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert main([*args, "--tasks", "scenes-zs-sgg"]) == 2
    assert "did you mean 'scenes-zs-seg'?" in one_line(capsys.readouterr().err)

    # Sets that cannot be read, from the start and on the way, do not stop the others.
    (tmp_path / "sets" / "classification" / "scenes_seen" / "classes.txt").unlink()
    image = next((tmp_path / "sets" / "retrieval" / "scenes" / "images").iterdir())
    image.write_bytes(image.read_bytes()[:40])
    assert main(asked) == 2
    bad = ("scenes_seen-zs", "scenes-retrieval")
    *told, last = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in told] == [f"{task} is not scored" for task in bad]
    assert last == f"silc: not scored: {', '.join(bad)}; the files have the scores of the other tasks"
    left = json.loads(scores.read_text())
    assert left == [r for r in records if (r["dataset"], r["task"]) in {(x["dataset"], x["task"]) for x in left}]
    assert len(left) == len(records) - 4
    # One that is alone is told, and what was written before stays.
    assert main([*args, "--tasks", "scenes-retrieval"]) == 2
    assert one_line(capsys.readouterr().err).startswith("silc: scenes-retrieval is not scored: cannot read the image")
    assert json.loads(scores.read_text()) == left


def test_evaluation_during_training(
    small: Callable[..., Config], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A set that turns out to be broken costs its scores, not the run."""
    from dataclasses import replace

    from silc.data.scenes import write_sets
    from silc.eval.config import EvalConfig

    write_sets(tmp_path / "sets", size=24, seed=0, num_retrieval=6, num_segmentation=3, per_class=1)
    label = tmp_path / "sets" / "segmentation" / "scenes" / "labels" / "00000.png"
    shutil.copytree(label.parent.parent, tmp_path / "sets" / "segmentation" / "cut")
    (tmp_path / "sets" / "segmentation" / "cut" / "labels" / label.name).write_bytes(label.read_bytes()[:50])
    config = small("silc_c", duration="4 steps", out=tmp_path / "run", eval_every="50%")
    run.train(replace(config, eval=EvalConfig(root=str(tmp_path / "sets"), tasks="*-retrieval,*-zs-seg")))
    told = [line for line in capsys.readouterr().out.splitlines() if "not scored" in line]
    assert len(told) == 2
    assert told[0].startswith("cut-zs-seg is not scored: cannot read the label")
    assert told[1].startswith("not scored during training: cut-zs-seg; ")
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    scored = [r for r in records if "eval/teacher/scenes-zs-seg/miou" in r]
    assert [r["step"] for r in scored] == [2, 4]
    assert "eval/student/scenes-retrieval/text_retrieval_recall@1" in scored[0]
