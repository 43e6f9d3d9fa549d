"""A detector in other libraries' hands; and transformers' whole OwlViT and Owlv2 in ours, forward and gradient."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import silc
from silc.cli import main
from silc.heads.detect.boxes import corners
from silc.heads.detect.config import LossConfig
from silc.heads.detect.head import DetectionHead, unit
from silc.heads.detect.model import Detector
from silc.heads.detect.predictor import standing_for
from silc.heads.tuning import see_at
from silc.interop import pretrained
from silc.interop.mapping import bring
from silc.interop.pretrained import Pretrained
from silc.interop.tokenizers import clip_bpe
from silc.interop.transformers import rules
from silc.models.config import ImageTowerConfig, ModelConfig, TextTowerConfig
from silc.models.silc import TwoTower
from silc.preprocess import Preprocess
from tests.heads.detect.conftest import SMALL
from tests.heads.detect.test_head import KEPT, fixture

CLIP = ModelConfig(
    image=ImageTowerConfig(size=16, patch=8, width=32, depth=2, heads=4, mlp=64, pool="cls", pre_norm=True),
    text=TextTowerConfig(
        **{"length": 12, "width": 24, "depth": 1, "heads": 3, "mlp": 48, "causal": True, "projection": "linear"},
        pool="eos",
        vocab_size=49408,
    ),
    embed_dim=24,
)


def detector_of(arrays: dict[str, Any]) -> Detector:
    """Our towers and heads with the weights of a fixture."""
    config = json.loads(str(arrays["config"]))
    kind = "owlv2" if config["v2"] else "owlvit"
    shape = {"activation": config["hidden_act"], "norm_eps": config["layer_norm_eps"]}
    model = ModelConfig(
        image=ImageTowerConfig(
            size=config["size"],
            patch=config["patch"],
            width=config["hidden"],
            depth=config["layers"],
            heads=config["heads"],
            mlp=64,
            pool="cls",
            pre_norm=True,
            position_resample="bicubic",
            **shape,
        ),
        text=TextTowerConfig(
            length=10,
            width=config["text_width"],
            depth=config["text_layers"],
            heads=config["text_heads"],
            mlp=48,
            causal=True,
            pool="argmax",
            projection="linear",
            vocab_size=60,
            **shape,
        ),
        embed_dim=config["projection"],
    )
    weights = {key[2:]: value for key, value in arrays.items() if key.startswith("w/")}
    towers = {
        name.removeprefix(f"{kind}.").replace("pre_layernorm", "pre_layrnorm"): value
        for name, value in weights.items()
        if not name.startswith(KEPT)
    }
    ours, _ = bring(rules("clip", model), towers, model, kind)
    built = TwoTower(model, vocab_size=60, eos_id=59)
    built.load_state_dict(ours)
    head = DetectionHead(config["hidden"], config["projection"], objectness=config["v2"])
    head.load_state_dict({name: value for name, value in weights.items() if name.startswith(KEPT)})
    return Detector(built.visual, built.text, head, Preprocess(config["size"]), LossConfig()).eval()


@pytest.mark.parametrize("name", ["hf_owlvit", "hf_owlv2"])
def test_the_whole_model_is_transformers_forward_and_gradient(silc_data: Path, name: str) -> None:
    arrays = fixture(silc_data, name)
    detector = detector_of(arrays)
    pixels = arrays["pixel_values"].requires_grad_()
    queries = unit(detector.text(arrays["input_ids"].long())).unflatten(0, (len(pixels), -1))
    found = detector.look(pixels, queries)
    known = arrays["logits"] > -1e29
    torch.testing.assert_close(found.logits[known], arrays["logits"][known], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.boxes, arrays["pred_boxes"], atol=1e-5, rtol=1e-4)
    scalar = (found.boxes * arrays["up_boxes"]).sum() + (found.logits * arrays["up_logits"])[known].sum()
    if found.objectness is not None:
        torch.testing.assert_close(found.objectness, arrays["objectness_logits"], atol=1e-5, rtol=1e-4)
        scalar = scalar + (found.objectness * arrays["up_objectness"]).sum()
    scalar.backward()
    torch.testing.assert_close(pixels.grad, arrays["grad_pixel_values"], atol=1e-4, rtol=1e-3)
    norms = dict(zip(arrays["param_grad_norm_names"].tolist(), arrays["param_grad_norms"].tolist(), strict=True))
    kind = name.removeprefix("hf_")
    for ours, theirs in (
        (detector.visual.trunk.pos_embed, "vision_model.embeddings.position_embedding.weight"),
        (detector.visual.trunk.patch_embed.proj.weight, "vision_model.embeddings.patch_embedding.weight"),
        (detector.visual.trunk.norm.weight, "vision_model.post_layernorm.weight"),
    ):
        assert ours.grad is not None
        assert ours.grad.norm().item() == pytest.approx(norms[f"{kind}.{theirs}"], rel=1e-3), theirs


@pytest.mark.parametrize("name", ["hf_owlvit", "hf_owlv2"])
def test_a_grid_that_is_not_square_is_transformers(silc_data: Path, name: str) -> None:
    arrays = fixture(silc_data, name)
    detector = detector_of(arrays)
    count = arrays["logits"].shape[-1]
    start = count * int(arrays["interp/query_image"])
    queries = unit(detector.text(arrays["input_ids"][start : start + count].long()))
    with torch.no_grad():
        found = detector.look(arrays["interp/pixel_values"], queries)
    known = arrays["interp/logits"] > -1e29
    torch.testing.assert_close(found.logits[known], arrays["interp/logits"][known], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.boxes, arrays["interp/pred_boxes"], atol=1e-5, rtol=1e-4)


def test_a_tower_learns_at_another_size_what_it_computed_there() -> None:
    tower = TwoTower(CLIP, vocab_size=49408, eos_id=49407).visual.eval()
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        before = tower.patches(images)
        see_at(tower, 32)
        assert tower.trunk.pos_embed.shape[1] == 17
        torch.testing.assert_close(tower.patches(images), before)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of CLIP's form, small and of random weights, as `silc import` writes it."""
    pytest.importorskip("open_clip")
    words = clip_bpe(12)
    towers = TwoTower(CLIP, vocab_size=words.vocab_size, eos_id=words.eos_id)
    directory = tmp_path_factory.mktemp("clip") / "model"
    pretrained.save(Pretrained(CLIP, towers.state_dict(), words, Preprocess(16), "softmax", "clip"), directory)
    return directory


