"""Image-text retrieval: all captions of an image count, recall@k both ways (CLIP's and big_vision's protocol)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from silc.eval import metrics, pictures
from silc.eval.embed import Progress, image_features, silent, text_features
from silc.types import Evaluation, Picture, Record

if TYPE_CHECKING:
    from torch import Tensor

    from silc.eval.config import EvalConfig
    from silc.eval.datasets import RetrievalSet
    from silc.types import DualEncoder

SHOWN = 5


@dataclass
class Retrieval:
    """Recall@1, 5 and 10 of images by text and of texts by image on one data set."""

    name: str
    data: RetrievalSet
    config: EvalConfig
    progress: Progress = silent

    def __call__(self, model: DualEncoder) -> Evaluation:
        """Score a model."""
        captions_per_image = [len(captions) for captions in self.data.captions]
        owner = torch.arange(len(captions_per_image)).repeat_interleave(torch.tensor(captions_per_image))
        texts = text_features(
            model, [text for captions in self.data.captions for text in captions], self.config.batch_size
        )
        images = image_features(model, self.data.images, self.config.batch_size, self.progress)
        record = Record(
            dataset=self.data.name,
            task="zeroshot_retrieval",
            metrics=metrics.retrieval_recall(images, texts, owner),
            chance=metrics.retrieval_chance(captions_per_image),
            protocol={
                "num_images": len(images),
                "num_texts": len(texts),
                "image_size": model.preprocess.size,
                "resize": f"{model.preprocess.resize}, {model.preprocess.interpolation}",
            },
            model=model.name,
        )
        return Evaluation(record, self._strips(images, texts, owner))

    def _strips(self, images: Tensor, texts: Tensor, owner: Tensor) -> list[Picture]:
        """The first caption of some evenly spaced images, each with the images it finds; not chosen by success."""
        strips = []
        for right in pictures.evenly_spaced(len(images), self.config.num_pictures):
            scores = images @ texts[int((owner == right).nonzero()[0])]  # [N]
            found = scores.argsort(descending=True, stable=True).tolist()
            strip = pictures.retrieval_strip(
                [self.data.images[i] for i in found[:SHOWN]], rank=found.index(right) + 1, total=len(found)
            )
            strips.append(Picture(self.name, f"“{self.data.captions[right][0]}”", strip))
        return strips
