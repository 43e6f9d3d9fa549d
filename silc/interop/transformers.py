"""Hugging Face transformers: SiglipModel, Siglip2Model and CLIPModel, from a directory or the hub.

silc itself reads config.json, safetensors and tokenizer files, and nothing else: transformers is not needed, and code
in a checkpoint is never run. transformers' files leave out default values; these defaults are written here.

Siglip2Model takes patches instead of images (NaFlex). It is read for one image size: the square whose patches fill its
position embedding. Its patch projection becomes the equivalent convolution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from silc.errors import BadInput
from silc.interop.files import download, read_json, read_safetensors, three
from silc.interop.mapping import (
    BATCHED,
    IMAGE_BLOCK,
    SCALAR,
    TEXT_BLOCK,
    TOKEN,
    BlockNames,
    Op,
    Rule,
    block,
    both,
    bring,
    rule,
)
from silc.interop.pretrained import Pretrained
from silc.interop.tokenizers import find_tokenizer, load_tokenizer
from silc.models.config import ImageTowerConfig, ModelConfig, TextTowerConfig
from silc.preprocess import Interpolation, Preprocess

if TYPE_CHECKING:
    from torch import Tensor

FILES = ("*.json", "*.safetensors", "spiece.model", "*.txt")
ACTIVATIONS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu"}
BLOCK = BlockNames(
    "layer_norm1",
    tuple(f"self_attn.{part}_proj.weight" for part in "qkv"),
    tuple(f"self_attn.{part}_proj.bias" for part in "qkv"),
    "self_attn.out_proj",
    "layer_norm2",
    "mlp.fc1",
    "mlp.fc2",
)
_TOWER = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
_SIGLIP = {**_TOWER, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
_CLIP = {**_TOWER, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_SIGLIP_TEXT = {**_SIGLIP, "vocab_size": 32000, "max_position_embeddings": 64, "projection_size": None}
DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "siglip": {
        "vision_config": {**_SIGLIP, "image_size": 224, "patch_size": 16, "vision_use_head": True},
        "text_config": _SIGLIP_TEXT,
    },
    "siglip2": {
        "vision_config": {**_SIGLIP, "num_patches": 256, "patch_size": 16, "vision_use_head": True},
        "text_config": _SIGLIP_TEXT,
    },
    "clip": {
        "vision_config": {**_CLIP, "image_size": 224, "patch_size": 32},
        "text_config": {
            **_CLIP,
            **{"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "vocab_size": 49408},
            **{"max_position_embeddings": 77, "eos_token_id": 49407},
        },
    },
}
PIXELS = ("preprocessor_config.json", "processor_config.json")
"""Files with the preprocessing of a model; the first one that exists is used."""
LEGACY_EOS = 2
"""The end token in old CLIP configurations; their models pool the highest id instead."""


def read(source: str, tokenizer: Path | None = None) -> Pretrained:
    """Read a model from a directory, or ORG/NAME on the hub.

    Args:
        tokenizer: file or directory, instead of the one in the directory.

    Raises:
        BadInput: no model there, no network, remote code, pickles, another architecture, or weights that do not fit.
    """
    directory = located(source)
    config = read_json(directory / "config.json")
    _refuse_code(config, directory)
    kind = config.get("model_type")
    if kind not in DEFAULTS:
        raise BadInput(
            f"{directory / 'config.json'} is of a '{kind}' model; silc reads {', '.join(DEFAULTS)} "
            "(SiglipModel, Siglip2Model, CLIPModel)"
        )
    model = model_config(config)
    tensors = {name: x for name, x in tensors_of(directory).items() if not name.endswith("embeddings.position_ids")}
    weights, mapped = bring(rules(kind, model), tensors, model, str(directory))
    length = model.text.length
    words = load_tokenizer(tokenizer, length) if tokenizer else find_tokenizer(directory, length)
    eos = _part(config, "text_config").get("eos_token_id")
    if model.text.pooling == "eos" and eos != words.eos_id:
        raise BadInput(f"{directory}: config.json's eos_token_id is {eos}, the tokenizer's {words.eos_id}")
    return Pretrained(
        model=model,
        weights=weights,
        tokenizer=words,
        preprocess=preprocess(directory, model.image.size),
        contrastive="softmax" if kind == "clip" else "sigmoid",
        source=source,
        mapped=mapped,
    )


def located(source: str) -> Path:
    """The directory `source`, or the directory of the files downloaded for ORG/NAME from the hub.

    Raises:
        BadInput: there is no such model, or no network.
    """
    return Path(source) if Path(source).is_dir() else download(source, FILES, spec="hf:")


def model_config(config: Mapping[str, Any]) -> ModelConfig:
    """The towers that a config.json describes.

    Raises:
        BadInput: it has something that silc's towers do not have.
    """
    kind = config["model_type"]
    vision, text = _part(config, "vision_config"), _part(config, "text_config")
    clip = kind == "clip"
    if not vision.get("vision_use_head", True):
        raise BadInput("config.json: vision_use_head is off, so the model has no image embedding; nothing to compare")
    patch = int(vision["patch_size"])
    if kind == "siglip2":
        size = math.isqrt(int(vision["num_patches"])) * patch
    else:
        size = int(vision["image_size"])
    embed_dim = config.get("projection_dim", 512) if clip else text["projection_size"] or text["hidden_size"]
    return ModelConfig(
        image=ImageTowerConfig(
            size=size,
            patch=patch,
            **_shape(vision),
            pool="cls" if clip else "map",
            pre_norm=clip,
            position_resample="bilinear_antialias" if kind == "siglip2" else "bicubic",
        ),
        text=TextTowerConfig(
            length=int(text["max_position_embeddings"]),
            **_shape(text),
            causal=clip,
            pool="last" if not clip else "argmax" if text["eos_token_id"] == LEGACY_EOS else "eos",
            projection="linear" if clip else "linear+bias",
            vocab_size=int(text["vocab_size"]),
        ),
        embed_dim=int(embed_dim),
    )


def rules(kind: str, model: ModelConfig) -> list[Rule]:
    """The table of names for `siglip`, `siglip2` or `clip`."""
    trunk, vision = "visual.trunk.", "vision_model."
    found = [
        rule("text.token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
        rule("text.positional_embedding", "text_model.embeddings.position_embedding.weight"),
        *both("text.ln_final", "text_model.final_layer_norm"),
        *both(f"{trunk}norm", f"{vision}post_layernorm"),
    ]
    for i in range(model.image.depth):
        found += block(f"{trunk}blocks.{i}.", IMAGE_BLOCK, f"{vision}encoder.layers.{i}.", BLOCK)
    for i in range(model.text.depth):
        found += block(f"text.transformer.resblocks.{i}.", TEXT_BLOCK, f"text_model.encoder.layers.{i}.", BLOCK)
    patches = _patches(model.image.patch) if kind == "siglip2" else Op(lambda x: x, lambda x: x)
    found += [
        rule(f"{trunk}patch_embed.proj.weight", f"{vision}embeddings.patch_embedding.weight", patches),
        rule(f"{trunk}pos_embed", f"{vision}embeddings.position_embedding.weight", BATCHED),
    ]
    if kind == "clip":
        return [
            *found,
            rule(f"{trunk}cls_token", f"{vision}embeddings.class_embedding", TOKEN),
            *both(f"{trunk}norm_pre", f"{vision}pre_layrnorm"),
            rule("visual.head.proj.weight", "visual_projection.weight"),
            rule("text.text_projection.weight", "text_projection.weight"),
            rule("logit_scale", "logit_scale", SCALAR),
            rule("logit_bias", ()),
        ]
    pool, head = f"{trunk}attn_pool.", f"{vision}head."
    return [
        *found,
        rule(f"{trunk}patch_embed.proj.bias", f"{vision}embeddings.patch_embedding.bias"),
        rule(f"{pool}latent", f"{head}probe"),
        rule((f"{pool}q.weight", f"{pool}kv.weight"), f"{head}attention.in_proj_weight"),
        rule((f"{pool}q.bias", f"{pool}kv.bias"), f"{head}attention.in_proj_bias"),
        *both(f"{pool}proj", f"{head}attention.out_proj"),
        *both(f"{pool}norm", f"{head}layernorm"),
        *both(f"{pool}mlp.fc1", f"{head}mlp.fc1"),
        *both(f"{pool}mlp.fc2", f"{head}mlp.fc2"),
        *both("text.text_projection", "text_model.head"),
        rule("logit_scale", "logit_scale"),
        rule("logit_bias", "logit_bias"),
    ]


def preprocess(directory: Path, tower: int) -> Preprocess:
    """The preprocessing in preprocessor_config.json (or processor_config.json), for an image tower of size `tower`.

    Raises:
        BadInput: both files are missing, or the file asks for something that silc does not do.
    """
    files = [directory / name for name in PIXELS]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise BadInput(f"{directory} has neither {files[0].name} nor {files[1].name}, so its preprocessing is unknown")
    settings = read_json(file)
    settings = settings.get("image_processor", settings)
    if not all(settings.get(step, True) for step in ("do_resize", "do_rescale", "do_normalize")):
        raise BadInput(f"{file}: do_resize, do_rescale and do_normalize must be on")
    size = settings.get("size", tower)
    if isinstance(size, int) and settings.get("do_center_crop"):  # as in older files of CLIP
        size = {"shortest_edge": size}
    crop = isinstance(size, dict) and "shortest_edge" in size
    sides = {"height": size, "width": size} if isinstance(size, int) else size
    if crop:
        cut = settings.get("crop_size", size["shortest_edge"])
        sides = {"height": cut, "width": cut} if isinstance(cut, int) else cut
        if not settings.get("do_center_crop", True) or size["shortest_edge"] != sides["height"]:
            raise BadInput(f"{file}: a shortest edge other than the side of the centre crop is not supported")
    if (sides.get("height"), sides.get("width")) != (tower, tower):
        raise BadInput(f"{file}: size {size} is not the image tower's {tower} x {tower}")
    filters: dict[Any, Interpolation] = {2: "bilinear", 3: "bicubic"}
    resample = settings.get("resample", 3)
    if resample not in filters:
        raise BadInput(f"{file}: resample {resample} is neither 2 (bilinear) nor 3 (bicubic)")
    return Preprocess(
        size=tower,
        mean=three(settings.get("image_mean"), file),
        std=three(settings.get("image_std"), file),
        resize="crop_floor" if crop else "squash",
        interpolation=filters[resample],
    )


def _part(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A tower's settings; transformers' defaults for those that are missing."""
    return {**DEFAULTS[config["model_type"]][name], **(config.get(name) or {})}


