"""Overlays: shares of colour, lines between classes, and a legend that names what is there."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from silc.errors import BadInput
from silc.eval import pictures
from silc.eval.pictures import colour, colour_overlay, with_edges, with_legend
from silc.predict import Segmentation

GREY = 100
LABELS = np.zeros((20, 30), np.int64)
LABELS[:, 12:] = 2
IMAGE = Image.new("RGB", (30, 20), (GREY, GREY, GREY))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.7, 1.0])
def test_alpha_is_the_share_of_the_colour(alpha: float) -> None:
    pixels = np.asarray(colour_overlay(IMAGE, LABELS, alpha=alpha), dtype=float)
    for column, index in ((0, 0), (29, 2)):
        expected = (1 - alpha) * GREY + alpha * np.array(colour(index))
        np.testing.assert_allclose(pixels[5, column], expected, atol=1)


def test_edges_are_where_labels_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = colour_overlay(IMAGE, LABELS)
    lined = np.asarray(with_edges(plain, LABELS))
    white = (lined == 255).all(axis=-1)
    assert white[:, 12].all()
    assert not np.delete(white, 12, axis=1).any()
    assert np.array_equal(lined[~white], np.asarray(plain)[~white])
    monkeypatch.setattr(pictures, "EDGE", 20)  # as in a large picture
    assert (np.asarray(with_edges(plain, LABELS)) == 255).all(axis=-1)[5].nonzero()[0].tolist() == [11, 12, 13]


def test_the_legend_names_what_is_there() -> None:
    """Below the untouched picture: a square of the colour of each class that is there, and of no other."""
    sheet = with_legend(IMAGE, LABELS, ["road", "car", "a long name of the sky"])
    assert np.array_equal(np.asarray(sheet)[:20, :30], np.asarray(IMAGE))
    legend = np.asarray(sheet)[20:].reshape(-1, 3)
    shown = [index for index in range(3) if (legend == colour(index)).all(axis=1).any()]
    assert shown == [0, 2]
    assert sheet.width > IMAGE.width  # a name is not cut
    large = with_legend(Image.new("RGB", (3000, 20)), np.zeros((20, 3000), np.int64), ["road"])
    assert large.height - 20 > 2 * pictures.LINE


def test_overlays_of_a_segmentation() -> None:
    import torch

    found = Segmentation(IMAGE, ["road", "car", "sky"], torch.from_numpy(LABELS), map=None)  # type: ignore[arg-type]
    assert np.array_equal(found.overlay(), colour_overlay(IMAGE, LABELS))
    lined = with_edges(colour_overlay(IMAGE, LABELS, alpha=0.4), LABELS)
    whole = found.overlay(alpha=0.4, legend=True, edges=True)
    assert np.array_equal(whole, with_legend(lined, LABELS, found.names))
    for alpha in (-0.1, 1.1, float("nan")):
        with pytest.raises(BadInput, match="from 0 to 1"):
            found.overlay(alpha=alpha)
