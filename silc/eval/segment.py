"""Zero-shot segmentation: each pixel is given the class whose map is highest, and compared with the truth.

Nothing is refined or tuned unless asked for: `eval.refine` refines; `eval.mix` and `eval.background` use TCL's method,
whose numbers were tuned on labels. Records say so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch

from silc.errors import BadInput
from silc.eval import metrics, pictures
from silc.eval.bootstrap import resampled
from silc.eval.datasets import SegmentationSet
from silc.eval.decoders import DECODERS, predictor_of, refiner_of
from silc.eval.embed import dealt, shared
from silc.eval.names import LISTS, Wording, wording
from silc.eval.protocols import SLIDING_WINDOW
from silc.eval.sliding import Scorer, score_maps, scorer_of, window_rules
from silc.eval.whole_images import OnSet
from silc.records import Evaluation, Picture, Record
from silc.settings import one_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from silc.encoder import DensePredictor, DualEncoder


class Predicted(NamedTuple):
    """An image, its truth and its labels, both int64 [H, W]."""

    image: Image.Image
    truth: NDArray[np.int64]
    labels: Tensor
    scored: NDArray[np.int64]
    """The truth that is scored: pixels below `eval.confidence`, if that is set, have the ignored label."""


class Share(NamedTuple):
    """The results of one rank's images."""

    counts: Tensor  # int64 [C, C] confusion counts
    by_image: Tensor  # int64 [N, 5] rows of `metrics.pixel_counts`
    pictures: Mapping[int, Picture]
    """Pictures for the report, by image index."""
    labelled: int
    """Pixels that have a truth, scored or not."""


