"""Open-vocabulary detection: average precision of a model's boxes for all class names of a data set.

The protocol is OWL-ViT's: the logits of seven prompts are averaged, the best 300 boxes of an image over all names count
(one patch may have several names), and overlapping boxes are not suppressed. Metrics are COCO's twelve, or LVIS's with
APr, APc and APf.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from silc.encoder import Detector
from silc.errors import BadInput
from silc.eval.average_precision import MOST, Detection, average_precision
from silc.eval.box_pictures import beside, with_boxes
from silc.eval.datasets import Box, Corners, DetectionSet, iou
from silc.eval.embed import dealt, finite, shared, text_features
from silc.eval.prompts import prompts, templates
from silc.eval.whole_images import OnSet
from silc.records import Evaluation, Picture, Record

if TYPE_CHECKING:
    from torch import Tensor

    from silc.encoder import DualEncoder

TEMPLATES = "clip7"
"""The prompts with which OWL-ViT is scored."""
CENTRE_LIMIT = 1_000_000
"""Number of pairs of image and class above which the centre box is not scored: it would take longer than the model."""
CENTRE = "a centre box of the mean size of each class, the most frequent first"
Found = list[list[Detection]]


@dataclass
class OpenVocabularyDetection(OnSet[DetectionSet]):
    """AP of a `Detector` on one data set."""

    @property
    def drawn(self) -> tuple[int, bool]:
        """Number of pictures for the report, and whether they show photographs."""
        return (2 * (self.config.num_pictures // 2) if self.config.photographs else 0), True

    def protocol(self, model: DualEncoder) -> dict[str, Any]:
        """Every setting that affects the score."""
        return {
            "protocol": "lvis" if self.data.frequency else "coco",
            "num_images": len(self.data),
            "num_classes": len(self.data.classes),
            "templates": self.config.templates or TEMPLATES,
            "ensemble": "mean of logits",
            "boxes": f"the best {MOST} of an image over all names",
            "exif_orientation": self.config.exif_orientation,
            **({"chance": CENTRE} if has_centre(self.data) else {}),
            **getattr(model, "record", {}),
        }

    def __call__(self, model: DualEncoder) -> Evaluation:
        """Score a model.

        Raises:
            BadInput: the model is no `Detector`; its features are not finite; image and boxes differ in size.
        """
        if not isinstance(model, Detector):
            raise BadInput(no_boxes(model.name))
        queries = text_queries(model, self.data.classes, self.config.templates or TEMPLATES, self.config.batch_size)
        everyone: dict[int, list[Detection]] = {}
        for theirs in shared(lambda: self._share(model, queries), self.world):
            everyone |= theirs
        found = [everyone[index] for index in range(len(self.data))]
        worth = average_precision(self.data, found)
        centre = centre_boxes(self.data)
        record = Record(
            dataset=self.data.name,
            task="open_vocabulary_detection",
            metrics=worth.metrics,
            chance=average_precision(self.data, centre).metrics if centre else {},
            protocol=self.protocol(model),
            model=model.name,
            details={"class_ap": self._by_class(worth.by_class)},
        )
        return Evaluation(record, self._pictures(found))

    def _share(self, model: Detector, queries: Tensor) -> dict[int, list[Detection]]:
        """Detections in this rank's images, by image index."""
        mine: dict[int, list[Detection]] = {}
        for group in dealt(len(self.data), self.config.batch_size, self.world):
            pixels = torch.stack([model.entering(self.data.image(index)) for index in group])
            logits, boxes = model.find(model.preprocess.normalize(pixels.to(model.device)), queries)
            finite(logits, model)
            for place, index in enumerate(group):
                mine[index] = best(logits[place], boxes[place], self.data.sizes[index])
            self.progress(group.stop, len(self.data))
        return mine

    def _by_class(self, precision: Mapping[str, float]) -> list[dict[str, Any]]:
        """AP and number of objects of each class that is in the truth, lowest AP first."""
        counts = Counter(self.data.classes[box.label] for own in self.data.objects for box in own if not box.crowd)
        rows = [{"class": name, "objects": counts[name], "ap": ap} for name, ap in precision.items()]
        return sorted(rows, key=lambda row: float(row["ap"]))

    def _pictures(self, found: Found) -> list[Picture]:
        """Truth beside detections, of the images with the largest and the smallest share of objects found."""
        half = self.drawn[0] // 2
        with_truth = [index for index, own in enumerate(self.data.objects) if own]
        ranked = sorted(with_truth, key=lambda index: -share_found(self.data.objects[index], found[index]))
        best_ones, rest = ranked[:half], ranked[half:]
        shown = [("best", index) for index in best_ones] + [("worst", index) for index in rest[::-1][:half]]
        drawn = []
        for what, index in shown:
            image, truth = self.data.images[index], self.data.objects[index]
            likely = found[index][: len(truth)]
            panel = beside(with_boxes(image, truth, self.data.classes), with_boxes(image, likely, self.data.classes))
            drawn.append(Picture(self.name, f"{what}: {self.data.called(index)}: truth, and as many found", panel))
        return drawn


