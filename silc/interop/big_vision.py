"""big_vision's two-tower checkpoints (.npz): SigLIP's, and SILC's own.

    params/img/...   image tower         params/txt/...   text tower
    params/t         log of the scale    params/b         bias, with the sigmoid loss

In a training checkpoint these are under opt/params/; its other entries belong to the optimizer and are ignored. Sizes,
pooling and projections are found from the tree. The user gives what the tree does not tell: the pooling of text if it
is not attention (SigLIP: the last token), and the tokenizer. Pixels are those of SigLIP: -1 to 1, squashed.
"""

from __future__ import annotations

import math
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from silc.errors import BadInput
from silc.interop.mapping import IMAGE_BLOCK, SAME, TEXT_BLOCK, TRANSPOSED, BlockNames, Op, Rule, bring, rule
from silc.interop.pretrained import Pretrained
from silc.interop.tokenizers import load_tokenizer
from silc.models.config import ImageTowerConfig, ModelConfig, TextTowerConfig
from silc.preprocess import Preprocess
from silc.regular import regular

if TYPE_CHECKING:
    from torch import Tensor

TextPool = Literal["last", "first", "mean", "max"]


CONVOLUTION = Op(lambda x: x.permute(3, 2, 0, 1))
"""[y, x, in, out] -> [out, in, y, x]."""
UNBATCHED = Op(lambda x: x[0])
TO_HEADS = Op(lambda x: x.flatten(1).T)
"""Query, key and value, [C, heads, C/heads] -> [C, C]."""
HEADS_BIAS = Op(lambda x: x.flatten())
FROM_HEADS = Op(lambda x: x.flatten(0, 1).T)
"""The attention's output, [heads, C/heads, C] -> [C, C]."""
WITH_CLASS = Op(lambda x: torch.cat([torch.zeros_like(x[:, :1]), x], dim=1))
"""big_vision adds positions before it prepends the class token, so the class token's position is zero."""
ATTENTION = "MultiHeadDotProductAttention_0"


def read(file: Path, tokenizer: Path, *, text_pool: TextPool = "last") -> Pretrained:
    """Read a model from a .npz file.

    Args:
        tokenizer: a tokenizer.json, a spiece.model, or a directory with one. Texts are lowercased first.
        text_pool: pooling of the text embedding, if the text tower has no attention pooling.

    Raises:
        BadInput: no such file, pickled objects, no two-tower tree, or parts that silc's towers do not have.
    """
    source = str(file)
    tree = _unstacked(_parameters(file))
    model = model_config(tree, text_pool, source)
    weights, mapped = bring(rules(model, tree), tree, model, source)
    return Pretrained(
        model=model,
        weights=weights,
        tokenizer=load_tokenizer(tokenizer, model.text.length, "lower case"),
        preprocess=Preprocess(model.image.size, interpolation="tf_bilinear"),
        contrastive="sigmoid" if "b" in tree else "softmax",
        source=source,
        mapped=mapped,
    )


