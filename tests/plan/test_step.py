"""What `silc plan` reads off fake tensors, against formulas, a profiler, and the runs' own counting."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from silc import recipes
from silc.config import Config
from silc.distributed import World
from silc.models.image import ImageTower
from silc.plan import project
from silc.plan.gpus import GPUS
from silc.plan.meter import Meter
from silc.plan.step import HYPER, Step, measure
from silc.pretraining.build import blank_batch, flops_per_example, objective_of
from silc.pretraining.gradients import Gradients
from silc.training.protocols import Passes

VOCABULARY = 512
SLOW = pytest.mark.slow


def cut(name: str, depth: int = 2, **objective: object) -> Config:
    """A recipe with its own width, views and head, and few blocks, so that a real step is quick."""
    config = recipes.get(name)
    model = config.model
    towers = {"image": replace(model.image, depth=depth), "text": replace(model.text, depth=depth)}
    config = replace(config, objective=replace(config.objective, **objective))  # type: ignore[arg-type]
    return replace(config, model=replace(model, **towers))  # type: ignore[arg-type]


def measured(config: Config, batch: int, ranks: int = 1) -> Step:
    return measure(config, batch=batch, ranks=ranks, vocab_size=VOCABULARY)


def vit(tokens: int, width: int, mlp: int, depth: int) -> float:
    """FLOPs of blocks: qkv, out, two of the MLP, and two products of attention; a multiply-add is two."""
    return depth * 2 * (tokens * (4 * width * width + 2 * width * mlp) + 2 * tokens * tokens * width)


def map_pool(tokens: int, width: int, mlp: int) -> float:
    """Attention pooling with one latent: keys and values of all tokens, the rest of one."""
    return 2 * (tokens * 2 * width * width + 2 * width * width + 2 * tokens * width + 2 * width * mlp)


@pytest.mark.parametrize(
    ("size", "pool"),
    [("tiny", "map"), ("tiny", "cls"), *(pytest.param(*slow, marks=SLOW) for slow in (("s16", "map"), ("b16", "cls")))],
)
def test_flops_of_each_part_are_those_of_the_closed_forms(size: str, pool: str) -> None:
    config = recipes.get(f"silc_s-{size}")
    config = replace(config, model=replace(config.model, image=replace(config.model.image, pool=pool)))  # type: ignore[arg-type]
    image, text, head, crops = config.model.image, config.model.text, config.model.head, config.data.crops

    def tower(side: int) -> float:
        patches = (side // image.patch) ** 2
        tokens = patches + (pool == "cls")
        pooled = map_pool(tokens, image.width, image.mlp) if pool == "map" else 2 * image.width * image.width
        embedded = 2 * patches * 3 * image.patch**2 * image.width
        return embedded + vit(tokens, image.width, image.mlp, image.depth) + pooled

    d = config.model.embed_dim
    mlp_head = 2 * (d * head.hidden + head.hidden**2 + head.hidden * head.bottleneck)
    batch, ranks = 4, 8
    expected = {
        f"image tower, {image.size} px": crops.num_global * tower(image.size),
        f"image tower, {crops.local_size} px": crops.num_local * tower(crops.local_size),
        "text tower": vit(text.length, text.width, text.mlp, text.depth) + 2 * text.width * d,
        "teacher": crops.num_global * (tower(image.size) + mlp_head),
        "head": crops.num_local * mlp_head,
    }
    # Losses form their gradients at once: of all pairs in three products a view; of prototypes, logits twice, the
    # bottleneck's and the prototypes' gradient in four. What else there is to them is no product of large matrices.
    losses = {
        "image-text loss": 3 * crops.num_global * 2 * batch * ranks * d,
        "other losses": 4 * (crops.num_global + crops.num_local) * 2 * head.bottleneck * head.prototypes,
    }
    found = measured(config, batch, ranks).forward
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    assert {name: found[name] for name in losses} == pytest.approx(losses, rel=0.02)
    assert found.keys() == expected.keys() | losses.keys()


@pytest.mark.parametrize(
    "name", ["silc_c-tiny", "clip-tiny", *(pytest.param(name, marks=SLOW) for name in ("silc_c-s16", "clip-b16"))]
)
def test_flops_agree_with_torchs_counter_and_with_what_runs_record(name: str) -> None:
    config = recipes.get(name)
    step, recorded = measured(config, 1), flops_per_example(config, VOCABULARY, 0)
    once = {"teacher", "image-text loss", "other losses"}
    student = sum(step.forward[part] for part in step.forward if part not in once)
    # Backward costs twice the forward, but for the first layer's input, which needs no gradient.
    assert recorded == pytest.approx(3 * student + sum(step.forward.get(part, 0.0) for part in once), rel=0.02)
    image = config.model.image
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        ImageTower(image, config.model.embed_dim)(torch.zeros(1, 3, image.size, image.size))
    views = 1 if name.startswith("clip") else config.data.crops.num_global
    assert step.forward[f"image tower, {image.size} px"] == views * counter.get_total_flops()


def peak_of_a_real_step(config: Config, batch: int) -> tuple[int, int]:
    """Most bytes held in a real step: that torch's CPU allocator gave out, by its profiler, and that a Meter saw."""
    objective = objective_of(config, VOCABULARY, 0, World())
    held = sum(t.numel() * t.element_size() for t in (*objective.parameters(), *objective.buffers()))

    half = partial(torch.autocast, "cpu", torch.bfloat16, enabled=config.train.precision != "float32")
    gradients = Gradients(objective, Passes(objective, half), config.train.micro_batch)

    def step() -> None:
        gradients(blank_batch(config, batch), HYPER)
        objective.zero_grad()

    step()  # what is made once is made
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    meter = Meter()
    with meter, meter.phases_of(objective):
        step()
    return most, meter.peak


