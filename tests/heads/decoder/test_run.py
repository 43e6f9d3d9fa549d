"""A decoder from the command line: trained, resumed, over ranks, scored, used, refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

import silc
from silc import checkpoint
from silc.cli import main
from silc.encoder import Writer
from silc.heads.decoder.model import Whitened
from silc.heads.decoder.predictor import TextModel
from silc.rundir import newest_checkpoint
from tests import ranks
from tests.heads.decoder.conftest import SMALL, flags


def learnt_from(root: Path) -> str:
    return f"caption:{root / 'coco'},vqa:{root / 'vqa' / 'squares'}"


@pytest.fixture(scope="module")
def trained(finished: Callable[..., Path], root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps; look, do not write."""
    out, train = tmp_path_factory.mktemp("decoder") / "run", learnt_from(root)
    return silc.train("decoder", out=out, init=str(finished("silc_c")), **(SMALL | {"data.train": train}))


def weights(run: Path) -> dict[str, Tensor]:
    return checkpoint.read(newest_checkpoint(run), only=("model",)).state_dicts["model"]


def command(finished: Callable[..., Path], root: Path, out: Path, **more: object) -> list[str]:
    own = {"init": finished("silc_c"), "data.train": learnt_from(root), "out": out}
    return ["train", "decoder", *flags(**(own | more))]


def test_a_run_that_was_stopped_goes_on_to_the_bit(
    trained: Path, finished: Callable[..., Path], root: Path, tmp_path: Path
) -> None:
    asked = command(finished, root, tmp_path / "again")
    assert main(asked) == 0
    shutil.rmtree(newest_checkpoint(tmp_path / "again"))
    (tmp_path / "again" / "checkpoints" / "latest").unlink()
    assert main([*asked, "--resume", "auto"]) == 0
    one, other = weights(trained), weights(tmp_path / "again")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(name.startswith("decoder.") for name in one)  # the tower stays, and is not saved


