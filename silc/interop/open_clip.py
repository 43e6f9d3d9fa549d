"""open_clip: native CLIP and timm towers, from a directory, a published tag, or a weights file.

    open_clip:ViT-B-16/datacomp_xl_s13b_b90k    a tag of open_clip's list, fetched
    open_clip:ViT-B-16/WEIGHTS.safetensors      a file of that architecture
    open_clip:DIR                               open_clip_config.json, open_clip_model.safetensors, a tokenizer

An architecture's name is looked up in the installed open_clip; a directory has its configuration inside. A timm tower
is given by its name in timm; timm's definition for this name gives its activation, epsilon and pooling.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
from torch import nn

from silc.errors import BadInput
from silc.extras import needs
from silc.interop.files import OPEN_CLIP, download, no_network, read_json, read_safetensors, three
from silc.interop.mapping import (
    BATCHED,
    IMAGE_BLOCK,
    SAME,
    SCALAR,
    TEXT_BLOCK,
    TOKEN,
    TRANSPOSED,
    Rule,
    block,
    both,
    bring,
    rule,
    shapes_of,
)
from silc.interop.pretrained import Pretrained
from silc.interop.tokenizers import CLEANING, clip_bpe, load_tokenizer
from silc.models.config import Activation, ImageTowerConfig, ModelConfig, TextTowerConfig
from silc.preprocess import Preprocess, Resize

if TYPE_CHECKING:
    from torch import Tensor

    from silc.data.tokenizer import BPETokenizer

CONFIG, WEIGHTS = OPEN_CLIP, "open_clip_model.safetensors"
CLIP_PIXELS = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
RESIZE: dict[str, Resize] = {"shortest": "crop", "squash": "squash"}
# Settings of open_clip's towers that silc's towers do not have, with the value that turns each one off.
VISION_PLAIN = {"ls_init_value": None, "attentional_pool": False, "pos_embed_type": "learnable", "pool_type": "tok"}
VISION_PLAIN |= {"final_ln_after_pool": False, "no_ln_pre": False, "qk_norm": False, "scaled_cosine_attn": False}
VISION_PLAIN |= {"scale_heads": False, "scale_attn_inner": False, "scale_attn": False, "scale_fc": False}
TEXT_PLAIN = {"ls_init_value": None, "embed_cls": False, "final_ln_after_pool": False, "hf_model_name": None}
TEXT_PLAIN |= {"qk_norm": False, "scaled_cosine_attn": False, "scale_heads": False, "scale_attn_inner": False}
TEXT_PLAIN |= {"scale_attn": False, "scale_fc": False}


def read(source: str, tokenizer: Path | None = None) -> Pretrained:
    """Read a model from NAME/PRETRAINED or a directory (see above).

    Args:
        tokenizer: file or directory, instead of the model's own tokenizer; texts are cleaned as for the model's own.

    Raises:
        BadInput: no such name, tag or file, no network, pickles, another architecture, or weights that do not fit.
    """
    source = source.removeprefix("local-dir:")
    if Path(source).is_dir():
        directory = Path(source)
        settings = read_json(directory / CONFIG)
        config, pixels = settings.get("model_cfg", settings), settings.get("preprocess_cfg", {})
        weights = directory / WEIGHTS
        if not weights.is_file():
            weights = next(iter(sorted(directory.glob("open_clip_pytorch_model.bin"))), weights)
    else:
        name, _, given = source.partition("/")
        config = _architecture(name)
        pixels, directory = _pixels(name, given), None
        weights = Path(given) if given.endswith((".safetensors", ".bin", ".pt", ".pth")) else _fetched(name, given)
    # Older releases stored the causal mask with the weights.
    tensors = {key: x for key, x in read_safetensors(weights).items() if key not in ("attn_mask", "text.attn_mask")}
    model = model_config(config)
    ours, mapped = bring(rules(model, tensors), tensors, model, source)
    return Pretrained(
        model=model,
        weights=ours,
        tokenizer=_tokenizer(config["text_cfg"], tokenizer or directory, given=tokenizer is not None),
        preprocess=preprocess(model.image.size, pixels),
        contrastive="sigmoid" if "logit_bias" in tensors else "softmax",
        source=source,
        mapped=mapped,
    )


def model_config(config: Mapping[str, Any]) -> ModelConfig:
    """The towers that a `model_cfg` describes.

    Raises:
        BadInput: it has something that silc's towers do not have.
    """
    vision, text = config["vision_cfg"], config["text_cfg"]
    quick = bool(config.get("quick_gelu", False))
    image = timm_tower(vision) if vision.get("timm_model_name") else _native_tower(vision, quick)
    _plain(text, TEXT_PLAIN, "text_cfg")
    width, heads = text.get("width", 512), text.get("heads", 8)
    return ModelConfig(
        image=image,
        text=TextTowerConfig(
            length=text.get("context_length", 77),
            width=width,
            depth=text.get("layers", 12),
            heads=heads,
            mlp=int(width * text.get("mlp_ratio", 4.0)),
            causal=not text.get("no_causal_mask", False),
            pool=_text_pool(text.get("pool_type", "argmax")),
            projection=_text_projection(text),
            activation=_activation(text, quick),
            norm_eps=(text.get("norm_kwargs") or {}).get("eps", 1e-5),
            vocab_size=text.get("vocab_size", 49408),
        ),
        embed_dim=config["embed_dim"],
    )


def rules(model: ModelConfig, tensors: Mapping[str, Tensor]) -> list[Rule]:
    """The table of names for a state dict. The text tower's may have a prefix; the image tower's may be timm's."""
    prefix = "text." if any(key.startswith("text.") for key in tensors) else ""
    found = [rule(f"text.{name}", f"{prefix}{name}") for name in ("token_embedding.weight", "positional_embedding")]
    found += both("text.ln_final", f"{prefix}ln_final")
    for i in range(model.text.depth):
        layer = f"transformer.resblocks.{i}."
        found += block(f"text.{layer}", TEXT_BLOCK, f"{prefix}{layer}", TEXT_BLOCK)
    if model.text.projection == "linear+bias":
        found += both("text.text_projection", f"{prefix}text_projection")
    elif model.text.projection == "linear":
        found.append(rule("text.text_projection.weight", f"{prefix}text_projection", TRANSPOSED))
    native = "visual.conv1.weight" in tensors
    found += _native_rules(model) if native else _timm_rules(model, tensors)
    for name in ("logit_scale", "logit_bias"):
        # Some models store these numbers with a dimension, others without; CLIP's loss has no bias.
        there = () if name == "logit_bias" and name not in tensors else (name,)
        found.append(rule(name, there, SAME if there and tensors[name].ndim else SCALAR))
    return found


