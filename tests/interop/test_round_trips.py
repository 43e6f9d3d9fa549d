"""In, out and in again, for every pair: what came in from anywhere is the same model by every way it goes out.

| in                       | out and in again                                            |
| ------------------------ | ----------------------------------------------------------- |
| open_clip's own, timm's  | silc, open_clip, transformers                               |
| transformers' three      | silc, open_clip (SigLIP 2 as the SigLIP it is), transformers |
| a run with CLIP's, SigLIP's towers | silc, open_clip, transformers                     |
| big_vision               | silc, open_clip, transformers                               |
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers as hf
from torch import Tensor, nn

import silc
from silc.config import Config
from silc.pretraining import run
from tests.exports.test_directory import TEXTS, by_open_clip, by_silc, by_transformers
from tests.interop import test_big_vision as big_vision
from tests.interop import test_open_clip as open_clip

pytestmark = pytest.mark.slow  # eight sources, three libraries

Draw = Callable[[nn.Module], nn.Module]
LIBRARIES = {"silc": "", "open_clip": "open_clip:", "transformers": "hf:"}
"""Each with what `silc.load` reads its files by."""
BY_NAME: dict[str, Any] = {"width": 192, "depth": 2, "heads": 3, "mlp": 768, "size": 256, "patch": 32}
"""A ViT that timm has under a name, once its models are shallow."""


@pytest.fixture(autouse=True)
def _shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's models by their names, but narrow and of two blocks; and no hub."""
    create, small = timm.create_model, {"depth": 2, "embed_dim": 192, "num_heads": 3}
    monkeypatch.setattr(timm, "create_model", lambda name, **given: create(name, **{**given, **small}))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def source(tmp_path: Path, tokenizer: Path, drawn: Draw, small: Callable[..., Config]) -> Callable[[str], Any]:
    """Arguments of `silc.load` for a model of each kind."""

    def from_open_clip(config: dict[str, Any]) -> Any:
        directory = open_clip.saved(drawn(open_clip.make(config)), config, tmp_path / "in")
        if "hf_tokenizer_name" in config["text_cfg"]:
            shutil.copytree(tokenizer, directory, dirs_exist_ok=True)
        return f"open_clip:{directory}", {}

    def from_transformers(kind: str) -> Any:
        shape = {"num_attention_heads": 3, "num_hidden_layers": 2, "hidden_size": 192, "intermediate_size": 768}
        text = {**shape, "vocab_size": 320, "max_position_embeddings": 16, "eos_token_id": 1}
        image = {**shape, "patch_size": 32, **({"num_patches": 64} if kind == "Siglip2" else {"image_size": 256})}
        top: Any = {"projection_dim": 24} if kind == "CLIP" else {}
        config = getattr(hf, f"{kind}Config")(text_config=text, vision_config=image, **top)
        drawn(getattr(hf, f"{kind}Model")(config)).save_pretrained(tmp_path / "in")
        shutil.copytree(tokenizer, tmp_path / "in", dirs_exist_ok=True)
        side = {"height": 256, "width": 256}
        if kind == "CLIP":
            hf.CLIPImageProcessor(size={"shortest_edge": 256}, crop_size=side).save_pretrained(tmp_path / "in")
        else:
            hf.SiglipImageProcessor(size=side).save_pretrained(tmp_path / "in")
        return f"hf:{tmp_path / 'in'}", {}

    def from_run(recipe: str, image: dict[str, Any], text: dict[str, Any], local_size: int, embed_dim: int) -> Any:
        config = small(recipe, tmp_path / "in", duration="1 steps")
        model = replace(
            config.model,
            image=replace(config.model.image, **image),
            text=replace(config.model.text, **text),
            embed_dim=embed_dim,
        )
        data = replace(config.data, crops=replace(config.data.crops, num_local=1, local_size=local_size))
        return run.train(replace(config, model=model, data=data)), {}

    def from_big_vision() -> Any:
        shapes = big_vision.tower_shapes("map", stacked=True, out=None, width=192, heads=3, depth=2, mlp=768)
        shapes |= {"img/embedding/kernel": (32, 32, 3, 192), "img/pos_embedding": (1, 64, 192)}
        shapes |= {"txt/head/kernel": (192, 192), "txt/head/bias": (192,)}  # as SigLIP and SILC, which have no img/head
        file = big_vision.write(tmp_path / "in.npz", big_vision.draw(shapes))
        return file, {"tokenizer": tokenizer}

    clip_image = {"pool": "cls", "pre_norm": True, "projection": "linear"}
    made: dict[str, Callable[[], Any]] = {
        "open_clip, its own": lambda: from_open_clip(open_clip.NATIVE),
        "open_clip, timm's": lambda: from_open_clip(open_clip.SIGLIP),
        "transformers, CLIP": lambda: from_transformers("CLIP"),
        "transformers, SigLIP": lambda: from_transformers("Siglip"),
        "transformers, SigLIP 2": lambda: from_transformers("Siglip2"),
        "run, CLIP": lambda: from_run("silc_c", clip_image, {"causal": True, "projection": "linear"}, 8, 24),
        "run, SigLIP": lambda: from_run("silc_s", {**BY_NAME, "activation": "gelu_tanh"}, {}, 96, 192),
        "big_vision": from_big_vision,
    }
    return lambda kind: made[kind]()


def features(model: Any, images: Tensor) -> dict[str, Tensor]:
    """All that a model says of images and texts."""
    ids = model.tokenizer(TEXTS)
    dense = nn.functional.normalize(model.encode_dense(images, model.readouts[0]), dim=-1)
    return {"image": model.encode_image(images), "text": model.encode_text(ids), "dense": dense}


@pytest.mark.parametrize(
    "kind",
    [
        *("open_clip, its own", "open_clip, timm's", "transformers, CLIP", "transformers, SigLIP"),
        *("transformers, SigLIP 2", "run, CLIP", "run, SigLIP", "big_vision"),
    ],
)
def test_in_out_and_in_again(kind: str, source: Callable[[str], Any], tmp_path: Path) -> None:
    """Every library's files read back by silc's reader of them: ids, pooled, text and dense features, pixels. And each
    library by itself: ids and logits."""
    given, extra = source(kind)
    out = tmp_path / "out"
    silc.export(given, out, ["open_clip", "transformers"], **extra)
    before = silc.load(given, device="cpu", **extra)
    size = before.preprocess.size
    images = torch.randn(2, 3, size, size)
    expected, ids = features(before, images), before.tokenizer(TEXTS)
    assert (expected["image"] @ expected["text"].T).std() > 1e-3
    for library, prefix in LIBRARIES.items():
        again = silc.load(f"{prefix}{out}", device="cpu")
        assert again.tokenizer(TEXTS).tolist() == ids.tolist(), library
        for name, ours in features(again, images).items():
            torch.testing.assert_close(
                ours, expected[name], rtol=0, atol=1e-5, msg=lambda m, at=(library, name): f"{at}: {m}"
            )
        assert again.contrastive == before.contrastive, library
        pixels, were = again.preprocess, before.preprocess
        assert (pixels.size, pixels.mean, pixels.std) == (were.size, were.mean, were.std), library
        # Sides that come out broken are rounded in open_clip and cut in transformers, which is theirs to say.
        assert pixels.resize.removesuffix("_floor") == were.resize.removesuffix("_floor"), library
    _, logits = by_silc(out, images)
    for opened in (by_open_clip, by_transformers):
        their_ids, theirs = opened(out, images)
        assert their_ids.tolist() == ids.tolist(), opened.__name__
        torch.testing.assert_close(theirs, logits, rtol=1e-5, atol=1e-4)
