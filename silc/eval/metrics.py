"""Metrics as pure functions, and the scores of chance.

Ties are broken by position: of equal scores the earlier class, image or caption comes first. A collapsed model,
whose scores are all equal, therefore scores as chance does, not 0 or 1.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import comb
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F

from silc.errors import BadInput
from silc.eval.bootstrap import Ratios

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

RECALL_AT = (1, 5, 10)
BLOCK = 2**24
"""Number of scores ranked at a time."""
Absent = Literal["mmseg", "detectron2"]


# --- classification ---------------------------------------------------------------------------------------------------


def class_ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """Rank int64 [N] (0 is first) of each image's true class.

    Args:
        scores: [N, C], higher is better.
        labels: int64 [N], in [0, C).
    """
    num_classes = scores.shape[1]
    rows, classes = max(1, BLOCK // num_classes), torch.arange(num_classes)
    blocks = zip(scores.split(rows), labels.split(rows), strict=True)
    return torch.cat([best_ranks(some, own, classes) for some, own in blocks])


def accuracy_ratios(ranks: Tensor, labels: Tensor, num_classes: int) -> dict[str, Ratios]:
    """acc1, acc5 (with five classes or more) and mean_per_class_recall, as CLIP_benchmark names them.

    Classes without an example do not enter the mean. Of two images of class 0 one is right; that of class 1 is right:

    >>> ratios = accuracy_ratios(torch.tensor([0, 1, 0]), torch.tensor([0, 0, 1]), 2)
    >>> {name: ratio.score() for name, ratio in ratios.items()}
    {'acc1': 0.6666666666666666, 'mean_per_class_recall': 0.75}

    Args:
        ranks: int64 [N], of each image's class.
        labels: int64 [N].
    """
    ratios = {"acc1": Ratios.of_images(ranks < 1)}
    if num_classes >= 5:
        ratios["acc5"] = Ratios.of_images(ranks < 5)
    first = ratios["acc1"]
    return ratios | {"mean_per_class_recall": replace(first, group=labels)}


def accuracy_chance(labels: Tensor, num_classes: int) -> dict[str, float]:
    """Expected `accuracy_ratios` of random scores: k/C; `best_constant_acc1` if always answering one class scores more.

    >>> accuracy_chance(torch.tensor([0, 0, 1]), 2)
    {'acc1': 0.5, 'mean_per_class_recall': 0.5, 'best_constant_acc1': 0.6666666666666666}
    """
    chance = {"acc1": 1 / num_classes}
    if num_classes >= 5:
        chance["acc5"] = 5 / num_classes
    chance["mean_per_class_recall"] = 1 / num_classes
    constant = torch.bincount(labels).max().item() / len(labels)
    return chance | ({"best_constant_acc1": constant} if constant > chance["acc1"] else {})


def most_confused(confusion: Tensor, classes: Sequence[str], count: int = 10) -> list[dict[str, Any]]:
    """The most frequent mistakes: a class, the class it is taken for, the count, and its share of the true class.

    Args:
        confusion: [C, C], rows are the truth.

    >>> most_confused(torch.tensor([[3, 1], [0, 2]]), ["cat", "dog"])
    [{'truth': 'cat', 'taken_for': 'dog', 'count': 1, 'share': 0.25}]
    """
    mistakes = confusion.clone().fill_diagonal_(0)
    order = mistakes.flatten().argsort(descending=True, stable=True)[:count]
    return [
        {
            "truth": classes[row],
            "taken_for": classes[column],
            "count": int(mistakes[row, column]),
            "share": (mistakes[row, column] / confusion[row].sum()).item(),
        }
        for row, column in ((int(cell) // len(classes), int(cell) % len(classes)) for cell in order)
        if mistakes[row, column]
    ]


def neighbour_votes(
    train: Tensor, labels: Tensor, queries: Tensor, num_classes: int, *, k: int = 20, temperature: float = 0.07
) -> Tensor:
    """Scores [M, C]: each of a query's k nearest training images votes for its class with exp(cosine / temperature).

    DINO's k-NN (facebookresearch/dino: eval_knn.py). Ties for the k-th image have no defined order.

    Args:
        train: features [N, D] of any length; their direction counts.
        labels: int64 [N], in [0, C).
        queries: [M, D].

    Raises:
        BadInput: fewer than k training images.

    >>> train, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    >>> neighbour_votes(train, labels, torch.tensor([[3.0, 0.0]]), 2, k=2, temperature=1.0)
    tensor([[2.7183, 1.0000]])
    """
    if len(train) < k:
        raise BadInput(f"k is {k}, but there are {len(train)} training images; give at most that")
    train, scores = F.normalize(train, dim=1), queries.new_zeros(len(queries), num_classes)
    size = max(1, BLOCK // len(train))
    for some, own in zip(F.normalize(queries, dim=1).split(size), scores.split(size), strict=True):
        similarity, nearest = (some @ train.T).topk(k, dim=1)
        own.scatter_add_(1, labels[nearest], (similarity / temperature).exp())
    return scores


# --- retrieval --------------------------------------------------------------------------------------------------------


def retrieval_ranks(images: Tensor, texts: Tensor, owner: Tensor, *, block: int = BLOCK) -> tuple[Tensor, Tensor]:
    """Rank of each text's image [M], and of each image's best text [N].

    Args:
        images: [N, D] features.
        texts: [M, D] features.
        owner: int64 [M], the image each text belongs to; images may own several texts.
        block: scores held at a time; memory does not grow with N x M.
    """
    pictures = torch.arange(len(images))
    return _ranks(texts, images, owner, pictures, block), _ranks(images, texts, pictures, owner, block)


def recall_ratios(by_text: Tensor, by_image: Tensor, owner: Tensor) -> dict[str, Ratios]:
    """Recall@1, 5 and 10 both ways, by the CLIP convention: a query is a hit if *any* of its partners is in the top k.

    `image_retrieval_recall@k` searches images with texts, `text_retrieval_recall@k` texts with images.

    Args:
        by_text, by_image: as `retrieval_ranks` gives them.
        owner: as for `retrieval_ranks`.
    """
    num_images = len(by_image)
    asking = torch.bincount(owner, minlength=num_images)
    found = {k: torch.bincount(owner, (by_text < k).double(), minlength=num_images) for k in RECALL_AT}
    return {f"image_retrieval_recall@{k}": Ratios.of_images(found[k], asking) for k in RECALL_AT} | {
        f"text_retrieval_recall@{k}": Ratios.of_images(by_image < k) for k in RECALL_AT
    }


def retrieval_chance(captions_per_image: Sequence[int]) -> dict[str, float]:
    """Expected `recall_ratios` under random order.

    A text finds its one image among N in the top k with k/N. An image with m of the T texts misses when all k come
    from the other T - m: its chance is 1 - C(T-m, k) / C(T, k), averaged over the images.

    >>> round(retrieval_chance([2, 2])["text_retrieval_recall@1"], 3)
    0.5
    """
    num_images, num_texts = len(captions_per_image), sum(captions_per_image)
    chance = {f"image_retrieval_recall@{k}": min(k, num_images) / num_images for k in RECALL_AT}
    for k in RECALL_AT:
        drawn = min(k, num_texts)
        hit = sum(
            images * (1 - comb(num_texts - own, drawn) / comb(num_texts, drawn))
            for own, images in Counter(captions_per_image).items()
        )
        chance[f"text_retrieval_recall@{k}"] = hit / num_images
    return chance


def best_ranks(scores: Tensor, query_owner: Tensor, target_owner: Tensor) -> Tensor:
    """Rank [Q] (0 is first) of each query's best own target.

    Args:
        scores: [Q, T], higher is better.
        query_owner, target_owner: int64 [Q] and [T]; equal values belong together. Every query has a target.

    >>> best_ranks(torch.tensor([[0.5, 0.9, 0.5]]), torch.tensor([7]), torch.tensor([3, 4, 7]))
    tensor([2])
    """
    position = torch.arange(scores.shape[1], device=scores.device, dtype=torch.int32)
    own = query_owner[:, None] == target_owner[None, :]
    best = scores.masked_fill(~own, -torch.inf).amax(dim=1, keepdim=True)  # [Q, 1]
    first = position.expand_as(scores).masked_fill(~own | (scores != best), len(position)).amin(dim=1, keepdim=True)
    behind = (scores < best) | ((scores == best) & (position >= first))
    return (~behind).sum(dim=1)  # a NaN is never behind, so that a broken model ranks last


def _ranks(queries: Tensor, targets: Tensor, query_owner: Tensor, target_owner: Tensor, block: int) -> Tensor:
    rows = max(1, block // len(targets))
    return torch.cat(
        [
            best_ranks(some @ targets.T, owner, target_owner)
            for some, owner in zip(queries.split(rows), query_owner.split(rows), strict=True)
        ]
    )


# --- segmentation -----------------------------------------------------------------------------------------------------


def confusion(truth: Tensor, prediction: Tensor, num_classes: int, ignore: int = 255) -> Tensor:
    """Pixel counts int64 [C, C], rows are the truth; pixels whose truth is `ignore`, which is no class, are left out.

    Raises:
        BadInput: `ignore` is a class.

    >>> confusion(torch.tensor([0, 1, 1, 255]), torch.tensor([0, 0, 1, 1]), 2)
    tensor([[1, 0],
            [1, 1]])
    """
    if 0 <= ignore < num_classes:
        raise BadInput(
            f"the ignored label {ignore} is one of the {num_classes} classes; ignore a label that is no class"
        )
    # Ignored pixels go into a cell of their own: this takes a fifth of the time of selecting the others.
    cells = torch.where(truth == ignore, num_classes**2, truth.long() * num_classes + prediction)
    return torch.bincount(cells.flatten(), minlength=num_classes**2 + 1)[:-1].view(num_classes, num_classes)


def class_iou(confusion: Tensor, absent: Absent = "mmseg") -> Tensor:
    """Intersection over union float64 [C] of pixel counts [C, C]; NaN for classes that are not counted.

    A class neither in the truth nor predicted is never counted. One that is predicted but absent from the truth
    counts 0 (`mmseg`, as torchmetrics) or is left out (`detectron2`).

    >>> class_iou(torch.tensor([[1, 0, 1], [1, 1, 0], [0, 0, 0]]))
    tensor([0.3333, 0.5000, 0.0000], dtype=torch.float64)
    >>> class_iou(torch.tensor([[1, 0, 1], [1, 1, 0], [0, 0, 0]]), "detectron2")
    tensor([0.3333, 0.5000,    nan], dtype=torch.float64)
    """
    counts = confusion.double()
    intersection, true, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    iou = intersection / (true + predicted - intersection)  # 0 / 0 is NaN: absent from both
    return iou.masked_fill(true == 0, torch.nan) if absent == "detectron2" else iou


def segmentation_scores(confusion: Tensor, absent: Absent = "mmseg") -> dict[str, float]:
    """`miou`, the mean over the counted classes, and `pixel_acc`.

    >>> segmentation_scores(torch.tensor([[1, 0], [1, 1]]))
    {'miou': 0.5, 'pixel_acc': 0.6666666666666666}
    """
    counts = confusion.double()
    return {
        "miou": class_iou(confusion, absent).nanmean().item(),
        "pixel_acc": (counts.trace() / counts.sum()).item(),
    }


def pixel_counts(confusion: Tensor, image: int) -> Tensor:
    """An image's counts for each class in it, int64 [classes, 5]: image, class, right, true and predicted pixels."""
    right, true, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    seen = (true + predicted).nonzero()[:, 0]
    return torch.stack([torch.full_like(seen, image), seen, right[seen], true[seen], predicted[seen]], dim=1)


