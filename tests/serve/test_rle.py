"""Run lengths against those of COCO's own library."""

from __future__ import annotations

import numpy as np
import pytest

from silc.serve.rle import encoded


def peers(mask: np.ndarray) -> str:
    """What faster-coco-eval writes."""
    peer = pytest.importorskip("faster_coco_eval.core.mask")
    counts = peer.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return counts.decode() if isinstance(counts, bytes) else str(counts)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (1, 70), (33, 1), (57, 43), (400, 300)])
def test_masks_are_cocos(size: tuple[int, int], share: float) -> None:
    mask = np.random.default_rng(0).random(size) < share
    assert encoded(mask.astype(np.uint8), 2) == [peers(~mask), peers(mask)]


def test_each_class_has_its_own() -> None:
    labels = np.random.default_rng(1).integers(0, 5, (31, 47)).repeat(3, axis=0)
    assert encoded(labels, 7) == [peers(labels == index) for index in range(7)]


def test_long_runs() -> None:
    labels = np.zeros((2000, 1500), np.int64)
    labels[700:1900, 300:1200] = 1
    labels[:, 1300] = 2
    assert encoded(labels, 3) == [peers(labels == index) for index in range(3)]
