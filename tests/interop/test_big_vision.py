"""big_vision's checkpoints against what big_vision itself computed, and against a forward pass in numpy."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from silc.errors import BadInput
from silc.interop import big_vision

Tree = dict[str, NDArray[Any]]
ATTENTION = "MultiHeadDotProductAttention_0"


# The forward pass of big_vision's models, in float64, over a tree of names as the file has them.


def gelu(x: Any) -> Any:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def norm(p: Tree, name: str, x: Any) -> Any:
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-6) * p[f"{name}/scale"] + p[f"{name}/bias"]


def mlp(p: Tree, name: str, x: Any) -> Any:
    hidden = gelu(x @ p[f"{name}/Dense_0/kernel"] + p[f"{name}/Dense_0/bias"])
    return hidden @ p[f"{name}/Dense_1/kernel"] + p[f"{name}/Dense_1/bias"]


def attention(p: Tree, name: str, queries: Any, x: Any) -> Any:
    def heads(part: str, of: Any) -> Any:
        return np.einsum("btc,chd->bhtd", of, p[f"{name}/{part}/kernel"]) + p[f"{name}/{part}/bias"][:, None]

    q, k, v = heads("query", queries), heads("key", x), heads("value", x)
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhtd,hdc->btc", weights @ v, p[f"{name}/out/kernel"]) + p[f"{name}/out/bias"]


def encoder(p: Tree, name: str, x: Any) -> Any:
    stacked = f"{name}/encoderblock/LayerNorm_0/scale"
    depth = (
        len(p[stacked]) if stacked in p else len([n for n in p if re.fullmatch(rf"{name}/.*_\d+/LayerNorm_0/scale", n)])
    )
    for i in range(depth):
        if stacked in p:
            start = f"{name}/encoderblock/"
            block = {key.removeprefix(start): value[i] for key, value in p.items() if key.startswith(start)}
        else:
            start = f"{name}/encoderblock_{i}/"
            block = {key.removeprefix(start): value for key, value in p.items() if key.startswith(start)}
        y = norm(block, "LayerNorm_0", x)
        x = x + attention(block, ATTENTION, y, y)
        x = x + mlp(block, "MlpBlock_0", norm(block, "LayerNorm_1", x))
    return norm(p, f"{name}/encoder_norm", x)


def map_head(p: Tree, name: str, x: Any) -> Any:
    x = attention(p, f"{name}/{ATTENTION}", np.repeat(p[f"{name}/probe"], len(x), 0), x)
    return (x + mlp(p, f"{name}/MlpBlock_0", norm(p, f"{name}/LayerNorm_0", x)))[:, 0]


def head(p: Tree, name: str, x: Any) -> Any:
    return x @ p[f"{name}/head/kernel"] + p[f"{name}/head/bias"] if f"{name}/head/kernel" in p else x


def image_tower(p: Tree, images: Any) -> tuple[Any, Any]:
    """(embedding [B, D], tokens [B, T, C]) of images [B, H, W, 3]."""
    kernel = p["img/embedding/kernel"]
    size, side = kernel.shape[0], images.shape[1] // kernel.shape[0]
    patches = images.reshape(len(images), side, size, side, size, 3).swapaxes(2, 3)
    x = np.einsum("bhwyxi,yxio->bhwo", patches, kernel).reshape(len(images), side**2, -1) + p["img/embedding/bias"]
    x = x + p["img/pos_embedding"]
    if "img/cls" in p:
        x = np.concatenate([np.repeat(p["img/cls"], len(x), 0), x], axis=1)
    tokens = encoder(p, "img/Transformer", x)
    if "img/MAPHead_0/probe" in p:
        pooled = map_head(p, "img/MAPHead_0", tokens)
    else:
        pooled = tokens[:, 0] if "img/cls" in p else tokens.mean(1)
    return head(p, "img", pooled), tokens


def text_tower(p: Tree, ids: Any, pool: str) -> Any:
    x = encoder(p, "txt/Encoder_0", p["txt/Embed_0/embedding"][ids] + p["txt/pos_embedding"])
    pools: dict[str, Callable[[Any], Any]] = {
        "map": lambda x: map_head(p, "txt/MAPHead_0", x),
        "last": lambda x: x[:, -1],
        "first": lambda x: x[:, 0],
        "mean": lambda x: x.mean(1),
        "max": lambda x: x.max(1),
    }
    return head(p, "txt", pools["map" if "txt/MAPHead_0/probe" in p else pool](x))


# Trees: those of the kit's names.txt, and one of our own.


def block_shapes(width: int, heads: int, mlp: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for i, hidden in ((0, mlp), (1, width)):
        shapes |= {f"LayerNorm_{i}/scale": (width,), f"LayerNorm_{i}/bias": (width,)}
        shapes |= {
            f"MlpBlock_0/Dense_{i}/kernel": (mlp if i else width, hidden),
            f"MlpBlock_0/Dense_{i}/bias": (hidden,),
        }
    for part in ("query", "key", "value"):
        shapes[f"{ATTENTION}/{part}/kernel"] = (width, heads, width // heads)
        shapes[f"{ATTENTION}/{part}/bias"] = (heads, width // heads)
    return shapes | {f"{ATTENTION}/out/kernel": (heads, width // heads, width), f"{ATTENTION}/out/bias": (width,)}


def tower_shapes(pool: str, *, stacked: bool, out: int | None, width: int, heads: int, depth: int, mlp: int) -> Any:
    """Names and shapes below params/ of a checkpoint with both towers alike, 64 px, patch 16, 12 tokens."""
    shapes: dict[str, tuple[int, ...]] = {"t": (1,), "b": (1,), "txt/Embed_0/embedding": (320, width)}
    shapes |= {"img/embedding/kernel": (16, 16, 3, width), "img/embedding/bias": (width,)}
    shapes |= {"img/pos_embedding": (1, 16, width), "txt/pos_embedding": (1, 12, width)}
    for name in ("img/Transformer", "txt/Encoder_0"):
        shapes |= {f"{name}/encoder_norm/scale": (width,), f"{name}/encoder_norm/bias": (width,)}
        for part, shape in block_shapes(width, heads, mlp).items():
            if stacked:
                shapes[f"{name}/encoderblock/{part}"] = (depth, *shape)
            else:
                shapes |= {f"{name}/encoderblock_{i}/{part}": shape for i in range(depth)}
    if pool == "tok":
        shapes["img/cls"] = (1, 1, width)
    for tower in ("img",) if pool == "map" else ():
        parts = block_shapes(width, heads, mlp).items()
        shapes |= {f"{tower}/MAPHead_0/{part}": shape for part, shape in parts if "LayerNorm_1" not in part}
        shapes[f"{tower}/MAPHead_0/probe"] = (1, 1, width)
    for tower in ("img", "txt") if out else ():
        shapes |= {f"{tower}/head/kernel": (width, out or 0), f"{tower}/head/bias": (out or 0,)}
    return shapes


def draw(shapes: dict[str, tuple[int, ...]]) -> Tree:
    """Values in which neither biases nor norms hide."""
    rng = np.random.default_rng(0)

    def value(name: str, shape: tuple[int, ...]) -> Any:
        if name.endswith("scale"):
            return 1 + 0.2 * rng.standard_normal(shape)
        if not name.endswith("kernel"):
            return 0.2 * rng.standard_normal(shape)
        # Over the square root of the values that are summed, so that deep towers compute in float32 what they should.
        inputs = {
            "img/embedding/kernel": 3,
            "out/kernel": 2,
            "Dense_0/kernel": 1,
            "Dense_1/kernel": 1,
            "head/kernel": 1,
        }
        summed = next((n for end, n in inputs.items() if name.endswith(end)), 0)
        fan_in = math.prod(shape[-1 - summed : -1]) if summed else shape[-3]
        return fan_in**-0.5 * rng.standard_normal(shape)

    return {name: value(name, shape).astype(np.float32) for name, shape in shapes.items()}


def write(file: Path, tree: Tree, prefix: str = "params/") -> Path:
    np.savez(file, **{f"{prefix}{name}": value for name, value in tree.items()})
    return file


def check(file: Path, tree: Tree, tokenizer: Path, pool: Any = "last") -> Any:
    """The imported model's pooled, text and token outputs equal the numpy forward pass's."""
    pretrained = big_vision.read(file, tokenizer, text_pool=pool)
    towers = pretrained.build()
    rng = np.random.default_rng(1)
    images = rng.uniform(-1, 1, (2, pretrained.model.image.size, pretrained.model.image.size, 3))
    ids = rng.integers(0, 320, (3, pretrained.model.text.length))
    wide = {name: value.astype(np.float64) for name, value in tree.items()}
    embedding, tokens = image_tower(wide, images)
    pixels = torch.from_numpy(images).float().permute(0, 3, 1, 2)
    with torch.no_grad():
        close(towers.visual(pixels), embedding)
        close(towers.visual.trunk.tokens(pixels).final, tokens)
        close(towers.text(torch.from_numpy(ids)), text_tower(wide, ids, pool))
    torch.testing.assert_close(towers.logit_scale.exp().detach(), torch.from_numpy(tree["t"]).exp())
    return pretrained


def close(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, torch.from_numpy(np.asarray(theirs)).float(), rtol=1e-5, atol=1e-5)


def test_big_visions_own_file_gives_its_recorded_outputs(silc_data: Path, tokenizer: Path) -> None:
    pretrained = big_vision.read(silc_data / "big_vision" / "clip_tok.npz", tokenizer)
    towers, expected = pretrained.build(), np.load(silc_data / "big_vision" / "clip_tok.expect.npz")
    assert pretrained.contrastive == "softmax"
    assert (pretrained.model.image.pool, pretrained.model.text.pooling) == ("cls", "last")
    images = torch.from_numpy(expected["image"]).permute(0, 3, 1, 2)
    with torch.no_grad():
        close(F.normalize(towers.visual(images), dim=-1), expected["zimg"])
        close(F.normalize(towers.text(torch.from_numpy(expected["text"]).long()), dim=-1), expected["ztxt"])
        close(towers.visual.trunk.tokens(images).final, expected["tokens"])
        close(towers.logit_scale.exp(), expected["t"])
        # The same in numpy: what the other tests compare with is right.
        archive = np.load(silc_data / "big_vision" / "clip_tok.npz")
        tree = {name.removeprefix("params/"): archive[name].astype(np.float64) for name in archive.files}
        close(torch.from_numpy(image_tower(tree, expected["image"])[1]).float(), expected["tokens"])


@pytest.mark.parametrize("title", ["MAP-pooled image tower", "mean-pooled image tower, scan=True"])
def test_the_other_configurations_of_names_txt(title: str, silc_data: Path, tmp_path: Path, tokenizer: Path) -> None:
    """Names as big_vision's code made them, values drawn here."""
    sections = (silc_data / "big_vision" / "names.txt").read_text().split("# ")
    section = next(text for text in sections if text.startswith(title))
    lines = re.findall(r"params/(\S+) \(([\d, ]+)\)", section)
    tree = draw({name: tuple(int(n) for n in shape.split(",") if n.strip()) for name, shape in lines})
    pretrained = check(write(tmp_path / "w.npz", tree), tree, tokenizer)
    assert pretrained.contrastive == "sigmoid"
    # Every name of the file is in the list of what became what.
    mapped = "\n".join(pretrained.mapped)
    assert all(name.replace("encoderblock/", "encoderblock_0/") in mapped for name in tree)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize(("pool", "out"), [("map", None), ("map", 24), ("tok", 24), ("tok", None), ("gap", 24)])
