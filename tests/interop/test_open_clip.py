"""open_clip's models: native CLIP and timm towers, from directories, names and files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.layers import Format
from torch import Tensor, nn

import silc
from silc.errors import BadInput
from silc.interop import open_clip as interop

Draw = Callable[[nn.Module], nn.Module]

NATIVE = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16, "mlp_ratio": 3.0},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
SIGLIP = {
    "embed_dim": 192,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {
        **{
            "image_size": 256,
            "timm_model_name": "vit_base_patch32_siglip_256",
            "timm_pool": "map",
            "timm_proj": "none",
        },
    },
    "text_cfg": {
        **{"context_length": 16, "vocab_size": 320, "hf_tokenizer_name": "here", "width": 64, "heads": 2, "layers": 2},
        **{"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}},
        "tokenizer_kwargs": {"clean": "canonicalize"},
    },
}
TOKEN = {"image_size": 224, "timm_model_name": "vit_base_patch32_224", "timm_pool": "token"}


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's models by their names, but narrow and of two blocks."""
    create = timm.create_model
    small = {"depth": 2, "embed_dim": 192, "num_heads": 3}
    monkeypatch.setattr(timm, "create_model", lambda name, **given: create(name, **{**given, **small}))


def changed(config: dict[str, Any], vision: dict[str, Any] | None = None, text: Any = None, **top: Any) -> Any:
    """A configuration with some of its fields replaced."""
    return {
        **{**config, **top},
        "vision_cfg": {**config["vision_cfg"], **(vision or {})},
        "text_cfg": {**config["text_cfg"], **(text or {})},
    }


def make(config: dict[str, Any]) -> Any:
    """open_clip's own model of a configuration."""
    config = {key: value for key, value in config.items() if key != "custom_text" or value}
    custom = config.pop("custom_text", False) or "timm_model_name" in config["vision_cfg"]
    text = {**config["text_cfg"]}
    return (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**{**config, "text_cfg": text})


def saved(model: Any, config: dict[str, Any], directory: Path, **pixels: Any) -> Path:
    """The directory that `local-dir:` opens."""
    directory.mkdir(exist_ok=True)
    save_file({name: x.contiguous() for name, x in model.state_dict().items()}, directory / interop.WEIGHTS)
    (directory / interop.CONFIG).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": pixels}))
    return directory


def check(config: dict[str, Any], directory: Path, drawn: Draw, tokenizer: Path | None, **sizes: int) -> Any:
    """Pooled and text outputs, and the logits of both."""
    model: Any = drawn(make(config))
    pretrained = interop.read(str(saved(model, config, directory)), tokenizer)
    towers = pretrained.build()
    vocab, length = config["text_cfg"]["vocab_size"], config["text_cfg"]["context_length"]
    ids = torch.randint(1, vocab - 2, (3, length))
    ids[:, 7], ids[:, 9:] = vocab - 1, 0
    size, batch = pretrained.model.image.size, sizes.get("batch", 2)
    images = torch.randn(batch, 3, size, size)
    with torch.no_grad():
        image, text = model.encode_image(images), model.encode_text(ids)
        close(towers.visual(images), image)
        close(towers.text(ids), text)
        theirs = model.get_logits(images, ids)[0]
        ours = (
            nn.functional.normalize(towers.visual(images), dim=-1) @ nn.functional.normalize(towers.text(ids), dim=-1).T
        )
        close(ours * towers.logit_scale.exp() + towers.logit_bias, theirs)
    return model, pretrained, towers


