"""A batch in parts gives the loss, the gradients and the metrics of the whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from silc.batch import Batch, Views
from silc.config import Config
from silc.distributed import World
from silc.objective import SilcObjective
from silc.preprocess import Preprocess
from silc.pretraining.gradients import Gradients
from silc.pretraining.rates import TOWERS, freeze
from silc.step import Hyper, StepOutput
from silc.training.protocols import Passes

HYPER = Hyper(lr=1e-3, momentum=0.9, temperature=0.04)
AUTOCAST = partial(torch.autocast, "cpu", torch.bfloat16)
TERMS = {
    "clip": {},
    "siglip": {},
    "silc_c": {},
    "silc_s": {"contrastive_views": "both"},
    "silc_c 18 pairs": {"student_globals": True},
    "silc_c patches": {"patches": "masked"},
    "silc_s head only": {"head_only_ema": True, "patches": "all", "contrastive_views": "original"},
}


def build(config: Config, world: World | None = None) -> SilcObjective:
    torch.manual_seed(0)
    size = config.model.image.size
    return SilcObjective(
        config.model,
        config.objective,
        preprocess=Preprocess(size),
        world=World() if world is None else world,
        vocab_size=60,
        eos_id=1,
    )


def batch_of(config: Config, num: int) -> Batch:
    generator = torch.Generator().manual_seed(1)
    size, crops = config.model.image.size, config.data.crops

    def draw(views: int, side: int) -> Tensor:
        return torch.randint(0, 256, (views, num, 3, side, side), dtype=torch.uint8, generator=generator)

    views = Views(draw(1, size)[0], draw(crops.num_global, size), draw(crops.num_local, crops.local_size))
    text = torch.randint(2, 60, (num, config.model.text.length), generator=generator)
    return Batch(views, text, [str(i) for i in range(num)])


def stepped(gradients: Gradients, batch: Batch) -> tuple[StepOutput, dict[str, Tensor]]:
    """What came out, and the gradients by name."""
    torch.manual_seed(7)  # patches are masked alike
    out = gradients(batch, HYPER)
    found = {n: p.grad.clone() for n, p in gradients.objective.named_parameters() if p.grad is not None}
    gradients.objective.zero_grad()
    return out, found


InOnePass = partial(Gradients, apart=False)
"""The plain step: one forward, one backward."""


def near(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    """Whether they differ by no more than a share of the largest."""
    return bool((a - b).abs().max() <= tolerance * b.abs().max())


@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("size", [0, 2])
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bf16"])
def test_parts_add_up_to_the_whole(small: Callable[..., Config], terms: str, size: int, half: bool) -> None:
    config = small(terms.split()[0])
    config = replace(config, objective=replace(config.objective, **TERMS[terms]))
    objective, batch = build(config), batch_of(config, 6)
    made = {"autocast": AUTOCAST} if half else {}
    whole, expected = stepped(InOnePass(objective, Passes(objective, **made)), batch)
    parts, found = stepped(Gradients(objective, Passes(objective, **made), size), batch)
    # In bf16 a sum over a part is rounded where a sum over the batch is not.
    tolerance = 2e-2 if half else 1e-5
    assert found.keys() == expected.keys()
    largest = max(float(g.abs().max()) for g in expected.values())
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max() <= tolerance * largest, name
    assert parts.metrics.keys() == whole.metrics.keys()
    for name, value in whole.metrics.items():
        torch.testing.assert_close(parts.metrics[name], value, rtol=tolerance, atol=tolerance, msg=name)
    assert parts.terms.keys() == whole.terms.keys()
    for name, one in whole.terms.items():
        torch.testing.assert_close(parts.terms[name].logits, one.logits, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("terms", ["silc_c", "silc_s"])
def test_together_is_one_pass_of_everything(small: Callable[..., Config], terms: str) -> None:
    """`train.passes together`: each tower is met once for each shape, and the gradients are those of the plain step."""
    objective, seen = build(small(terms)), []
    batch = batch_of(small(terms), 6)
    _, expected = stepped(InOnePass(objective, Passes(objective)), batch)
    objective.student.text.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    calls = []
    passes = Passes(lambda *inputs: calls.append(inputs) or objective(*inputs))
    _, found = stepped(Gradients(objective, passes, apart=False), batch)
    assert len(calls) == len(seen) == 1
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


@pytest.mark.parametrize("terms", ["silc_c", "silc_s"])
def test_views_of_the_image_text_loss_go_through_one_by_one(small: Callable[..., Config], terms: str) -> None:
    config = small(terms)
    config = replace(config, objective=replace(config.objective, **TERMS[terms]))
    objective, images, texts = build(config), [], []
    objective.student.visual.register_forward_hook(lambda _, inputs, __: images.append(len(inputs[0])))
    objective.student.text.register_forward_hook(lambda _, inputs, __: texts.append(len(inputs[0])))
    Gradients(objective, Passes(objective))(batch_of(config, 6), HYPER)
    seen = config.data.crops.num_global + objective.config.needs_original
    assert seen > 1
    assert images == [6 * config.data.crops.num_local] + [6] * seen
    assert texts == [6]  # and never again


@pytest.mark.parametrize("tower", ["image", "text"])
@pytest.mark.parametrize("size", [0, 2])
def test_a_tower_that_stands_still(small: Callable[..., Config], tower: str, size: int) -> None:
    config = small("silc_s")
    objective, batch = build(config), batch_of(config, 6)
    freeze(objective, [tower])
    _, expected = stepped(InOnePass(objective, Passes(objective)), batch)
    _, found = stepped(Gradients(objective, Passes(objective), size), batch)
    assert found.keys() == expected.keys()
    assert not any(name.startswith(TOWERS[tower]) for name in found)
    for name, gradient in expected.items():
        assert near(found[name], gradient, 1e-4), name


def test_activations_of_a_part_alone_are_kept(small: Callable[..., Config]) -> None:
    """The forward passes see parts, whole batches never go through the towers."""
    config = small("silc_c")
    objective, seen = build(config), []
    objective.student.visual.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    Gradients(objective, Passes(objective), 2)(batch_of(config, 6), HYPER)
    num_global, num_local = config.data.crops.num_global, config.data.crops.num_local
    # Globals without gradient, and with it one by one; locals once. The teacher's tower is another.
    assert seen == [2 * num_global] * 3 + ([2 * num_local] + [2] * num_global) * 3


def _rank(rank: int, size: int, file: str, config: Config) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=size)
    world = World(rank, size)
    batch = batch_of(config, 4 * size).micro_batch(slice(4 * rank, 4 * rank + 4))
    results = []
    for part in (0, 2):
        objective = build(config, world)
        ddp = DistributedDataParallel(objective, find_unused_parameters=True)
        results.append(stepped(Gradients(objective, Passes(ddp, no_sync=ddp.no_sync), part), batch))
    objective = build(config, world)
    results.append(stepped(InOnePass(objective, Passes(DistributedDataParallel(objective))), batch))
    (_, passes), (parts, found), (whole, expected) = results
    assert found.keys() == expected.keys() == passes.keys()
    for name, gradient in expected.items():
        assert near(found[name], gradient), name
        assert near(passes[name], gradient), name
    torch.testing.assert_close(parts.metrics["teacher/perplexity"], whole.metrics["teacher/perplexity"])
    torch.testing.assert_close(parts.metrics["loss/total"], whole.metrics["loss/total"], rtol=1e-5, atol=1e-5)
    if rank == 0:  # and the group's are those of one process that holds the global batch
        alone = build(config)
        _, single = stepped(InOnePass(alone, Passes(alone)), batch_of(config, 4 * size))
        for name, gradient in single.items():
            assert near(found[name], gradient, 1e-4), name
    dist.destroy_process_group()


def test_two_ranks_in_parts(small: Callable[..., Config], tmp_path: object) -> None:
    torch.multiprocessing.spawn(_rank, (2, f"{tmp_path}/store", small("silc_s")), nprocs=2)
