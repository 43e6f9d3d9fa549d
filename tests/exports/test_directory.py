"""One directory that three libraries open: equal ids, features, logits; or nothing at all."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
import transformers as hf
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import silc
from silc.cli import main
from silc.config import Config
from silc.errors import BadInput
from silc.exports import open_clip as out_open_clip
from silc.exports import transformers as out_transformers
from silc.exports.directory import FORMATS
from silc.loading import load_run
from silc.models.config import ImageTowerConfig, ModelConfig
from silc.pretraining import run

from .conftest import CLIP_IMAGE, CLIP_TEXT, IMAGE, TEXT

Saved = Callable[..., Path]
TEXTS = ["a photo of a cat", "Two dogs, on the BEACH!", "state-of-the-art", "", "red car " * 60]
MAP_BY_NAME = replace(IMAGE, size=256, patch=32, width=192, heads=3, depth=2, mlp=768, activation="gelu_tanh")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pitfall: open_clip fetches SigLIP's tokenizer from the hub; an export brings its own."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's models by their names, but narrow and of two blocks."""
    create, small = timm.create_model, {"depth": 2, "embed_dim": 192, "num_heads": 3}
    monkeypatch.setattr(timm, "create_model", lambda name, **given: create(name, **{**given, **small}))


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def by_silc(directory: Path | str, images: Tensor) -> tuple[Tensor, Tensor]:
    """(ids, logits)"""
    model = silc.load(directory, device="cpu")
    ids = model.tokenizer(TEXTS)
    features = model.encode_image(images) @ model.encode_text(ids).T
    return ids, features * model.model.logit_scale.exp() + model.model.logit_bias


@torch.no_grad()
def by_open_clip(directory: Path, images: Tensor) -> tuple[Tensor, Tensor]:
    theirs, _, _ = open_clip.create_model_and_transforms(f"local-dir:{directory}")
    ids = open_clip.get_tokenizer(f"local-dir:{directory}")(TEXTS)
    return ids, theirs.eval().get_logits(images, ids)[0]


