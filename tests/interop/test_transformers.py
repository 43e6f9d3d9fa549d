"""SiglipModel, Siglip2Model and CLIPModel of transformers: what they compute, at the sizes they come in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import silc
from silc.errors import BadInput
from silc.interop import transformers as interop
from silc.interop.mapping import give

Draw = Callable[[nn.Module], nn.Module]
KINDS = ("siglip", "siglip2", "clip")


def make(
    kind: str, width: int = 32, heads: int = 2, depth: int = 2, size: int = 64, patch: int = 16, **text: Any
) -> Any:
    """A model with random weights; the text tower half as wide where the kind allows it."""
    shape = {"num_hidden_layers": depth, "num_attention_heads": heads}
    vision = {**shape, "hidden_size": width, "intermediate_size": 2 * width + 8, "patch_size": patch}
    words = {**shape, "hidden_size": width // 2, "intermediate_size": width, "vocab_size": 320, **text}
    words |= {"max_position_embeddings": 16}
    match kind:
        case "siglip":
            words |= {"projection_size": width}
            return hf.SiglipModel(hf.SiglipConfig(text_config=words, vision_config={**vision, "image_size": size}))
        case "siglip2":
            words |= {"projection_size": width}
            return hf.Siglip2Model(
                hf.Siglip2Config(text_config=words, vision_config={**vision, "num_patches": (size // patch) ** 2})
            )
        case _:
            words = {"eos_token_id": 1, **words}
            return hf.CLIPModel(
                hf.CLIPConfig(text_config=words, vision_config={**vision, "image_size": size}, projection_dim=24)
            )


def saved(model: Any, tokenizer: Path, directory: Path, processor: Any = None) -> Path:
    """The model's directory, as `save_pretrained` writes it, with tokenizer and pixels."""
    model.save_pretrained(directory)
    shutil.copytree(tokenizer, directory, dirs_exist_ok=True)
    size = model.config.vision_config.image_size if hasattr(model.config.vision_config, "image_size") else 64
    (processor or hf.SiglipImageProcessor(size={"height": size, "width": size})).save_pretrained(directory)
    return directory


def vision_inputs(kind: str, pixels: Tensor, patch: int) -> dict[str, Any]:
    """An image as the model takes it; SigLIP 2 wants its patches, row by row, channels last."""
    if kind != "siglip2":
        return {"pixel_values": pixels, "interpolate_pos_encoding": True}
    h, w = pixels.shape[2] // patch, pixels.shape[3] // patch
    patches = pixels.unflatten(3, (w, patch)).unflatten(2, (h, patch))  # [B, 3, h, p, w, p]
    return {
        "pixel_values": patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2),
        "pixel_attention_mask": torch.ones(len(pixels), h * w, dtype=torch.long),
        "spatial_shapes": torch.tensor([[h, w]] * len(pixels)),
    }


def value_block(layer: Any, x: Tensor) -> Tensor:
    """The last layer when each token attends to itself alone."""
    attention = layer.self_attn
    x = x + attention.out_proj(attention.v_proj(layer.layer_norm1(x)))
    return x + layer.mlp(layer.layer_norm2(x))


def dense_references(kind: str, model: Any, inputs: dict[str, Any]) -> dict[str, Tensor]:
    """Patches in the text's space by transformers' modules, for every readout."""
    tower = model.vision_model
    out = tower(**inputs, output_hidden_states=True)
    before = out.hidden_states[-2]
    alone = tower.post_layernorm(value_block(tower.encoder.layers[-1], before))
    if kind == "clip":
        project = model.visual_projection
        tokens = tower.post_layernorm(out.last_hidden_state)
        return {"value_block": project(alone[:, 1:]), "tokens": project(tokens[:, 1:])}

    def each(tokens: Tensor) -> Tensor:
        """The attention pool on one token at a time."""
        return tower.head(tokens.flatten(0, 1)[:, None]).unflatten(0, tokens.shape[:2])

    return {"map_value": each(out.last_hidden_state), "value_block+map_value": each(alone)}