def trained(init: Path, coco: Path, out: Path, **more: object) -> Path:
    train = str(coco / "annotations" / "instances_train2017.json")
    return silc.train(
        "detect", out=out, init=str(init), **(SMALL | {"data.train": train, "train.duration": "2 steps"} | more)
    )


def examples_are_transformers(model: Any, pixels: Tensor) -> None:
    """Which patch stands for the whole picture, the only box that transformers asks for."""
    with torch.no_grad():
        features = model.image_embedder(pixel_values=pixels)[0]
        wanted, places, boxes = model.embed_image_query(features.flatten(1, 2), features)
        _, embeddings = model.class_predictor(features.flatten(1, 2))
    for row, place in enumerate(places.flatten().tolist()):
        chosen = standing_for(torch.tensor([0.0, 0.0, 1.0, 1.0]), corners(boxes[row]), embeddings[row])
        assert torch.equal(chosen, embeddings[row, place])
        assert torch.equal(chosen, wanted[row].squeeze(0))


@pytest.mark.parametrize("objectness", [False, True])
def test_clips_towers_go_to_transformers(objectness: bool, clip: Path, coco: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    run = trained(clip, coco, tmp_path / "run", objectness=objectness)
    asked = ["export", str(run), str(tmp_path / "out"), "--formats", "transformers", "--license", "apache-2.0"]
    assert main(asked) == 0
    place, kind = tmp_path / "out" / "transformers", "Owlv2" if objectness else "OwlViT"
    model, ours = (
        getattr(transformers, f"{kind}ForObjectDetection").from_pretrained(place).eval(),
        silc.load(run, device="cpu"),
    )
    ids, pixels = ours.tokenizer(["red square", "a cat"]), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        theirs = model(input_ids=ids.repeat(2, 1), pixel_values=pixels)
    logits, boxes = ours.find(pixels, ours.encode_text(ids))
    torch.testing.assert_close(theirs.logits, logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(theirs.pred_boxes, boxes, atol=1e-5, rtol=1e-5)
    if not objectness:  # transformers' Owlv2 takes the patch of most objectness, whatever box is asked.
        examples_are_transformers(model, pixels)
    said = (tmp_path / "out" / "README.md").read_text()
    assert ("squashes images to a square" in said) is not objectness
    assert ("pads with black" in said) is objectness
    assert "pad_value" not in json.loads((place / "preprocessor_config.json").read_text())
    # What the note advises gives the model's own pixels, where nothing is resized.
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 32, 3), dtype=np.uint8))
    square = Image.new("RGB", (32, 32), (128, 128, 128))
    square.paste(picture, (0, 0))
    processor = transformers.AutoProcessor.from_pretrained(place)
    given = processor(text=["red square", "a cat"], images=square, return_tensors="pt")
    own = ours.preprocess.normalize(ours.entering(picture)[None])
    torch.testing.assert_close(given["pixel_values"], own, atol=1e-5, rtol=1e-5)
    again = silc.load(tmp_path / "out", device="cpu")
    assert torch.equal(again.find(pixels, ours.encode_text(ids))[0], logits)
    assert str(tmp_path) not in (tmp_path / "out" / "config.yaml").read_text()


def test_any_towers_go_to_onnx_and_others_are_told(
    finished: Callable[..., Path], coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime = pytest.importorskip("onnxruntime")
    run = trained(finished("silc_c"), coco, tmp_path / "run")
    asked = ["export", str(run), str(tmp_path / "out")]
    for formats, said in (
        (
            "transformers",
            "pools by attention, as SigLIP and SILC do, and OwlViTForObjectDetection multiplies its patches",
        ),
        ("open_clip", "a detector is exported as silc's own files, onnx and transformers, not as open_clip"),
    ):
        assert main([*asked, "--formats", formats]) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
    assert main([*asked, "--formats", "onnx"]) == 0  # as in docs/guides/detect.md
    session = runtime.InferenceSession(
        str(tmp_path / "out" / "onnx" / "detect.onnx"), providers=["CPUExecutionProvider"]
    )
    model = silc.load(run, device="cpu")
    pixels, queries = torch.randn(1, 3, 32, 32), model.encode_text(["a", "b", "c"])
    theirs: list[Tensor] = session.run(None, {"pixel_values": pixels.numpy(), "text_embeds": queries.numpy()})
    for one, own in zip(theirs, model.find(pixels, queries), strict=True):
        torch.testing.assert_close(torch.as_tensor(one), own, atol=1e-4, rtol=1e-4)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "pipeline_tag: zero-shot-object-detection" in card
    mean = ", ".join(f"{value:g}" for value in model.preprocess.mean)
    assert f"upper left of a square of grey (128 of 255), divided by 255, less the mean ({mean})" in card
