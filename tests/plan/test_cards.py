"""The largest batches of `silc plan --cards`, against the memory of a step measured there."""

from __future__ import annotations

import pytest

from silc import recipes
from silc.cli import main
from silc.errors import BadInput
from silc.plan import project
from silc.plan.project import MOMENTS
from silc.plan.step import measure


def test_the_largest_batch_fills_the_card_and_no_more() -> None:
    config = recipes.get("clip-tiny")
    sizes = [0.001, 0.4, 1.0]
    none, *found = project.largest_batches([config], sizes)["clip-tiny"].values()
    assert none == 0
    assert found == sorted(found)
    for size, batch in zip(sizes[1:], found, strict=True):
        step = measure(config, batch=batch, ranks=1, vocab_size=config.data.vocab_size)
        held = sum(step.memory.values()) + MOMENTS * step.trained
        assert held == pytest.approx(size * 1e9, rel=0.02)


@pytest.mark.parametrize(("largest", "size"), [(1, 1), (2, 1), (3, 1), (100, 32), (128, 64), (387, 128)])
def test_parts_are_a_power_of_two_within_half(largest: int, size: int) -> None:
    assert project.micro_batch(largest) == size


@pytest.mark.parametrize("given", ["8,a", "0", "8,,24", "nan", "-8"])
def test_other_words_are_no_sizes(given: str) -> None:
    with pytest.raises(BadInput, match=r"--cards is .*; needed gigabytes with commas between them, e.g. 8,24,80"):
        project.sizes(given)


def test_a_table_of_recipes_and_cards(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "clip-tiny", "--cards", "0.001,1"]) == 0
    said = capsys.readouterr().out
    assert "largest train.batch_size on one card" in said
    assert main(["plan", "clip-tiny", "--cards", "1", "--gpu", "h100"]) == 2
    assert "--gpu: --cards shows only the largest batches" in capsys.readouterr().err


def test_one_card_is_answered_first_and_without_what_several_do(capsys: pytest.CaptureFixture[str]) -> None:
    many = ["--pairs", "1000", "--train.duration", "2 epochs", "--price", "2", "--mfu", "0.001"]
    assert main(["plan", "clip-tiny", "--gpus", "1", "--gpu", "rtx4090", *many]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "clip-tiny: 1 x rtx4090, 128 pairs per step"
    assert lines[1].startswith("1,792 examples, 14 steps: ")  # 7 whole batches an epoch
    assert ", cost " in lines[1]
    assert lines[2].startswith("It fits: ")
    assert "The largest train.batch_size that fits: 512 or more." in lines[2]
    assert not any(word in "\n".join(lines) for word in ("FSDP2", "DDP", "sends", "scaling", "GB/s", "card hours"))
