"""Decoders without training that look at all windows of an image together.

| decoder  | how the windows are joined                                                              | source, licence |
| -------- | --------------------------------------------------------------------------------------- | --------------- |
| `scga`   | stitched features are averaged with weights softmax(10 (cos - mean cos)), negatives out | RADSeg, MIT     |
| `radseg` | the same, on the features of `scra`                                                     | RADSeg, MIT     |
| `lposs`  | cosines with the classes are propagated over a graph of all patches                     | LPOSS, MIT      |

"Negatives out": negative values get no weight. All are raw. RADSeg's code leaves out classes whose best probability is
below 0.5, which is no plain argmax; this module keeps them, and takes means over one image, not over a batch. LPOSS
builds its graph from DINO's features. Here it is built from the second encoder's features or, without one, from the
tower's own patches, which is our composition. LPOSS stops after ten steps of conjugate gradients, before they converge,
and so does this module: the exact solution differs by 1 to 2 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from silc.encoder import DensePredictor, DualEncoder
from silc.errors import BadInput
from silc.eval.cosine import Cosine
from silc.eval.last_block import SHARPNESS, cosines, mean_of, second_patches, sharpened, tower_of
from silc.eval.score_map import Box, Window

if TYPE_CHECKING:
    from silc.eval.config import EvalConfig
    from silc.models.image import ImageTower

TEMPERATURE = 100
"""Factor on the cosines in RADSeg's softmax over the classes."""
NEIGHBOURS, POWER, NEARNESS, SPREAD = 400, 3, 0.01, 0.95
"""LPOSS's k, gamma, sigma, alpha: edges of a patch, power of cosines, decay per pixel, weight of the neighbours."""
STEPS, TOLERANCE = 10, 1e-6
MOST_PATCHES = 2**15
"""Limit for the patches of an image if all pairs are in a matrix: it then has 4.3 GB, and several exist at once."""


@runtime_checkable
class JointPredictor(DensePredictor, Protocol):
    """A `DensePredictor` whose windows depend on each other: `maps` gives [B, any, h, w], `joined` makes class maps."""

    def joined(self, windows: Sequence[Window], classes: Tensor) -> list[Window]:
        """Class maps of an image, from the outputs of `maps` for all its windows."""
        ...


class Scga(Cosine):
    """RADSeg's self-correlating global aggregation of an image's features, and probabilities of the classes."""

    def maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Features [B, D, h, w]."""
        return self.features(self.model, images, self.readout).float().permute(0, 3, 1, 2)

    def joined(self, windows: Sequence[Window], classes: Tensor) -> list[Window]:
        """One window of softmax(TEMPERATURE cosines) [C, H, W] over the whole image."""
        whole = stitched(windows)
        few_enough(whole.patches[0].numel())
        maps = self.of_whole(whole.patches, classes)
        return [Window(whole.box, maps, whole.height, whole.width, whole.top, whole.left)]

    def of_whole(self, features: Tensor, classes: Tensor) -> Tensor:
        """Probabilities [..., C, h, w] of the features [..., D, h, w] of whole images."""
        gathered = aggregated(features.flatten(-2).transpose(-2, -1))
        probabilities = (TEMPERATURE * self.cosines(gathered, classes)).softmax(dim=-1)
        return probabilities.transpose(-2, -1).unflatten(-1, features.shape[-2:])  # type: ignore[no-any-return]


def aggregated(features: Tensor) -> Tensor:
    """Features [..., T, D], each a mean of similar ones with weights softmax(10 (cos - mean cos)), negatives out."""
    similarity = cosines(features)
    return sharpened(similarity, SHARPNESS, mean_of(similarity)) @ features


def stitched(windows: Sequence[Window]) -> Window:
    """One window with the patches of all, averaged where they overlap; each patch goes to the nearest grid place."""
    first = windows[0]
    pitch_y, pitch_x = first.height / first.patches.shape[1], first.width / first.patches.shape[2]
    corners = [(round((w.box.y1 - w.top) / pitch_y), round((w.box.x1 - w.left) / pitch_x)) for w in windows]
    height = max(y + w.patches.shape[1] for (y, _), w in zip(corners, windows, strict=True))
    width = max(x + w.patches.shape[2] for (_, x), w in zip(corners, windows, strict=True))
    total = first.patches.new_zeros(len(first.patches), height, width)
    visits = torch.zeros_like(total[0])
    for (y, x), window in zip(corners, windows, strict=True):
        _, high, wide = window.patches.shape
        total[:, y : y + high, x : x + wide] += window.patches
        visits[y : y + high, x : x + wide] += 1
    box = Box(0, 0, max(w.box.y2 for w in windows), max(w.box.x2 for w in windows))
    return Window(box, total / visits, round(height * pitch_y), round(width * pitch_x), first.top, first.left)


class Lposs(Cosine):
    """Label propagation over patches: solves (I - alpha W) x = y for the cosines y of each class.

    Raises:
        BadInput: as `Cosine`; also an image with fewer patches than `eval.neighbours`.
    """

    def __init__(self, model: DualEncoder, config: EvalConfig, **record: Any) -> None:
        self.neighbours = config.neighbours
        super().__init__(model, config, **record)
        if self.neighbours:
            self.record["neighbours"] = self.neighbours

    def maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """[B, C + E, h, w]: the C cosines, then the E channels of the graph's unit-length features."""
        cosines = super().maps(images, classes)
        second = getattr(self.model, "second", None)
        graph = second_patches(self.model, images) if second else tower_of(self.model).patches(images).float()
        graph = F.normalize(graph, dim=-1).permute(0, 3, 1, 2)
        # Cosines are interpolated to the grid of the graph's patches, as in LPOSS.
        if graph.shape[-2:] != cosines.shape[-2:]:
            cosines = F.interpolate(cosines, graph.shape[-2:], mode="bilinear", align_corners=False)
        return torch.cat([cosines, graph], dim=1)

    def joined(self, windows: Sequence[Window], classes: Tensor) -> list[Window]:
        """The windows with propagated scores."""
        few_enough(sum(window.patches[0].numel() for window in windows))
        patches = torch.cat([window.patches.flatten(1) for window in windows], dim=1).T  # [T, C + E]
        if self.neighbours > len(patches):
            raise BadInput(
                f"eval.neighbours is {self.neighbours} and an image has {len(patches)} patches; give at most that, "
                f"or 0: {NEIGHBOURS}, or all patches if an image has fewer"
            )
        cosines, graph = patches[:, : len(classes)], patches[:, len(classes) :]
        places = torch.cat([centres(window) for window in windows])
        found = propagated(laplacian(graph, places, self.neighbours or NEIGHBOURS), cosines)
        shares = found.split([window.patches[0].numel() for window in windows])
        return [
            Window(w.box, own.T.unflatten(1, w.patches.shape[1:]), w.height, w.width, w.top, w.left)
            for w, own in zip(windows, shares, strict=True)
        ]