@pytest.mark.parametrize("prefix", ["params/", "opt/params/"])
def test_every_form(pool: str, out: int | None, stacked: bool, prefix: str, tmp_path: Path, tokenizer: Path) -> None:
    tree = draw(tower_shapes(pool, stacked=stacked, out=out, width=32, heads=2, depth=2, mlp=48))
    check(write(tmp_path / "w.npz", tree, prefix), tree, tokenizer)


@pytest.mark.parametrize("pool", ["last", "first", "mean", "max"])
def test_text_pooling_is_what_it_is_said_to_be(pool: str, tmp_path: Path, tokenizer: Path) -> None:
    tree = draw(tower_shapes("map", stacked=False, out=None, width=32, heads=2, depth=1, mlp=48))
    check(write(tmp_path / "w.npz", tree), tree, tokenizer, pool)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "heads", "mlp", "depth"), [(768, 12, 3072, 12), (1152, 16, 4304, 4)])
def test_the_sizes_silc_was_released_in(
    width: int, heads: int, mlp: int, depth: int, tmp_path: Path, tokenizer: Path
) -> None:
    """ViT-B, and So400m's widths at a seventh of its depth."""
    tree = draw(tower_shapes("map", stacked=True, out=None, width=width, heads=heads, depth=depth, mlp=mlp))
    check(write(tmp_path / "w.npz", tree), tree, tokenizer)


