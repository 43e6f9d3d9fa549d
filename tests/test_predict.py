"""Models in a user's hands: files and words in, features, probabilities and masks out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

import silc
from silc import config as configs
from silc.cli import main
from silc.commands import predictions
from silc.config import Config
from silc.data.scenes import write_sets
from silc.errors import BadInput
from silc.eval import metrics
from silc.eval.config import EvalConfig
from silc.eval.embed import text_classifier
from silc.eval.prompts import templates
from silc.eval.suite import tasks
from silc.interop import pretrained
from silc.interop.pretrained import Pretrained
from silc.predict import Model
from silc.pretraining import run

SEGMENT = ["segment", "RUN", "IN", "--names", "a,b", "--out", "x"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, small: Callable[..., Config]) -> Path:
    """A run of two steps."""
    return run.train(small("silc_c", tmp_path_factory.mktemp("predict") / "run", duration="2 steps"))


@pytest.fixture
def model(trained: Path) -> Model:
    return silc.load(trained, device="cpu")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Red on the left, blue on the right, wider than high."""
    values = np.zeros((30, 50, 3), np.uint8)
    values[:, :25, 0], values[:, 25:, 2] = 250, 250
    Image.fromarray(values).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_a_run_is_its_teacher_unless_asked(trained: Path, photo: Path) -> None:
    both = silc.load_run(trained).models
    pixels = silc.load(trained, device="cpu").pixels(photo)
    for weights, name in (("auto", "teacher"), ("teacher", "teacher"), ("student", "student")):
        loaded = silc.load(trained, weights=weights, device="cpu")
        assert torch.equal(loaded.encode_image(photo), both[name].encode_image(pixels))
    with pytest.raises(BadInput, match="is a run, whose tokenizer and text_pool"):
        silc.load(trained, tokenizer=trained / "tokenizer")


def test_features(model: Model, photo: Path) -> None:
    """What each is: the pooled embedding, the tower's tokens, and the readout evaluation uses."""
    f = model.features(photo)
    pixels = model.pixels([photo])
    assert f.pooled.shape == (1, 32)
    assert f.patches.shape == f.aligned.shape == (1, 2, 2, 32)
    assert torch.equal(f.pooled, model.encode_image(pixels))
    expected = model.encode_dense(pixels, model.readouts[0])
    assert torch.equal(f.aligned, F.normalize(expected, dim=-1))
    tokens = model.visual.trunk.tokens(pixels).final
    assert torch.equal(f.patches.flatten(1, 2), tokens)


def test_images_come_as_files_images_and_pixels(model: Model, photo: Path) -> None:
    with Image.open(photo) as opened:
        image = opened.convert("RGB")
    pixels = model.pixels(image)
    features = model.encode_image(pixels)
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    alike = [photo, str(photo), image, array, tensor, array / 255, tensor / 255, (tensor / 255).double()]
    for given in (*alike, *([one] for one in alike), array[None], tensor[None]):
        assert torch.equal(model.encode_image(given), features), type(given)  # type: ignore[arg-type]
    assert torch.equal(model.pixels(tensor[None] / 255), pixels)
    torch.testing.assert_close(model.encode_image(alike), features.expand(len(alike), -1))
    assert torch.equal(model.encode_text("a cat"), model.encode_text(model.tokenizer(["a cat"])))


@pytest.mark.parametrize("contrastive", ["softmax", "sigmoid"])
def test_probabilities(contrastive: str, model: Model) -> None:
    model.contrastive = contrastive  # type: ignore[assignment]
    model.model.logit_bias.data.fill_(-0.5)
    images, texts = F.normalize(torch.randn(3, 32), dim=-1), F.normalize(torch.randn(4, 32), dim=-1)
    logits = (images.double() @ texts.double().T) * model.model.logit_scale.exp().double() - 0.5
    odds = logits.exp()
    expected = odds / odds.sum(1, keepdim=True) if contrastive == "softmax" else odds / (1 + odds)
    torch.testing.assert_close(model.probs(images, texts).double(), expected, rtol=1e-4, atol=1e-6)
    assert not model.probs(images, texts).requires_grad