def preprocess(size: int, pixels: Mapping[str, Any]) -> Preprocess:
    """The preprocessing of a `preprocess_cfg`; CLIP's where it says nothing.

    Raises:
        BadInput: silc does not have such preprocessing.
    """
    asked = {**CLIP_PIXELS, **{key: value for key, value in pixels.items() if key in CLIP_PIXELS and value}}
    mode, interpolation = asked["resize_mode"], asked["interpolation"]
    if mode not in RESIZE or interpolation not in ("bicubic", "bilinear"):
        raise BadInput(
            f"preprocess_cfg: resize_mode '{mode}' with '{interpolation}' is not supported; silc has shortest and "
            "squash, bicubic and bilinear"
        )
    return Preprocess(
        size=size,
        mean=three(asked["mean"], "preprocess_cfg"),
        std=three(asked["std"], "preprocess_cfg"),
        resize=RESIZE[mode],
        interpolation=interpolation,
    )


def _native_rules(model: ModelConfig) -> list[Rule]:
    trunk = "visual.trunk."
    found = [
        rule(f"{trunk}cls_token", "visual.class_embedding", TOKEN),
        rule(f"{trunk}pos_embed", "visual.positional_embedding", BATCHED),
        rule(f"{trunk}patch_embed.proj.weight", "visual.conv1.weight"),
        *both(f"{trunk}norm_pre", "visual.ln_pre"),
        *both(f"{trunk}norm", "visual.ln_post"),
        rule("visual.head.proj.weight", "visual.proj", TRANSPOSED),
    ]
    for i in range(model.image.depth):
        found += block(f"{trunk}blocks.{i}.", IMAGE_BLOCK, f"visual.transformer.resblocks.{i}.", TEXT_BLOCK)
    return found


def _timm_rules(model: ModelConfig, tensors: Mapping[str, Tensor]) -> list[Rule]:
    """Rules for a timm tower. timm's names are ours, but the projection may be timm's own classifier."""
    found = [rule(name, name) for name in shapes_of(model) if name.startswith("visual.trunk.")]
    if model.image.projects:
        head = "visual.head.proj" if "visual.head.proj.weight" in tensors else "visual.trunk.head"
        parts = ("weight", "bias") if model.image.projection == "linear+bias" else ("weight",)
        found += [rule(f"visual.head.proj.{part}", f"{head}.{part}") for part in parts]
    return found


