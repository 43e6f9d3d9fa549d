"""Every recipe at its real size, and what distinguishes one from another."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from silc import config as configs
from silc import recipes
from silc.config import Config
from silc.distributed import World
from silc.errors import BadInput
from silc.models.variants import LOCAL_SIZE
from silc.objective import SilcObjective
from silc.preprocess import Preprocess
from silc.pretraining.build import flops_per_example

# Image tower and whole model in millions of parameters, with the 32k vocabulary; SigLIP's published sizes
# (open_clip: ViT-B-16-SigLIP-256 203.2, ViT-L-16-SigLIP-256 652, ViT-SO400M-14-SigLIP 877).
MILLIONS = {"b16": 203.2, "l16": 652.2, "so400m14": 877.4}


def built(config: Config) -> SilcObjective:
    with torch.device("meta"):
        return SilcObjective(
            config.model,
            config.objective,
            preprocess=Preprocess(config.model.image.size),
            world=World(),
            vocab_size=32_000,
            eos_id=1,
        )


# Every recipe at its own size and one at every size; the others are slow tests.
NAMES = [
    name if "-" not in name or name.startswith("silc_c-") else pytest.param(name, marks=pytest.mark.slow)
    for name in recipes.names()
]


@pytest.mark.parametrize("name", NAMES)
def test_builds_at_its_real_size(name: str) -> None:
    config = recipes.get(name)
    assert config.recipe == name
    objective = built(config)
    assert (objective.teacher is not None) == config.objective.teacher
    assert (objective.head is not None) == config.objective.distill
    size = name.partition("-")[2].replace("5b", "") or "b16"
    if size in MILLIONS:
        towers = sum(p.numel() for p in objective.student.parameters()) / 1e6
        assert towers == pytest.approx(MILLIONS[size], rel=2e-3)
    if config.objective.distill and size != "tiny":
        assert len(objective.head.prototypes) == 65_536


def differences(a: Any, b: Any, prefix: str = "") -> set[str]:
    found = set()
    for f in dataclasses.fields(a):
        x, y = getattr(a, f.name), getattr(b, f.name)
        if dataclasses.is_dataclass(x):
            found |= differences(x, y, f"{prefix}{f.name}.")
        elif x != y and f.name != "recipe":
            found.add(f"{prefix}{f.name}")
    return found


@pytest.mark.parametrize(
    ("one", "other", "fields"),
    [
        ("clip", "siglip", {"objective.contrastive", "objective.scale_max"}),
        ("clip", "clip_views", {"objective.contrastive_views"}),
        ("clip_views", "clip_views_ema", {"objective.teacher"}),
        ("clip_views_ema", "silc_c", {"objective.distill"}),
        ("silc_c", "silc_s", {"objective.contrastive", "objective.scale_max"}),
        (
            "silc_c",
            "silc_c_finetune",
            {"train.duration", "train.optim.lr", "train.optim.warmup", "train.optim.weight_decay"},
        ),
        (
            "silc_s-tiny",
            "silc_s_finetune-tiny",
            {
                *("train.optim.lr", "train.optim.warmup", "train.optim.weight_decay"),
                *("train.optim.schedule", "train.optim.cooldown"),
            },
        ),
    ],
)
def test_a_row_of_the_ablation_is_one_difference(one: str, other: str, fields: set[str]) -> None:
    assert differences(recipes.get(one), recipes.get(other)) == fields


def test_constants_of_the_paper() -> None:
    config = recipes.get("silc_c")
    crops, teacher, head, objective = config.data.crops, config.model.teacher, config.model.head, config.objective
    assert (crops.num_global, crops.num_local, config.model.image.size, crops.local_size) == (2, 8, 256, 96)
    assert (crops.global_area, crops.local_area, crops.aspect) == ((0.4, 1.0), (0.05, 0.4), (3 / 4, 4 / 3))
    assert (teacher.temperature, teacher.centre_momentum) == (0.04, 0.9)
    assert (objective.student_temperature, objective.weight) == (0.1, 1.0)
    assert (head.hidden, head.bottleneck, head.prototypes) == (2048, 256, 65_536)
    assert (config.train.batch_size, config.train.duration) == (16_384, "20B examples")
    optim = config.train.optim
    assert (optim.lr, optim.betas, optim.clip_norm, optim.timescale) == (1e-3, (0.9, 0.95), 1.0, 10_000)
    assert recipes.get("clip").objective.initial_scale == pytest.approx(1 / 0.07)
    assert (recipes.get("siglip").objective.initial_scale, recipes.get("siglip").objective.bias_init) == (10, -10)
    for name in ("silc_c_finetune-tiny", "silc_s_finetune-tiny", "silc_c_finetune-s16"):
        tiny = recipes.get(name).train.optim
        assert (tiny.lr, tiny.schedule, tiny.warmup, tiny.weight_decay) == (1e-4, "rsqrt", "0 steps", 0)
    second = recipes.get("silc_c_finetune").train.optim
    assert (second.lr, second.schedule, second.warmup, second.weight_decay) == (1e-4, "rsqrt", "0 steps", 0)


@pytest.mark.parametrize("row", ["clip", "clip_views", "clip_views_ema", "silc_c"])
def test_the_papers_ablation_is_the_recipe_after_5_b_examples(row: str) -> None:
    config = recipes.get(f"{row}-5b")
    assert config.train.duration == "5B examples"
    assert differences(config, recipes.get(row)) == {"train.duration"}
    with pytest.raises(BadInput, match=r"unknown recipe 'siglip-5b'; did you mean"):
        recipes.get("siglip-5b")


@pytest.mark.parametrize("name", recipes.names())
def test_softmax_alone_is_clamped_and_kernels_alone_decay(name: str) -> None:
    """CLIP's limit for CLIP's loss; big_vision clamps nothing and decays `.*/kernel$`."""
    config = recipes.get(name)
    softmax = config.objective.contrastive == "softmax"
    assert softmax != name.startswith(("siglip", "silc_s"))
    assert config.objective.scale_max == (100 if softmax else None)
    assert config.train.optim.decay == "kernels"


def test_fields_that_a_configuration_lacks_are_what_was_done_before_them(tmp_path: Any) -> None:
    (tmp_path / "c.yaml").write_text("objective: {contrastive: sigmoid}\ntrain: {optim: {lr: 0.1}}\n")
    config = configs.load(tmp_path / "c.yaml")
    assert (config.objective.scale_max, config.train.optim.decay) == (100, "matrices")


def test_a_limit_that_is_none() -> None:
    with pytest.raises(BadInput, match=r"objective.scale_max is 0; needed a number at least .* \(None: no clamp\)"):
        dataclasses.replace(recipes.get("clip").objective, scale_max=0)


def test_local_sizes_are_divided_by_their_patches() -> None:
    for size, local in LOCAL_SIZE.items():
        assert local % recipes.get(f"silc_c-{size}").model.image.patch == 0


def test_flops_of_clip_equal_the_textbook_formula() -> None:
    """6 FLOPs per weight and token plus 12 L T C per token for attention; embeddings and heads are a few percent."""
    config = recipes.get("clip")
    counted = flops_per_example(config, 32_000, 1)
    width, depth = 768, 12
    expected = 0.0
    for tokens in (256, 64):
        weights = depth * (4 * width**2 + 2 * width * 3072)
        expected += tokens * (6 * weights + 12 * depth * tokens * width)
    assert counted == pytest.approx(expected, rel=0.06)


def test_silc_costs_what_is_derived() -> None:
    """About 3.7 times the vision FLOPs of single-view CLIP at 2 + 8 views (method.md), 129 + 70 GFLOP forward."""
    clip, silc = (flops_per_example(recipes.get(name), 32_000, 1) for name in ("clip", "silc_c"))
    text = 3 * 2 * 64 * 12 * (4 * 768**2 + 2 * 768 * 3072)
    assert 3.4 < (silc - text) / (clip - text) < 4.1


@pytest.mark.parametrize("name", ["silc_c", "clip-tiny", "siglip-so400m14"])
def test_yaml_round_trip(name: str, tmp_path: Any) -> None:
    config = recipes.get(name)
    configs.save(config, tmp_path / "c.yaml")
    assert configs.load(tmp_path / "c.yaml") == config


def test_yaml_reads_a_number_without_a_dot(tmp_path: Any) -> None:
    """PyYAML takes 5e-4 for a string; it must come out as a number all the same."""
    (tmp_path / "c.yaml").write_text("train:\n  optim:\n    lr: 5e-4\n")
    assert configs.load(tmp_path / "c.yaml").train.optim.lr == 5e-4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trian: {seed: 1}", r"unknown field 'trian.seed'; did you mean 'train.seed'"),
        ("train: {optim: {lrr: 1}}", r"unknown field 'train.optim.lrr'; did you mean 'train.optim.lr'"),
        ("train: {batch_size: many}", r"field 'train.batch_size'.*got 'many'"),
        ("train: {seed: 1, sede: 2}", r"c\.yaml: unknown field 'train.sede'"),
        ("data: {workers: -1}", r"c\.yaml: .*workers"),
        ("\ufefftrian: {seed: 1}", r"c\.yaml: unknown field 'trian.seed'"),
        ("just text", "holds no run configuration"),
        ("a: [", "cannot read"),
        ("[" * 3000, "nested too deeply"),
        ("train: {seed: 1}\ndata: {workers: 0}\ntrain: {batch_size: 8}\n", "'train' is given twice, in lines 1 and 3"),
        ("train: {optim: {lr: 1e-4, lr: 1e-3}}\n", "'lr' is given twice, in lines 1 and 1; give it once"),
        ("train:\n  seed: 1\n  seed: 2\n", r"'seed' is given twice, in lines 2 and 3; give it once$"),
    ],
)
def test_bad_yaml(text: str, message: str, tmp_path: Any) -> None:
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=message):
        configs.load(tmp_path / "c.yaml")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_yaml_with_a_byte_order_mark(end: str, tmp_path: Any) -> None:
    (tmp_path / "c.yaml").write_bytes(f"\ufefftrain:{end}  seed: 7{end}out: ä{end}".encode())
    loaded = configs.load(tmp_path / "c.yaml")
    assert (loaded.train.seed, loaded.out) == (7, "ä")


def test_every_field_has_a_docstring() -> None:
    undocumented = [path for path, _, meaning in configs.fields(recipes.get("silc_c")) if not meaning]
    assert not undocumented