def segmentation_ratios(counts: Tensor, num_images: int, absent: Absent = "mmseg") -> dict[str, Ratios]:
    """The metrics of `segmentation_scores` as `Ratios` over images, from the rows [E, 5] of `pixel_counts`."""
    image, group, right, true, predicted = counts[counts[:, 0].argsort(stable=True)].T
    above, true = right.double(), true.double()
    union = true + predicted.double() - above
    counted = true if absent == "detectron2" else None
    return {
        "miou": Ratios(image, group, above, union, num_images, counted),
        "pixel_acc": Ratios(image, torch.zeros_like(group), above, true, num_images),
    }


def segmentation_chance(pixels: Tensor, absent: Absent = "mmseg") -> dict[str, float]:
    """Scores of uniformly random labels, and of the best constant answer.

    Random labels put n_c / C of class c into every cell of its row, so IoU_c = (n_c/C) / (n_c + N/C - n_c/C): the
    ratio of expectations, which becomes exact with many pixels. The best constant answer is the most frequent class.

    Args:
        pixels: [C], pixels of each class in the truth.

    >>> {name: round(value, 3) for name, value in segmentation_chance(torch.tensor([6, 2])).items()}
    {'miou': 0.314, 'pixel_acc': 0.5, 'best_constant_miou': 0.375, 'best_constant_pixel_acc': 0.75}
    """
    num_classes = len(pixels)
    uniform = (pixels.double() / num_classes)[:, None].expand(num_classes, num_classes)
    constant = torch.zeros(num_classes, num_classes, dtype=torch.float64)
    constant[:, pixels.argmax()] = pixels.double()
    chance, best = segmentation_scores(uniform, absent), segmentation_scores(constant, absent)
    return chance | {f"best_constant_{name}": value for name, value in best.items()}
