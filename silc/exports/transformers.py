"""transformers' files: `AutoModel`, `AutoProcessor` and its pipelines open them as a SiglipModel or a CLIPModel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors.torch import save_file

from silc.errors import BadInput
from silc.exports.formats import TRANSFORMERS
from silc.exports.verify import TEXTS, Check, Probe
from silc.extras import needs
from silc.interop.mapping import give
from silc.interop.transformers import ACTIVATIONS, LEGACY_EOS, rules

if TYPE_CHECKING:
    from silc.interop.pretrained import Pretrained
    from silc.models.config import ImageTowerConfig, TextTowerConfig

NAME = TRANSFORMERS
Kind = Literal["siglip", "clip"]
ACTIVATION_NAMES = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
PIPELINE_LENGTH = 64
"""Tokens to which the zero-shot pipeline pads texts for a SiglipModel, whatever the model takes."""
RESAMPLE = {"bilinear": 2, "bicubic": 3, "tf_bilinear": 2, "cv2_bilinear": 2}
"""Pillow's numbers."""
CLASSES: dict[Kind, str] = {"siglip": "Siglip", "clip": "CLIP"}


def write(directory: Path, probe: Probe) -> None:
    """Add configuration, preprocessing and weights to a directory that has the tokenizer's files.

    Raises:
        BadInput: neither SiglipModel nor CLIPModel is such a model.
    """
    model = probe.pretrained
    kind = kind_of(model)
    config, pixels = model_config(model, kind), preprocess_config(model, kind)
    tensors = give(rules(kind, model.model), model.weights)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    for name, settings in {"config.json": config, "preprocessor_config.json": pixels}.items():
        (directory / name).write_text(json.dumps(settings, indent=2) + "\n")


def kind_of(model: Pretrained) -> Kind:
    """The class that computes what this model computes.

    Raises:
        BadInput: none does; the message says what this model has that the nearer class never has.
    """
    image, text = model.model.image, model.model.text
    kind: Kind = "siglip" if image.pool == "map" else "clip"
    biased = image.projection == "linear+bias"
    wanted: dict[str, bool] = {}
    if kind == "siglip":
        wanted = {
            "a projection after attention pooling": not image.projects,
            "a norm before the first block": not image.pre_norm,
            "a causal text tower": not text.causal,
            f"{text.pooling} pooling of texts": text.pooling == "last",
            f"a text projection '{text.projection}'": text.projection == "linear+bias",
        }
    else:
        wanted = {
            f"{image.pool} pooling": image.pool == "cls",
            "no norm before the first block": image.pre_norm,
            "no projection, or one with a bias": image.projects and not biased,
            "a text tower that sees all tokens": text.causal,
            f"{text.pooling} pooling of texts": text.pooling in ("eos", "argmax"),
            f"a text projection '{text.projection}'": text.projection == "linear",
            "a bias of the logits": not model.weights["logit_bias"].any(),
            f"end token {LEGACY_EOS}": text.pooling != "eos" or model.tokenizer.eos_id != LEGACY_EOS,
        }
    missing = [what for what, there in wanted.items() if not there]
    if missing:
        raise BadInput(f"{NAME}: this model has {' and '.join(missing)}, which a {CLASSES[kind]}Model never has")
    return kind


def model_config(model: Pretrained, kind: Kind) -> dict[str, Any]:
    """config.json: the inverse of `silc.interop.transformers.model_config`."""
    image, text = model.model.image, model.model.text
    vision = {**_shape(image), "image_size": image.size, "patch_size": image.patch}
    words: dict[str, Any] = {
        **_shape(text),
        "vocab_size": text.vocab_size,
        "max_position_embeddings": text.length,
        "bos_token_id": None,  # transformers' default may lie outside of a small vocabulary
        "eos_token_id": LEGACY_EOS if text.pooling == "argmax" else model.tokenizer.eos_id,
        "pad_token_id": model.tokenizer.pad_id,
    }
    width = model.model.embed_dim
    if kind == "siglip":
        words["projection_size"] = width
    return {
        "architectures": [f"{CLASSES[kind]}Model"],
        "model_type": kind,
        "dtype": "float32",
        **({"projection_dim": width} if kind == "clip" else {}),
        "vision_config": {"model_type": f"{kind}_vision_model", **vision},
        "text_config": {"model_type": f"{kind}_text_model", **words},
    }