def each_to_itself(block: Any, forward: Callable[[], Any]) -> Tensor:
    """What a library's own last block [B, T, C] makes of its input where a mask lets each token see itself alone."""
    seen: list[Tensor] = []
    hook = block.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    forward()
    hook.remove()
    (x,) = seen
    alone = torch.full((x.shape[1], x.shape[1]), -torch.inf).fill_diagonal_(0.0)
    return block(x, attn_mask=alone)  # type: ignore[no-any-return]


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        NATIVE,
        changed(NATIVE, quick_gelu=True),
        changed(NATIVE, {"norm_kwargs": {"eps": 1e-3}}, {"act_kwargs": {"approximate": "tanh"}}),
        changed(NATIVE, custom_text=True),
        changed(NATIVE, text={"pool_type": "eos", "eos_id": 49407}),
        changed(NATIVE, text={"proj_bias": True, "pool_type": "last", "no_causal_mask": True}),
        changed(NATIVE, {"layers": 12, "width": 192, "head_width": 64}, {"layers": 12}),
        changed(NATIVE, {"layers": 12, "width": 384, "head_width": 64}, {"layers": 12}, quick_gelu=True),
    ],
    ids=["clip", "quick_gelu", "eps and tanh", "custom text", "eos", "last", "Ti", "S"],
)
def test_native_parity(config: Any, tmp_path: Path, drawn: Draw) -> None:
    model, _, towers = check(config, tmp_path, drawn, None)
    # Patches in the text's space: the final norm and the projection, of every token.
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        last = config["vision_cfg"]["layers"] - 1
        out = model.forward_intermediates(
            image=images, image_indices=[last], normalize_intermediates=True, image_output_fmt="NLC"
        )
        close(towers.visual.dense(images, "tokens").flatten(1, 2), out["image_intermediates"][0] @ model.visual.proj)
        tower = model.visual
        alone = tower.ln_post(each_to_itself(tower.transformer.resblocks[-1], lambda: tower(images)))
        close(towers.visual.dense(images, "value_block").flatten(1, 2), alone[:, 1:] @ tower.proj)


def test_native_parity_at_another_size(tmp_path: Path, drawn: Draw) -> None:
    """open_clip resamples positions when it loads, bicubic and antialiased; our tower does at every size."""
    _, pretrained, towers = check(NATIVE, tmp_path, drawn, None)
    config = changed(NATIVE, {"image_size": 96})
    theirs: Any = make(config)
    state = load_file(tmp_path / interop.WEIGHTS)
    open_clip.model.resize_pos_embed(state, theirs)
    theirs.load_state_dict(state)
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        close(towers.visual(images), theirs.eval().encode_image(images))
        close(pretrained.at(96).build().visual(images), theirs.encode_image(images))


@pytest.mark.parametrize(
    "config",
    [
        SIGLIP,
        changed(SIGLIP, text={"act_kwargs": {"approximate": "tanh"}}),
        changed(SIGLIP, {"timm_proj": "linear"}),
        changed(SIGLIP, {"timm_proj": "linear", "timm_proj_bias": True}, embed_dim=24),
        changed(SIGLIP, {**TOKEN, "timm_proj": ""}, embed_dim=24),
        changed(
            SIGLIP,
            {**TOKEN, "timm_model_name": "vit_base_patch32_clip_quickgelu_224", "timm_proj": "linear"},
            {"proj_type": "none"},
            embed_dim=64,
        ),
    ],
    ids=["siglip", "tanh text", "projected", "projected with bias", "timm's classifier", "clip by timm"],
)
@pytest.mark.usefixtures("shallow")
def test_timm_parity(config: Any, tmp_path: Path, drawn: Draw, tokenizer: Path | None) -> None:
    model, _, towers = check(config, tmp_path, drawn, tokenizer)
    size = config["vision_cfg"]["image_size"]
    images = torch.randn(1, 3, size, size)
    with torch.no_grad():
        tokens = model.visual.trunk.forward_features(images)
        tower = model.visual.trunk
        alone = tower.norm(each_to_itself(tower.blocks[-1], lambda: tower.forward_features(images)))
        if config["vision_cfg"]["timm_pool"] == "map":
            for readout, of in (("map_value", tokens), ("value_block+map_value", alone)):
                each = model.visual.trunk.attn_pool(of.flatten(0, 1)[:, None])
                close(towers.visual.dense(images, readout).flatten(1, 2)[0], model.visual.head(each))
        else:
            project = model.visual.trunk.head if config["vision_cfg"]["timm_proj"] == "" else model.visual.head
            close(towers.visual.dense(images, "tokens").flatten(1, 2), project(tokens[:, 1:]))
            close(towers.visual.dense(images, "value_block").flatten(1, 2), project(alone[:, 1:]))
        # Other sizes, which open_clip refuses until timm is told to take them.
        trunk = model.visual.trunk
        trunk.dynamic_img_size, trunk.patch_embed.strict_img_size, trunk.patch_embed.flatten = True, False, False
        trunk.patch_embed.output_fmt = Format.NHWC
        smaller = torch.randn(2, 3, 96, 64)
        close(towers.visual(smaller), model.encode_image(smaller))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-16-SigLIP-256", "ViT-B-16-quickgelu", "ViT-B-16-SigLIP2-256"])
