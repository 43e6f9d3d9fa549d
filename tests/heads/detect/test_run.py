"""Detection from the command line, on a miniature of COCO: trained, resumed, over ranks, scored, used, refused."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import silc
from silc import checkpoint
from silc.cli import main
from silc.encoder import Detector
from silc.heads.detect.predictor import DetectModel
from silc.rundir import newest_checkpoint
from tests import ranks
from tests.heads.detect.conftest import NAMES, SMALL, flags

pytest.importorskip("faster_coco_eval")


@pytest.fixture(scope="module")
def trained(finished: Callable[..., Path], coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps; look, do not write."""
    out, train = tmp_path_factory.mktemp("detect") / "run", str(coco / "annotations" / "instances_train2017.json")
    return silc.train("detect", out=out, init=str(finished("silc_c")), **(SMALL | {"data.train": train}))


def weights(run: Path) -> dict[str, Tensor]:
    return checkpoint.read(newest_checkpoint(run), only=("model",)).state_dicts["model"]


def moments(run: Path) -> dict[str, Tensor]:
    return checkpoint.read(newest_checkpoint(run), only=("optimizer",)).state_dicts["optimizer"]


def command(finished: Callable[..., Path], coco: Path, out: Path, **more: object) -> list[str]:
    own = {"init": finished("silc_c"), "data.train": coco / "annotations" / "instances_train2017.json", "out": out}
    return ["train", "detect", *flags(**(own | more))]


def test_a_run_that_was_stopped_goes_on_to_the_bit(
    trained: Path, finished: Callable[..., Path], coco: Path, tmp_path: Path
) -> None:
    asked = command(finished, coco, tmp_path / "again")
    assert main(asked) == 0
    shutil.rmtree(newest_checkpoint(tmp_path / "again"))
    (tmp_path / "again" / "checkpoints" / "latest").unlink()
    assert main([*asked, "--resume", "auto"]) == 0
    for part in (weights, moments):
        one, other = part(trained), part(tmp_path / "again")
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    names = weights(trained)
    assert {"head.class_head.dense0.weight", "visual.trunk.pos_embed", "text.token_embedding.weight"} <= names.keys()
    assert (
        names["visual.trunk.pos_embed"].shape[1] == 16
    )  # four by four patches of 8 px, where the model has two by two
    assert not any(name.startswith(("visual.head.", "head.objectness")) for name in names)


@pytest.mark.parametrize("sharding", ["none", pytest.param("full", marks=pytest.mark.slow)])
def test_two_ranks_equal_one(
    sharding: str, trained: Path, finished: Callable[..., Path], coco: Path, tmp_path: Path
) -> None:
    ranks.silc(*command(finished, coco, tmp_path / "two", **{"train.sharding": sharding}))
    one, two = weights(trained), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for name in one:
        assert torch.allclose(one[name], two[name], atol=2e-5), name


def test_frozen_towers_stay_and_are_not_saved(finished: Callable[..., Path], coco: Path, tmp_path: Path) -> None:
    frozen = {"train.optim.freeze": ("image", "text"), "objectness": True}
    asked = command(finished, coco, tmp_path / "run", **frozen)
    asked[asked.index("--objectness") : asked.index("--objectness") + 2] = ["--objectness"]
    assert main(asked) == 0
    assert all(name.startswith("head.") for name in weights(tmp_path / "run"))
    assert any(name.startswith("head.objectness_head.") for name in weights(tmp_path / "run"))
    model, below = silc.load(tmp_path / "run", device="cpu"), silc.load(finished("silc_c"), device="cpu", size=32)
    assert torch.allclose(model.encode_text("a dog"), below.encode_text("a dog"))
    assert model.record["head"] == "OWLv2"


def test_micro_batches_have_the_gradient_of_the_whole(
    trained: Path, finished: Callable[..., Path], coco: Path, tmp_path: Path
) -> None:
    assert main(command(finished, coco, tmp_path / "run", **{"train.micro_batch": 1})) == 0
    one, two = weights(trained), weights(tmp_path / "run")
    for name in one:
        assert torch.allclose(one[name], two[name], atol=2e-5), name


def test_the_text_tower_learns_at_its_share_of_the_rate(
    finished: Callable[..., Path], coco: Path, tmp_path: Path
) -> None:
    """Adam's first step moves a weight by the rate, whatever its gradient; the head's projection begins near 0."""
    below = silc.load(finished("silc_c"), device="cpu")
    towers = {"visual.": below.visual, "text.": below.model.text}
    start = {part + name: x for part, tower in towers.items() for name, x in tower.state_dict().items()}
    first = {"train.duration": "1 steps", "train.optim.lr": 1e-3, "text_lr": 0.05}
    assert main(command(finished, coco, tmp_path / "run", **first)) == 0
    moved = {
        name: float((tensor - start[name]).abs().max())
        for name, tensor in weights(tmp_path / "run").items()
        if name in start and start[name].shape == tensor.shape
    }
    text = [value for name, value in moved.items() if name.startswith("text.")]
    image = [value for name, value in moved.items() if name.startswith("visual.")]
    assert max(image) == pytest.approx(1e-3, rel=0.05)
    assert max(text) == pytest.approx(5e-5, rel=0.05)


