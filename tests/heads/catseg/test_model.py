"""The whole of CAT-Seg on our towers against the authors' code on theirs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from silc.eval.score_map import Box
from silc.heads import tuning
from silc.heads.catseg.config import CatSegConfig
from silc.heads.catseg.model import CatSeg, CatSegLearner, layers_of
from silc.heads.catseg.predictor import CatSegModel, Probabilities, TwoScales, canvas_of, stride_of, views_of
from silc.heads.catseg.run import flops_per_image
from silc.interop.mapping import bring
from silc.interop.open_clip import rules
from silc.models.config import ImageTowerConfig, ModelConfig, TextTowerConfig
from silc.models.silc import TwoTower
from silc.preprocess import Preprocess
from silc.training.config import OptimConfig

CLIP = "sem_seg_head.predictor.clip_model."
LAST_QUERIES = f"{CLIP}visual.transformer.resblocks.8.attn.q_proj_weight"
"""What the readout of the last block does not look at."""
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def aggregator_config(theirs: dict):
    from tests.heads.catseg.test_aggregator import config_of

    return config_of(theirs)


class Stored(NamedTuple):
    arrays: dict[str, np.ndarray]
    towers: TwoTower
    config: CatSegConfig

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])


@pytest.fixture
def stored(silc_data: Path) -> Stored:
    arrays = dict(np.load(silc_data / "oracles" / "catseg" / "full.npz", allow_pickle=False))
    clip = json.loads(str(arrays["clip_config"]))
    tower = {"activation": "quick_gelu", "norm_eps": 1e-5}
    size, width, text = clip["pos_grid"] * clip["patch"], clip["width"], clip["text_width"]
    image = ImageTowerConfig(
        size,
        clip["patch"],
        width,
        clip["layers"],
        clip["heads"],
        4 * width,
        "cls",
        "linear",
        pre_norm=True,
        position_resample="bicubic",
        **tower,
    )
    texts = TextTowerConfig(
        clip["ctx"],
        text,
        clip["text_layers"],
        clip["text_heads"],
        4 * text,
        causal=True,
        pool="argmax",
        projection="linear",
        vocab_size=clip["vocab"],
        **tower,
    )
    model = ModelConfig(image, texts, clip["out_dim"])
    theirs = {name.removeprefix(f"w/{CLIP}"): x for name, x in arrays.items() if name.startswith(f"w/{CLIP}")}
    for name in [name for name in theirs if name.endswith("q_proj_weight")]:
        parts = [theirs.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        theirs[name.replace("q_proj", "in_proj")] = np.concatenate(parts)
    tensors = {name: torch.from_numpy(x) for name, x in theirs.items()}
    ours, _ = bring(rules(model, tensors), tensors, model, "the fixture")
    towers = TwoTower(model, vocab_size=clip["vocab"], eos_id=clip["vocab"] - 1)
    towers.load_state_dict(ours)
    aggregator = aggregator_config(json.loads(str(arrays["agg_config"])))
    return Stored(arrays, towers, CatSegConfig(layers=(3, 7), aggregator=aggregator))


def network(stored: Stored) -> CatSeg:
    towers = stored.towers
    model = CatSeg(stored.config, towers.visual, towers.text, Preprocess(384, MEAN, STD), 24)
    tuning.tune({"image": model.visual, "text": model.text}, OptimConfig())
    tuning.leave_unread(model, model.unread(5))
    weights = {name.removeprefix("w/"): x for name, x in stored.arrays.items() if name.startswith("w/")}
    of_head = "sem_seg_head.predictor."
    model.head.load_state_dict(
        {
            name.removeprefix(of_head): torch.from_numpy(x)
            for name, x in weights.items()
            if name.startswith(("ups", f"{of_head}tr"))
        }
    )
    return model


def their_name(name: str) -> str:
    """The authors' name of a parameter of ours that learns."""
    if name.startswith("head.transformer."):
        return name.replace("head.", "sem_seg_head.predictor.", 1)
    if name.startswith("head."):
        return name.removeprefix("head.")
    part, tower = name.rpartition(".")[2], "visual." if name.startswith("visual.") else ""
    number = name.partition("blocks.")[2].partition(".")[0]
    return f"{CLIP}{tower}transformer.resblocks.{number}.attn.{part}_proj_weight"


def test_features_loss_and_gradients_are_the_authors(stored: Stored) -> None:
    model, pixels = network(stored), stored.tensor("train_images")
    final, layers = model.seen(model.preprocess.normalize(pixels[:1]))
    for ours, name in ((final, "final"), (layers[0], "layer3"), (layers[1], "layer7")):
        theirs = stored.tensor(f"dense_{name}")[1:]  # without the class token
        assert torch.allclose(ours[0].flatten(0, 1), theirs, atol=2e-4), name
    ids = stored.tensor("train_tokens").long()[:, None]
    texts = F.normalize(stored.tensor("text_embeds"), dim=-1)
    assert torch.allclose(model.embedded(ids)[:, 0], texts, atol=1e-5)
    out = model(pixels, stored.tensor("train_targets").int(), 1.0, ids)
    assert out.loss.item() == pytest.approx(float(stored.arrays["train_loss"]), rel=1e-5)
    out.loss.backward()
    ours = {their_name(name): p.grad for name, p in model.named_parameters() if p.grad is not None}
    norms = dict(
        zip(stored.arrays["train_grad_norm_names"].tolist(), stored.arrays["train_grad_norms"].tolist(), strict=True)
    )
    unread = norms.pop(LAST_QUERIES)
    assert unread == 0  # theirs are decayed all the same, by 2e-10 a step; ours do not learn
    assert ours.keys() == {name for name, norm in norms.items() if norm >= 0}
    for name, norm in norms.items():
        if norm >= 0:
            assert ours[name].norm().item() == pytest.approx(norm, rel=1e-3, abs=1e-8), name
    for name in (name for name in stored.arrays if name.startswith("train_grad/")):
        theirs = stored.tensor(name)
        assert (ours[name.removeprefix("train_grad/")] - theirs).abs().max() <= 5e-3 * theirs.abs().max()


