"""GroupViT: transformers' own map, the authors' rule for labels, and what is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import silc
from silc.cli import main
from silc.data.scenes import write_sets
from silc.data.tokenizer import BPETokenizer
from silc.errors import BadInput
from silc.eval.config import EvalConfig
from silc.eval.decoders import predictor_of
from silc.interop import groupvit
from silc.loading import load_any

CAPTIONS = ["a red circle on grass", "a blue square on sand", "two green stars"] * 4


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small GroupViT with random weights, as transformers saves one, and a tokenizer."""
    transformers = pytest.importorskip("transformers")
    folder, words = tmp_path_factory.mktemp("groupvit"), BPETokenizer.train(CAPTIONS, 300, 12)
    config = transformers.GroupViTConfig(
        projection_dim=16,
        projection_intermediate_dim=24,
        vision_config={
            **{"hidden_size": 24, "intermediate_size": 32, "num_attention_heads": 2, "depths": [1, 1, 1]},
            **{"num_group_tokens": [8, 6, 0], "num_output_groups": [8, 6, 0], "image_size": 32, "patch_size": 8},
        },
        text_config={
            **{"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1},
            **{"max_position_embeddings": 12, "vocab_size": 300, "eos_token_id": words.eos_id},
        },
    )
    torch.manual_seed(0)
    model = transformers.GroupViTModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # its own initial values are so small that all groups are one
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    words.save(folder)
    return folder


@torch.no_grad()
def test_its_groups_are_transformers_own_map(directory: Path) -> None:
    """Soft groups and all classes, which is what transformers makes of them; its scale enters twice."""
    transformers = pytest.importorskip("transformers")
    own = transformers.GroupViTModel.from_pretrained(directory).eval()
    model, _ = groupvit.read(str(directory))
    pixels, ids = torch.randn(2, 3, 32, 32), model.tokenizer(CAPTIONS[:3])
    theirs = own(input_ids=ids, pixel_values=pixels, output_segmentation=True)
    texts, seen = model.encode_text(ids), model.groups(pixels)
    torch.testing.assert_close(texts, theirs.text_embeds)
    assert (texts @ texts.T - torch.eye(3)).max() < 0.999  # pooled where texts differ, not at their first token
    torch.testing.assert_close(model.encode_image(pixels), theirs.image_embeds)
    scale = own.logit_scale.exp()
    ours = torch.einsum("bghw,bgc->bchw", seen.assigned, seen.embedded @ texts.T * scale) * scale
    torch.testing.assert_close(ours, theirs.segmentation_logits, atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_a_pixel_has_its_groups_class_among_the_images_five_best(directory: Path) -> None:
    """Against a loop over pixels."""
    model, _ = groupvit.read(str(directory))
    pixels, classes = torch.randn(2, 3, 24, 40), torch.nn.functional.normalize(torch.randn(7, 16), dim=-1)
    maps, seen = model.maps(pixels, classes), model.groups(pixels)
    assert maps.shape == (2, 7, 24, 40)
    for b in range(2):
        best = (seen.image[b] @ classes.T).argsort(descending=True)[:5].tolist()
        for y, x in ((0, 0), (11, 17), (23, 39)):
            group = seen.embedded[b, seen.assigned[b, :, y, x].argmax()]
            logits = group @ classes.T * model.scale
            expected = torch.zeros(7)
            expected[best] = logits[best].softmax(0) * logits.softmax(0)[best]
            torch.testing.assert_close(maps[b, :, y, x], expected)


def test_it_is_scored_from_the_command_line(directory: Path, tmp_path: Path, capsys) -> None:
    root, out = tmp_path / "data", tmp_path / "scores.json"
    write_sets(root, size=24, seed=0, num_retrieval=4, num_segmentation=2, per_class=1)
    asked = ["eval", f"hf:{directory}", "--root", str(root), "--out", str(out), "--device", "cpu"]
    assert main([*asked, "--tasks", "*-zs-seg,*-retrieval", "--cache", "off"]) == 0
    records = {record["task"]: record for record in json.loads(out.read_text())}
    assert records.keys() == {"zeroshot_segmentation", "zeroshot_retrieval"}
    protocol = records["zeroshot_segmentation"]["protocol"]
    assert protocol["decoder"] == "GroupViT"
    assert "non-commercial" in protocol["licence"]
    assert (protocol["window"], protocol["stride"], protocol["templates"]) == (448, 224, "photo")
    assert main([*asked, "--tasks", "*-zs-seg", "--decoder", "maskclip"]) == 2
    assert "makes class maps itself" in capsys.readouterr().err
    with pytest.raises(BadInput, match=r"needs masks from 0 to 1, and .* makes none"):
        predictor_of(groupvit.read(str(directory))[0], EvalConfig(background=0.5))


def test_it_has_no_patches_for_a_head_and_for_users(directory: Path, tmp_path: Path, capsys) -> None:
    with pytest.raises(BadInput, match="which only `silc eval` takes"):
        silc.load(f"hf:{directory}", device="cpu")
    for kind in ("tcl", "pacl"):
        asked = ["train", kind, "--init", f"hf:{directory}", "--out", str(tmp_path / kind), "--train.device", "cpu"]
        assert main([*asked, "--data.source", "scenes"]) == 2
        told = capsys.readouterr().err.strip()
        assert "is a GroupViT" in told
        assert "\n" not in told


def test_what_is_none_is_refused_in_one_line(directory: Path, tmp_path: Path, capsys) -> None:
    config = json.loads((directory / "config.json").read_text())
    tensors = load_file(directory / "model.safetensors")

    def broken(name: str, config: dict, tensors: dict | None, **pixels: object) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "tokenizer.json").write_text((directory / "tokenizer.json").read_text())
        if pixels:
            (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
        if tensors is not None:
            save_file(tensors, folder / "model.safetensors")
        return folder

    def text(**more: int) -> dict:
        return {**config, "text_config": {**config["text_config"], **more}}

    rows = "text_model.embeddings.token_embedding.weight"
    assert rows in tensors
    fewer = {name: x for name, x in tensors.items() if name != "visual_projection.0.weight"}
    for folder, said in (
        (broken("no weights", config, None), "; AutoProcessor.from_pretrained("),
        (broken("end", text(eos_token_id=49407), tensors), "pools token 49407, and the tokenizer ends with 1"),
        (broken("old end", text(eos_token_id=2), tensors), "and the tokenizer ends with 1"),
        (broken("rows", text(vocab_size=9), tensors | {rows: tensors[rows][:9].clone()}), "entries, the text tower 9"),
        (broken("pixels", config, tensors, size=64), "size 64 is not the image tower's 32 x 32"),
        (broken("filter", config, tensors, size=32, resample=0), "resample 0 is neither 2 (bilinear) nor 3 (bicubic)"),
        (broken("fewer", config, fewer), "holds no GroupViT that transformers can build: Error(s) in loading"),
        (broken("odd", {**config, "vision_config": 3}, tensors), "holds no GroupViT that transformers can build"),
        (broken("other", {**config, "model_type": "resnet"}, tensors), "is of a 'resnet' model; silc reads"),
    ):
        with pytest.raises(BadInput) as refused:
            load_any(f"hf:{folder}")
        assert said in str(refused.value)
        assert "\n" not in str(refused.value)
