"""Confidence of scores: 95 % intervals by the bootstrap over images, and paired differences between models.

A draw takes N of the N images with replacement and scores them; there are `RESAMPLES` draws (Efron's percentile
bootstrap). The draws depend only on N: two models are scored on the same draws, so the difference of their scores is
paired. In retrieval the query images (or the images of the query texts) are drawn; the searched set stays whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

RESAMPLES = 1000
LEVEL = 0.95
DRAWN = 2**22
"""Number of images drawn at a time."""
Interval = tuple[float, float]


@dataclass(frozen=True)
class Ratios:
    """A metric of the form: mean over groups of sum(above) / sum(below), where both sums are over images.

    An accuracy has one group. mIoU has one group per class, with intersections above and unions below. Each of the E
    entries is what one image adds to one group.
    """

    image: Tensor  # int64 [E]
    group: Tensor  # int64 [E]
    above: Tensor  # float64 [E]
    below: Tensor  # float64 [E]
    num_images: int
    counted: Tensor | None = None
    """Float64 [E]: a group enters the mean if its entries here sum to more than 0. None: its entries in `below`."""

    @classmethod
    def of_images(cls, above: Tensor, below: Tensor | None = None) -> Ratios:
        """Ratios with one group and one entry per image: `above` [N] over `below` [N] (None: over ones)."""
        every = torch.arange(len(above))
        below = torch.ones(len(above)) if below is None else below
        return cls(every, torch.zeros_like(every), above.double(), below.double(), len(above))

    def score(self) -> float:
        """The metric over all images."""
        return self._mean(torch.ones(self.num_images, 1, dtype=torch.float64)).item()

    def resampled(self) -> Tensor:
        """The metric of `RESAMPLES` draws of the images, float64 [RESAMPLES]; NaN for a draw without any group."""
        generator = torch.Generator().manual_seed(0)
        scores, images, left = [], self.num_images, RESAMPLES
        while left:
            draws = min(left, max(1, DRAWN // images))
            drawn = torch.randint(images, (draws, images), generator=generator)
            cells = (drawn + images * torch.arange(draws)[:, None]).flatten()
            times = torch.bincount(cells, minlength=draws * images).view(draws, images)
            scores.append(self._mean(times.T.double()))
            left -= draws
        return torch.cat(scores)

    def _mean(self, times: Tensor) -> Tensor:
        """The metric [R] of R draws, where draw r has image i times[i, r] times."""
        above, below = self._sums(self.above, times), self._sums(self.below, times)  # [G, R]
        counted = below if self.counted is None else self._sums(self.counted, times)
        return torch.where(counted > 0, above / below, torch.nan).nanmean(dim=0)

    def _sums(self, values: Tensor, times: Tensor) -> Tensor:
        groups = int(self.group.max()) + 1 if len(self.group) else 1
        places = torch.stack([self.group, self.image])
        matrix = torch.sparse_coo_tensor(places, values, (groups, self.num_images), check_invariants=False)
        sums: Tensor = torch.sparse.mm(matrix, times)
        return sums


def resampled(metrics: Mapping[str, Ratios]) -> dict[str, list[float]]:
    """Each metric's scores on the bootstrap's draws."""
    return {name: ratios.resampled().tolist() for name, ratios in metrics.items()}


def interval(scores: Sequence[float] | Tensor) -> Interval:
    """The middle 95 % of resampled scores, or of their differences."""
    tail = (1 - LEVEL) / 2
    low, high = torch.as_tensor(scores, dtype=torch.float64).nanquantile(torch.tensor([tail, 1 - tail]).double())
    return low.item(), high.item()


def difference(a: Sequence[float], b: Sequence[float]) -> Interval | None:
    """The 95 % interval of a - b over the same draws; None if one of them was not resampled."""
    if not a or len(a) != len(b):
        return None
    return interval(torch.tensor(a, dtype=torch.float64) - torch.tensor(b, dtype=torch.float64))