def test_what_learns_is_what_the_authors_train(stored: Stored, silc_data: Path) -> None:
    """Theirs lists the last block's queries too, which its readout does not look at: their gradient is 0."""
    trainable = json.loads((silc_data / "oracles" / "catseg" / "trainable.json").read_text())["trainable"]
    model = network(stored)
    ours = {their_name(name) for name, p in model.named_parameters() if p.requires_grad}
    assert set(trainable) - ours == {LAST_QUERIES}
    assert ours <= set(trainable)
    groups = CatSegLearner(model, torch.zeros(5, 1, 12, dtype=torch.int64)).groups()
    assert {name for name, group in groups.items() if group.lr_scale == 0.01} == {
        name for name in groups if not name.startswith("head.")
    }
    assert not groups["head.transformer.layers.0.swin_block.guidance_norm.weight"].decays
    assert not groups["head.transformer.decoder1.conv.double_conv.1.bias"].decays
    assert groups["head.transformer.conv1.bias"].decays


def in_use(stored: Stored) -> CatSegModel:
    model = network(stored)
    tuning.settle(model)
    return CatSegModel(
        stored.towers, model.visual, None, model.preprocess, "fixture", catseg=model.eval(), crop=384, templates="plain"
    )


def test_sliding_windows_and_the_whole_view_are_the_authors(stored: Stored) -> None:
    model = in_use(stored)
    model.catseg.train()  # the stored numbers were made with the classes' attention on pooled maps
    texts = model.embedded(stored.tensor("slide_tokens").long()[:, None])
    found = model.scores(stored.tensor("slide_image")[None].float(), texts)
    height, width = stored.arrays["slide_out_size"].tolist()
    resized = F.interpolate(found.whole()[None], (height, width), mode="bilinear", align_corners=False)[0]
    assert torch.allclose(resized[:, ::8, ::8], stored.tensor("slide_out"), atol=2e-4)
    agree = found.labels(height, width) == stored.tensor("slide_argmax")
    assert agree.double().mean() >= 0.999


def test_views_and_their_fusion_are_the_authors(silc_data: Path) -> None:
    """4 + 1 views, with the network replaced by stored logits."""
    arrays = dict(np.load(silc_data / "oracles" / "catseg" / "slide.npz", allow_pickle=False))
    assert (canvas_of(384), stride_of(384)) == (640, 256)
    views, boxes = views_of(torch.from_numpy(arrays["image"])[None].float(), 384)
    assert [(box.y1, box.x1) for box in boxes] == [(0, 0), (0, 256), (256, 0), (256, 256)]
    seen = Preprocess(384, MEAN, STD).normalize(torch.stack(views))
    assert seen.shape == (5, 3, 384, 384)
    assert torch.allclose(seen[..., ::24, ::24], torch.from_numpy(arrays["views_sub"]), atol=1e-5)
    *local, whole = (
        Probabilities(box, torch.from_numpy(own), 384, 384)
        for box, own in zip([*boxes, Box(0, 0, 384, 384)], arrays["logits"], strict=True)
    )
    fused = TwoScales(local, 640, 640, whole_view=whole).whole()
    size = tuple(arrays["out_size"].tolist())
    ours = F.interpolate(fused[None], size, mode="bilinear", align_corners=False)[0]
    assert torch.allclose(ours, torch.from_numpy(arrays["out"]), atol=1e-5)


def test_layers_are_those_of_the_authors_sizes() -> None:
    assert [layers_of((), depth) for depth in (12, 24, 1, 2)] == [(3, 7), (7, 15), (0, 0), (0, 0)]


def test_micro_batches_have_the_gradient_of_the_batch(stored: Stored) -> None:
    from silc.heads.label_maps import LabelledBatch
    from silc.training.protocols import Passes

    pixels, truth = stored.tensor("train_images"), stored.tensor("train_targets").int()
    ids, found = stored.tensor("train_tokens").long()[:, None], []
    for micro_batch in (0, 1):
        model = network(stored)
        learner = CatSegLearner(model, ids, micro_batch=micro_batch)
        out = learner.gradients(Passes(model), LabelledBatch(pixels, truth, ["a", "b"]), None)
        found.append((out.loss.item(), model.visual.trunk.blocks[0].attn.qkv.parametrizations.weight[0].v.grad))
        assert out.metrics["loss/bce"].item() == pytest.approx(out.loss.item())
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-3 * found[0][1].abs().max().item())


def test_flops_count_the_texts_of_every_pass(stored: Stored) -> None:
    """A rank embeds all of them, and so does a micro-batch: in a step of 4 images once, on 2 ranks, in 4 passes."""
    module, ids = network(stored), stored.tensor("train_tokens").long()[:, None]

    def flops(micro_batch: int, ranks: int = 1) -> float:
        train = replace(stored.config.train, batch_size=4, micro_batch=micro_batch)
        return flops_per_image(module, replace(stored.config, train=train), ids, ranks)

    once, twice, four_times = flops(0), flops(0, ranks=2), flops(1)
    assert four_times > twice > once
    assert four_times - once == pytest.approx(3 * (twice - once))
