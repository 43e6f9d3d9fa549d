"""Captions by a `Writer`, scored by CIDEr-D, BLEU and ROUGE-L against all captions of each image.

The protocol is our own: greedy decoding, the whole image squashed to the model's square, captions as written.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import torch

from silc.encoder import Writer
from silc.errors import BadInput
from silc.eval.bootstrap import Ratios, resampled
from silc.eval.caption_metrics import caption_scores
from silc.eval.datasets import RetrievalSet
from silc.eval.embed import dealt, shared
from silc.eval.pictures import evenly_spaced, small
from silc.eval.whole_images import OnSet
from silc.records import Evaluation, Picture, Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from silc.encoder import DualEncoder

CAPTION = "caption"
"""Prefix of the task."""
SHOWN = 50
"""Number of captions that the record lists beside the truth."""


class Captioning(OnSet[RetrievalSet]):
    """Scores of a model's captions on one data set."""

    @property
    def drawn(self) -> tuple[int, bool]:
        """Number of pictures for the report, and whether they show photographs."""
        return (self.config.num_pictures if self.config.photographs else 0), True

    def protocol(self, model: DualEncoder) -> dict[str, Any]:
        """Every setting that affects the score."""
        return {
            "protocol": "silc",
            "num_images": len(self.data.images),
            "num_texts": sum(map(len, self.data.captions)),
            "decoding": "greedy",
            "metrics": "pycocoevalcap 1.2, its PTB tokenizer by rules",
            "exif_orientation": self.config.exif_orientation,
            "chance": "the commonest caption for every image",
            **getattr(model, "record", {}),
        }

    def __call__(self, model: DualEncoder) -> Evaluation:
        """Score a model.

        Raises:
            BadInput: the model writes no captions; the set has only one image, for which CIDEr is not defined.
        """
        writer = writer_of(model, CAPTION)
        if len(self.data.images) < 2:
            raise BadInput(f"{self.data.name} has one image; CIDEr weighs words by images, and needs at least 2")
        written: dict[int, str] = {}
        for theirs in shared(lambda: self._share(writer), self.world):
            written |= theirs
        captions = [written[index] for index in range(len(self.data.images))]
        scores = caption_scores(captions, self.data.captions)
        commonest = Counter(text for own in self.data.captions for text in own).most_common(1)[0][0]
        each = {name: Ratios.of_images(torch.tensor(scores.each[name])) for name in ("cider", "rouge_l")}
        record = Record(
            dataset=self.data.name,
            task="captioning",
            metrics=scores.metrics,
            chance=caption_scores([commonest] * len(captions), self.data.captions).metrics,
            protocol=self.protocol(model),
            model=model.name,
            details={"captions": self._beside(captions)},
        )
        return Evaluation(record, self._pictures(captions), resampled(each))

    def _share(self, writer: Writer) -> dict[int, str]:
        """Captions of this rank's images, by image index."""
        mine: dict[int, str] = {}
        for batch in dealt(len(self.data.images), self.config.batch_size, self.world):
            images = [self.data.images[index] for index in batch]
            mine |= zip(batch, writer.write(images, CAPTION), strict=True)
            self.progress(batch.stop, len(self.data.images))
        return mine

    def _beside(self, captions: Sequence[str]) -> list[dict[str, str]]:
        """At most `SHOWN` captions, each with the truth."""
        return [
            {"image": str(index), "truth": self.data.captions[index][0], "written": captions[index]}
            for index in evenly_spaced(len(captions), min(SHOWN, len(captions)))
        ]

    def _pictures(self, captions: Sequence[str]) -> list[Picture]:
        """Pictures of evenly spaced images; success does not decide which are shown."""
        drawn = []
        for index in evenly_spaced(len(captions), self.drawn[0]):
            said = f"“{captions[index]}”; truth: “{self.data.captions[index][0]}”"
            drawn.append(Picture(self.name, said, small(self.data.images[index])))
        return drawn


def writer_of(model: DualEncoder, prefix: str) -> Writer:
    """The model itself, as a `Writer` that has learnt the prefix.

    Raises:
        BadInput: the model is no `Writer`, or has not learnt the task.
    """
    if not isinstance(model, Writer):
        raise BadInput(writes_nothing(model.name))
    if prefix not in model.prefixes:
        raise BadInput(not_learnt(model.name, model.prefixes, prefix))
    return model


def writes_nothing(name: str) -> str:
    """Error message for a model that is no `Writer`."""
    return f"{name or 'this model'} writes no text; train a decoder that does: `silc train decoder --init MODEL`"


def not_learnt(name: str, prefixes: Sequence[str], prefix: str) -> str:
    """Error message for a task that a decoder has not learnt."""
    known = " and ".join(prefixes)
    return f"{name or 'this decoder'} has learnt {known}, not {prefix}; train it on --data.train '{prefix}:DATA'"