def _shape(settings: Mapping[str, Any]) -> dict[str, Any]:
    act = settings["hidden_act"]
    if act not in ACTIVATIONS:
        raise BadInput(f"config.json: hidden_act '{act}' is none of {', '.join(ACTIVATIONS)}")
    return {
        "width": int(settings["hidden_size"]),
        "depth": int(settings["num_hidden_layers"]),
        "heads": int(settings["num_attention_heads"]),
        "mlp": int(settings["intermediate_size"]),
        "activation": ACTIVATIONS[act],
        "norm_eps": float(settings["layer_norm_eps"]),
    }


def _patches(patch: int) -> Op:
    """Linear layer over a patch's values (rows, columns, channels) <-> the convolution that computes the same."""
    return Op(
        lambda x: x.unflatten(1, (patch, patch, 3)).permute(0, 3, 1, 2),
        lambda x: x.permute(0, 2, 3, 1).flatten(1),
    )


def _refuse_code(config: Mapping[str, Any], directory: Path) -> None:
    several = [config, config.get("text_config") or {}, config.get("vision_config") or {}]
    if any("auto_map" in one for one in several):
        raise BadInput(
            f"{directory / 'config.json'} asks to run code that came with it (auto_map), which silc never does; "
            "save the model with a class that is part of transformers"
        )


def tensors_of(directory: Path) -> dict[str, Tensor]:
    """All tensors of model.safetensors, or of the shards that its index names."""
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(read_json(index)["weight_map"].values()))
        shards = [read_safetensors(directory / Path(name).name) for name in names]
        return {name: tensor for shard in shards for name, tensor in shard.items()}
    file = directory / "model.safetensors"
    pickles = sorted(directory.glob("*.bin"))
    if not file.is_file() and pickles:
        return read_safetensors(pickles[0])  # raises BadInput, which says what to do
    return read_safetensors(file)