def test_no_image_and_no_batch(model: Model) -> None:
    assert model.dense([]) == model.pca([]) == model.classify([], ["a", "b"]) == []
    for call in (model.features, model.encode_image, model.pixels):
        with pytest.raises(BadInput, match="there is no image"):
            call([])
    for names in ([1, 2], None, b"ab", np.array([1, 2]), ["a", None]):
        with pytest.raises(BadInput, match="names must be a list of classes"):
            model.classify([Image.new("RGB", (9, 9))], names)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"eval\.names and eval\.background_names are for a data set's classes"):
        model.segment(Image.new("RGB", (9, 9)), ["a", "b"], EvalConfig(names="synonyms"))
    for texts in (None, 5, b"ab", ["a", None], [["a"]], "half \ud800"):
        with pytest.raises(BadInput, match="texts are one text or a list of them"):
            model.encode_text(texts)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="texts are one text"):
        model.classify([Image.new("RGB", (9, 9))], ["a", "half \ud800"])
    assert model.encode_text(text for text in ("a", "b")).shape == model.encode_text(["a", "b"]).shape  # type: ignore[arg-type]
    assert list(model.classify([Image.new("RGB", (9, 9))], np.array(["a", "b"]))[0]) in (["a", "b"], ["b", "a"])  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="batch_size must be at least 1; got 0"):
        model.classify([Image.new("RGB", (9, 9))], ["a", "b"], batch_size=0)
    with pytest.raises(BadInput, match="at least 1; got 0"):
        model.dense([Image.new("RGB", (9, 9))], batch_size=0)


def test_a_run_at_another_size(trained: Path, model: Model, photo: Path) -> None:
    """The position embedding is resampled to the patches there are, as for dense features."""
    larger = silc.load(trained, size=32, device="cpu")
    assert larger.pixels(photo).shape == (1, 3, 32, 32)
    assert torch.equal(larger.encode_image(photo), model.encode_image(larger.pixels(photo)))
    assert larger.features([photo, photo]).aligned.shape == (2, 4, 4, 32)
    with pytest.raises(BadInput, match="size 30 is no multiple of the patch of 8 pixels; use 24 or 32"):
        silc.load(trained, size=30)
    with pytest.raises(BadInput, match="size 0 is no multiple of the patch of 8 pixels; use 8"):
        silc.load(trained, size=0)
    for size in (-16, "16", 16.0):
        with pytest.raises(BadInput, match="it must be the side of the images, a whole number"):
            silc.load(trained, size=size, device="cpu")  # type: ignore[arg-type]
    for source in (None, b"run", 3):
        with pytest.raises(BadInput, match=f"a model is a path or a name, not {type(source).__name__}"):
            silc.load(source)  # type: ignore[arg-type]


def test_bfloat16_computes_as_autocast_does(trained: Path, model: Model, photo: Path) -> None:
    pixels, ids = model.pixels(photo), model.tokenizer(["a cat"])
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        image, text = model.visual(pixels).float(), model.model.text(ids).float()
        dense = model.visual.dense(pixels, model.readouts[0]).float()
    exact = model.encode_image(photo)
    half = silc.load(trained, device="cpu", dtype="bfloat16")
    assert half.encode_image(photo).dtype == torch.float32
    assert torch.equal(half.encode_image(photo), F.normalize(image, dim=-1))
    assert torch.equal(half.encode_text(ids, normalize=False), text)
    assert torch.equal(half.encode_dense(pixels, model.readouts[0]), dense)
    assert not torch.equal(half.encode_image(photo), exact)
    assert half.to("cpu", torch.float32) is half
    assert torch.equal(half.encode_image(photo), exact)
    for wrong in ("float16", torch.int8):
        with pytest.raises(BadInput, match="dtype is float32 or bfloat16, not"):
            half.to(dtype=wrong)
    with pytest.raises(BadInput, match="gpu"):
        half.to("gpu")


def test_what_it_is_in_one_line(model: Model) -> None:
    said = repr(model.to(dtype="bfloat16"))
    parameters = sum(p.numel() for tower in (model.visual, model.model.text) for p in tower.parameters())
    for part in (
        "Model(run, teacher: ",
        f"{parameters:,} parameters",
        "16 px in patches of 8",
        "softmax",
        "bfloat16 on cpu",
    ):
        assert part in said
    assert "\n" not in said


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_classes_are_zero_shot_evaluations(loss: str, model: Model, tmp_path: Path) -> None:
    """The same features of names, and the same best name for every image, as the evaluator has."""
    model.contrastive = loss  # type: ignore[assignment]
    write_sets(tmp_path, size=24, seed=0)
    (task, *_) = tasks(EvalConfig(root=str(tmp_path), tasks="*-zs", templates="clip7", classification="clip"))
    data, seen = task.sets[0], list[torch.Tensor]()
    inner = metrics.confusion
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "confusion", lambda a, b, *rest, **named: seen.append(b) or inner(a, b, *rest, **named))
        task(model)
    images = [data.images[index] for index in range(len(data.labels))]
    model.preprocess = task.preprocess(model)
    found = model.classify(images, data.classes, batch_size=7)
    assert [data.classes.index(next(iter(row))) for row in found] == seen[0].tolist()
    weights = text_classifier(model, data.classes, templates("clip7"))
    expected = model.probs(model.encode_image(images[:3]), weights)
    for row, values in zip(found, expected, strict=False):
        assert list(row.values()) == sorted(row.values(), reverse=True)
        assert [row[name] for name in data.classes] == pytest.approx(values.tolist(), abs=1e-5)