def test_positions_are_resampled_as_big_vision_does(tmp_path: Path, tokenizer: Path) -> None:
    """Its own rule is scipy's zoom of order 1; at the new size the towers then compute the numpy forward pass."""
    import scipy.ndimage

    tree = draw(tower_shapes("map", stacked=False, out=None, width=32, heads=2, depth=1, mlp=48))
    towers = big_vision.read(write(tmp_path / "w.npz", tree), tokenizer).at(96).build()
    grid = tree["img/pos_embedding"].reshape(4, 4, 32)
    tree["img/pos_embedding"] = scipy.ndimage.zoom(grid, (6 / 4, 6 / 4, 1), order=1).reshape(1, 36, 32)
    images = np.random.default_rng(1).uniform(-1, 1, (2, 96, 96, 3))
    pixels = torch.from_numpy(images).float().permute(0, 3, 1, 2)
    with torch.no_grad():
        close(towers.visual(pixels), image_tower(tree, images)[0])
        dynamic = big_vision.read(tmp_path / "w.npz", tokenizer).build()
        close(dynamic.visual(pixels), image_tower(tree, images)[0])


def test_bfloat16_arrays(tmp_path: Path, tokenizer: Path) -> None:
    """numpy has no bfloat16 and keeps it as two bytes without a type."""
    tree = draw(tower_shapes("gap", stacked=False, out=24, width=32, heads=2, depth=1, mlp=48))
    kernel = torch.from_numpy(tree["img/head/kernel"]).bfloat16()
    tree["img/head/kernel"] = kernel.view(torch.int16).numpy().view("V2")
    pretrained = big_vision.read(write(tmp_path / "w.npz", tree), tokenizer)
    assert torch.equal(pretrained.weights["visual.head.proj.weight"], kernel.float().T)


