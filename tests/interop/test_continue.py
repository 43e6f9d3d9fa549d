"""Other people's models are gone on from as they are: towers, tokenizer, pixels and loss their own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as hf
from torch import nn

import silc
from silc import checkpoint
from silc import config as configs
from silc.errors import BadInput
from silc.pretraining import run

SHAPE = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 64}
STILL = {
    "data.source": "scenes",
    "data.scenes.num": 64,
    "data.scenes.size": 24,
    "data.workers": 0,
    "train.batch_size": 16,
    "train.duration": "2 steps",
    "train.device": "cpu",
    "train.optim.lr": 1e-300,  # 0 is refused; this is 0 in float32
}
"""A learning rate of nothing shows what was taken over."""


def theirs(kind: str, directory: Path, tokenizer: Path, drawn: Callable[[nn.Module], nn.Module]) -> Path:
    vision = {**SHAPE, "patch_size": 16, "image_size": 64}
    text = {**SHAPE, "vocab_size": 320, "max_position_embeddings": 16, "eos_token_id": 1}
    if kind == "clip":
        model = hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24))
        processor = hf.CLIPImageProcessor(
            size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, image_mean=[0.4, 0.5, 0.6]
        )
    else:
        model = hf.SiglipModel(hf.SiglipConfig(text_config=text, vision_config=vision))
        processor = hf.SiglipImageProcessor(size={"height": 64, "width": 64})
    drawn(model).save_pretrained(directory)
    processor.save_pretrained(directory)
    shutil.copytree(tokenizer, directory, dirs_exist_ok=True)
    return directory


@pytest.mark.parametrize(("kind", "loss"), [("clip", "softmax"), ("siglip", "sigmoid")])
def test_two_steps_that_learn_nothing_change_nothing(
    kind: str, loss: str, tokenizer: Path, drawn: Callable[[nn.Module], nn.Module], tmp_path: Path
) -> None:
    source = theirs(kind, tmp_path / kind, tokenizer, drawn)
    out = silc.finetune(str(source), "", tmp_path / "out", **STILL)
    assert configs.load(out / "config.yaml").objective.contrastive == loss
    before = silc.load(str(source))
    for weights in ("student", "teacher"):
        after = silc.load(str(out), weights=weights)
        assert after.preprocess == before.preprocess
        words = ["plain red", "a photo of a cat."]
        assert torch.equal(after.tokenizer(words), before.tokenizer(words))
        images = torch.randn(2, 3, 64, 64)
        # Autocast is training's alone; averages of equal weights round.
        torch.testing.assert_close(after.encode_image(images), before.encode_image(images), rtol=0, atol=1e-6)
        torch.testing.assert_close(
            after.encode_text(after.tokenizer(words)), before.encode_text(before.tokenizer(words)), rtol=0, atol=0
        )
    saved = checkpoint.read(checkpoint.find(out / "checkpoints")[0])
    assert {"head", "teacher"} <= saved.state_dicts.keys()


def test_a_model_without_tokenizer_is_imported_first(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"holds no tokenizer; run `silc import .*\.npz OUT --tokenizer FILE`"):
        run.origins.find(str(tmp_path / "siglip.npz"))
