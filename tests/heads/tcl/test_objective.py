"""TCL's whole step, gradients and masks are those of kakaobrain/tcl's code, by its numbers (oracles/tcl/full.npz)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from silc.distributed import World
from silc.eval.config import EvalConfig
from silc.eval.decoders import predictor_of
from silc.heads.tcl.config import TclConfig
from silc.heads.tcl.model import TclLearner, TclModel, TclRate
from silc.heads.tcl.objective import Tcl
from silc.models.config import ImageTowerConfig, ModelConfig, TextTowerConfig
from silc.models.silc import TwoTower
from silc.predict import Model
from silc.preprocess import Preprocess
from silc.training.protocols import Passes

BLOCK = {"attn.in_proj_": "attn.qkv.", "attn.out_proj": "attn.proj", "ln_1": "norm1", "ln_2": "norm2"}
BLOCK |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
IMAGE = {"transformer.resblocks": "blocks", "conv1": "patch_embed.proj", "ln_pre": "norm_pre", "ln_post": "norm"}
HEAD = {"image_encoder.decoder.decoder.net": "decoder", "conv2.": "second.", "gate.gate": "gate"}
HEAD |= {"image_encoder.backbone.transformer.resblocks.2": "block", "sim2mask.w": "mask_scale"}
HEAD |= {"image_encoder.decoder.image_proj.ln": "norm", "sim2mask.b": "mask_bias"}
HEAD |= {"image_encoder.decoder.image_proj.proj": "projection.proj.weight", "tcli_loss.logit_scale": "image_scale"}
HEAD |= {"tclf_loss.logit_scale": "feature_scale"}
LOSSES = {"image": "tcli_loss", "feature": "tclf_loss", "area": "area_loss", "other_area": "neg_area_loss"}
LOSSES |= {"feature_smooth": "tv_img_loss", "mask_smooth": "tv_mask_loss"}


def renamed(name: str, *tables: dict[str, str]) -> str:
    for table in tables:
        for theirs, ours in table.items():
            name = name.replace(theirs, ours)
    return name


def in_head(name: str) -> str:
    """The head's name for one of theirs."""
    name = renamed(name.removeprefix("masker."), HEAD, BLOCK)
    return (
        name.replace(".conv.norm", ".first.norm")
        .replace(".conv.conv", ".first.conv")
        .replace(".conv.gate", ".first.gate")
    )


@pytest.fixture(scope="module")
def fixture(request: pytest.FixtureRequest) -> dict[str, Tensor]:
    from tests.conftest import SILC_DATA

    if not SILC_DATA.is_dir():
        pytest.skip(f"no real data at {SILC_DATA}; set $SILC_DATA to the kit's folder")
    file = np.load(SILC_DATA / "oracles/tcl/full.npz", allow_pickle=False)
    return {name: torch.from_numpy(file[name]) if file[name].dtype.kind != "U" else file[name] for name in file}


def clip(fixture: dict[str, Tensor]) -> Model:
    """The fixture's CLIP."""
    image = ImageTowerConfig(
        **{"size": 48, "patch": 8, "width": 64, "depth": 3, "heads": 4, "mlp": 256, "pool": "cls"},
        **{"activation": "quick_gelu", "pre_norm": True, "norm_eps": 1e-5, "position_resample": "bicubic"},
    )
    text = TextTowerConfig(
        **{"length": 10, "width": 32, "depth": 2, "heads": 4, "mlp": 128, "causal": True, "pool": "argmax"},
        **{"activation": "quick_gelu", "projection": "linear", "vocab_size": 40},
    )
    towers = TwoTower(ModelConfig(image=image, text=text, embed_dim=24), vocab_size=40, eos_id=39)
    own = {"logit_bias": torch.zeros(1)}
    for name, value in ((name.removeprefix("clip/"), x) for name, x in fixture.items() if name.startswith("clip/")):
        if name == "logit_scale":
            own[name] = value[None]
        elif name in ("visual.proj", "text_projection"):
            own[{"visual.proj": "visual.head.proj.weight", "text_projection": "text.text_projection.weight"}[name]] = (
                value.T
            )
        elif name == "visual.class_embedding":
            own["visual.trunk.cls_token"] = value[None, None]
        elif name == "visual.positional_embedding":
            own["visual.trunk.pos_embed"] = value[None]
        elif name.startswith("visual."):
            own["visual.trunk." + renamed(name.removeprefix("visual."), BLOCK, IMAGE)] = value
        else:
            own[f"text.{name}"] = value
    towers.load_state_dict(own)
    towers.requires_grad_(False).eval()
    return Model(towers, towers.visual, None, Preprocess(48), "clip")


