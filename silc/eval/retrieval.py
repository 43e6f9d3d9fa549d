"""Image-text retrieval: recall@k in both directions over all captions (CLIP's and big_vision's protocol).

The two protocols differ only in the resize rule. CLIP keeps five captions per image: see `eval.max_captions`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from silc.eval import metrics, pictures
from silc.eval.bootstrap import resampled
from silc.eval.datasets import RetrievalSet
from silc.eval.embed import text_features
from silc.eval.whole_images import OnWholeImages
from silc.records import Evaluation, Picture, Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from silc.encoder import DualEncoder

SHOWN = 5


class Retrieval(OnWholeImages[RetrievalSet]):
    """Recall@1, 5 and 10 of images by text and of texts by image on one data set."""

    entry = "retrieve"

    @property
    def drawn(self) -> tuple[int, bool]:
        """Number of pictures for the report, and whether they show photographs."""
        return (self.config.num_pictures if self.config.photographs else 0), True

    def protocol(self, model: DualEncoder) -> dict[str, Any]:
        """Every setting that affects the score."""
        return {
            "protocol": self.config.classification,
            "num_images": len(self.data.images),
            "num_texts": sum(map(len, self._captions())),
            "max_captions": self.config.max_captions or "all",
            **self.entering(model),
        }

    def __call__(self, model: DualEncoder) -> Evaluation:
        """Score a model."""
        captions = self._captions()
        captions_per_image = [len(own) for own in captions]
        owner = torch.arange(len(captions)).repeat_interleave(torch.tensor(captions_per_image))
        texts = text_features(
            model, [text for own in captions for text in own], self.config.batch_size, world=self.world
        )
        images = self.features(model, self.data.images)
        ratios = metrics.recall_ratios(*metrics.retrieval_ranks(images, texts, owner), owner)
        record = Record(
            dataset=self.data.name,
            task="zeroshot_retrieval",
            metrics={name: ratio.score() for name, ratio in ratios.items()},
            chance=metrics.retrieval_chance(captions_per_image),
            protocol=self.protocol(model),
            model=model.name,
        )
        return Evaluation(record, self._strips(images, texts, owner), resampled(ratios))

    def _captions(self) -> list[Sequence[str]]:
        return [own[: self.config.max_captions or None] for own in self.data.captions]

    def _strips(self, images: Tensor, texts: Tensor, owner: Tensor) -> list[Picture]:
        """The first caption of some evenly spaced images, each with the images it finds, right or wrong."""
        strips = []
        for right in pictures.evenly_spaced(len(images), self.drawn[0]):
            scores = images @ texts[int((owner == right).nonzero()[0])]  # [N]
            found = scores.argsort(descending=True, stable=True).tolist()
            strip = pictures.retrieval_strip(
                [self.data.images[i] for i in found[:SHOWN]], rank=found.index(right) + 1, total=len(found)
            )
            strips.append(Picture(self.name, f"“{self.data.captions[right][0]}”", strip))
        return strips