@dataclass
class ZeroShotSegmentation(OnSet[SegmentationSet]):
    """miou and pixel_acc on one data set."""

    task: ClassVar[str] = "zeroshot_segmentation"
    """The `task` of its record."""
    wording: Wording = field(init=False)

    def __post_init__(self) -> None:
        # An unknown name is an error before a model runs.
        one_of(DECODERS, self.config.decoder, "decoder")
        one_of(SLIDING_WINDOW, self.config.segmentation, "protocol")
        refiner_of(self.config)
        config = self.config
        self.wording = wording(
            self.data, self.names, background_names=config.background_names, threshold=bool(config.background)
        )

    @property
    def usual_names(self) -> str:
        """The default list of words, which a record does not name."""
        return "mmseg"

    @property
    def names(self) -> str:
        """The list of words in use: `eval.names` or the default."""
        return self.config.names or self.usual_names

    @property
    def drawn(self) -> tuple[int, bool]:
        """Number of pictures for the report, and whether they show photographs."""
        return self.config.num_pictures, self.config.photographs

    @property
    def way(self) -> str:
        """Those of decoder, protocol and list of words that are not the default."""
        usual, fields = type(self.config)(), ("decoder", "segmentation", "names")
        return " ".join(value for f in fields if (value := getattr(self.config, f)) != getattr(usual, f))

    def protocol(self, model: DualEncoder | DensePredictor) -> dict[str, Any]:
        """Every setting that affects the score."""
        config, data = self.config, self.scored_set
        predictor, refiner = predictor_of(model, config), refiner_of(config)
        rules = window_rules(predictor, config, data.name)
        longer = "" if rules.longer is None else f", longer at most {rules.longer}"
        said = {
            "protocol": config.segmentation,
            "num_images": len(data),
            "num_classes": len(data.classes),
            **self._named(),
            "background_ignored": data.background_ignored,
            "templates": rules.templates,
            "ensemble": rules.ensemble,
            "canonicalize": False,
            "readout": "",
            "resize": f"shorter side {rules.shorter}{longer}, rounded {rules.rounding}, {rules.interpolation}",
            "exif_orientation": config.exif_orientation,
            "window": rules.window,
            "stride": rules.stride,
            "fit": rules.fit,
            "softmax": rules.softmax,
            "absent_classes": config.absent_classes,
            "refined": False,
            "mix": False,
            "background": config.background or False,
            "confidence": config.confidence or False,
            "tuned_on_labels": bool(config.background),
        }
        return {**said, **predictor.record, **({"refined": refiner.called} if refiner else {})}

    def _named(self) -> dict[str, Any]:
        """Entries of the record about the words for classes; the default list is not named."""
        names, (words, owner, checksum) = self.names, self.wording
        return {
            **({} if names == self.usual_names else {"names": names if names in LISTS else Path(names).name}),
            "names_sha256": checksum,
            **({} if len(set(owner)) == len(owner) else {"num_words": len(words)}),
            **({"background_names": len(self.data.background_words)} if self.config.background_names else {}),
        }

    def __call__(self, model: DualEncoder | DensePredictor) -> Evaluation:
        """Score a model by the decoder of the configuration, or score a given predictor.

        Raises:
            BadInput: a readout the model does not have; features that are not finite; no labelled pixel; see also
                `predictor_of`, `window_rules` and `SegmentationSet.example`.
        """
        data, absent = self.scored_set, self.config.absent_classes
        scorer = self.scorer(model)
        shares = shared(lambda: self._share(data, scorer), self.world)
        counts = torch.stack([share.counts for share in shares]).sum(0)
        by_image = torch.cat([share.by_image for share in shares])
        if self.config.confidence and not counts.any():
            raise BadInput(
                f"no labelled pixel of {data.name} reaches eval.confidence {self.config.confidence}; lower it"
            )
        scored = segmented(self.task, data, counts, by_image, self.protocol(model), model.name, absent)
        if self.config.confidence:
            coverage = counts.sum().item() / sum(share.labelled for share in shares)
            record = replace(scored.record, metrics={**scored.record.metrics, "coverage": coverage})
            scored = replace(scored, record=record)
        drawn = {index: picture for share in shares for index, picture in share.pictures.items()}
        return replace(scored, pictures=[drawn[index] for index in sorted(drawn)])

    def _share(self, data: SegmentationSet, scorer: Scorer) -> Share:
        """The results of this rank's images."""
        num_classes = len(data.classes)
        shown = pictures.evenly_spaced(len(data), self.config.num_pictures)
        counts, drawn = torch.zeros(num_classes, num_classes, dtype=torch.int64), dict[int, Picture]()
        labelled = 0
        rows = [torch.empty(0, 5, dtype=torch.int64)]
        # A few images are in memory at a time. Most give two windows, so this many fill about one forward pass.
        for group in dealt(len(data), max(1, self.config.batch_size // 2), self.world):
            for index, seen in zip(group, self.predictions(scorer, group), strict=True):
                image, whole, prediction, truth = seen
                labelled += int((whole != data.ignore).sum())
                own = metrics.confusion(torch.from_numpy(truth), prediction, num_classes, data.ignore)
                counts += own
                rows.append(metrics.pixel_counts(own, index))
                if index in shown:
                    under = image if self.config.photographs else None
                    panel = pictures.segmentation_panel(under, truth, prediction.numpy(), data.classes, data.ignore)
                    drawn[index] = Picture(self.name, str(data.ids[index]), panel)
                self.progress(index + 1, len(data))
        return Share(counts, torch.cat(rows), drawn, labelled)

    def scorer(self, model: DualEncoder | DensePredictor) -> Scorer:
        """The scorer of images with a model.

        Raises:
            BadInput: as a call of the evaluator.
        """
        return scorer_of(model, self.wording.words, self.config, self.world, self.data.name)

    def predictions(self, scorer: Scorer, indices: Sequence[int]) -> Iterator[Predicted]:
        """Images with truth and prediction, by index; all of these images are in memory at once.

        Raises:
            BadInput: see `SegmentationSet.example` and `score_maps`.
        """
        data, owner = self.scored_set, torch.tensor(self.wording.owner)
        examples = [data.example(index) for index in indices]
        names = [f"{data.name}/{data.ids[index]}" for index in indices]
        maps = score_maps([image for image, _ in examples], scorer, names)
        for (image, truth), scores in zip(examples, maps, strict=True):
            height, width = truth.shape
            found = scores.labels(height, width, self.config.background, self.config.confidence)
            sure = truth if not self.config.confidence else np.where(found.numpy() < 0, data.ignore, truth)
            yield Predicted(image, truth, owner[found.clamp(min=0)], sure)

    @property
    def scored_set(self) -> SegmentationSet:
        """The data set; its background is a class if it is scored."""
        if not self.config.background or self.data.background_words:
            return self.data
        if not self.data.background_ignored:
            raise BadInput(f"{self.data.name} leaves out no background that eval.background could score; set it to 0")
        return replace(self.data, classes=["background", *self.data.classes], background_ignored=False)


class OpenVocabularySegmentation(ZeroShotSegmentation):
    """Segmentation as in CAT-Seg's tables: detectron2's mean, without classes that are absent from the truth; CAT-Seg's
    names; and a scored background named by what is usually there.

    A trained head brings its own windows and prompts (`DensePredictor.rules`); a model without one is scored by the
    decoder and protocol of the configuration, as a baseline.
    """

    task = "open_vocabulary_segmentation"

    def __post_init__(self) -> None:
        config = self.config
        named = bool(self.data.background_words) and not config.background and self.names in LISTS
        self.config = replace(config, absent_classes="detectron2", background_names=named)
        super().__post_init__()

    @property
    def usual_names(self) -> str:
        """CAT-Seg's list for sets in it (it has `diningtable` in PC-59), else `mmseg`."""
        return "catseg" if self.data.published in LISTS["catseg"] else "mmseg"


def segmented(
    task: str,
    data: SegmentationSet,
    counts: Tensor,
    by_image: Tensor,
    protocol: Mapping[str, Any],
    model: str,
    absent: metrics.Absent = "mmseg",
) -> Evaluation:
    """Evaluation with miou and pixel_acc, from confusion counts [C, C] and each image's rows of `metrics.pixel_counts`.

    Raises:
        BadInput: no labelled pixel.
    """
    if not counts.any():
        raise BadInput(f"{data.name}: every pixel of its {len(data)} labels is ignored; nothing to score")
    record = Record(
        dataset=data.name,
        task=task,
        metrics=metrics.segmentation_scores(counts, absent),
        chance=metrics.segmentation_chance(counts.sum(1), absent),
        protocol=protocol,
        model=model,
        details={
            "class_iou": _by_class(counts, data.classes, absent),
            "most_confused": metrics.most_confused(counts, data.classes),
        },
    )
    return Evaluation(record, resampled=resampled(metrics.segmentation_ratios(by_image, len(data), absent)))


def _by_class(counts: Tensor, classes: Sequence[str], absent: metrics.Absent) -> list[dict[str, Any]]:
    """IoU (None where it is not counted) and pixels of every class."""
    columns = zip(classes, metrics.class_iou(counts, absent).tolist(), counts.sum(1).tolist(), strict=True)
    return [{"class": name, "iou": None if math.isnan(iou) else iou, "pixels": pixels} for name, iou, pixels in columns]