def few_enough(patches: int) -> None:
    """Check that an image is small enough to compare all its patches.

    Raises:
        BadInput: it has more than `MOST_PATCHES`.
    """
    if patches > MOST_PATCHES:
        raise BadInput(
            f"a decoder that joins windows compares all patches of an image, and one image has {patches:,} patches, "
            f"the limit is {MOST_PATCHES:,}; use a protocol of a lower resolution, smaller images or another decoder"
        )


def graphed(model: DualEncoder) -> ImageTower:
    """The image tower whose patches form LPOSS's graph.

    Raises:
        BadInput: the second encoder, or the model if it has none, has no ViT of ours.
    """
    return tower_of(getattr(model, "second", None) or model)


def centres(window: Window) -> Tensor:
    """The centre (y, x) of each patch [h w, 2], in pixels of the image."""
    _, high, wide = window.patches.shape
    y = window.box.y1 - window.top + (torch.arange(high) + 0.5) * window.height / high
    x = window.box.x1 - window.left + (torch.arange(wide) + 0.5) * window.width / wide
    return torch.cartesian_prod(y, x).to(window.patches)


def laplacian(features: Tensor, places: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """I - alpha W [T, T] of unit features [T, E] at pixels [T, 2].

    W has cos^gamma exp(-sigma distance) for the nearest neighbours of each patch (all patches if there are fewer), and
    0 for negative cosines. Its transpose is added, the diagonal is set to 0, and each entry is divided by the square
    roots of the sums of its row and its column.
    """
    cosines = features @ features.T
    near = cosines.topk(min(neighbours, len(cosines)), dim=1)
    weights = torch.zeros_like(cosines).scatter(1, near.indices, near.values.clamp(min=0) ** POWER)
    weights = weights * torch.exp(-NEARNESS * torch.cdist(places, places))
    weights = (weights + weights.T).fill_diagonal_(0)
    sums = weights.sum(dim=1)
    roots = torch.where(sums > 0, sums, 1).rsqrt()
    return torch.eye(len(weights)).to(weights) - SPREAD * roots[:, None] * weights * roots


def propagated(system: Tensor, scores: Tensor, steps: int = STEPS) -> Tensor:
    """The x [T, C] of system x = scores, by conjugate gradients per class from 0, until TOLERANCE or for `steps`."""
    x, residual = torch.zeros_like(scores), scores.clone()
    direction, squared = residual.clone(), residual.square().sum(dim=0)
    enough = TOLERANCE * scores.norm(dim=0)
    for _ in range(steps):
        goes_on = squared.sqrt() > enough
        moved = system @ direction
        length = torch.where(goes_on, squared / (direction * moved).sum(dim=0), 0)
        x, residual = x + length * direction, residual - length * moved
        new = residual.square().sum(dim=0)
        direction = torch.where(goes_on, residual + new / squared * direction, direction)
        squared = torch.where(goes_on, new, squared)
    return x