@pytest.fixture
def objective(fixture: dict[str, Tensor]) -> Tcl:
    """The fixture's head."""
    found = Tcl(clip(fixture), TclConfig(), World())
    theirs = {in_head(name.removeprefix("masker/")): x for name, x in fixture.items() if name.startswith("masker/")}
    own = found.head.state_dict()
    assert theirs.keys() <= own.keys()
    found.head.load_state_dict(own | {name: x.reshape(own[name].shape) for name, x in theirs.items()})
    return found


def step(objective: Tcl, fixture: dict[str, Tensor], *, alone: bool):
    """Losses and gradients of the fixture's batch."""

    class Learner(TclLearner):
        def seen(self, batch):
            return fixture["image"], self.model.encode_text(fixture["tokens"].long())

    drawn = fixture["uniform"].diagonal().permute(2, 0, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", lambda *size, device: drawn)
        return Learner(objective, objective.model).gradients(Passes(objective), None, TclRate(0.0, alone))


def test_the_towers_are_the_authors(fixture: dict[str, Tensor]) -> None:
    model = clip(fixture)
    torch.testing.assert_close(model.visual(fixture["image"]), fixture["clip_pooled"], atol=2e-4, rtol=0)
    torch.testing.assert_close(model.model.text(fixture["tokens"].long()), fixture["text_emb"], atol=2e-4, rtol=0)


@pytest.mark.parametrize("phase", ["ust1", "ust0"])
def test_losses_and_gradients_are_the_authors(objective: Tcl, fixture: dict[str, Tensor], phase: str) -> None:
    out = step(objective, fixture, alone=phase == "ust1")
    for ours, theirs in LOSSES.items():
        assert out.metrics[f"loss/{ours}"].item() == pytest.approx(fixture[f"{phase}/{theirs}"].item(), abs=2e-4), ours
    assert out.loss.item() == pytest.approx(fixture[f"{phase}/total"].item(), abs=2e-4)
    theirs = dict(
        zip(map(in_head, fixture[f"{phase}/grad_norm_names"]), fixture[f"{phase}/grad_norms"].tolist(), strict=True)
    )
    ours = {name: p.grad.norm().item() for name, p in objective.head.named_parameters() if p.grad is not None}
    assert ours == pytest.approx(theirs, rel=2e-3, abs=1e-7)
    for name, parameter in (
        ("conv0", "decoder.0.first.conv.weight"),
        ("sim2mask.w", "mask_scale"),
        ("sim2mask.b", "mask_bias"),
    ):
        found = objective.head.get_parameter(parameter).grad
        expected = fixture[f"{phase}/grad/{name}"].reshape(found.shape)
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=2e-3)


def test_what_learns_is_what_the_authors_train(objective: Tcl, fixture: dict[str, Tensor], silc_data: Path) -> None:
    names = json.loads((silc_data / "oracles/tcl/trainable.json").read_text())
    for alone, phase in ((True, "decoder_only"), (False, "full")):
        objective.zero_grad()
        step(objective, fixture, alone=alone)
        learnt = {name for name, p in objective.head.named_parameters() if p.grad is not None}
        assert learnt == set(map(in_head, names[phase]))


@torch.no_grad()
@pytest.mark.parametrize("pamr", [0, 1])
@pytest.mark.parametrize("mix", ["0.0", "0.3"])
def test_masks_are_the_authors_refined_and_mixed(
    objective: Tcl, fixture: dict[str, Tensor], pamr: int, mix: str
) -> None:
    """In one window: padded to whole patches, centred, and cut after it was enlarged."""
    model = TclModel(**vars(objective.model), head=objective.head)
    config = EvalConfig(pamr=bool(pamr), mix="value_block" if mix == "0.3" else "")
    predictor = predictor_of(model, config)
    image = torch.nn.functional.pad(fixture["seg/image"], (1, 1, 1, 2))
    maps = predictor.maps(image, torch.nn.functional.normalize(fixture["seg/text"], dim=-1))
    whole = torch.nn.functional.interpolate(maps, image.shape[-2:], mode="bilinear")[..., 1:46, 1:63]
    torch.testing.assert_close(whole, fixture[f"seg/mask_pamr{pamr}_kp{mix}"], atol=2e-4, rtol=0)
    assert predictor.record.get("tuned_on_labels", False) == (mix == "0.3")