def preprocess_config(model: Pretrained, kind: Kind) -> dict[str, Any]:
    """preprocessor_config.json."""
    pixels = model.preprocess
    if pixels.resize == "squash_crop":
        raise BadInput(f"{NAME}: it cannot resize as '{pixels.resize}' does")
    side = {"height": pixels.size, "width": pixels.size}
    crops = pixels.resize != "squash"
    return {
        "processor_class": f"{CLASSES[kind]}Processor",
        "image_processor_type": "CLIPImageProcessor" if crops else "SiglipImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": pixels.size} if crops else side,
        "resample": RESAMPLE[pixels.interpolation],
        **({"do_center_crop": True, "crop_size": side} if crops else {}),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(pixels.mean),
        "image_std": list(pixels.std),
    }


def verify(directory: Path, probe: Probe) -> list[Check]:
    """Open the directory with transformers alone and compare.

    Raises:
        BadInput: it does not compute what the model does.
    """
    package = needs(NAME, "transformers", "interop")
    theirs = package.AutoModel.from_pretrained(directory).eval()
    processor = package.AutoProcessor.from_pretrained(directory)
    length = probe.ids.shape[1]
    words = processor(text=list(TEXTS), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    exact = probe.model.preprocess.interpolation in ("bilinear", "bicubic")
    pixels = processor(images=[probe.picture], return_tensors="pt")["pixel_values"][0] if exact else None
    with torch.no_grad():
        out = theirs(input_ids=probe.ids, pixel_values=probe.images())
    return probe.checks(
        NAME,
        ids=words["input_ids"],
        pixels=pixels,
        image=out.image_embeds,
        text=out.text_embeds,
        logits=out.logits_per_image,
    )


def notes(model: Pretrained) -> list[str]:
    """What this format does not carry."""
    siglip, length = kind_of(model) == "siglip", model.model.text.length
    found = []
    if siglip and model.contrastive == "softmax":
        found.append(
            "its zero-shot pipeline shows sigmoids for a SiglipModel; this model was trained with the softmax loss, so "
            "take logits_per_image.softmax(-1) instead"
        )
    if not siglip and model.contrastive == "sigmoid":
        found.append(
            "its zero-shot pipeline shows a softmax for a CLIPModel; this model was trained with the sigmoid loss"
        )
    if siglip and length != PIPELINE_LENGTH:
        found.append(
            f"its zero-shot pipeline pads texts to {PIPELINE_LENGTH} tokens, this model takes {length}: use AutoModel "
            "and AutoProcessor"
        )
    if siglip:
        found.append(f"texts must be padded: processor(text=..., padding='max_length', max_length={length})")
    if model.preprocess.interpolation not in ("bilinear", "bicubic"):
        found.append(f"{model.preprocess.interpolation} is not among its filters: its pixels are antialiased bilinear")
    if model.preprocess.resize == "crop":
        found.append("odd margins of the centre crop are rounded down")
    if model.model.image.position_resample != "bicubic":
        found.append("at other image sizes it resamples positions in its own way (bicubic, not antialiased)")
    return found


def _shape(tower: ImageTowerConfig | TextTowerConfig) -> dict[str, Any]:
    return {
        "hidden_size": tower.width,
        "intermediate_size": tower.mlp,
        "num_hidden_layers": tower.depth,
        "num_attention_heads": tower.heads,
        "hidden_act": ACTIVATION_NAMES[tower.activation],
        "layer_norm_eps": tower.norm_eps,
    }