def check(kind: str, model: Any, directory: Path, size: int, batch: int = 2) -> None:
    """Pooled, text and dense outputs at two sizes, and the probabilities of image and text."""
    pretrained = interop.read(str(directory))
    towers, patch = pretrained.build(), pretrained.model.image.patch
    ids = torch.randint(2, 300, (3, 16))
    ids[:, 9], ids[1, 12] = 1, 319  # the end, and after it a higher id
    with torch.no_grad():
        text = model.get_text_features(ids).pooler_output
        close(towers.text(ids), text)
        for height, width in ((size, size), (size // 2, size + patch)):
            pixels = torch.randn(batch, 3, height, width)
            inputs = vision_inputs(kind, pixels, patch)
            image = model.get_image_features(**inputs).pooler_output
            close(towers.visual(pixels), image)
            for readout, expected in dense_references(kind, model, inputs).items():
                close(towers.visual.dense(pixels, readout).flatten(1, 2), expected)
            out = model(input_ids=ids, **inputs).logits_per_image
            similar = nn.functional.normalize(image, dim=-1) @ nn.functional.normalize(text, dim=-1).T
            close(similar * towers.logit_scale.exp() + towers.logit_bias, out)


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("act", ["gelu", "gelu_pytorch_tanh", "quick_gelu"])
def test_parity(kind: str, act: str, tmp_path: Path, tokenizer: Path, drawn: Draw) -> None:
    model: Any = make(kind)
    for part in (model.config.vision_config, model.config.text_config):
        part.hidden_act = act
    model = drawn(type(model)(model.config))
    check(kind, model, saved(model, tokenizer, tmp_path), 64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("width", "heads", "depth"), [(192, 3, 12), (384, 6, 12)])
def test_parity_ti_and_s(
    kind: str, width: int, heads: int, depth: int, tmp_path: Path, tokenizer: Path, drawn: Draw
) -> None:
    model: Any = drawn(make(kind, width, heads, depth))
    check(kind, model, saved(model, tokenizer, tmp_path), 64)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_parity_b(kind: str, tmp_path: Path, tokenizer: Path, drawn: Draw) -> None:
    model: Any = drawn(make(kind, 768, 12, 12))
    check(kind, model, saved(model, tokenizer, tmp_path), 64, batch=1)


def test_the_table_reads_both_ways(tmp_path: Path, tokenizer: Path, drawn: Draw) -> None:
    """Every tensor of every kind comes back as it was."""
    for kind in KINDS:
        model: Any = drawn(make(kind))
        pretrained = interop.read(str(saved(model, tokenizer, tmp_path / kind)))
        back = give(interop.rules(kind, pretrained.model), pretrained.weights)
        theirs = load_file(tmp_path / kind / "model.safetensors")
        assert back.keys() == theirs.keys()
        assert all(torch.equal(back[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_are_those_of_transformers(kind: str) -> None:
    """What config.json leaves out means what transformers means by it."""
    config = {"siglip": hf.SiglipConfig, "siglip2": hf.Siglip2Config, "clip": hf.CLIPConfig}[kind]()
    for part, settings in interop.DEFAULTS[kind].items():
        theirs = getattr(config, part)
        for name, value in settings.items():
            expected = theirs.hidden_size if name == "projection_size" else value
            assert getattr(theirs, name) == expected, (part, name)
    assert interop.model_config({"model_type": kind}) == interop.model_config(config.to_dict())


@pytest.mark.parametrize("eos_token_id", [2, 1])
def test_clips_legacy_end_token(eos_token_id: int, tmp_path: Path, tokenizer: Path, drawn: Draw) -> None:
    """Old configurations name 2 and mean the highest id; `check` has ids where the two differ."""
    model: Any = drawn(make("clip", eos_token_id=eos_token_id))
    assert interop.model_config(model.config.to_dict()).text.pooling == ("argmax" if eos_token_id == 2 else "eos")
    check("clip", model, saved(model, tokenizer, tmp_path), 64)


def test_the_attention_mask_is_not_used(tmp_path: Path, tokenizer: Path, drawn: Draw) -> None:
    """SigLIP was trained without: a mask changes its text embedding, so ours has none and pads are seen."""
    model: Any = drawn(make("siglip"))
    pretrained = interop.read(str(saved(model, tokenizer, tmp_path)))
    ids = pretrained.tokenizer(["a cat"])
    mask = (ids != pretrained.tokenizer.pad_id).long()
    assert mask.sum() < mask.numel()
    with torch.no_grad():
        ours = pretrained.build().text(ids)
        close(ours, model.get_text_features(ids).pooler_output)
        assert (ours - model.get_text_features(ids, attention_mask=mask).pooler_output).abs().max() > 0.01


@pytest.mark.parametrize("shape", [(64, 64), (100, 70), (50, 131), (640, 427)])
@pytest.mark.parametrize("kind", ["squash", "crop", "bilinear"])
def test_pixels_equal_transformers(kind: str, shape: tuple[int, int], tmp_path: Path, tokenizer: Path) -> None:
    """Through Pillow, as transformers' own processors did and its Pillow ones do, from files that it wrote."""
    if kind == "crop":
        settings: Any = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}
        theirs: Any = hf.CLIPImageProcessorPil(**settings)
        written: Any = hf.CLIPImageProcessor(**settings)
    else:
        settings = {"size": {"height": 64, "width": 64}, "resample": 2 if kind == "bilinear" else 3}
        theirs, written = hf.SiglipImageProcessorPil(**settings), hf.SiglipImageProcessor(**settings)
    directory = saved(make("clip" if kind == "crop" else "siglip"), tokenizer, tmp_path, written)
    ours = interop.read(str(directory)).preprocess
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
    expected = torch.as_tensor(np.asarray(theirs(image, return_tensors="np")["pixel_values"][0]))
    close(ours.normalize(ours(image)), expected.float())


def test_an_older_file_of_clip_scales_the_shorter_side(tmp_path: Path) -> None:
    """Its size is one number; transformers reads it so."""
    assert dict(hf.CLIPImageProcessor(size=64).size) == {"shortest_edge": 64}
    pixels = {"size": 64, "crop_size": 64, "do_center_crop": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pixels))
    assert interop.preprocess(tmp_path, 64).resize == "crop_floor"
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pixels | {"do_center_crop": False}))
    assert interop.preprocess(tmp_path, 64).resize == "squash"


def test_siglip_2s_pixels_of_a_square_image(tmp_path: Path, tokenizer: Path) -> None:
    """NaFlex cuts an image that fills its patches into the same pixels, row by row."""
    processor: Any = hf.Siglip2ImageProcessor(patch_size=16, max_num_patches=16)
    ours = interop.read(str(saved(make("siglip2"), tokenizer, tmp_path, processor))).preprocess
    assert (ours.size, ours.resize, ours.interpolation) == (64, "squash", "bilinear")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    theirs = processor(image, return_tensors="pt")
    assert theirs["spatial_shapes"].tolist() == [[4, 4]]
    close(vision_inputs("siglip2", ours.normalize(ours(image))[None], 16)["pixel_values"], theirs["pixel_values"])


@pytest.mark.parametrize("kind", ["siglip", "clip"])
def test_probabilities_of_a_photograph(
    kind: str, tmp_path: Path, tokenizer: Path, drawn: Draw, silc_data: Path
) -> None:
    """Each library reads the file, cuts and scales the pixels and tokenizes the words by itself."""
    model: Any = drawn(make(kind))
    settings: Any = {"size": {"height": 64, "width": 64}}
    processor: Any = hf.SiglipImageProcessorPil(**settings)
    if kind == "clip":
        settings = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}
        processor = hf.CLIPImageProcessorPil(**settings)
    saved(model, tokenizer, tmp_path, processor)
    photographs = sorted((silc_data / "retrieval").rglob("*.jpg"))[:3]
    texts = ["a photo of a cat", "two dogs on the beach", "The Red Car!"]
    words = hf.AutoTokenizer.from_pretrained(tmp_path)
    ids = words(texts, padding="max_length", max_length=16, truncation=True, return_tensors="pt")["input_ids"]
    pixels = torch.cat(
        [
            torch.as_tensor(np.asarray(processor(Image.open(f).convert("RGB"), return_tensors="np")["pixel_values"]))
            for f in photographs
        ]
    ).float()
    ours = silc.load(f"hf:{tmp_path}", device="cpu")
    assert ours.tokenizer(texts).tolist() == ids.tolist()
    with torch.no_grad():
        logits = model(input_ids=ids, pixel_values=pixels).logits_per_image
    expected = logits.softmax(-1) if kind == "clip" else logits.sigmoid()
    close(ours.probs(ours.encode_image(photographs), ours.encode_text(texts)), expected)


