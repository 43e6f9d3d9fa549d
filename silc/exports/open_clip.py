"""open_clip's files, which `local-dir:` opens.

open_clip's own image tower is CLIP's. Other towers come from timm by name, at the size that the name gives. A tower
that neither library has is refused.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
from safetensors.torch import save_file

from silc.errors import BadInput
from silc.exports.formats import OPEN_CLIP
from silc.exports.verify import TEXTS, Check, Probe
from silc.extras import needs
from silc.interop.mapping import give
from silc.interop.open_clip import CONFIG, RESIZE, WEIGHTS, rules, timm_tower

if TYPE_CHECKING:
    from silc.interop.pretrained import Pretrained
    from silc.models.config import Activation, ImageTowerConfig, ModelConfig, TextTowerConfig

NAME = OPEN_CLIP
MODES = {**{ours: theirs for theirs, ours in RESIZE.items()}, "crop_floor": "shortest"}
FILTERS = {"bilinear": "bilinear", "bicubic": "bicubic", "tf_bilinear": "bilinear", "cv2_bilinear": "bilinear"}


def write(directory: Path, probe: Probe) -> None:
    """Add configuration and weights to a directory that has the tokenizer's files.

    Raises:
        BadInput: open_clip is not installed, or has no such tower.
    """
    package = needs(NAME, "open_clip", "interop")
    model = probe.pretrained
    config = model_config(model)
    with torch.device("meta"):  # only open_clip's names and shapes are needed
        arguments = {key: value for key, value in config.items() if key != "custom_text"}
        theirs = package.CustomTextCLIP(**arguments).state_dict()
    tensors = give(rules(model.model, theirs), model.weights)
    for name in theirs.keys() | tensors.keys():
        if name not in theirs or name not in tensors or theirs[name].shape != tensors[name].shape:
            raise BadInput(f"{NAME}: its model of this configuration has another {name}")
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
    settings = {"model_cfg": config, "preprocess_cfg": preprocess_config(model)}
    (directory / CONFIG).write_text(json.dumps(settings, indent=2) + "\n")


def model_config(model: Pretrained) -> dict[str, Any]:
    """`model_cfg`: the inverse of `silc.interop.open_clip.model_config`.

    Raises:
        BadInput: open_clip has no such tower.
    """
    vision = vision_config(model.model)
    timms = "timm_model_name" in vision
    image, text = model.model.image, model.model.text
    # open_clip has one switch for both of its own towers; timm's towers have the activation of their name.
    quick = text.activation == "quick_gelu"
    if not timms and quick != (image.activation == "quick_gelu"):
        raise BadInput(
            f"{NAME}: quick_gelu is one setting for both towers there; these towers have {image.activation}, "
            f"{text.activation}"
        )
    biased = model.contrastive == "sigmoid" or bool(model.weights["logit_bias"].any())
    return {
        "embed_dim": model.model.embed_dim,
        "custom_text": True,
        **({"quick_gelu": True} if quick else {}),
        **({"init_logit_bias": float(model.weights["logit_bias"])} if biased else {}),
        "init_logit_scale": float(model.weights["logit_scale"]),
        "vision_cfg": vision,
        "text_cfg": text_config(text, model.tokenizer.eos_id),
    }


def vision_config(model: ModelConfig) -> dict[str, Any]:
    """`vision_cfg`: open_clip's own tower where it fits, else timm's."""
    image = model.image
    linear = image.projects and image.projection != "linear+bias"
    if image.pool == "cls" and image.pre_norm and linear:
        return {
            "image_size": image.size,
            "patch_size": image.patch,
            "width": image.width,
            "layers": image.depth,
            "head_width": image.width // image.heads,
            "mlp_ratio": _ratio(image.mlp, image.width),
            "norm_kwargs": {"eps": image.norm_eps},
            **_act(image.activation),
        }
    projection = "linear" if image.projects else "none"
    pool = {"map": "map", "cls": "token"}.get(image.pool)
    if pool is None:
        raise BadInput(f"{NAME}: it has no ViT whose pooled embedding is the {image.pool} of its tokens")
    vision: dict[str, Any] = {"image_size": image.size, "timm_pool": pool, "timm_proj": projection}
    if image.projection == "linear+bias":
        vision["timm_proj_bias"] = True
    return {**vision, "timm_model_name": _timm_name(image, vision)}


def text_config(text: TextTowerConfig, eos_id: int) -> dict[str, Any]:
    """`text_cfg`."""
    if text.pooling not in ("argmax", "eos", "last", "first"):
        raise BadInput(f"{NAME}: it has no text tower with {text.pooling} pooling")
    return {
        "context_length": text.length,
        "vocab_size": text.vocab_size,
        # Any name makes local-dir: take the tokenizer files beside this one.
        "hf_tokenizer_name": "tokenizer.json",
        # The least cleaning that open_clip's wrapper can do; all else is in tokenizer.json.
        "tokenizer_kwargs": {"clean": "whitespace"},
        "width": text.width,
        "heads": text.heads,
        "layers": text.depth,
        "mlp_ratio": _ratio(text.mlp, text.width),
        "no_causal_mask": not text.causal,
        "pool_type": text.pooling,
        "eos_id": eos_id,
        "proj_type": "none" if text.projection == "none" else "linear",
        "proj_bias": text.projection == "linear+bias",
        "norm_kwargs": {"eps": text.norm_eps},
        **_act(text.activation),
    }


def preprocess_config(model: Pretrained) -> dict[str, Any]:
    """`preprocess_cfg`."""
    pixels = model.preprocess
    if pixels.resize not in MODES:
        raise BadInput(f"{NAME}: it cannot resize as '{pixels.resize}' does")
    return {
        "size": [pixels.size, pixels.size],
        "mode": "RGB",
        "mean": list(pixels.mean),
        "std": list(pixels.std),
        "interpolation": FILTERS[pixels.interpolation],
        "resize_mode": MODES[pixels.resize],
    }


def verify(directory: Path, probe: Probe) -> list[Check]:
    """Open the directory with open_clip alone and compare.

    Raises:
        BadInput: it does not compute what the model does.
    """
    package = needs(NAME, "open_clip", "interop")
    theirs, _, transform = package.create_model_and_transforms(f"local-dir:{directory}")
    ids = package.get_tokenizer(f"local-dir:{directory}")(list(TEXTS))
    exact = probe.model.preprocess.interpolation in ("bilinear", "bicubic")
    with torch.no_grad():
        return probe.checks(
            NAME,
            ids=ids,
            pixels=transform(probe.picture) if exact else None,
            image=theirs.eval().encode_image(probe.images()),
            text=theirs.encode_text(probe.ids),
            logits=theirs.get_logits(probe.images(), probe.ids)[0],
        )


def notes(model: Pretrained) -> list[str]:
    """What this format does not carry."""
    found = ["texts with HTML entities or broken encodings are repaired by open_clip before they are tokenized"]
    if model.preprocess.interpolation not in ("bilinear", "bicubic"):
        found.append(f"{model.preprocess.interpolation} is not among its filters: its pixels are antialiased bilinear")
    return found


def _timm_name(image: ImageTowerConfig, vision: dict[str, Any]) -> str:
    """The name under which timm makes this tower."""
    wanted = _plain(image)
    names = [name for name in timm.list_models(f"vit_*_patch{image.patch}_*") if str(image.size) in name.split("_")]
    near: list[tuple[list[str], str]] = []
    for name in sorted(names, key=len):
        try:
            there = _plain(timm_tower({**vision, "timm_model_name": name}))
        except BadInput:
            continue
        odd = [f"{key} {value}, not {there[key]}" for key, value in wanted.items() if value != there[key]]
        if not odd:
            return name
        near.append((odd, name))
    odd, name = min(near, default=([], ""), key=lambda found: len(found[0]))
    nearest = f"; nearest is timm's {name}, but the tower has {', '.join(odd)}" if near else ""
    raise BadInput(
        f"{NAME}: it knows no ViT of width {image.width}, depth {image.depth}, patch {image.patch} at {image.size} px "
        f"with {image.pool} pooling{nearest}"
    )


def _plain(image: ImageTowerConfig) -> dict[str, Any]:
    """The settings of a tower, except the rule by which its positions are resampled."""
    return asdict(replace(image, projection="linear" if image.projects else "none", position_resample="bicubic"))


def _act(activation: Activation) -> dict[str, Any]:
    return {"act_kwargs": {"approximate": "tanh"}} if activation == "gelu_tanh" else {}


def _ratio(mlp: int, width: int) -> float:
    """A ratio for which int(width * ratio) is `mlp`."""
    ratio = mlp / width
    return ratio if int(width * ratio) == mlp else (mlp + 0.5) / width
