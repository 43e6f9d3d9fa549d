"""Which patch stands for an example: OWL-ViT's choice, and that of where no box is near."""

from __future__ import annotations

import torch

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