def assert_memory_is_a_real_steps(config: Config, batch: int) -> None:
    by_profiler, by_meter = peak_of_a_real_step(config, batch)
    planned = sum(measured(config, batch).memory.values())
    assert planned == pytest.approx(by_profiler, rel=0.01)
    assert planned == pytest.approx(by_meter, rel=0.01)


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        *(("silc_c-tiny", "float32"), ("silc_c-tiny", "bf16"), ("clip-tiny", "float32")),
        *(pytest.param(*slow, marks=SLOW) for slow in (("silc_s-s16", "bf16"), ("clip-s16", "float32"))),
    ],
)
def test_memory_is_what_a_real_step_holds(name: str, precision: str) -> None:
    """Recipes with few blocks, at two batch sizes: to 1 %."""
    config = cut(name)
    config = replace(config, train=replace(config.train, precision=precision))  # type: ignore[arg-type]
    for batch in (2, 3):  # of one image, the first layer's backward takes room inside its kernel
        assert_memory_is_a_real_steps(config, batch)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["silc_c-tiny", "silc_c-s16", "silc_c", "finetune-late"])
def test_memory_of_whole_recipes_is_what_a_real_step_holds(name: str) -> None:
    config = recipes.late(recipes.get("silc_c-s16")) if name == "finetune-late" else recipes.get(name)
    for batch in (2, 4):
        assert_memory_is_a_real_steps(config, batch)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["silc_c-s16", "silc_s", "clip"])
def test_memory_is_what_a_gpu_holds(name: str) -> None:
    """CUDA's kernels keep what the CPU's keep; its allocator rounds up and cuBLAS takes a workspace."""
    config, batch = recipes.get(name), 32
    objective = objective_of(config, VOCABULARY, 0, World(device=torch.device("cuda"))).cuda()
    gradients = Gradients(objective, Passes(objective, partial(torch.autocast, "cuda", torch.bfloat16)))
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats()
        gradients(blank_batch(config, batch).to("cuda"), HYPER)
        objective.zero_grad()
    assert sum(measured(config, batch).memory.values()) == pytest.approx(torch.cuda.max_memory_allocated(), rel=0.05)


