"""The heads against transformers' OwlViT and Owlv2 and scenic's layers: outputs and gradients of their own fixtures."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from silc.heads.detect.head import DetectionHead, box_bias, unit
from silc.models.vit import resample_positions

KEPT = ("class_head.", "box_head.", "objectness_head.", "layer_norm.")


def fixture(silc_data: Path, name: str) -> dict[str, Any]:
    with np.load(silc_data / "oracles" / "owl" / f"{name}.npz", allow_pickle=False) as arrays:
        return {key: torch.from_numpy(value) if value.dtype.kind in "fi" else value for key, value in arrays.items()}


def head_of(arrays: dict[str, Any]) -> DetectionHead:
    config = json.loads(str(arrays["config"]))
    head = DetectionHead(config["hidden"], config["projection"], objectness=config["v2"])
    weights = {key[2:]: value for key, value in arrays.items() if key.startswith("w/")}
    head.load_state_dict({name: value for name, value in weights.items() if name.startswith(KEPT)})
    return head.eval()


@pytest.mark.parametrize("name", ["hf_owlvit", "hf_owlv2"])
def test_heads_are_transformers(silc_data: Path, name: str) -> None:
    arrays = fixture(silc_data, name)
    head = head_of(arrays)
    merged = arrays["image_embeds"].flatten(1, 2)
    wanted = arrays["logits"]
    classes = head.class_head(merged, unit(arrays["text_embeds"]))
    padding = wanted <= -1e29
    assert 0 < padding.sum() < padding.numel()
    torch.testing.assert_close(classes[~padding], wanted[~padding], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(unit(head.class_head.embed(merged)), arrays["class_embeds"])
    grid = arrays["image_embeds"].shape[1:3]
    torch.testing.assert_close(head.boxes(merged, tuple(grid)), arrays["pred_boxes"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(box_bias(*grid), arrays["box_bias"], atol=1e-5, rtol=1e-5)
    if head.objectness_head is not None:
        found = head.objectness_head(merged).squeeze(-1)
        torch.testing.assert_close(found, arrays["objectness_logits"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["hf_owlvit", "hf_owlv2"])
def test_gradients_of_the_heads_are_transformers(silc_data: Path, name: str) -> None:
    """Of what the fixture differentiates, in the weights of the heads behind the norm, which have no other path."""
    arrays = fixture(silc_data, name)
    head = head_of(arrays)
    merged, grid = arrays["image_embeds"].flatten(1, 2), tuple(arrays["image_embeds"].shape[1:3])
    logits = head.class_head(merged, unit(arrays["text_embeds"]))
    known = arrays["logits"] > -1e29
    scalar = (head.boxes(merged, grid) * arrays["up_boxes"]).sum() + (logits * arrays["up_logits"])[known].sum()
    if head.objectness_head is not None:
        scalar = scalar + (head.objectness_head(merged).squeeze(-1) * arrays["up_objectness"]).sum()
    scalar.backward()
    norms = dict(zip(arrays["param_grad_norm_names"].tolist(), arrays["param_grad_norms"].tolist(), strict=True))
    ours = {key: p.grad.norm().item() for key, p in head.named_parameters() if p.grad is not None}
    assert len(ours) == (18 if head.objectness_head is not None else 12)
    for key, norm in ours.items():
        assert norm == pytest.approx(norms[key], rel=2e-4), key


def test_objectness_sends_no_gradient_into_the_tower() -> None:
    head = DetectionHead(8, 6, objectness=True)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
    patches = torch.randn(1, 2, 3, 8, requires_grad=True)
    found = head(patches, torch.randn(1, 8), unit(torch.randn(4, 6)))
    assert found.objectness is not None
    (gradient,) = torch.autograd.grad(found.objectness.sum(), patches, allow_unused=True, retain_graph=True)
    assert gradient is None
    assert torch.autograd.grad(found.boxes.sum(), patches)[0].abs().sum() > 0


def test_all_heads_are_scenics(silc_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its MLPs have the tanh form of GELU; ours have transformers' form, and scenic's numbers with scenic's form."""
    arrays = fixture(silc_data, "scenic_heads")
    head = DetectionHead(12, 10, objectness=True)
    ours = {"class_head": ("dense0", "logit_shift", "logit_scale")}
    ours |= dict.fromkeys(("box_head", "objectness_head"), ("dense0", "dense1", "dense2"))
    with torch.no_grad():
        for part, name in ((part, name) for part, names in ours.items() for name in names):
            layer, theirs = getattr(getattr(head, part), name), name.replace("dense", "Dense_")
            layer.weight.copy_(arrays[f"{part}/{theirs}/kernel"].T)
            layer.bias.copy_(arrays[f"{part}/{theirs}/bias"])
    logits = head.class_head(arrays["image_features"], unit(arrays["query_embeddings"]))
    embedded = unit(head.class_head.embed(arrays["image_features"]))
    torch.testing.assert_close(embedded, arrays["class_embeddings"], atol=1e-5, rtol=1e-5)
    asked = arrays["query_mask"][:, None].expand_as(logits) > 0
    assert 0 < asked.sum() < asked.numel()
    torch.testing.assert_close(logits[asked], arrays["pred_logits"][asked], atol=1e-5, rtol=1e-5)
    height, width = arrays["grid"].tolist()
    torch.testing.assert_close(box_bias(height, width), arrays["box_bias"], atol=1e-4, rtol=1e-4)
    monkeypatch.setattr(F, "gelu", partial(F.gelu, approximate="tanh"))
    boxes = head.boxes(arrays["image_features"], (height, width))
    torch.testing.assert_close(boxes, arrays["pred_boxes"], atol=1e-5, rtol=1e-5)
    objectness = head.objectness_head(arrays["image_features"])
    torch.testing.assert_close(objectness, arrays["objectness_raw"], atol=1e-5, rtol=1e-5)


def test_positions_are_scenics_where_the_corners_stay(silc_data: Path) -> None:
    """scenic resizes them as big_vision does; a tower does so whose rule is `bilinear_corners`."""
    arrays = fixture(silc_data, "scenic_heads")
    found = resample_positions(arrays["posemb_in"][None], (4, 4), (7, 7), prefix=1, rule="bilinear_corners")
    torch.testing.assert_close(found[0], arrays["posemb_out_7x7"], atol=1e-5, rtol=1e-5)


def test_boxes_begin_at_their_patches() -> None:
    head = DetectionHead(8, 6)
    boxes = head.boxes(torch.randn(2, 6, 8), (2, 3))
    assert torch.equal(boxes[0], boxes[1])
    torch.testing.assert_close(boxes[0, 1], torch.tensor([2 / 3, 1 / 2, 1 / 3, 1 / 2]), atol=2e-4, rtol=0)
    logits = head.class_head(torch.randn(1, 6, 8), torch.zeros(1, 6))
    torch.testing.assert_close(logits.sigmoid(), torch.full_like(logits, 0.01), atol=1e-4, rtol=0)