def test_parity_of_published_architectures(name: str, tmp_path: Path, drawn: Draw, tokenizer: Path) -> None:
    """ViT-B by name with a local file, at batch 1."""
    config = open_clip.get_model_config(name)
    model: Any = drawn(make(config))
    file = tmp_path / "w.safetensors"
    save_file({key: x.contiguous() for key, x in model.state_dict().items()}, file)
    pretrained = interop.read(f"{name}/{file}", tokenizer)
    towers = pretrained.build()
    ids = torch.randint(1, 30000, (2, pretrained.model.text.length))
    images = torch.randn(1, 3, pretrained.model.image.size, pretrained.model.image.size)
    with torch.no_grad():
        close(towers.visual(images), model.encode_image(images))
        close(towers.text(ids), model.encode_text(ids))


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("shape", [(64, 64), (100, 70), (50, 131), (640, 427)])
def test_pixels_equal_open_clips(mode: str, shape: tuple[int, int]) -> None:
    theirs = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(size=64, resize_mode=mode), is_train=False
    )
    ours = interop.preprocess(64, {"resize_mode": mode})
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
    close(ours.normalize(ours(image)), theirs(image))


@pytest.mark.parametrize("config", [NATIVE, changed(SIGLIP, init_logit_scale=2.0)], ids=["clip", "siglip"])
@pytest.mark.usefixtures("shallow")
def test_probabilities_of_a_photograph(
    config: Any, tmp_path: Path, drawn: Draw, tokenizer: Path, silc_data: Path
) -> None:
    """open_clip opens the same directory by itself: weights, pixels and words."""
    model: Any = drawn(make(config))
    pixels: dict[str, Any] = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"} if config != NATIVE else {}
    shutil.copytree(tokenizer, tmp_path, dirs_exist_ok=True)
    saved(model, config, tmp_path, **pixels)
    theirs, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    words = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    photographs = sorted((silc_data / "retrieval").rglob("*.jpg"))[:3]
    texts = ["a photo of a cat", "two dogs on the beach", "The Red Car!"]
    batch = torch.stack([transform(Image.open(file).convert("RGB")) for file in photographs])
    ours = silc.load(f"local-dir:{tmp_path}", device="cpu")
    assert ours.contrastive == ("softmax" if config == NATIVE else "sigmoid")
    with torch.no_grad():
        logits = theirs.eval().get_logits(batch, words(texts))[0]
    expected = logits.softmax(-1) if config == NATIVE else logits.sigmoid()
    close(ours.probs(ours.encode_image(photographs), ours.encode_text(texts)), expected)


def test_logit_scale_is_the_checkpoints(tmp_path: Path, drawn: Draw) -> None:
    """open_clip starts SigLIP's scale at ln(1/0.07), not ln 10; an import takes what is in the file, with or without
    a dimension."""
    for shape in ((), (1,)):
        model: Any = make(NATIVE)
        model.logit_scale = nn.Parameter(torch.full(shape, 1.25))
        towers = interop.read(str(saved(model, NATIVE, tmp_path))).build()
        assert towers.logit_scale.tolist() == [1.25]
        assert towers.logit_bias.tolist() == [0.0]


def test_a_tags_activation_is_checked() -> None:
    """OpenAI's weights in a GELU tower load and are wrong; open_clip only warns."""
    with pytest.raises(BadInput, match="another activation than ViT-B-16 has; use open_clip:ViT-B-16-quickgelu/openai"):
        interop.read("ViT-B-16/openai")


def test_pixels_have_three_channels() -> None:
    with pytest.raises(BadInput, match=r"preprocess_cfg: mean and std must be three numbers; got \[0.5\]"):
        interop.preprocess(64, {"mean": [0.5]})


