"""The objective: which views enter which loss, who writes what, and one real step at the paper's size."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.baselines.dino import double_loop
from silc import recipes
from silc.batch import Batch, Views
from silc.config import Config
from silc.distributed import World
from silc.losses.contrastive import sigmoid_loss, softmax_loss
from silc.objective import SilcObjective
from silc.preprocess import Preprocess
from silc.pretraining.rates import groups
from silc.step import FactoredLogits, Hyper
from silc.training.optim import Optimizer

HYPER = Hyper(lr=1e-3, momentum=0.9, temperature=0.04)


def cosines(projection: FactoredLogits) -> Tensor:
    """The logits [..., K], multiplied out."""
    return F.linear(projection.bottleneck, F.normalize(projection.prototypes, dim=-1))


def build(config: Config, vocab_size: int = 60) -> SilcObjective:
    return SilcObjective(
        config.model,
        config.objective,
        preprocess=Preprocess(config.model.image.size),
        world=World(),
        vocab_size=vocab_size,
        eos_id=1,
    )


def batch_of(config: Config, num: int = 4, vocab_size: int = 60) -> Batch:
    size, crops = config.model.image.size, config.data.crops
    draw = lambda views, side: torch.randint(0, 256, (views, num, 3, side, side), dtype=torch.uint8)  # noqa: E731
    views = Views(draw(1, size)[0], draw(crops.num_global, size), draw(crops.num_local, crops.local_size))
    return Batch(views, torch.randint(2, vocab_size, (num, config.model.text.length)), [str(i) for i in range(num)])


@pytest.mark.parametrize("name", sorted(recipes.BASES))
@pytest.mark.parametrize("views", ["globals", "original", "both"])
def test_every_recipe_on_every_choice_of_views(small: Callable[..., Config], name: str, views: str) -> None:
    """Loss terms equal what the pure functions give on the towers' own outputs, view by view, then averaged."""
    config = small(name)
    config = replace(config, objective=replace(config.objective, contrastive_views=views))
    objective, batch = build(config), batch_of(config)
    out = objective(batch, HYPER)

    normal = batch.views.map(objective.preprocess.normalize)
    student, unit = objective.student, lambda x: F.normalize(x, dim=-1)
    text, scale, bias = unit(student.text(batch.text)), student.logit_scale.exp(), student.logit_bias
    images = [normal.original] if views in ("original", "both") else []
    images += [*normal.globals] if views in ("globals", "both") else []
    terms = []
    for image in images:
        x = unit(student.visual(image))
        if config.objective.contrastive == "softmax":
            terms.append(softmax_loss(x, text, scale, World()))
        else:
            terms.append(sigmoid_loss(x, text, scale, bias, World()))
    contrastive = sum(terms) / len(terms)
    torch.testing.assert_close(out.metrics["loss/contrastive"], contrastive.detach(), rtol=1e-5, atol=1e-6)
    total = contrastive
    if config.objective.distill:
        teacher = objective.teacher
        targets = torch.stack([cosines(teacher.head(teacher.visual(g))) for g in normal.globals])
        logits = torch.stack([cosines(objective.head(student.visual(v))) for v in normal.locals])
        distill = double_loop(logits, targets, teacher.centre, config.objective.student_temperature, 0.04)
        torch.testing.assert_close(out.metrics["loss/distill"], distill.detach(), rtol=1e-4, atol=1e-5)
        total = contrastive + config.objective.weight * distill
    torch.testing.assert_close(out.loss, total, rtol=1e-4, atol=1e-5)