def _native_tower(vision: Mapping[str, Any], quick: bool) -> ImageTowerConfig:
    _plain(vision, VISION_PLAIN, "vision_cfg")
    layers, width = vision.get("layers", 12), vision.get("width", 768)
    if not isinstance(layers, int):
        raise BadInput("vision_cfg: layers is a list, so the image tower is a ResNet; silc's towers are ViTs")
    return ImageTowerConfig(
        size=_side(vision.get("image_size", 224)),
        patch=vision.get("patch_size", 16),
        width=width,
        depth=layers,
        heads=width // vision.get("head_width", 64),
        mlp=int(width * vision.get("mlp_ratio", 4.0)),
        pool="cls",
        projection="linear",
        activation=_activation(vision, quick),
        pre_norm=True,
        norm_eps=(vision.get("norm_kwargs") or {}).get("eps", 1e-5),
    )


def timm_tower(vision: Mapping[str, Any]) -> ImageTowerConfig:
    """The settings of an image tower, from timm's own definition of a ViT by its name."""
    name = vision["timm_model_name"]
    pool = {"map": "map", "token": "cls"}.get(vision.get("timm_pool", "avg"))
    try:
        with torch.device("meta"):
            trunk: Any = timm.create_model(name, global_pool=vision["timm_pool"], num_classes=0)
    except Exception as error:  # timm raises RuntimeError, TypeError or AssertionError
        raise BadInput(f"vision_cfg: timm cannot make '{name}': {str(error).splitlines()[0]}") from error
    odd = _oddities(trunk, vision)
    if pool is None or odd:
        pooled = f"pooled by '{vision.get('timm_pool')}'"
        raise BadInput(
            f"vision_cfg: '{name}' {'has ' + odd if odd else 'is ' + pooled}; silc's image tower is a plain ViT with "
            "attention pooling or a class token"
        )
    proj = vision.get("timm_proj", "linear")
    bias = vision.get("timm_proj_bias", False) or not proj  # an empty name: timm's classifier projects, with a bias
    first = trunk.blocks[0]
    return ImageTowerConfig(
        size=_side(vision.get("image_size", 224)),
        patch=trunk.patch_embed.patch_size[0],
        width=trunk.embed_dim,
        depth=len(trunk.blocks),
        heads=first.attn.num_heads,
        mlp=first.mlp.fc1.out_features,
        pool="map" if pool == "map" else "cls",
        projection="none" if proj == "none" else "linear+bias" if bias else "linear",
        activation=_activation_of(first.mlp.act, name),
        pre_norm=not isinstance(trunk.norm_pre, nn.Identity),
        norm_eps=trunk.norm.eps,
    )


def _oddities(trunk: Any, vision: Mapping[str, Any]) -> str:
    """What a timm model has that our tower does not have; empty if nothing."""
    if type(trunk) is not timm.models.vision_transformer.VisionTransformer:
        return f"the class {type(trunk).__name__}"
    if type(trunk.blocks[0]) is not timm.models.vision_transformer.Block:
        return f"blocks of the class {type(trunk.blocks[0]).__name__}"
    first = trunk.blocks[0]
    plain = (first.ls1, first.attn.q_norm, trunk.fc_norm, trunk.patch_embed.norm)
    if trunk.reg_token is not None or not all(isinstance(layer, nn.Identity) for layer in plain):
        return "register tokens, layer scale or further norms"
    if (trunk.cls_token is None) == (trunk.global_pool == "token") or trunk.no_embed_class:
        return "a class token that is not pooled, or has no position"
    if vision.get("timm_proj", "linear") == "mlp":
        return "an MLP as its projection"
    return ""


def _activation(tower: Mapping[str, Any], quick: bool) -> Activation:
    if quick:
        return "quick_gelu"
    return "gelu_tanh" if (tower.get("act_kwargs") or {}).get("approximate") == "tanh" else "gelu"


def _activation_of(layer: nn.Module, name: str) -> Activation:
    """Find an activation by its values, because its class has had several names."""
    x = torch.linspace(-3, 3, 7)
    known: dict[Activation, Tensor] = {
        "gelu": nn.functional.gelu(x),
        "gelu_tanh": nn.functional.gelu(x, approximate="tanh"),
        "quick_gelu": x * torch.sigmoid(1.702 * x),
    }
    for activation, values in known.items():
        if torch.equal(layer(x), values):
            return activation
    raise BadInput(f"vision_cfg: the activation of '{name}' is {type(layer).__name__}, none of {', '.join(known)}")