def test_tokens_are_whitened_before_the_first_step_alone(
    finished: Callable[..., Path], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a rate of nearly zero the layer stays as it is set: by all images, here; resuming does not set it."""
    more = {"train.optim.lr": 1e-12, "data.train": f"caption:{root / 'coco'}"}
    asked = [*command(finished, root, tmp_path / "run", **more), "--whiten"]
    assert main(asked) == 0
    model = silc.load(tmp_path / "run", device="cpu")
    assert isinstance(model, TextModel)
    images = [Image.open(root / "coco" / "val2014" / f"{number}.png") for number in range(8)]
    wanted = Whitened(model.teller.decoder.shape.source)
    wanted.set_from(model.teller.look(model.pixels(images)).flatten(0, 1))
    facing = model.teller.decoder.facing
    assert torch.allclose(facing.weight, wanted.weight, rtol=1e-2, atol=1e-2)
    assert torch.allclose(facing.bias, wanted.bias, rtol=1e-2, atol=1e-2)
    before = weights(tmp_path / "run")
    shutil.rmtree(newest_checkpoint(tmp_path / "run"))
    (tmp_path / "run" / "checkpoints" / "latest").unlink()
    monkeypatch.delattr("silc.heads.decoder.run.whiten")
    assert main([*asked, "--resume", "auto"]) == 0
    after = weights(tmp_path / "run")
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("sharding", ["none", pytest.param("full", marks=pytest.mark.slow)])
def test_two_ranks_equal_one(
    sharding: str, trained: Path, finished: Callable[..., Path], root: Path, tmp_path: Path
) -> None:
    scored = {"train.eval_every": "4 steps", "eval.root": root, "eval.tasks": "squares-vqa"}
    ranks.silc(*command(finished, root, tmp_path / "two", **{"train.sharding": sharding}, **scored))
    logged = (tmp_path / "two" / "metrics.jsonl").read_text()
    assert "eval/decoder/squares-vqa/accuracy" in logged
    one, two = weights(trained), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for name in one:
        assert torch.allclose(one[name], two[name], atol=2e-5), name


@pytest.mark.slow
def test_two_ranks_whiten_as_one(finished: Callable[..., Path], root: Path, tmp_path: Path) -> None:
    for name, train in (("one", main), ("two", lambda words: ranks.silc(*words))):
        train([*command(finished, root, tmp_path / name), "--whiten"])
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for name in one:
        assert torch.allclose(one[name], two[name], atol=2e-5), name


def test_the_tower_learns_where_it_is_not_frozen(finished: Callable[..., Path], root: Path, tmp_path: Path) -> None:
    run = silc.train(
        "decoder",
        out=tmp_path / "run",
        init=str(finished("silc_c")),
        **(SMALL | {"data.train": learnt_from(root), "train.optim.freeze": (), "size": 32, "train.micro_batch": 2}),
    )
    names = weights(run)
    assert names["visual.trunk.pos_embed"].shape[1] == 16  # four by four patches of 8 px
    assert not any("attn_pool" in name or name.startswith("visual.head.") for name in names)
    model = silc.load(run, device="cpu")
    assert isinstance(model, TextModel)
    assert model.preprocess.size == 32


@pytest.mark.slow
def test_a_sharded_tower_learns_as_a_whole_one(finished: Callable[..., Path], root: Path, tmp_path: Path) -> None:
    learns = {"train.optim.freeze": "", "train.sharding": "full"}
    one, two = (
        [word for word in command(finished, root, tmp_path / name, **learns) if word]  # no name after the flag
        for name in ("one", "two")
    )
    ranks.silc(*two)
    assert main(one) == 0
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert any(name.startswith("visual.") for name in one)
    assert one.keys() == two.keys()
    for name in one:
        assert torch.allclose(one[name], two[name], atol=2e-5), name


def test_low_rank_changes_of_the_tower_are_saved_and_settled(
    finished: Callable[..., Path], root: Path, tmp_path: Path
) -> None:
    own = SMALL | {"data.train": learnt_from(root), "train.optim.freeze": (), "train.optim.lora": 2, "image_lr": 1.0}
    run = silc.train("decoder", out=tmp_path / "run", init=str(finished("silc_c")), **own)
    tower = [name for name in weights(run) if name.startswith("visual.")]
    assert tower
    assert all("parametrizations" in name for name in tower)
    before, after = (silc.load(one, device="cpu").visual.state_dict() for one in (finished("silc_c"), run))
    assert before.keys() == after.keys()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed
    assert all(name.endswith("weight") for name in changed)


def test_tokens_that_are_kept_are_those_that_are_made(
    trained: Path, finished: Callable[..., Path], root: Path, tmp_path: Path
) -> None:
    """The same weights, whether tokens are made or found; a student's are others than its teacher's."""
    kept = tmp_path / "kept"
    for out in ("one", "two"):
        assert main(command(finished, root, tmp_path / out, **{"data.cache": kept})) == 0
        files = {file: file.stat().st_mtime_ns for file in kept.rglob("*.npy")}
        assert 0 < len(files) <= 16
    made, one, two = weights(trained), weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in made:
        assert torch.equal(one[name], two[name]), name
        assert torch.allclose(made[name], one[name], atol=2e-5), name
    assert main(command(finished, root, tmp_path / "three", **{"data.cache": kept, "weights": "student"})) == 0
    assert len(list(kept.rglob("*.npy"))) == 2 * len(files)
    assert all(file.stat().st_mtime_ns == before for file, before in files.items())


def test_texts_that_are_too_long_are_told(
    finished: Callable[..., Path], root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(finished, root, tmp_path / "run", length=8)) == 0
    assert "exceed 4 tokens and are cut; a larger --length keeps more of them" in capsys.readouterr().out


@pytest.mark.parametrize("more", [[], ["--whiten"]])
def test_bf16_trains(finished: Callable[..., Path], root: Path, tmp_path: Path, more: list[str]) -> None:
    assert main([*command(finished, root, tmp_path / "run", **{"train.precision": "bf16"}), *more]) == 0
    assert silc.load(tmp_path / "run", device="cpu", dtype="bfloat16").caption(Image.new("RGB", (20, 20), "red"))


def test_it_learns_its_colours(finished: Callable[..., Path], root: Path, tmp_path: Path) -> None:
    """Eight images by heart: another test's image of the same colour has the same words."""
    more = {"train.duration": "150 steps", "train.batch_size": 16, "train.save_every": "150 steps"}
    assert main(command(finished, root, tmp_path / "run", **more, **{"train.optim.lr": 3e-3})) == 0
    model = silc.load(tmp_path / "run", device="cpu")
    for name, colour in (("red", (220, 30, 30)), ("blue", (40, 40, 220))):
        image = Image.new("RGB", (30, 20), colour)
        assert model.answer(image, "what colour is it?") == name
        assert model.caption(image)[0] in (f"a {name} square", f"{name} all over")
    scored = silc.evaluate(model, root=str(root), tasks="squares,coco-caption")
    answered, captioned = (one.record for one in scored)
    if answered.task == "captioning":
        answered, captioned = captioned, answered
    assert answered.metrics["accuracy"] == 1
    assert answered.chance["accuracy"] < 1
    assert answered.details["answer_type_accuracy"] == [{"class": "colour", "questions": 4, "accuracy": 1.0}]
    assert captioned.metrics["cider"] > 1.5 * captioned.chance["cider"]


def test_it_is_scored_loaded_and_used(trained: Path, root: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    asked = ["eval", str(trained), "--root", str(root), "--out", str(out), "--device", "cpu"]
    assert main([*asked, "--tasks", "coco-caption,squares-vqa"]) == 0
    records = {one["task"]: one for one in json.loads(out.read_text())}
    assert records["captioning"]["protocol"]["num_texts"] == 8
    assert records["question_answering"]["weights"] == "decoder"
    assert {"cider", "bleu_4", "rouge_l"} <= records["captioning"]["metrics"].keys()
    assert "accuracy by type of answer" in (tmp_path / "report.html").read_text()
    model = silc.load(trained, device="cpu")
    assert isinstance(model, TextModel)
    assert isinstance(model, Writer)
    assert list(model.prefixes) == ["caption", "vqa"]
    images = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue", "green")]
    assert model.caption(images, batch_size=2) == [model.caption(image)[0] for image in images]


def test_captions_and_answers_are_printed_and_written(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (31, 40), "red").save(tmp_path / "images" / "1.png")
    (tmp_path / "images" / "2.png").write_bytes(b"none")
    asked = [str(trained), str(tmp_path / "images"), "--device", "cpu"]
    assert main(["predict", "caption", *asked, "--out", str(tmp_path / "captions.json")]) == 0
    told = json.loads((tmp_path / "captions.json").read_text())
    assert [Path(one["file"]).name for one in told["images"]] == ["1.png"]
    assert [Path(one["file"]).name for one in told["unreadable"]] == ["2.png"]
    capsys.readouterr()
    assert main(["predict", "answer", *asked, "--question", "what colour is it?", "--beams", "2"]) == 0
    assert "1.png: " in capsys.readouterr().out
    shutil.copy(tmp_path / "images" / "1.png", tmp_path / "images" / "3.png")
    for batch_size in ("1", "2"):  # drawn by the place in the list, not in the batch
        drawn = ["--temperature", "5", "--top-p", "0.9", "--seed", "1", "--batch-size", batch_size]
        assert main(["predict", "caption", *asked, *drawn, "--out", str(tmp_path / f"{batch_size}.json")]) == 0
    one, two = (json.loads((tmp_path / f"{batch_size}.json").read_text()) for batch_size in (1, 2))
    assert one == two
    assert one["images"][0]["text"] != one["images"][1]["text"]


def test_bad_input_is_told_in_one_line(
    trained: Path, finished: Callable[..., Path], root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, image, scores = str(finished("silc_c")), tmp_path / "1.png", str(tmp_path / "scores.json")
    Image.new("RGB", (31, 40), "red").save(image)
    new = ["train", "decoder", "--init", base, "--out", str(tmp_path / "run"), "--train.device", "cpu"]
    empty = tmp_path / "empty" / "train"
    empty.mkdir(parents=True)
    (empty / "questions.json").write_text("[]")
    (tmp_path / "gone" / "train").mkdir(parents=True)
    (tmp_path / "gone" / "train" / "questions.json").write_text('[["what?", "this", 1]]')
    (tmp_path / "mute" / "train").mkdir(parents=True)
    mute = {"image": "1.png", "question": "a?", "answers": [""]}
    (tmp_path / "mute" / "train" / "questions.json").write_text(json.dumps([mute]))
    capsys.readouterr()
    for asked, said in (
        (["train", "decoder", "--out", str(tmp_path / "run")], "name one: silc train decoder --init MODEL"),
        (new, "decoder needs a model and images with texts"),
        ([*new, "--data.train", "coco"], "data.train 'coco' is no PREFIX:PLACE"),
        ([*new, "--data.train", f"vqa:{tmp_path}"], "holds no questions; unpack VQA v2"),
        ([*new, "--data.train", f"vqa:{tmp_path / 'empty'}"], "holds no question"),
        ([*new, "--data.train", f"vqa:{tmp_path / 'gone'}"], "1.png, which does not exist; put the images there"),
        ([*new, "--data.train", f"vqa:{tmp_path / 'mute'}"], "question 1, 'a?', has no answer"),
        ([*new, "--data.train", learnt_from(root), "--size", "12"], "size 12 is no multiple of the patch"),
        ([*new, "--data.train", learnt_from(root), "--heads", "3", "--width", "32"], "is no multiple of heads 3"),
        ([*new[:3], str(trained), *new[4:], "--data.train", learnt_from(root)], "is of a run of kind 'decoder'"),
        (["predict", "caption", base, str(image)], "writes no text; train a decoder"),
        (["predict", "answer", str(trained), str(image)], "needs a question"),
        (
            ["predict", "answer", str(trained), str(image), "--question", "a?", "--prefix", "gqa"],
            "run has learnt questions of vqa, not gqa",
        ),
        (["predict", "caption", str(trained), str(image), "--beams", "2", "--temperature", "1"], "use no temperature"),
        (["eval", base, "--root", str(root), "--tasks", "squares-vqa", "--out", scores], "writes no text"),
    ):
        assert main(asked) == 2, asked
        told = capsys.readouterr().err.strip()
        assert said in told, asked
        assert "Traceback" not in told, told