def test_forward_and_backward_change_no_state(small: Callable[..., Config]) -> None:
    config = small("silc_c")
    objective = build(config)
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    objective(batch_of(config), HYPER).loss.backward()
    for name, value in objective.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_gradient_reaches_the_student_alone(small: Callable[..., Config]) -> None:
    config = small("silc_s")
    objective = build(config)
    objective(batch_of(config), HYPER).loss.backward()
    with_gradient = {name for name, p in objective.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    everything = {name for name, _ in objective.named_parameters()}
    assert {name for name in everything if name.startswith("teacher.")}.isdisjoint(with_gradient)
    # What has none is named, so that a part that silently stopped learning is noticed.
    without = {name for name in everything - with_gradient if not name.startswith("teacher.")}
    assert without <= {"student.visual.trunk.attn_pool.kv.bias"}


def test_after_step_writes_teacher_centre_and_clamps_the_scale(small: Callable[..., Config]) -> None:
    config = small("silc_c")
    objective, batch = build(config), batch_of(config)
    out = objective(batch, HYPER)
    with torch.no_grad():
        for p in objective.student.parameters():
            p.add_(0.1)
        objective.student.logit_scale.fill_(9.0)
    before = {n: p.clone() for n, p in objective.teacher.named_parameters()}
    objective.after_step(out, HYPER)
    students = {f"visual.{n}": p for n, p in objective.student.visual.named_parameters()}
    students |= {f"head.{n}": p for n, p in objective.head.named_parameters()}
    for name, p in objective.teacher.named_parameters():
        torch.testing.assert_close(p.data, 0.9 * before[name] + 0.1 * students[name].data, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(objective.teacher.centre, 0.1 * out.terms["distill"].logits, rtol=1e-5, atol=1e-7)
    assert objective.student.logit_scale.exp().item() == pytest.approx(100, rel=1e-5)


@pytest.mark.parametrize("name", ["siglip", "silc_s", "silc_s_finetune"])
def test_the_scale_of_a_sigmoid_is_clamped_nowhere(name: str, small: Callable[..., Config]) -> None:
    """SigLIP's released models stand near 117."""
    config = small(name)
    objective = build(config)
    out = objective(batch_of(config), HYPER)
    with torch.no_grad():
        objective.student.logit_scale.fill_(math.log(117.33))
    objective.after_step(out, HYPER)
    assert objective.student.logit_scale.exp().item() == pytest.approx(117.33, rel=1e-5)


def test_dinos_pairs_are_a_switch(small: Callable[..., Config]) -> None:
    config = small("silc_c")
    with_globals = replace(config, objective=replace(config.objective, student_globals=True))
    torch.manual_seed(1)
    sixteen = build(config)
    eighteen = build(with_globals)
    eighteen.load_state_dict(sixteen.state_dict())
    batch = batch_of(config)
    a, b = sixteen(batch, HYPER), eighteen(batch, HYPER)
    assert a.metrics["loss/distill"] != b.metrics["loss/distill"]
    assert a.metrics["loss/contrastive"] == b.metrics["loss/contrastive"]


def test_view_count_does_not_scale_the_contrastive_gradient(small: Callable[..., Config]) -> None:
    """Averaged, not summed: with all global views alike, four give the gradient of one."""
    config = small("clip_views")
    objective, batch = build(config), batch_of(config)
    gradients = []
    for count in (1, 4):
        views = replace(batch.views, globals=batch.views.globals[:1].expand(count, -1, -1, -1, -1))
        objective.zero_grad()
        objective(replace(batch, views=views), HYPER).loss.backward()
        gradients.append(objective.student.visual.trunk.patch_embed.proj.weight.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_one_real_step_at_the_papers_size() -> None:
    """silc_c B/16, K = 65,536, 2 + 8 views, batch 2: every trainable tensor moves, the loss is finite."""
    config = recipes.get("silc_c")
    assert config.model.head.prototypes == 65_536
    assert (config.data.crops.num_global, config.data.crops.num_local) == (2, 8)
    objective = build(config, vocab_size=32_000)
    optimizer = Optimizer(config.train.optim, objective, groups(objective, config.train.optim))
    before = {name: p.detach().clone() for name, p in objective.named_parameters()}
    with torch.autocast("cpu", torch.bfloat16):
        out = objective(batch_of(config, num=2, vocab_size=32_000), HYPER)
    out.loss.backward()
    assert torch.isfinite(out.loss)
    assert torch.isfinite(optimizer.clip())
    optimizer.step(HYPER)
    objective.after_step(out, HYPER)
    still = {name for name, p in objective.named_parameters() if torch.equal(p, before[name])}
    assert still <= {"student.logit_bias"}