def _text_projection(text: Mapping[str, Any]) -> Any:
    if text.get("proj_type", "linear") == "none":
        return "none"
    return "linear+bias" if text.get("proj_bias") else "linear"


def _text_pool(name: str) -> Any:
    if name not in ("argmax", "eos", "last", "first"):
        raise BadInput(f"text_cfg: pool_type '{name}' is none of argmax, eos, last, first")
    return name


def _plain(settings: Mapping[str, Any], plain: Mapping[str, Any], where: str) -> None:
    for name, value in plain.items():
        if settings.get(name, value) not in (value, False if value is None else value):
            raise BadInput(f"{where}: {name} is {settings[name]!r}, which silc's towers do not have")


def _side(size: Any) -> int:
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise BadInput(f"vision_cfg: image_size {size} is not square")
    return int(height)


def _tokenizer(text: Mapping[str, Any], directory: Path | None, *, given: bool) -> BPETokenizer:
    """The tokenizer that a `text_cfg` asks for, from the model's directory or (`given`) from another place."""
    length, settings = text.get("context_length", 77), dict(text.get("tokenizer_kwargs") or {})
    repo = text.get("hf_tokenizer_name") or ""
    clean = settings.pop("clean", "whitespace" if repo else "lower")
    if clean not in CLEANING:
        raise BadInput(f"tokenizer_kwargs: clean '{clean}' is none of whitespace, lower, canonicalize")
    if settings or text.get("tokenizer_mode"):
        raise BadInput(f"text_cfg: tokenizer settings {settings or text['tokenizer_mode']} are not supported")
    if not repo and not given:
        return clip_bpe(length, clean)
    if directory is None:
        try:
            directory = download(repo, ("tokenizer*", "special_tokens_map.json", "spiece.model"), spec="open_clip:")
        except BadInput as error:
            raise no_network(
                f"the tokenizer {repo}",
                error.__cause__ or error,
                "give a local one with tokenizer=DIR (--tokenizer DIR)",
            ) from error
    return load_tokenizer(directory, length, clean)


def _architecture(name: str) -> dict[str, Any]:
    open_clip = _package()
    config = open_clip.get_model_config(name)
    if config is None:
        raise BadInput(f"open_clip has no architecture '{name}', and there is no directory of that name")
    return dict(config)


def _pixels(name: str, given: str) -> dict[str, Any]:
    """Preprocessing of a published tag; for a file, the preprocessing that all tags of the architecture share."""
    open_clip = _package()
    tags = open_clip.list_pretrained_tags_by_model(name)
    asked = [given] if given in tags else tags
    found = [{k: v for k, v in open_clip.get_pretrained_cfg(name, tag).items() if k in CLIP_PIXELS} for tag in asked]
    if any(pixels != found[0] for pixels in found):
        raise BadInput(
            f"open_clip's {name} has been published with different preprocessing ({', '.join(tags)}); put the file "
            f"into a directory with an {CONFIG} that says which"
        )
    return found[0] if found else {}


def _fetched(name: str, tag: str) -> Path:
    """Download the weights of a published tag; return the file."""
    open_clip = _package()
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        raise BadInput(
            f"open_clip:{name} needs weights, not '{tag}': open_clip:{name}/FILE.safetensors, or a tag of its list: "
            f"{', '.join(tags) or 'it has none'}"
        )
    published = open_clip.get_pretrained_cfg(name, tag)
    config = open_clip.get_model_config(name)
    if bool(published.get("quick_gelu")) != bool(config.get("quick_gelu")):
        other = name.removesuffix("-quickgelu") if config.get("quick_gelu") else f"{name}-quickgelu"
        raise BadInput(f"{tag} was trained with another activation than {name} has; use open_clip:{other}/{tag}")
    # ORG/NAME/FILE; without a file the usual one; instead of a pickle, the safetensors file that most have beside it.
    repo, _, file = published.get("hf_hub", "").rpartition("/")
    file = file if file.endswith(".safetensors") else WEIGHTS
    found = download(repo, (file,), spec="open_clip:") / file if repo else Path(published.get("url", ""))
    if not found.is_file():
        raise BadInput(
            f"{name}/{tag} is published only as a pickle ({repo or found}), which can run code when it is read; "
            f"if you trust it, convert it and give open_clip:{name}/FILE.safetensors"
        )
    return found


def _package() -> Any:
    return needs("reading open_clip's names", "open_clip", "interop")
