"""Before and after: which records are compared, and when a change is called one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from silc.batch import Broken
from silc.data.pairs import BadSample, Pair
from silc.errors import BadInput
from silc.eval.held_out import before_and_after, held_out_set, report, verdict


def recall(value: float) -> dict[str, float]:
    return {f"{way}_retrieval_recall@{k}": value for way in ("image", "text") for k in (1, 5, 10)}


def records(**values: list[float]) -> list[dict[str, float]]:
    """Those of a run: measured a few times by weights, with others between."""
    found: list[dict[str, float]] = [{"loss/total": 1.0}]
    for own in zip(*values.values(), strict=True):
        measured = zip(values, map(recall, own), strict=True)
        found.append({f"eval/{w}/held_out-retrieval/{k}": v for w, metrics in measured for k, v in metrics.items()})
    return [*found, {"eval/student/other/acc1": 0.5}]


def test_first_and_last_records_count() -> None:
    found = before_and_after(records(student=[0.1, 0.5, 0.2], teacher=[0.1, 0.3, 0.4]))
    assert found == {"student": [recall(0.1), recall(0.2)], "teacher": [recall(0.1), recall(0.4)]}
    assert before_and_after([{"loss/total": 1.0}]) == {}


@pytest.mark.parametrize(
    ("before", "after", "num", "word"),
    [
        (0.2, 0.3, 500, "better, by more than the error of 500 pairs"),
        (0.2, 0.24, 500, "no change beyond the error of 500 pairs (± 5.2)"),
        (0.2, 0.16, 500, "no change beyond the error"),
        (0.3, 0.2, 500, "WORSE; keep the model that you had"),
        (0.2, 0.24, 5000, "better"),
        (0.0, 0.0, 10, "no change beyond the error"),
    ],
)
def test_a_verdict_claims_nothing_inside_the_noise(before: float, after: float, num: int, word: str) -> None:
    line = verdict({"student": [recall(before), recall(after)]}, num)
    assert word in line
    assert "\n" not in line
    assert line.startswith(f"R@1 {100 * before:.1f} % -> {100 * after:.1f} %")


def test_report_is_readable() -> None:
    lines = report(records(student=[0.1, 0.2], teacher=[0.1, 0.4]), 50).splitlines()
    assert lines[0] == "retrieval among 50 pairs held out of this run, recall in %"
    assert lines[1].split() == ["before", "student", "teacher"]
    assert lines[2].split() == ["image", "by", "text", "@1", "10.0", "20.0", "40.0"]
    assert len(lines) == 9


def test_broken_pairs_are_left_out() -> None:
    class Pairs:
        def read_ahead(self, indices: Sequence[int]) -> None:
            pass

        def __getitem__(self, index: int) -> Pair:
            if index % 2:
                raise BadSample(Broken("shard.tar", str(index), "broken_image", "half"))
            return Pair(str(index), np.full((8, 8, 3), (index, 0, 0), np.uint8), (f"number {index}",))

    data = held_out_set(Pairs(), np.array([1, 2, 4, 7]))
    assert data.captions == [("number 2",), ("number 4",)]
    assert [image.getpixel((0, 0))[0] for image in data.images] == [2, 4]
    assert len(data.images) == 2
    with pytest.raises(BadInput, match="all 1 held-out pairs are broken"):
        held_out_set(Pairs(), np.array([3]))