def model_config(tree: Mapping[str, Tensor], text_pool: TextPool, source: str) -> ModelConfig:
    """The settings of the towers that have these parameters.

    Raises:
        BadInput: one of the towers is missing.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in tree:
            raise BadInput(f"{source} has no params/{name}; it is no two-tower checkpoint of big_vision's ViTs")
        return tuple(tree[name].shape)

    def encoder(prefix: str) -> dict[str, Any]:
        block = f"{prefix}/encoderblock_0"
        width, heads, _ = shape(f"{block}/{ATTENTION}/query/kernel")
        return {
            "width": width,
            "heads": heads,
            "mlp": shape(f"{block}/MlpBlock_0/Dense_0/kernel")[1],
            "depth": 1
            + max(int(found[1]) for name in tree if (found := re.match(rf"{prefix}/encoderblock_(\d+)/", name))),
            "activation": "gelu_tanh",
            "norm_eps": 1e-6,
        }

    patch = shape("img/embedding/kernel")[0]
    num_patches = shape("img/pos_embedding")[1]
    if math.isqrt(num_patches) ** 2 != num_patches:
        raise BadInput(f"{source}: img/pos_embedding has {num_patches} positions, which make no square")
    image = encoder("img/Transformer")
    pool: Literal["map", "cls", "mean"] = "map" if _pooled(tree, "img") else "cls" if "img/cls" in tree else "mean"
    head = "img/head/kernel" in tree
    vocab_size, _ = shape("txt/Embed_0/embedding")
    return ModelConfig(
        image=ImageTowerConfig(
            **image,
            size=math.isqrt(num_patches) * patch,
            patch=patch,
            pool=pool,
            projection="linear+bias" if head else "none",
            position_resample="bilinear_corners",
        ),
        text=TextTowerConfig(
            **encoder("txt/Encoder_0"),
            length=shape("txt/pos_embedding")[1],
            pool="map" if _pooled(tree, "txt") else text_pool,
            projection="linear+bias" if "txt/head/kernel" in tree else "none",
            vocab_size=vocab_size,
        ),
        embed_dim=shape("img/head/kernel")[1] if head else image["width"],
    )


def rules(model: ModelConfig, tree: Mapping[str, Tensor]) -> list[Rule]:
    """The table of names, for a tree with unstacked blocks."""
    trunk = "visual.trunk."
    found = [
        rule(f"{trunk}patch_embed.proj.weight", "img/embedding/kernel", CONVOLUTION),
        rule(f"{trunk}patch_embed.proj.bias", "img/embedding/bias"),
        rule(f"{trunk}pos_embed", "img/pos_embedding", WITH_CLASS if model.image.pool == "cls" else SAME),
        *_norm(f"{trunk}norm", "img/Transformer/encoder_norm"),
        rule("text.token_embedding.weight", "txt/Embed_0/embedding"),
        rule("text.positional_embedding", "txt/pos_embedding", UNBATCHED),
        *_norm("text.ln_final", "txt/Encoder_0/encoder_norm"),
        rule("logit_scale", "t"),
        rule("logit_bias", "b" if "b" in tree else ()),
    ]
    for i in range(model.image.depth):
        found += _block(f"{trunk}blocks.{i}.", IMAGE_BLOCK, f"img/Transformer/encoderblock_{i}/")
    for i in range(model.text.depth):
        found += _block(f"text.transformer.resblocks.{i}.", TEXT_BLOCK, f"txt/Encoder_0/encoderblock_{i}/")
    if model.image.pool == "cls":
        found.append(rule(f"{trunk}cls_token", "img/cls"))
    if model.image.pool == "map":
        found += _map(f"{trunk}attn_pool.", "img/MAPHead_0/")
    if model.text.pool == "map":
        found += _map("text.attn_pool.", "txt/MAPHead_0/")
    if model.image.projects:
        found += _dense("visual.head.proj", "img/head")
    if model.text.projection != "none":
        found += _dense("text.text_projection", "txt/head")
    return found


def _block(ours: str, names: BlockNames, theirs: str) -> list[Rule]:
    attention = f"{theirs}{ATTENTION}/"
    return [
        *_norm(f"{ours}{names.norm1}", f"{theirs}LayerNorm_0"),
        rule(f"{ours}{names.qkv_weight[0]}", _of(attention, ("query", "key", "value"), "kernel"), TO_HEADS),
        rule(f"{ours}{names.qkv_bias[0]}", _of(attention, ("query", "key", "value"), "bias"), HEADS_BIAS),
        rule(f"{ours}{names.out}.weight", f"{attention}out/kernel", FROM_HEADS),
        rule(f"{ours}{names.out}.bias", f"{attention}out/bias"),
        *_norm(f"{ours}{names.norm2}", f"{theirs}LayerNorm_1"),
        *_dense(f"{ours}{names.fc1}", f"{theirs}MlpBlock_0/Dense_0"),
        *_dense(f"{ours}{names.fc2}", f"{theirs}MlpBlock_0/Dense_1"),
    ]


def _map(ours: str, theirs: str) -> list[Rule]:
    """Rules for attention pooling."""
    attention = f"{theirs}{ATTENTION}/"
    return [
        rule(f"{ours}latent", f"{theirs}probe"),
        rule(f"{ours}q.weight", f"{attention}query/kernel", TO_HEADS),
        rule(f"{ours}q.bias", f"{attention}query/bias", HEADS_BIAS),
        rule(f"{ours}kv.weight", _of(attention, ("key", "value"), "kernel"), TO_HEADS),
        rule(f"{ours}kv.bias", _of(attention, ("key", "value"), "bias"), HEADS_BIAS),
        rule(f"{ours}proj.weight", f"{attention}out/kernel", FROM_HEADS),
        rule(f"{ours}proj.bias", f"{attention}out/bias"),
        *_norm(f"{ours}norm", f"{theirs}LayerNorm_0"),
        *_dense(f"{ours}mlp.fc1", f"{theirs}MlpBlock_0/Dense_0"),
        *_dense(f"{ours}mlp.fc2", f"{theirs}MlpBlock_0/Dense_1"),
    ]


def _norm(ours: str, theirs: str) -> list[Rule]:
    return [rule(f"{ours}.weight", f"{theirs}/scale"), rule(f"{ours}.bias", f"{theirs}/bias")]


def _dense(ours: str, theirs: str) -> list[Rule]:
    return [rule(f"{ours}.weight", f"{theirs}/kernel", TRANSPOSED), rule(f"{ours}.bias", f"{theirs}/bias")]


def _of(prefix: str, parts: tuple[str, ...], leaf: str) -> tuple[str, ...]:
    return tuple(f"{prefix}{part}/{leaf}" for part in parts)


def _pooled(tree: Mapping[str, Tensor], tower: str) -> bool:
    return f"{tower}/MAPHead_0/probe" in tree


def _parameters(file: Path) -> dict[str, Tensor]:
    """Arrays under params/, float32, with names without this prefix.

    Raises:
        BadInput: no such file, not an archive of arrays, or one with objects in it.
    """
    try:
        with regular(file).open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
            prefix = "opt/params/" if any(name.startswith("opt/params/") for name in archive.files) else "params/"
            names = [name for name in archive.files if name.startswith(prefix)]
            if not names:
                raise BadInput(f"{file} has nothing under params/ or opt/params/; it is no checkpoint of big_vision")
            strange = [name for name in archive.files if not name.startswith((prefix, "opt/"))]
            if strange:
                raise BadInput(f"{file} has entries that are neither parameters nor the optimizer's: {strange[0]}")
            return {name.removeprefix(prefix): _tensor(archive[name], f"{file}: {name}") for name in names}
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise BadInput(f"cannot read {file}: {error}") from error
    except ValueError as error:  # numpy's error for objects, which only a pickle can hold
        raise BadInput(
            f"{file} holds pickled objects, which can run code when they are read; save it as plain arrays with "
            f"numpy.savez ({error})"
        ) from error


def _tensor(array: Any, name: str) -> Tensor:
    if array.dtype == np.dtype("V2"):  # numpy has no bfloat16, and calls it by its size
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16).float()
    if array.dtype.kind != "f":
        raise BadInput(f"{name} is of type {array.dtype}, not a floating point number")
    return torch.from_numpy(np.array(array, dtype=np.float32))


def _unstacked(tree: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Split blocks that a scan stacked on the first axis into single blocks."""
    single: dict[str, Tensor] = {}
    for name, tensor in tree.items():
        if "/encoderblock/" in name:
            for i, layer in enumerate(tensor):
                single[name.replace("/encoderblock/", f"/encoderblock_{i}/")] = layer
        else:
            single[name] = tensor
    return single