def test_in_bfloat16_it_learns_alike(trained: Path, finished: Callable[..., Path], coco: Path, tmp_path: Path) -> None:
    assert main(command(finished, coco, tmp_path / "run", **{"train.precision": "bf16"})) == 0
    one, two = (
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (trained, tmp_path / "run")
    )
    for name in ("loss/class", "loss/l1", "loss/giou"):
        assert two[-1][name] == pytest.approx(one[-1][name], rel=0.05), name
        assert two[-1][name] != one[-1][name]
    assert {tensor.dtype for tensor in weights(tmp_path / "run").values()} == {torch.float32}


def test_logits_of_several_prompts_are_averaged(trained: Path) -> None:
    model = silc.load(trained, device="cpu")
    prompts = ("a photo of a {}.", "art of the {}.", "{}")
    pixels = torch.randn(2, 3, 32, 32)
    logits, _ = model.find(pixels, model.named(NAMES, prompts).queries)
    each = torch.stack([model.find(pixels, model.named(NAMES, [one]).queries)[0] for one in prompts])
    assert each.std(dim=0).max() > 1e-3
    torch.testing.assert_close(logits, each.mean(dim=0), atol=1e-5, rtol=1e-5)


def test_it_is_scored_loaded_and_used(
    trained: Path, coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "scores.json"
    asked = ["eval", str(trained), "--root", str(coco.parent), "--out", str(out), "--tasks", "coco-detection"]
    assert main([*asked, "--device", "cpu"]) == 0
    (record,) = json.loads(out.read_text())
    assert record["weights"] == "detect"
    assert record["protocol"]["image_size"] == 32
    assert len(record["metrics"]) >= 8
    assert "AP by class" in (tmp_path / "report.html").read_text()
    model = silc.load(trained, device="cpu")
    assert isinstance(model, DetectModel)
    assert isinstance(model, Detector)
    (scored,) = silc.evaluate(model, root=str(coco.parent), tasks="coco-detection")
    assert scored.record.metrics == record["metrics"]
    image = Image.new("RGB", (31, 40), "red")
    found = model.detect(image, NAMES[:2], score=0.0, most=7)
    assert (len(found), found.boxes.shape, found.scores.shape, len(found.names)) == (7, (7, 4), (7,), 7)
    assert ((found.boxes[:, 2:] - found.boxes[:, :2]) > 0).all()
    assert set(found.names) <= set(NAMES)
    assert (found.scores.diff() <= 0).all()
    assert (found.boxes[:, 2] <= 31).all()
    assert (found.boxes[:, 3] <= 40).all()
    assert found.overlay().size == image.size
    assert found.overlay() != image
    assert len(model.detect(image, NAMES, score=1.0)) == 0
    assert model.detect(image, NAMES, score=1.0).boxes.shape == (0, 4)
    alike = model.detect_like(image, image, (0, 0, 16, 20), score=0)
    assert alike.names[0] == "like the example"
    with monkeypatch.context() as patch:
        boxes = torch.tensor([[[0.9, 0.7, 0.05, 0.05], [0.3, 0.6, 0.1, 0.1], [0.1, 0.1, 0.1, 0.1]]])
        embeddings = torch.eye(3)[None]
        patch.setattr(model.detector, "examples", lambda _: (boxes, embeddings))
        # 24 to 31 of 31 columns: nearest is a box of the padding, and of those in the image the second.
        assert model.example(image, (24, 24, 31, 32)).tolist() == pytest.approx([0, 1, 0], abs=1e-5)
    assert model.to(dtype="bfloat16").detect(image, NAMES, score=0.0).scores.dtype == torch.float32


def test_scores_along_training(finished: Callable[..., Path], coco: Path, tmp_path: Path) -> None:
    along = {"train.eval_every": "4 steps", "eval.root": coco.parent, "eval.tasks": "coco-detection"}
    assert main(command(finished, coco, tmp_path / "run", **along, **{"train.optim.lr": 0.01})) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    scores = [line["eval/detect/coco-detection/ar_100"] for line in lines if "eval/detect/coco-detection/ap" in line]
    (scored,) = silc.evaluate(tmp_path / "run", root=str(coco.parent), tasks="coco-detection", device="cpu")
    assert scores[-1] == pytest.approx(scored.record.metrics["ar_100"], abs=1e-9)
    assert any({"loss/class", "loss/l1", "loss/giou"} <= line.keys() for line in lines)


def test_boxes_are_written_as_coco_json_and_pictures(
    trained: Path, finished: Callable[..., Path], coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (31, 40), "red").save(tmp_path / "images" / "1.png")
    shutil.copy(coco / "val2017" / "000000000007.png", tmp_path / "images" / "2.png")
    (tmp_path / "images" / "3.png").write_bytes(b"none")
    asked = [
        "predict",
        "detect",
        str(trained),
        str(tmp_path / "images"),
        "--names",
        "red square,cat",
        "--device",
        "cpu",
    ]
    assert main([*asked, "--out", str(tmp_path / "found"), "--score", "0"]) == 0
    assert "1 files are no images; the JSON names them" in capsys.readouterr().err
    values = json.loads((tmp_path / "found" / "detections.json").read_text())
    assert [one["name"] for one in values["categories"]] == ["red square", "cat"]
    assert [(one["file_name"], one["width"]) for one in values["images"]] == [
        (str(tmp_path / "images" / "1.png"), 31),
        (str(tmp_path / "images" / "2.png"), 36),
    ]
    model = silc.load(trained, device="cpu")
    wanted = model.detect(tmp_path / "images" / "1.png", ["red square", "cat"], score=0.0)
    own = [one for one in values["annotations"] if one["image_id"] == 1]
    assert [one["score"] for one in own] == pytest.approx(wanted.scores.tolist())
    assert own[0]["bbox"] == pytest.approx(list(wanted.found[0][1:5]))
    assert values["unreadable"][0]["file"].endswith("3.png")
    with Image.open(tmp_path / "found" / "00001-2.boxes.png") as picture:
        assert picture.size == (36, 48)
    for more, said in (
        (["--out", str(tmp_path / "found")], "is not empty"),
        (["--out", str(tmp_path / "new"), "--legend"], "overlays are for segment"),
        ([], "needs a place for its results; give --out"),
    ):
        assert main([*asked, *more]) == 2
        assert said in capsys.readouterr().err
    asked[2] = str(finished("silc_c"))
    assert main([*asked, "--out", str(tmp_path / "new")]) == 2
    assert "finds no boxes; train a head that does" in capsys.readouterr().err


def test_what_was_found_before_an_interruption_is_kept(
    trained: Path, coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, seen = DetectModel.detect_by, list[object]()

    def cut_short(self: DetectModel, image: object, *given: Any, **more: Any) -> Any:
        seen.append(image)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return found(self, image, *given, **more)

    monkeypatch.setattr(DetectModel, "detect_by", cut_short)
    asked = ["predict", "detect", str(trained), str(coco / "val2017"), "--names", "cat", "--device", "cpu"]
    with contextlib.suppress(KeyboardInterrupt):
        assert main([*asked, "--out", str(tmp_path / "found")])
    values = json.loads((tmp_path / "found" / "detections.json").read_text())
    assert len(values["images"]) == len(list((tmp_path / "found").glob("*.png"))) == 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"size": 36}, "size 36 is no multiple of the patch of 8 pixels; use 32 or 40"),
        ({"data.train": "nowhere.json"}, "nowhere.json is missing"),
        ({"data.templates": "typo"}, "no prompt set 'typo'"),
        ({"data.mosaics": (0.5, 0.4)}, "must be shares that sum to 1"),
        ({"train.duration": "0.1 epochs"}, "is less than one step of 2 images"),
        ({"data.forbidden": "rare"}, "no category of instances_train2017 has the frequency 'r'"),
        (
            {"data.images": "elsewhere"},
            "names the image 000000000001.png, and elsewhere/000000000001.png does not exist",
        ),
    ],
)
def test_settings_at_fault_are_told_in_one_line(
    given: dict[str, object],
    said: str,
    finished: Callable[..., Path],
    coco: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(command(finished, coco, tmp_path / "out", **given)) == 2
    told = capsys.readouterr().err.strip()
    assert said in told
    assert "\n" not in told


def test_what_is_asked_of_a_model_is_checked(trained: Path, finished: Callable[..., Path], coco: Path) -> None:
    model, image = silc.load(trained, device="cpu"), Image.new("RGB", (20, 10))
    for call, said in (
        (lambda: model.detect(image, []), "names must be a list of classes"),
        (lambda: model.detect(image, ["a", "a"]), "twice"),
        (lambda: model.detect(image, ["a"], score=2), "score is the lowest score of the boxes that are returned"),
        (lambda: model.detect_like(image, image, (0, 0, 30, 5)), "within the 20 x 10 example"),
        (lambda: model.detect_like(image, image, (0, 0)), "box is \\(left, top, right, bottom\\)"),
    ):
        with pytest.raises(silc.BadInput, match=said):
            call()
    with pytest.raises(silc.BadInput, match="finds no boxes; train a head that does"):
        silc.evaluate(finished("silc_c"), root=str(coco.parent), tasks="coco-detection", device="cpu")


def test_a_run_goes_on_and_is_loaded_on_its_own_model_alone(
    trained: Path, finished: Callable[..., Path], tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace(str(finished("silc_c")), str(finished("clip"))))
    with pytest.raises(silc.BadInput, match="another model than the one that this head was trained on"):
        silc.load(tmp_path / "run", device="cpu")