@torch.no_grad()
def by_transformers(directory: Path, images: Tensor) -> tuple[Tensor, Tensor]:
    theirs, processor = hf.AutoModel.from_pretrained(directory), hf.AutoProcessor.from_pretrained(directory)
    length = theirs.config.text_config.max_position_embeddings
    words = processor(text=TEXTS, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    # The attention mask changes SigLIP's text embedding (a pitfall): it must not come out of the tokenizer.
    assert list(words) == ["input_ids"]
    return words["input_ids"], theirs.eval()(**words, pixel_values=images).logits_per_image


@pytest.mark.parametrize("kind", ["clip", "quick clip, argmax", "siglip"])
@pytest.mark.usefixtures("shallow")
def test_one_directory_for_three_libraries(kind: str, saved: Saved, tmp_path: Path) -> None:
    """Pitfalls: SigLipTokenizer(path) breaks on transformers 5, the libraries' canonicalisers differ, CLIP's pads
    differ, QuickGELU goes missing, scales start at ln(1/0.07)."""
    pixels: dict[str, Any] = {"mean": (0.48, 0.46, 0.41), "std": (0.27, 0.26, 0.28), "resize": "crop"}
    match kind:
        case "clip":
            source = saved(CLIP_IMAGE, CLIP_TEXT, embed_dim=24, contrastive="softmax", **pixels)
        case "siglip":
            source = saved(MAP_BY_NAME, TEXT, embed_dim=192, bias=-3.0)
        case _:
            quick: Any = {"activation": "quick_gelu"}
            text = replace(CLIP_TEXT, pool="argmax", **quick)
            source = saved(replace(CLIP_IMAGE, **quick), text, embed_dim=24, contrastive="softmax", **pixels)
    out = tmp_path / "out"
    checks = silc.export(source, out, ["open_clip", "transformers"])
    assert {check.format for check in checks} == {"silc", "open_clip", "transformers"}
    size = silc.load(out, device="cpu").preprocess.size
    images = torch.randn(2, 3, size, size)
    ids, logits = by_silc(source, images)
    assert logits.std() > 0.05
    for opened in (by_silc, by_open_clip, by_transformers):
        their_ids, theirs = opened(out, images)
        assert their_ids.tolist() == ids.tolist(), opened.__name__
        close(theirs, logits)
    assert type(open_clip.get_tokenizer(f"local-dir:{out}")).__name__ == "HFTokenizer"


@pytest.mark.parametrize("kind", ["siglip", "siglip2", "clip"])
def test_transformers_in_and_out(kind: str, saved: Saved, tmp_path: Path) -> None:
    """What went in as transformers' model comes out as one that computes the same: SigLIP 2 for its square image.
    Pitfall: SigLIP's tanh GELU is in hidden_act; its pipeline pads to 64."""
    shape = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 72}
    text = {**shape, "vocab_size": 310, "max_position_embeddings": 64, "eos_token_id": 1}
    vision: dict[str, Any] = {**shape, "patch_size": 8}
    vision |= {"num_patches": 16} if kind == "siglip2" else {"image_size": 32}
    names = {"siglip": "Siglip", "siglip2": "Siglip2", "clip": "CLIP"}
    top: dict[str, Any] = {"projection_dim": 24} if kind == "clip" else {}
    config = getattr(hf, f"{names[kind]}Config")(text_config=text, vision_config=vision, **top)
    theirs: Any = getattr(hf, f"{names[kind]}Model")(config).eval()
    theirs.save_pretrained(tmp_path / "in")
    silc.load(saved(), device="cpu").tokenizer.save(tmp_path / "in")  # type: ignore[attr-defined]
    side = {"height": 32, "width": 32}
    processor: Any = hf.SiglipImageProcessor(size=side)
    if kind == "clip":
        processor = hf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=side)
    processor.save_pretrained(tmp_path / "in")
    silc.export(f"hf:{tmp_path / 'in'}", tmp_path / "out", ["transformers"])

    images = torch.randn(2, 3, 32, 32)
    ids, logits = by_transformers(tmp_path / "out", images)
    assert ids.tolist() == hf.PreTrainedTokenizerFast.from_pretrained(tmp_path / "in")(
        TEXTS, padding="max_length", max_length=64, truncation=True
    )["input_ids"]  # fmt: skip
    inputs: dict[str, Any] = {"pixel_values": images}
    if kind == "siglip2":
        patches = images.unflatten(3, (4, 8)).unflatten(2, (4, 8)).permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        inputs = {"pixel_values": patches, "pixel_attention_mask": torch.ones(2, 16, dtype=torch.long)}
        inputs["spatial_shapes"] = torch.tensor([[4, 4]] * 2)
    with torch.no_grad():
        close(logits, theirs(input_ids=ids, **inputs).logits_per_image)
    again: Any = hf.AutoModel.from_pretrained(tmp_path / "out")
    assert again.config.vision_config.hidden_act == config.vision_config.hidden_act

    pipe = hf.pipeline("zero-shot-image-classification", model=str(tmp_path / "out"))
    picture = Image.effect_noise((60, 40), 90).convert("RGB")
    shown = {one["label"]: one["score"] for one in pipe(picture, candidate_labels=["cat", "red car"])}
    model = silc.load(tmp_path / "out", device="cpu")
    words = model.encode_text(["This is a photo of cat.", "This is a photo of red car."])
    # Its own resizing rounds otherwise, by one step of 255.
    torch.testing.assert_close(
        torch.tensor(list(map(shown.get, ("cat", "red car")))),
        model.probs(model.encode_image(picture), words)[0],
        rtol=0.01,
        atol=1e-3,
    )


@pytest.mark.parametrize("quick", [False, True])
def test_open_clip_in_and_out(quick: bool, tmp_path: Path) -> None:
    """Pitfall: `encode_image` and the tokenizer need no hub, no size forced, no name looked up."""
    config = {
        "embed_dim": 24,
        "quick_gelu": quick,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 24, "width": 32, "heads": 2, "layers": 1},
    }
    theirs: Any = open_clip.CLIP(**config).eval()  # type: ignore[arg-type]
    (tmp_path / "in").mkdir()
    save_file({k: v.contiguous() for k, v in theirs.state_dict().items()}, tmp_path / "in/open_clip_model.safetensors")
    (tmp_path / "in/open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    out = tmp_path / "out"
    silc.export(f"open_clip:{tmp_path / 'in'}", out, ["open_clip", "transformers"])
    images = torch.randn(2, 3, 32, 32)
    ids, logits = by_open_clip(out, images)
    before = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'in'}")(TEXTS)
    # Padded with the end token, as transformers, no longer with zeros: the causal mask makes that harmless.
    end = before == 49407
    after_end = end.cumsum(1) > 0
    assert ids[~after_end].tolist() == before[~after_end].tolist()
    assert bool((ids[after_end] == 49407).all())
    with torch.no_grad():
        close(logits, theirs.get_logits(images, before)[0])
    close(by_transformers(out, images)[1], logits)
    # Back by silc's reader of open_clip's files, not by its own.
    close(by_silc(f"open_clip:{out}", images)[1], logits)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, small: Callable[..., Config]) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    run.train(small("silc_c", out, duration="2 steps"))
    (out / "scores.json").write_text(
        json.dumps(
            [
                {"model": "run", "dataset": "scenes", "task": "zeroshot_classification", "weights": weights}
                | {"metrics": {"acc1": score}, "chance": {"acc1": 0.1}, "protocol": {}}
                for weights, score in (("teacher", 0.4321), ("student", 0.1234))
            ]
        )
    )
    return out


