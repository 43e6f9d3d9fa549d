"""Which patch stands for an example: OWL-ViT's choice, and that of where no box is near."""

from __future__ import annotations

import torch

from silc.heads.detect.boxes import overlaps
from silc.heads.detect.head import unit
from silc.heads.detect.predictor import standing_for

EMBEDDINGS = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.6, -0.8]])


def test_of_the_boxes_that_fit_it_is_the_one_least_like_the_rest() -> None:
    boxes = torch.tensor([[0.0, 0.0, 0.4, 0.4], [0.0, 0.0, 0.4, 0.38], [0.0, 0.0, 0.2, 0.2], [0.6, 0.6, 0.9, 0.9]])
    asked = torch.tensor([0.0, 0.0, 0.4, 0.4])
    embeddings = EMBEDDINGS.clone()
    embeddings[1] = torch.tensor([0.6, 0.8])
    # To the mean (0.55, 0.25) the first two, which fit, have the likenesses 0.55 and 0.53, and the third has 0.25.
    assert torch.equal(standing_for(asked, boxes, embeddings), embeddings[1])


def test_where_no_box_overlaps_the_nearest_one_stands() -> None:
    boxes = torch.tensor([[0.0, 0.0, 0.1, 0.1], [0.5, 0.5, 0.6, 0.6], [0.0, 0.9, 0.1, 1.0], [0.3, 0.3, 0.4, 0.4]])
    found = standing_for(torch.tensor([0.7, 0.7, 0.8, 0.8]), boxes, EMBEDDINGS)
    assert torch.equal(found, EMBEDDINGS[1])


def test_lengths_of_embeddings_count_as_in_scenic() -> None:
    """scenic compares what its class head makes of patches before it is of unit length; a loop in float64."""
    generator = torch.Generator().manual_seed(3)
    embeddings = torch.randn(40, 8, generator=generator) * torch.rand(40, 1, generator=generator).exp() ** 3
    low = torch.rand(40, 2, generator=generator) / 2
    boxes = torch.cat([low, low + 0.2 + torch.rand(40, 2, generator=generator) / 4], dim=1)
    by_cosine = 0
    for asked in boxes[:20] + 0.01:
        fits = [float(overlaps(asked, box)[0]) for box in boxes]
        near = [place for place, fit in enumerate(fits) if fit >= 0.8 * max(fits)]
        likeness = {place: float(embeddings.double().mean(dim=0) @ embeddings[place].double()) for place in near}
        wanted = min(likeness, key=lambda place: likeness[place])
        assert torch.equal(standing_for(asked, boxes, embeddings), embeddings[wanted])
        by_cosine += not torch.equal(standing_for(asked, boxes, unit(embeddings)), unit(embeddings)[wanted])
    assert by_cosine
