"""Each guide's Python and commands run, on small models in the places of those it fetches."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers as hf
from PIL import Image

from silc import run
from silc.config import Config
from silc.data.scenes import write_sets
from silc.data.tokenizer import BPETokenizer

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
    write_sets(folder / "data", size=24, seed=0)
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


def shell(command: list[str], cwd: Path) -> str:
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_use_in_python(place: Path) -> None:
    (code,) = blocks("use.md", "python")
    named = "open_clip:ViT-B-16-SigLIP-256/webli"
    assert named in code
    out = shell([sys.executable, "-W", "error", "-c", code.replace(named, "run")], place)
    assert "torch.Size([1, 2, 2, 32])" in out
    assert "torch.Size([40, 60])" in out
    assert (place / "segmented.png").is_file()


def test_use_on_the_command_line(place: Path) -> None:
    lines = [line for block in blocks("use.md", "sh") for line in block.splitlines()]
    assert len(lines) >= 7
    for line in lines:
        words = shlex.split(line)
        if words[0] == "hf":  # fetches; what it leaves is there
            assert words[-1] == "siglip2"
            continue
        assert words[0] == "silc"
        shell([sys.executable, "-m", *words], place)
    for made in ("out/siglip2/silc.json", "out/classes.json", "out/features.npy", "out/masks", "out/scores.json"):
        assert (place / made).exists(), made


def test_export(exportable: Path) -> None:
    export, go_on = (block.splitlines() for block in blocks("export.md", "sh"))
    for line in (*export, *go_on):
        words = shlex.split(line)
        assert words[0] == "silc"
        shell([sys.executable, "-m", *words], exportable)
    assert (exportable / "out/on/config.yaml").is_file()
    code = "\n".join(blocks("export.md", "python"))
    said = shell([sys.executable, "-c", code], exportable)
    assert "torch_export  patch_embeds of 3 x 3 x" in said
    assert "torch.Size([4, 32]) torch.Size([4, 2, 4, 32])" in said
    assert said.count("torch.Size([1, 32])") == 3