@pytest.mark.parametrize("weights", ["auto", "student"])
def test_a_run_goes_out(weights: Any, trained: Path, tmp_path: Path) -> None:
    """The teacher's image tower unless asked otherwise; with all that it takes to go on."""
    out = tmp_path / "out"
    silc.export(trained, out, ["transformers"], weights=weights, license="apache-2.0", datasets=["some/pairs"])
    model = silc.load(trained, weights=weights, device="cpu")
    images = torch.randn(2, 3, 16, 16)
    again = silc.load(out, device="cpu")
    assert torch.equal(again.encode_image(images), model.encode_image(images))
    assert again.contrastive == model.contrastive == "softmax"
    texts = again.encode_text(TEXTS)
    assert torch.equal(texts, model.encode_text(TEXTS))
    # The softmax loss sees no bias, so a run's is the one it began with and does not go out.
    assert (again.model.logit_bias.item(), model.model.logit_bias.item()) == (0.0, -10.0)
    close(again.probs(again.encode_image(images), texts), model.probs(model.encode_image(images), texts))
    other = silc.load(trained, weights="student" if weights == "auto" else "teacher", device="cpu")
    assert not torch.equal(again.encode_image(images), other.encode_image(images))

    card = (out / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "transformers"
    assert front["pipeline_tag"] == "zero-shot-image-classification"
    assert (front["license"], front["datasets"]) == ("apache-2.0", ["some/pairs"])
    assert "silc" in front["tags"]
    assert ("0.4321" in card, "0.1234" in card) == (weights == "auto", weights != "auto")
    assert "take logits_per_image.softmax(-1)" in card
    assert "pads texts to 64 tokens, this model takes 12" in card
    for file in [*out.glob("*.json"), out / "README.md", out / "continue/config.yaml"]:
        assert str(trained.parent) not in file.read_text(), file


def test_an_export_can_be_continued(trained: Path, small: Callable[..., Config], tmp_path: Path) -> None:
    """Pitfall of others' releases: head, teacher and centre are not there. `continue/` is a run without optimizer."""
    out = tmp_path / "out"
    silc.export(trained, out, ["transformers"])
    before, after = (load_run(folder).models for folder in (trained, out / "continue"))
    images = torch.randn(2, 3, 16, 16)
    for name in ("student", "teacher"):
        assert torch.equal(before[name].encode_image(images), after[name].encode_image(images))
    (checkpoint,) = (out / "continue/checkpoints").glob("step-*")
    assert {file.stem for file in checkpoint.glob("*.safetensors")} == {"model", "head", "teacher"}
    assert "centre" in load_file(checkpoint / "teacher.safetensors")
    begun = replace(small("silc_c", tmp_path / "on", duration="2 steps", save_every="1 steps"), init=str(out))
    run.train(begun)
    # That run is one like any other, and is resumed; the export is not a run, and says so.
    (newest, _) = sorted((tmp_path / "on/checkpoints").glob("step-*"), reverse=True)
    before = load_file(newest / "model.safetensors")
    shutil.rmtree(newest)
    run.train(replace(begun, resume="auto"))
    again = load_file(newest / "model.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in before.items())
    for folder in (out, out / "continue"):
        files = sorted(out.rglob("*"))
        for resume in ("auto", "never"):
            with pytest.raises(BadInput, match=rf"holds a model to start from.*use --init {folder} and give another"):
                run.train(replace(begun, out=str(folder), resume=resume))
        assert sorted(out.rglob("*")) == files


def test_scale_and_bias_have_the_shapes_of_each_library(saved: Saved, tmp_path: Path) -> None:
    """Pitfall: sharding refuses numbers without a dimension, open_clip and CLIPModel have them so."""
    silc.export(
        saved(CLIP_IMAGE, CLIP_TEXT, embed_dim=24, contrastive="softmax"),
        tmp_path / "out",
        ["open_clip", "transformers"],
    )
    shapes = {"silc.safetensors": [1], "open_clip_model.safetensors": [], "model.safetensors": []}
    for name, shape in shapes.items():
        with safe_open(tmp_path / "out" / name, "pt") as file:
            assert file.get_slice("logit_scale").get_shape() == shape
            assert float(file.get_tensor("logit_scale")) == 1.75


@pytest.mark.parametrize("resample", ["bicubic", "bicubic_antialias"])
def test_other_sizes_are_each_librarys_own(resample: Any, saved: Saved, tmp_path: Path) -> None:
    """Pitfalls: open_clip's towers take their own size alone; transformers wants it asked for, at every call, and
    resamples positions without antialias, whatever the weights were trained with. silc keeps the rule."""
    image = replace(CLIP_IMAGE, position_resample=resample)
    source = saved(image, CLIP_TEXT, embed_dim=24, contrastive="softmax")
    silc.export(source, tmp_path / "out", ["open_clip", "transformers"])
    smaller = torch.randn(2, 3, 16, 24)
    expected = silc.load(source, device="cpu").encode_image(smaller)
    assert torch.equal(silc.load(tmp_path / "out", device="cpu").encode_image(smaller), expected)
    theirs, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'out'}")
    with pytest.raises(RuntimeError, match="size"), torch.no_grad():
        theirs.encode_image(smaller)
    model: Any = hf.AutoModel.from_pretrained(tmp_path / "out")
    with pytest.raises(ValueError, match="size"), torch.no_grad():
        model.get_image_features(pixel_values=smaller)
    with torch.no_grad():
        out = model.get_image_features(pixel_values=smaller, interpolate_pos_encoding=True).pooler_output
    difference = (torch.nn.functional.normalize(out, dim=-1) - expected).abs().max()
    assert difference < 1e-5 if resample == "bicubic" else difference > 1e-3
    said = "resamples positions in its own way (bicubic, not antialiased)" in (tmp_path / "out/README.md").read_text()
    assert said == (resample != "bicubic")


def test_image_features_are_no_tensor_in_transformers_5(saved: Saved, tmp_path: Path) -> None:
    """Pitfall: `get_image_features` changed what it returns; the embedding in it is ours."""
    silc.export(saved(), tmp_path / "out", ["transformers"])
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        out = hf.AutoModel.from_pretrained(tmp_path / "out").get_image_features(pixel_values=images)
    model = silc.load(tmp_path / "out", device="cpu")
    close(torch.nn.functional.normalize(out.pooler_output, dim=-1), model.encode_image(images))


def changed(image: dict[str, Any] | None = None, text: dict[str, Any] | None = None, clip: bool = True) -> Any:
    towers = (CLIP_IMAGE, CLIP_TEXT) if clip else (IMAGE, TEXT)
    return replace(towers[0], **(image or {})), replace(towers[1], **(text or {}))


@pytest.mark.parametrize(
    ("format_", "towers", "message"),
    [
        ("open_clip", changed(clip=False), "it knows no ViT of width 32, depth 1, patch 8 at 32 px with map"),
        ("open_clip", changed({"pool": "mean", "pre_norm": False}), "pooled embedding is the mean of its tokens"),
        ("open_clip", changed({"activation": "quick_gelu"}), "quick_gelu is one setting for both towers there"),
        ("open_clip", changed(text={"pool": "max"}), "no text tower with max pooling"),
        ("transformers", changed({"projection": "linear"}, clip=False), "a projection after attention pooling, which"),
        ("transformers", changed(text={"causal": True, "pool": "last"}, clip=False), "a causal text tower, which a"),
        ("transformers", changed({"pre_norm": False}), "no norm before the first block, which a CLIPModel"),
        ("transformers", changed(text={"pool": "last"}), "this model has last pooling of texts, which a CLIP"),
        ("transformers", changed({"pool": "mean"}), "this model has mean pooling, which a CLIPModel"),
    ],
)  # fmt: skip
def test_what_a_library_lacks_is_refused(format_: str, towers: Any, message: str, saved: Saved, tmp_path: Path) -> None:
    image: ImageTowerConfig = towers[0]
    source = saved(*towers, embed_dim=image.width)
    with pytest.raises(BadInput, match=message) as refusal:
        silc.export(source, tmp_path / "out", [format_])
    assert "\n" not in str(refusal.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.slow  # makes every SigLIP that timm names
def test_the_nearest_of_timms_is_named() -> None:
    """SigLIP's B/16 of big_vision has the tanh GELU, timm's of that name the exact one."""
    image = replace(IMAGE, size=256, patch=16, width=768, heads=12, depth=12, mlp=3072)
    found = out_open_clip.vision_config(ModelConfig(image=image, text=TEXT, embed_dim=768))
    assert found["timm_model_name"] == "vit_base_patch16_siglip_256"
    tanh = ModelConfig(image=replace(image, activation="gelu_tanh"), text=TEXT, embed_dim=768)
    with pytest.raises(BadInput, match=r"nearest is timm's vit_base_patch16_siglip_256, .* gelu_tanh, not gelu$"):
        out_open_clip.vision_config(tanh)


@pytest.mark.slow
def test_every_format_at_b(saved: Saved, tmp_path: Path) -> None:
    """SigLIP's ViT-B/16 in every format at once: within the tolerances of small towers, and in the memory of a few
    copies of the model. A process of its own, whose memory can be read."""
    tower: Any = {"width": 768, "heads": 12, "depth": 12, "mlp": 3072}
    source = saved(replace(IMAGE, size=256, patch=16, **tower), replace(TEXT, **tower), embed_dim=768)
    script = (
        "import resource, sys, silc\n"
        "print(*silc.export(*sys.argv[1:3], sys.argv[3:]), sep='\\n')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)\n"
    )
    command = [sys.executable, "-c", script, str(source), str(tmp_path / "out"), *FORMATS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    files = {name: (tmp_path / "out" / name).stat().st_size / 2**20 for name in ("silc.safetensors", "onnx/image.onnx")}
    assert int(done.stdout.split()[-1]) < 1500 + 6 * files["silc.safetensors"]
    assert (tmp_path / "out/int8/image.pt2").stat().st_size / 2**20 < 0.3 * files["onnx/image.onnx"]
    checked = {line.split()[0] for line in done.stdout.splitlines()[:-1]}
    assert checked == {"silc", *FORMATS}


def test_what_does_not_match_is_not_written(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pitfall: SigLIP's tanh GELU and the exact one differ by little, and by too much; all formats or none."""
    source = saved(CLIP_IMAGE, CLIP_TEXT, embed_dim=24, contrastive="softmax")
    monkeypatch.setitem(out_transformers.ACTIVATION_NAMES, "gelu", "gelu_pytorch_tanh")
    code = main(["export", str(source), str(tmp_path / "out"), "--formats", "open_clip,transformers"])
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2
    assert "transformers: image features read back differ from the model's by " in said
    assert said.endswith("more than 1e-05; nothing was written")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_the_command_line(saved: Saved, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = str(saved()), str(tmp_path / "out")
    assert main(["export", source, out, "--formats", "transformers"]) == 0
    said = capsys.readouterr().out
    assert "transformers  logits" in said
    assert "README.md" in said
    for args, message in {
        (source, out): "is not empty",
        (source, f"{out}2", "--formats", "gguf"): "no format 'gguf'; there are: open_clip, transformers, onnx",
        (source, f"{out}2", "--formats", ""): "no format ''",
        (source, f"{out}2", "--decoder", "radseg"): "class maps are written by formats onnx and torch_export",
        (
            source,
            f"{out}2",
            "--formats",
            "onnx",
            "--decoder",
            "lposs",
        ): "decoder 'lposs' is not exported; those that can",
        (str(tmp_path / "nothing"), f"{out}2"): "is no model",
    }.items():
        assert main(["export", *args]) == 2
        assert message in capsys.readouterr().err


def test_pixels_that_a_library_cannot_make_are_named(saved: Saved, tmp_path: Path) -> None:
    """big_vision's resize has no antialias; features are the same on the same pixels, and the card says so."""
    silc.export(saved(interpolation="tf_bilinear"), tmp_path / "out", ["transformers"])
    assert "tf_bilinear is not among its filters" in (tmp_path / "out/README.md").read_text()
    settings = tmp_path / "out/silc.json"
    settings.write_text(settings.read_text().replace('"squash"', '"squash_crop"'))
    with pytest.raises(BadInput, match="cannot resize as 'squash_crop' does"):
        silc.export(tmp_path / "out", tmp_path / "out2", ["transformers"])