def test_what_is_extrapolated_is_what_is_measured_there() -> None:
    """Memory over the batch, payloads and the image-text loss over the global batch."""
    config = cut("silc_c-tiny")
    steps = [measured(config, batch, 4) for batch in (2048, 4096, 1024)]
    plan = project.Plan(
        "", replace(GPUS["h100"], memory=5), 0.4, None, None, 0.0, steps[0], steps[0], (steps[1], steps[2])
    )
    most = plan.fitting("none")
    assert 2048 < most < 8192
    apart = sum(plan.memory("none").values()) - sum(steps[0].memory.values())
    held = sum(measured(config, most, 4).memory.values()) + apart
    assert held == pytest.approx(plan.capacity, rel=0.01)  # where the peak is may move
    wider = measured(config, 2048, 16)
    there = {(c.kind, project.NAMES[c.where]): c.payload for c in wider.collectives}
    found = {(c.kind, c.where): c.payload for c in plan.traffic("none", 16)}
    assert {place: found[place] for place in there} == there
    assert plan.flops(16) == pytest.approx(wider.forward["image-text loss"], rel=1e-12)  # what is recorded is 0 here


def test_sharding_leaves_a_share_of_each_weight_and_gathers_blocks_as_they_run() -> None:
    config, ranks = cut("silc_c-s16", depth=6), 8  # blocks outweigh what is outside of them, as in whole towers
    whole = measured(config, 4, ranks)
    step = measure(config, batch=4, ranks=ranks, vocab_size=VOCABULARY, sharded=True)
    for what in ("weights", "teacher's weights"):
        # A first dimension that does not divide is padded.
        assert whole.memory[what] / ranks <= step.memory[what] <= 1.05 * whole.memory[what] / ranks
    assert step.forward == whole.forward
    student = 4 * sum(n for owner, n in step.parameters.items() if owner != "teacher")
    teacher = 4 * step.parameters["teacher"]
    assert 0.2 * student < step.memory["gathered weights"] < 0.9 * (student + teacher)
    payloads = {(c.kind, c.where): c.payload for c in step.collectives}
    gathered = sum(size for (kind, _), size in payloads.items() if kind == "all-gather")
    # The image tower: forward and back with the local views and with each global one.
    assert student + teacher < gathered < 6 * student + teacher
    # Global and local views go back one after the other, and the image tower's gradients are summed each time.
    assert 4 * step.trained < payloads["reduce-scatter", "backward"] < 8 * step.trained


def test_the_parts_are_named() -> None:
    objective = {"patches": "masked", "contrastive_views": "both"}
    config = recipes.get("silc_s-tiny")
    config = replace(config, objective=replace(config.objective, **objective))  # type: ignore[arg-type]
    step = measured(config, 8, 2)
    assert {"image tower, 48 px", "image tower, 24 px", "text tower", "teacher", "head"} < step.forward.keys()
    assert step.memory["weights"] == 4 * sum(n for whose, n in step.parameters.items() if whose != "teacher")
    assert step.memory["teacher's weights"] == 4 * step.parameters["teacher"] + step.buffers
    assert step.trained == sum(n for whose, n in step.parameters.items() if whose != "teacher")
    kinds = {(c.kind, project.NAMES[c.where]) for c in step.collectives}
    assert kinds == {("send", "features"), ("all-reduce", "centres and statistics")}


def test_what_is_frozen_is_not_trained() -> None:
    config = recipes.get("clip-tiny")
    config = replace(config, train=replace(config.train, optim=replace(config.train.optim, freeze=("text",))))
    step = measured(config, 2)
    assert step.trained == step.parameters["image tower"] + 1  # and the scale
