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

from silc.interop import transformers as interop
from silc.interop.mapping import give
from silc.types import BadInput

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