def test_the_preprocessing_of_a_file_is_that_of_its_architectures_tags() -> None:
    assert interop.preprocess(256, interop._pixels("ViT-B-16-SigLIP-256", "w.safetensors")).resize == "squash"
    assert interop.preprocess(224, interop._pixels("ViT-B-16", "openai")).mean[0] == 0.48145466


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (changed(NATIVE, {"layers": [3, 4, 6, 3]}), "ResNet"),
        (changed(NATIVE, {"ls_init_value": 0.1}), "ls_init_value is 0.1"),
        (changed(NATIVE, {"attentional_pool": True}), "attentional_pool is True"),
        (changed(NATIVE, {"image_size": [64, 96]}), "not square"),
        (changed(NATIVE, text={"hf_model_name": "roberta-base"}), "hf_model_name is 'roberta-base'"),
        (changed(NATIVE, text={"embed_cls": True}), "embed_cls is True"),
        (changed(NATIVE, text={"pool_type": "mean"}), "pool_type 'mean'"),
        (changed(NATIVE, {"timm_model_name": "no_such_vit", "timm_pool": "map"}), "timm cannot make 'no_such_vit'"),
        (changed(NATIVE, {"timm_model_name": "convnext_tiny", "timm_pool": "avg"}), "the class ConvNeXt"),
        (changed(NATIVE, {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "map"}), "a class token that is not"),
        (changed(NATIVE, {"timm_model_name": "deit3_small_patch16_224", "timm_pool": "token"}), "layer scale"),
        (changed(NATIVE, {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "avg"}), "pooled by 'avg'|has"),
    ],
)
def test_other_architectures_are_refused(config: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        interop.model_config(config)


def test_bad_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    saved(make(NATIVE), NATIVE, tmp_path / "bin")
    (tmp_path / "bin" / interop.WEIGHTS).rename(tmp_path / "bin" / "open_clip_pytorch_model.bin")
    damaged: Any = make(NATIVE)
    nn.init.constant_(damaged.visual.ln_post.bias, torch.nan)
    saved(damaged, NATIVE, tmp_path / "nan")
    siglip = tmp_path / "w.safetensors"
    save_file({"logit_scale": torch.zeros(())}, siglip)
    for source, message in {
        "ViT-Q-7": "no architecture 'ViT-Q-7'",
        "ViT-B-16": "needs weights",
        "ViT-B-16/no_such_tag": "a tag of its list: openai",
        "ViT-B-16/datacomp_xl_s13b_b90k": r"cannot fetch laion/.*; without a network copy .* and give open_clip:DIR",
        "ViT-B-16/laion400m_e31": "|".join(("published only as a pickle", "cannot fetch")),
        "ViT-B-16/w.pt": "does not exist",
        f"ViT-B-16-SigLIP-256/{siglip}": "lacks token_embedding.weight",
        str(tmp_path / "bin"): "may be a pickle",
        str(tmp_path / "nan"): "visual.ln_post.bias hold NaN or infinity; these weights are damaged",
    }.items():
        with pytest.raises(BadInput, match=message) as refusal:
            interop.read(source)
        assert "\n" not in str(refusal.value)


def test_a_tokenizer_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BadInput, match=r"cannot fetch the tokenizer timm/none .* give a local one with tokenizer=DIR"):
        interop._tokenizer({"hf_tokenizer_name": "timm/none"}, None, given=False)


def test_published_weights_are_fetched_as_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's file of a tag, and a word where there are only pickles."""
    asked = []

    def download(repo: str, patterns: Any, *, spec: str) -> Path:
        asked.append((repo, patterns))
        return tmp_path

    monkeypatch.setattr(interop, "download", download)
    with pytest.raises(BadInput, match="published only as a pickle"):
        interop.read("ViT-B-16/datacomp_xl_s13b_b90k")
    assert asked == [("laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K", (interop.WEIGHTS,))]
    save_file({"logit_scale": torch.zeros(())}, tmp_path / interop.WEIGHTS)
    with pytest.raises(BadInput, match=r"lacks token_embedding\.weight"):
        interop.read("ViT-B-16/datacomp_xl_s13b_b90k")