def test_prompts_and_names_of_ones_own(model: Model, photo: Path) -> None:
    (given,) = model.classify(photo, ["red", "blue"], ["a {}", "the {}"])
    weights = text_classifier(model, ["red", "blue"], ["a {}", "the {}"])
    expected = model.probs(model.encode_image(photo), weights)[0].tolist()
    assert [given["red"], given["blue"]] == pytest.approx(expected, abs=1e-6)
    assert model.classify(photo, ["red", "blue"], "{}") == model.classify(photo, ["red", "blue"], "plain")
    for names, prompts, message in (
        (["red"], "clip9", "no prompt set 'clip9'; did you mean"),
        (["red"], ["a photo"], r"templates hold \{\} where the name goes"),
        (["red"], [], "templates hold"),
        (["red", "red"], "plain", "the class 'red' twice"),
        ("red", "plain", "names must be a list"),
        ([], "plain", "names must be a list"),
    ):
        with pytest.raises(BadInput, match=message):
            model.classify(photo, names, prompts)
    with pytest.raises(BadInput, match="the class 'red' twice"):
        model.segment(photo, ["red", "red"])


def test_segmentation_is_evaluations(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The labels that `segment` gives are those that the evaluator compares with the truth."""
    write_sets(tmp_path, size=40, seed=0, num_retrieval=4, num_segmentation=6, per_class=1)
    (task,) = tasks(EvalConfig(root=str(tmp_path), tasks="*-zs-seg", batch_size=4))
    data = task.sets[0]
    image, truth = data.example(0)
    result = model.segment(image, data.classes)
    found = []
    inner = metrics.confusion

    def spy(truth, prediction, *others):  # type: ignore[no-untyped-def]
        found.append(prediction)
        return inner(truth, prediction, *others)

    monkeypatch.setattr("silc.eval.metrics.confusion", spy)
    task(model)
    assert torch.equal(result.labels, found[0])
    assert result.labels.shape == truth.shape == image.size[::-1]
    assert result.scores.shape[0] == len(data.classes)
    assert result.overlay().size == image.size
    assert len(result.labels.unique()) > 1


def test_bad_images_and_names(model: Model, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    for file, message in ((tmp_path / "none.png", "cannot read the image"), (tmp_path / "text.png", "are no JPEG")):
        with pytest.raises(BadInput, match=message):
            model.features(file)
    for names in ([], "road"):
        with pytest.raises(BadInput, match="names must be a list"):
            model.segment(Image.new("RGB", (20, 20)), names)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images below a folder, and a file that is none."""
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name, colour in (("a.png", (255, 0, 0)), ("deep/b.jpg", (0, 0, 255))):
        Image.new("RGB", (40, 24), colour).save(tmp_path / "in" / name)
    (tmp_path / "in" / "c.png").write_text("no image")
    return tmp_path / "in"


def predict(*args: str | Path) -> int:
    return main(["predict", *map(str, args), "--device", "cpu"])


def test_classify(trained: Path, model: Model, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "c.json"
    assert predict("classify", trained, folder, "--names", "red, blue", "--templates", "plain", "--out", out) == 0
    found = json.loads(out.read_text())
    assert [Path(one["file"]).name for one in found["images"]] == ["a.png", "b.jpg"]
    assert [Path(one["file"]).name for one in found["unreadable"]] == ["c.png"]
    expected = model.probs(model.encode_image(folder / "a.png"), model.encode_text(["red", "blue"]))[0]
    given = found["images"][0]["probabilities"]
    assert [given["red"], given["blue"]] == pytest.approx(expected.tolist(), abs=1e-5)
    assert list(given.values()) == sorted(given.values(), reverse=True)


def test_classes_are_printed(trained: Path, folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The three likeliest names of each image, with a file or without one."""
    names = ("--names", "red, blue, green, grey")
    assert predict("classify", trained, folder, *names) == 0
    said = capsys.readouterr()
    lines = [line for line in said.out.splitlines() if line.startswith(str(folder))]
    assert [Path(line.partition(": ")[0]).name for line in lines] == ["a.png", "b.jpg"]
    assert "c.png: " in said.err.replace("\n", "")
    assert predict("classify", trained, folder, *names, "--out", tmp_path / "c.json") == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith(str(folder))] == lines
    row = list(json.loads((tmp_path / "c.json").read_text())["images"][0]["probabilities"].items())
    assert lines[0].partition(": ")[2] == ", ".join(f"{name} {100 * share:.1f}%" for name, share in row[:3])


def test_masks_want_a_folder_of_their_own(trained: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(folder.rglob("*"))
    assert predict("segment", trained, folder, "--names", "a,b", "--out", folder) == 2
    assert "is not empty; give another directory" in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == before


def test_embed(trained: Path, model: Model, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "e.npy"
    # A file that is also in a folder given is one image; where it is named first it stands.
    given = (folder / "deep" / "b.jpg", folder, folder / "a.png")
    assert predict("embed", trained, *given, "--out", out, "--batch-size", "2") == 0
    files = [Path(name).name for name in json.loads(out.with_suffix(".json").read_text())["files"]]
    assert files == ["b.jpg", "a.png"]
    expected = model.encode_image([folder / "deep" / "b.jpg", folder / "a.png"])
    np.testing.assert_allclose(np.load(out), expected.numpy(), atol=1e-6)


def test_segment(trained: Path, model: Model, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    assert predict("segment", trained, folder, "--names", "red, green, blue", "--out", out) == 0
    found = json.loads((out / "segments.json").read_text())
    assert [one["stem"] for one in found["images"]] == ["00000-a", "00001-b"]
    with Image.open(out / "00001-b.labels.png") as opened:
        labels = np.asarray(opened)
    expected = model.segment(folder / "deep" / "b.jpg", ["red", "green", "blue"]).labels.numpy()
    assert (labels == expected).all()
    assert found["images"][1]["shares"]["red"] == pytest.approx((expected == 0).mean())
    with Image.open(out / "00001-b.overlay.png") as opened:
        assert opened.size == (40, 24)
    more = ("--legend", "--edges", "--alpha", "0.5")
    assert predict("segment", trained, folder, "--names", "red, green, blue", "--out", tmp_path / "t", *more) == 0
    expected_picture = model.segment(folder / "a.png", ["red", "green", "blue"]).overlay(
        alpha=0.5, legend=True, edges=True
    )
    with Image.open(tmp_path / "t" / "00000-a.overlay.png") as opened:
        assert np.array_equal(opened, expected_picture)


def test_segment_by_a_decoder(trained: Path, model: Model, folder: Path, tmp_path: Path) -> None:
    names, own = ["red", "green", "blue"], replace(model)
    own.second = own
    for decoder, more in (("sclip", ()), ("proxyclip", ("--second", trained))):
        out = tmp_path / decoder
        args = ("--names", "red,green,blue", "--decoder", decoder, *more, "--out", out)
        assert predict("segment", trained, folder, *args) == 0
        with Image.open(out / "00000-a.labels.png") as opened:
            expected = own.segment(folder / "a.png", names, decoder=decoder)
            assert np.array_equal(opened, expected.labels)
        assert not torch.equal(expected.scores, model.segment(folder / "a.png", names).scores)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([*SEGMENT, "--decoder", "sclap"], "unknown decoder 'sclap'; did you mean 'sclip'?"),
        ([*SEGMENT, "--segmentation", "tlc"], "unknown protocol 'tlc'; did you mean 'tcl'?"),
        ([*SEGMENT, "--decoder", "proxyclip"], "decoder proxyclip needs a second encoder; give its name: --second"),
        ([*SEGMENT, "--second", "RUN"], "--second: only --decoder proxyclip and lposs read it"),
        ([*SEGMENT, "--decoder", "lposs", "--second", "nowhere"], "nowhere is no model"),
        (["embed", "RUN", "IN", "--out", "x.npy", "--decoder", "sclip"], "--decoder: class maps are for segment"),
        (["segment", "RUN", "IN", "--names", "a,b"], "needs a place for its results; give --out"),
        (["classify", "RUN", "IN", "--names", "a,b", "--legend"], "overlays are for segment"),
        (
            ["segment", "RUN", "IN", "--names", "a,b", "--out", "x", "--alpha", "2"],
            "--alpha is 2.0; needed a number at least 0 and at most 1",
        ),
        (["classify", "RUN", "IN", "--out", "x.json"], "class names are needed"),
        (["segment", "RUN", "nowhere", "--names", "a,b", "--out", "x"], "nowhere does not exist"),
        (["embed", "RUN", "IN", "--out", "x.json"], "ends in .npy"),
        (["embed", "RUN", "IN/c.png", "--out", "x.npy"], "are no JPEG"),
        (["embed", "nowhere", "IN", "--out", "x.npy"], "is no model"),
        (["classify", "RUN", "EMPTY", "--names", "a", "--out", "x.json"], "there is no image"),
        (["paint", "RUN", "IN", "--out", "x"], "invalid choice"),
    ],
)
def test_bad_commands(
    args: list[str], message: str, trained: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"RUN": str(trained), "IN": str(folder), "EMPTY": str(tmp_path / "empty")}
    named = [
        str(Path(places[arg.split("/")[0]], *arg.split("/")[1:])) if arg.split("/")[0] in places else arg
        for arg in args
    ]
    assert predict(*named) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in last
    assert not list(tmp_path.glob("x*"))


def test_an_import_is_evaluated_like_the_run_it_came_from(trained: Path, model: Model, tmp_path: Path) -> None:
    """One run, its teacher saved as an import: the same scores, cached under another key, weights named."""
    data = tmp_path / "data"
    write_sets(data, size=24, seed=0, num_retrieval=40, num_segmentation=8, per_class=2)
    towers = {**model.model.state_dict(), **{f"visual.{k}": x for k, x in model.visual.state_dict().items()}}
    config = configs.load(trained / "config.yaml").model
    text = replace(config.text, vocab_size=model.tokenizer.vocab_size)
    imported = Pretrained(replace(config, text=text), towers, model.tokenizer, model.preprocess, "softmax", "here")
    pretrained.save(imported, tmp_path / "m")
    out = tmp_path / "scores.json"
    args = ["--root", str(data), "--weights", "teacher", "--out", str(out), "--device", "cpu"]
    assert main(["eval", str(trained), str(tmp_path / "m"), *args]) == 0
    records = json.loads(out.read_text())
    theirs = {r["task"]: r["metrics"] for r in records if r["weights"] == "teacher"}
    ours = {r["task"]: r["metrics"] for r in records if r["weights"] == "pretrained"}
    assert len(ours) >= 3
    assert ours == theirs


def test_doctor_says_what_is_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sets(tmp_path, size=24, seed=0, num_retrieval=4, num_segmentation=2, per_class=1)
    assert main(["doctor", "--root", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for needed in (
        "torch",
        torch.__version__.partition("+")[0],
        "timm",
        "open_clip_torch",
        "device",
        "where train.precision is auto: ",
        "scenes",
    ):
        assert needed in out
    assert main(["doctor", "--root", str(tmp_path / "none")]) == 0
    assert "no task's data under" in capsys.readouterr().out


def phone(size: tuple[int, int] = (50, 30)) -> Image.Image:
    """A photograph taken with the camera on its side: stored as it lay, and said so by EXIF."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    image.getexif()[0x0112] = 6
    return image


def test_photographs_are_turned_as_they_were_held(model: Model, tmp_path: Path) -> None:
    """Files, images that say so, and folders; the masks are the turned picture's."""
    file = tmp_path / "phone.png"
    stored = phone()
    stored.save(file, exif=stored.getexif())
    with Image.open(file) as opened:
        turned = ImageOps.exif_transpose(opened.convert("RGB"))
        expected = model.encode_image(turned)
        assert torch.equal(model.encode_image(file), expected)
        assert torch.equal(model.encode_image(opened), expected)
    assert not torch.equal(model.encode_image(Image.fromarray(np.asarray(stored))), expected)
    found = model.segment(file, ["a", "b"])
    assert found.labels.shape == (50, 30)
    assert found.overlay().size == (30, 50)
    assert torch.equal(found.labels, model.segment(turned, ["a", "b"]).labels)


def test_label_maps_of_many_names(model: Model, tmp_path: Path) -> None:
    """More than 256 names are written in 16 bits; 255 is a class like the others."""
    Image.fromarray(np.asarray(phone())).save(tmp_path / "in.png")
    names = [f"name {index}" for index in range(300)]
    images = predictions.images_of([tmp_path / "in.png"], "segment")
    predictions.segment(model, images, names, tmp_path / "out", EvalConfig())
    with Image.open(tmp_path / "out" / "00000-in.labels.png") as opened:
        assert opened.mode == "I;16"
        assert np.array_equal(np.asarray(opened), model.segment(tmp_path / "in.png", names).labels.numpy())


def test_an_image_that_is_cut_is_told(model: Model, tmp_path: Path) -> None:
    phone().save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-300])
    with Image.open(tmp_path / "cut.jpg") as opened, pytest.raises(BadInput, match="50 x 30 pixels, mode RGB: "):
        model.features(opened)
