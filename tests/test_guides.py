"""Each guide's Python and commands run, on small models in the places of those it fetches."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers as hf
from PIL import Image

from silc.cli import main
from silc.config import Config
from silc.data.scenes import write_sets
from silc.data.tokenizer import BPETokenizer
from silc.pretraining import run
from tests.data.conftest import sample, write_tar

GUIDES = Path(__file__).parent.parent / "docs" / "guides"


def blocks(guide: str, language: str) -> list[str]:
    text = (GUIDES / guide).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, small: Callable[..., Config]) -> Path:
    """A folder with photographs, evaluation data, a run, and a SigLIP 2 as `hf download` leaves it."""
    folder = tmp_path_factory.mktemp("guides")
    (folder / "photos").mkdir()
    for name in ("street.jpg", "park.jpg", "photos/a.jpg", "photos/b.png"):
        Image.effect_noise((60, 40), 90).convert("RGB").save(folder / name)
    write_sets(folder / "data", size=24, seed=0, num_retrieval=40, num_segmentation=8, per_class=2)
    run.train(small("silc_s", folder / "run", duration="2 steps"))
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**shape, "vocab_size": 320, "max_position_embeddings": 64}
    config = hf.SiglipConfig(text_config=text, vision_config={**shape, "image_size": 32, "patch_size": 16})
    hf.SiglipModel(config).save_pretrained(folder / "siglip2")
    BPETokenizer.train(["a photo of a street", "two parks"], 300, 64).save(folder / "siglip2")
    hf.SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / "siglip2")
    return folder


@pytest.fixture(scope="module")
def exportable(place: Path, small: Callable[..., Config]) -> Path:
    """The same folder, with a run whose towers both other libraries have."""
    config = small("silc_s", place / "out" / "run", duration="2 steps")
    image = replace(config.model.image, pool="cls", projection="linear", pre_norm=True)
    text = replace(config.model.text, causal=True, projection="linear")
    objective = replace(config.objective, contrastive="softmax")
    run.train(replace(config, model=replace(config.model, image=image, text=text), objective=objective))
    return place


def python(code: str) -> None:
    exec(compile(code, "guide", "exec"), {"__name__": "__main__"})


def test_use_in_python(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(place)
    code, _ = blocks("use.md", "python")
    named = "open_clip:ViT-B-16-SigLIP-256/webli"
    assert named in code
    python(code.replace(named, "run"))
    out = capsys.readouterr().out
    assert "torch.Size([1, 2, 2, 32])" in out
    assert "torch.Size([40, 60])" in out
    assert (place / "segmented.png").is_file()


def test_training_and_scoring_in_python(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    _, code = blocks("use.md", "python")
    (place / "shards").mkdir()
    write_tar(place / "shards/0.tar", [member for number in range(8) for member in sample(number)])
    python(code)
    out = capsys.readouterr().out
    assert "'acc1': " in out
    assert (place / "out/tiny/metrics.jsonl").is_file()


def test_use_on_the_command_line(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    lines = [line for block in blocks("use.md", "sh") for line in block.splitlines()]
    assert len(lines) >= 7
    for line in lines:
        words = shlex.split(line)
        if words[0] == "hf":  # fetches; what it leaves is there
            assert words[-1] == "siglip2"
            continue
        assert words[0] == "silc"
        assert main(words[1:]) == 0, line
    for made in ("out/siglip2/silc.json", "out/classes.json", "out/features.npy", "out/masks", "out/scores.json"):
        assert (place / made).exists(), made


def test_export(exportable: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(exportable)
    shard = write_tar(exportable / "00000.tar", [member for number in range(20) for member in sample(number)])
    export, web, go_on = (block.splitlines() for block in blocks("export.md", "sh"))
    assert web[0] == "silc export out/run out/page --formats web"  # needs npm: tests/exports/test_web.py runs it
    for line in (*export, *go_on):
        words = shlex.split(line.replace("shards/{00000..00099}.tar", str(shard)))
        assert words[0] == "silc"
        assert main(words[1:]) == 0, line
    assert (exportable / "out/on/config.yaml").is_file()
    code = "\n".join(blocks("export.md", "python"))
    capsys.readouterr()
    python(code)
    said = capsys.readouterr().out
    assert "torch_export  patch_embeds of 3 x 3 x" in said
    assert "torch.Size([4, 32]) torch.Size([4, 2, 4, 32])" in said
    assert said.count("torch.Size([1, 32])") == 3