def small() -> Tree:
    return draw(tower_shapes("map", stacked=False, out=None, width=32, heads=2, depth=1, mlp=48))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.update({"img/pre_logits/kernel": t["txt/pos_embedding"][0]}),
            "no place for: img/pre_logits/kernel",
        ),
        (lambda t: t.pop("img/Transformer/encoder_norm/scale"), "lacks img/Transformer/encoder_norm/scale"),
        (lambda t: t.pop("img/pos_embedding"), "no params/img/pos_embedding"),
        (
            lambda t: t.update({"img/pos_embedding": t["img/pos_embedding"][:, :15]}),
            "15 positions, which make no square",
        ),
        (lambda t: t["img/embedding/bias"].__setitem__(3, np.nan), "img/embedding/bias hold NaN"),
        (lambda t: t.update({"img/embedding/bias": np.zeros(7, np.float32)}), r"make \[7\]"),
        (lambda t: t.update({"img/embedding/bias": np.zeros(32, np.int32)}), "not a floating point number"),
    ],
)
def test_what_does_not_fit_is_refused(
    change: Callable[[Tree], Any], message: str, tmp_path: Path, tokenizer: Path
) -> None:
    tree = small()
    change(tree)
    with pytest.raises(BadInput, match=message):
        big_vision.read(write(tmp_path / "w.npz", tree), tokenizer)


def test_other_files_are_refused(tmp_path: Path, tokenizer: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (pytest.fail, ("a pickle was run",))

    objects = tmp_path / "objects.npz"
    np.savez(objects, **{"params/t": np.array([Bomb()], dtype=object)})
    pickled, cut = tmp_path / "pickle.npz", tmp_path / "cut.npz"
    pickled.write_bytes(pickle.dumps(Bomb()))
    cut.write_bytes(write(tmp_path / "w.npz", small()).read_bytes()[:1000])
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    for file, message in {
        objects: "pickled objects",
        pickled: "pickled objects",
        cut: "cannot read",
        tmp_path / "none.npz": "cannot read",
        tmp_path / "other.npz": "nothing under params/",
    }.items():
        with pytest.raises(BadInput, match=message):
            big_vision.read(file, tokenizer)