def no_boxes(name: str) -> str:
    """Error message for a model that is no `Detector`."""
    return f"{name or 'this model'} finds no boxes; train a head that does: `silc train detect --init MODEL`"


def text_queries(model: DualEncoder, names: Sequence[str], prompt_set: str, batch_size: int = 64) -> Tensor:
    """A query per name [Q, D], on the model's device: the mean of the unit-length features of the name's prompts.

    Logits are linear in the cosine, so the logit of the mean feature is the mean of the prompts' logits.
    """
    return queries_of(model, names, templates(prompt_set), batch_size)


def queries_of(model: DualEncoder, names: Sequence[str], around: Sequence[str], batch_size: int = 64) -> Tensor:
    """Like `text_queries`, with the templates `around` in place of a named prompt set."""
    texts = [text for name in names for text in prompts(name, around)]
    features = text_features(model, texts, batch_size).reshape(len(names), len(around), -1)
    return features.mean(dim=1).to(model.device)


def best(logits: Tensor, boxes: Tensor, size: tuple[int, int], most: int = MOST) -> list[Detection]:
    """The boxes of an image with the highest scores over all names, in pixels, best first; none in the padding.

    Args:
        logits: [N, Q].
        boxes: [N, 4], (centre x, centre y, width, height) as fractions of a square with the image's longer side.
        size: (width, height) of the image.
    """
    scaled, limits = boxes.float() * max(size), boxes.new_tensor(size, dtype=torch.float32)
    low = (scaled[:, :2] - scaled[:, 2:] / 2).clamp(min=0).minimum(limits)
    high = (scaled[:, :2] + scaled[:, 2:] / 2).clamp(min=0).minimum(limits)
    seen = (high - low).amin(dim=1) > 0  # patches of the padding have boxes too
    ranked = logits.float()[seen].flatten()  # not sigmoids: many of these are exactly 1 if a model is confident
    least = ranked.topk(min(most, len(ranked))).values[-1:]
    places = (ranked >= least).nonzero().flatten()
    places = places[ranked[places].argsort(descending=True, stable=True)][:most]  # of equal logits the first
    rows = torch.cat([low, high - low], dim=1)[seen][places // logits.shape[1]].tolist()
    each = zip((places % logits.shape[1]).tolist(), rows, ranked[places].sigmoid().tolist(), strict=True)
    return [Detection(label, x, y, across, down, score) for label, (x, y, across, down), score in each]


def has_centre(data: DetectionSet) -> bool:
    """Whether the centre-box baseline of a set is scored."""
    return len(data) * len(data.classes) <= CENTRE_LIMIT


def centre_boxes(data: DetectionSet) -> Found:
    """Baseline without images: for each class a centred box of its mean size, the class in most images first."""
    if not has_centre(data):
        return []
    sides: dict[int, list[tuple[float, float]]] = {}
    images = Counter[int]()
    for (width, height), own in zip(data.sizes, data.objects, strict=True):
        alone = [box for box in own if not box.crowd]
        images.update({box.label for box in alone})
        for box in alone:
            sides.setdefault(box.label, []).append((box.width / width, box.height / height))
    mean = {label: [sum(side) / len(each) for side in zip(*each, strict=True)] for label, each in sides.items()}
    constant = sorted(mean, key=lambda label: -images[label])

    def of(width: int, height: int) -> list[Detection]:
        boxes = []
        for label in constant:
            w, h = mean[label][0] * width, mean[label][1] * height
            boxes.append(Detection(label, (width - w) / 2, (height - h) / 2, w, h, images[label] / len(data)))
        return boxes

    return [of(*size) for size in data.sizes]


def share_found(truth: Sequence[Box], found: Sequence[Detection]) -> float:
    """Share of an image's K objects that its K best boxes hit, with the right name and IoU 0.5 or more."""
    likely, hit = list(found[: len(truth)]), 0
    for box in truth:
        same = (one for one in likely if one.label == box.label)
        match = next((one for one in same if iou(corners_of(one), corners_of(box)) >= 0.5), None)
        if match is not None:
            likely.remove(match)
            hit += 1
    return hit / len(truth)


def corners_of(box: Detection | Box) -> Corners:
    """The corners of a box, in pixels."""
    return box.x, box.y, box.x + box.width, box.y + box.height
