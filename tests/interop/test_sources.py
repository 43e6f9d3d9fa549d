"""From any source to one saved form, and back to the same numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import silc
from silc.cli import main
from silc.data.tokenizer import BPETokenizer
from silc.errors import BadInput
from silc.interop import pretrained, sources
from silc.interop.pretrained import Pretrained
from silc.models.config import ImageTowerConfig, ModelConfig, TextTowerConfig
from silc.models.silc import TwoTower
from silc.preprocess import Preprocess


@pytest.fixture
def model(tokenizer: Path, drawn: Callable[[nn.Module], nn.Module]) -> Pretrained:
    """A small model of a kind that uses what our own recipes do not."""
    config = ModelConfig(
        image=ImageTowerConfig(
            **{"size": 32, "patch": 8, "width": 32, "depth": 1, "heads": 2, "mlp": 48, "pool": "cls", "pre_norm": True},
            **{"activation": "quick_gelu", "norm_eps": 1e-5, "position_resample": "bicubic"},
        ),
        text=TextTowerConfig(
            **{"length": 16, "width": 32, "depth": 1, "heads": 2, "mlp": 48, "causal": True, "vocab_size": 320},
            projection="linear",
        ),
        embed_dim=24,
    )
    words = BPETokenizer.load(tokenizer, 16)
    towers = drawn(TwoTower(config, vocab_size=words.vocab_size, eos_id=words.eos_id, scale_init=1.0, bias_init=0.0))
    return Pretrained(
        model=config,
        weights=towers.state_dict(),
        tokenizer=words,
        preprocess=Preprocess(32, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), "crop", "bilinear"),
        contrastive="sigmoid",
        source="here",
    )


def test_the_saved_form_is_the_model(model: Pretrained, tmp_path: Path) -> None:
    pretrained.save(model, tmp_path / "m")
    back = sources.read(tmp_path / "m")
    assert (back.model, back.preprocess, back.contrastive) == (model.model, model.preprocess, model.contrastive)
    assert back.weights.keys() == model.weights.keys()
    assert all(torch.equal(back.weights[name], model.weights[name]) for name in model.weights)
    assert back.checksum == model.checksum
    texts = ["a photo of a cat", "Two Dogs!"]
    assert torch.equal(back.tokenizer(texts), model.tokenizer(texts))
    loaded = silc.load(tmp_path / "m", device="cpu")
    assert loaded.preprocess == model.preprocess
    ids, images = model.tokenizer(texts), torch.randn(2, 3, 32, 32)
    towers = model.build()
    with torch.no_grad():
        assert torch.equal(loaded.encode_image(images), nn.functional.normalize(towers.visual(images), dim=-1))
        assert torch.equal(loaded.encode_text(ids, normalize=False), towers.text(ids))


def test_another_size_resamples_the_positions(model: Pretrained) -> None:
    larger, images = model.at(48), torch.randn(1, 3, 48, 48)
    assert larger.model.image.size == larger.preprocess.size == 48
    assert larger.weights[pretrained.POSITIONS].shape == (1, 37, 32)
    with torch.no_grad():
        torch.testing.assert_close(larger.build().visual(images), model.build().visual(images))
    with pytest.raises(BadInput, match=r"multiple of model\.image\.patch"):
        model.at(50)


def test_import_writes_and_says_what_became_what(
    tmp_path: Path, silc_data: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = silc_data / "big_vision" / "clip_tok.npz"
    assert main(["import", str(file), str(tmp_path / "m"), "--tokenizer", str(tokenizer)]) == 0
    out = capsys.readouterr().out
    assert "img/embedding/kernel [16, 16, 3, 32] -> visual.trunk.patch_embed.proj.weight [32, 3, 16, 16]" in out
    assert "nothing left over" in out
    direct = silc.load(file, tokenizer=tokenizer, device="cpu")
    loaded = silc.load(tmp_path / "m", device="cpu")
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded.encode_image(images), direct.encode_image(images))
    assert torch.equal(loaded.encode_text(["a cat"]), direct.encode_text(["a cat"]))
    # Written once, and never over something.
    assert main(["import", str(file), str(tmp_path / "m"), "--tokenizer", str(tokenizer)]) == 2
    assert "is not empty" in capsys.readouterr().err


def test_a_checkpoint_without_tokenizer_asks_for_one(silc_data: Path) -> None:
    with pytest.raises(BadInput, match=r"holds no tokenizer.*give one with tokenizer=FILE"):
        silc.load(silc_data / "big_vision" / "clip_tok.npz")


def test_nothing_there(tmp_path: Path) -> None:
    for source in (tmp_path, tmp_path / "none", "hfx:google/none"):
        with pytest.raises(BadInput, match="is no model: neither a run"):
            silc.load(source)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: (d / pretrained.WEIGHTS).write_bytes(b"nothing"), "is damaged or no safetensors file"),
        (lambda d: (d / pretrained.WEIGHTS).unlink(), "does not exist"),
        (lambda d: torch.save({"logit_scale": torch.ones(1)}, d / pretrained.WEIGHTS), "is damaged or no safetensors"),
        (lambda d: rewrite(d, lambda t: t["visual.trunk.norm.bias"].fill_(torch.inf)), "norm.bias holds NaN or infin"),
        (lambda d: rewrite(d, lambda t: t.pop("text.ln_final.bias")), "it lacks text.ln_final.bias"),
        (lambda d: (d / "tokenizer" / "tokenizer.json").unlink(), "does not exist"),
        (lambda d: (d / pretrained.SETTINGS).write_text('{"model": {}}'), "field 'size'"),
        (lambda d: edit(d, lambda s: s["model"]["image"].update(depth=2)), "is of another architecture: it lacks"),
        (lambda d: edit(d, lambda s: s["model"]["image"].update(activation="relu")), "field 'model.image.activation'"),
    ],
)
def test_damaged_directories(change: Callable[[Path], Any], message: str, model: Pretrained, tmp_path: Path) -> None:
    pretrained.save(model, tmp_path / "m")
    change(tmp_path / "m")
    with pytest.raises(BadInput, match=message):
        silc.load(tmp_path / "m", device="cpu")


def rewrite(directory: Path, change: Callable[[Any], Any]) -> None:
    tensors = load_file(directory / pretrained.WEIGHTS)
    change(tensors)
    save_file(tensors, directory / pretrained.WEIGHTS)


def edit(directory: Path, change: Callable[[Any], Any]) -> None:
    settings = json.loads((directory / pretrained.SETTINGS).read_text())
    change(settings)
    (directory / pretrained.SETTINGS).write_text(json.dumps(settings))