def test_weights_in_shards(tmp_path: Path, tokenizer: Path, drawn: Draw) -> None:
    model: Any = drawn(make("siglip"))
    saved(model, tokenizer, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    check("siglip", model, tmp_path, 64)


@pytest.fixture
def directory(tmp_path: Path, tokenizer: Path, drawn: Draw) -> Path:
    return saved(drawn(make("siglip")), tokenizer, tmp_path)


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def rewrite(directory: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


BIAS = "vision_model.post_layernorm.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: edit(d / "config.json", model_type="blip"),
            "is of a 'blip' model; silc reads siglip, siglip2, clip",
        ),
        (lambda d: edit(d / "config.json", auto_map={"AutoModel": "m.M"}), "asks to run code that came with it"),
        (lambda d: edit(d / "config.json", text_config={"auto_map": {}}), "asks to run code that came with it"),
        (lambda d: edit(d / "config.json", vision_config={"hidden_act": "relu"}), "hidden_act 'relu' is none of"),
        (lambda d: edit(d / "config.json", vision_config={"vision_use_head": False}), "vision_use_head is off"),
        (lambda d: (d / "config.json").write_text("{"), "cannot read"),
        (lambda d: (d / "config.json").write_text("[]"), "holds no JSON object"),
        (lambda d: (d / "config.json").unlink(), "cannot read"),
        (lambda d: rewrite(d, lambda t: t.pop(BIAS)), f"lacks {BIAS}"),
        (lambda d: rewrite(d, lambda t: t.update(extra=torch.zeros(3))), "no place for: extra; nothing was imported"),
        (lambda d: rewrite(d, lambda t: t[BIAS].fill_(torch.nan)), f"{BIAS} hold NaN"),
        (lambda d: rewrite(d, lambda t: t.update({BIAS: torch.zeros(5)})), r"make \[5\]"),
        (lambda d: (d / "model.safetensors").write_bytes(b"\0" * 64), "is damaged or no safetensors file"),
        (lambda d: (d / "model.safetensors").unlink(), "does not exist"),
        (lambda d: (d / "model.safetensors").rename(d / "pytorch_model.bin"), "may be a pickle"),
        (lambda d: (d / "tokenizer.json").unlink(), "tokenizer .* does not exist"),
        (lambda d: edit(d / "preprocessor_config.json", size={"height": 32, "width": 64}), "is not the image tower's"),
        (lambda d: edit(d / "preprocessor_config.json", resample=1), "neither 2"),
        (lambda d: edit(d / "preprocessor_config.json", do_resize=False), "must be on"),
        (lambda d: (d / "preprocessor_config.json").unlink(), "so its preprocessing is unknown"),
    ],
)
def test_bad_directories(change: Callable[[Path], Any], message: str, directory: Path) -> None:
    change(directory)
    with pytest.raises(BadInput, match=message) as refusal:
        interop.read(str(directory))
    assert "\n" not in str(refusal.value)


def test_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BadInput, match=r"cannot fetch google/siglip .*--local-dir DIR.* and give hf:DIR") as refusal:
        interop.read("google/siglip")
    assert "\n" not in str(refusal.value)
