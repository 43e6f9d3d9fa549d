"""Zero-shot segmentation: each patch is given the class whose text feature is nearest, raw.

An image is scaled, windows slide over it, the class scores of patches are upsampled in each window, averaged where
windows overlap, resized to the truth and compared pixel by pixel. The protocols differ in numbers and in whether each
window goes through a softmax; see `protocols.py`. A model trained below a protocol's resolution gets windows of its
own, everything else in proportion, scaled by its own filter: shrinking photographs without antialias would show it
what it never saw. `eval.window` sets another.

Nothing is refined or tuned unless asked for: `eval.pamr` refines; `eval.mix` and `eval.background` repeat TCL's use
of numbers that were tuned on labels. Records say so.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from silc.errors import BadInput
from silc.eval import metrics, pamr, pictures
from silc.eval.bootstrap import resampled
from silc.eval.embed import ALONE, OnBatch, batches, dealt, finite, shared, silent, text_classifier
from silc.eval.prompts import templates
from silc.eval.protocols import SLIDING_WINDOW, SlidingWindowProtocol
from silc.eval.score_map import Box, ScoreMap, Window
from silc.preprocess import resample
from silc.records import Evaluation, Picture, Record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from PIL import Image
    from torch import Tensor

    from silc.distributed import World
    from silc.encoder import DualEncoder
    from silc.eval.config import EvalConfig
    from silc.eval.datasets import SegmentationSet

MIX = 0.3
"""TCL's share of the second readout."""
MAX_SCALED = 2**24
"""Most pixels of an image as it is scaled: with a shorter side of 448, one that is 83 times as long."""


@dataclass(frozen=True)
class Scorer:
    """What turns windows into class scores: a model's readout, class features, and how scores are treated."""

    model: DualEncoder
    classifier: Tensor  # [C, D], unit length
    readout: str
    fit: str = "pad"
    softmax: bool = False
    refined: bool = False
    mix: str = ""
    sigmoid: bool = False
    """Whether cosines become masks as TCL's do, sigmoid(10 (cos - 0.25)): what its mix and threshold work on."""


@dataclass
class ZeroShotSegmentation:
    """miou and pixel_acc on one data set."""

    name: str
    data: SegmentationSet
    config: EvalConfig
    progress: OnBatch = silent
    world: World = ALONE

    @property
    def sets(self) -> list[SegmentationSet]:
        """The data set."""
        return [self.data]

    @property
    def drawn(self) -> tuple[int, bool]:
        """Number of pictures for the report, and whether they show photographs."""
        return self.config.num_pictures, self.config.photographs

    def protocol(self, model: DualEncoder) -> dict[str, Any]:
        """Every choice that moves the number."""
        config, rules, data = self.config, window_rules(model, self.config), self._data()
        longer = "" if rules.longer is None else f", longer at most {rules.longer}"
        return {
            "protocol": config.segmentation,
            "num_images": len(data),
            "num_classes": len(data.classes),
            "names_sha256": hashlib.sha256("\n".join(data.classes).encode()).hexdigest()[:16],
            "background_ignored": data.background_ignored,
            "templates": rules.templates,
            "ensemble": rules.ensemble,
            "canonicalize": False,
            "readout": _readout(model, config.readout),
            "resize": f"shorter side {rules.shorter}{longer}, rounded {rules.rounding}, {rules.interpolation}",
            "exif_orientation": config.exif_orientation,
            "window": rules.window,
            "stride": rules.stride,
            "fit": rules.fit,
            "softmax": rules.softmax,
            "absent_classes": config.absent_classes,
            "refined": "PAMR" if config.pamr else False,
            "mix": f"{1 - MIX} own + {MIX} {config.mix}" if config.mix else False,
            "background": config.background or False,
            "tuned_on_labels": bool(config.mix or config.background),
        }

    def __call__(self, model: DualEncoder) -> Evaluation:
        """Score a model.

        Raises:
            BadInput: a readout the model does not have; features that are not finite; no labelled pixel; see also
                `SegmentationSet.example`.
        """
        data, absent = self._data(), self.config.absent_classes
        scorer = scorer_of(model, self.data.classes, self.config, self.world)
        counts, by_image, overlays = self._tally(data, scorer, window_rules(model, self.config))
        scored = segmented("zeroshot_segmentation", data, counts, by_image, self.protocol(model), model.name, absent)
        return replace(scored, pictures=[overlays[index] for index in sorted(overlays)])

    def _tally(
        self, data: SegmentationSet, scorer: Scorer, rules: SlidingWindowProtocol
    ) -> tuple[Tensor, Tensor, dict[int, Picture]]:
        """Of all ranks' images: confusion counts [C, C], each image's rows of `pixel_counts`, pictures by index."""
        shares = shared(lambda: self._share(data, scorer, rules), self.world)
        counts = torch.stack([own for own, _, _ in shares]).sum(0)
        by_image = torch.cat([own for _, own, _ in shares])
        return counts, by_image, {index: picture for _, _, own in shares for index, picture in own.items()}

    def _share(
        self, data: SegmentationSet, scorer: Scorer, rules: SlidingWindowProtocol
    ) -> tuple[Tensor, Tensor, dict[int, Picture]]:
        """The same of this rank's images."""
        num_classes = len(data.classes)
        shown = pictures.evenly_spaced(len(data), self.config.num_pictures)
        counts, overlays = torch.zeros(num_classes, num_classes, dtype=torch.int64), dict[int, Picture]()
        rows = [torch.empty(0, 5, dtype=torch.int64)]
        for index, image, truth, prediction in self._predictions(data, scorer, rules):
            own = metrics.confusion(truth, prediction, num_classes, data.ignore)
            counts += own
            rows.append(metrics.pixel_counts(own, index))
            if index in shown:
                seen = image if self.config.photographs else None
                panel = pictures.segmentation_panel(seen, truth.numpy(), prediction.numpy(), data.classes, data.ignore)
                overlays[index] = Picture(self.name, str(data.ids[index]), panel)
            self.progress(index + 1, len(data))
        return counts, torch.cat(rows), overlays

    def _data(self) -> SegmentationSet:
        """The data set, with its background as a class of its own where that is scored."""
        if not self.config.background:
            return self.data
        if not self.data.background_ignored:
            raise BadInput(f"{self.data.name} has no background that is left out; eval.background must be 0")
        return replace(self.data, classes=["background", *self.data.classes], background_ignored=False)

    def _predictions(
        self, data: SegmentationSet, scorer: Scorer, rules: SlidingWindowProtocol
    ) -> Iterator[tuple[int, Image.Image, Tensor, Tensor]]:
        """(index, image, truth [H, W], prediction [H, W]) of this rank's images; a few are in memory at a time."""
        # Most images give two windows, so this many fill about one forward pass.
        for group in dealt(len(data), max(1, self.config.batch_size // 2), self.world):
            examples = [data.example(index) for index in group]
            names = [f"{data.name}/{data.ids[index]}" for index in group]
            maps = score_maps([image for image, _ in examples], scorer, rules, self.config.batch_size, names)
            for index, (image, truth), scores in zip(group, examples, maps, strict=True):
                prediction = scores.labels(truth.shape[0], truth.shape[1], self.config.background)
                yield index, image, torch.from_numpy(truth), prediction


def segmented(
    task: str,
    data: SegmentationSet,
    counts: Tensor,
    by_image: Tensor,
    protocol: Mapping[str, Any],
    model: str,
    absent: metrics.Absent = "mmseg",
) -> Evaluation:
    """miou and pixel_acc of confusion counts [C, C] and each image's rows of `metrics.pixel_counts`.

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


def window_rules(model: DualEncoder, config: EvalConfig) -> SlidingWindowProtocol:
    """The protocol by name with what the configuration overrides, in proportion to the window."""
    rules = SLIDING_WINDOW[config.segmentation]
    window = config.window or min(rules.window, model.preprocess.size)
    own = rules.interpolation if window == rules.window else model.preprocess.interpolation
    return replace(
        rules,
        templates=config.templates or rules.templates,
        ensemble=config.ensemble or rules.ensemble,
        shorter=rules.shorter * window // rules.window,
        longer=rules.longer and rules.longer * window // rules.window,
        interpolation=config.interpolation or own,
        window=window,
        stride=max(1, rules.stride * window // rules.window),
    )


def scorer_of(model: DualEncoder, names: Sequence[str], config: EvalConfig, world: World = ALONE) -> Scorer:
    """What gives windows their scores for classes of these names.

    Raises:
        BadInput: a readout the model does not have.
    """
    rules = window_rules(model, config)
    classifier = text_classifier(
        model, names, templates(rules.templates), rules.ensemble, batch_size=config.batch_size, world=world
    )
    return Scorer(
        model,
        classifier.to(model.device),
        _readout(model, config.readout),
        fit=rules.fit,
        softmax=rules.softmax,
        refined=config.pamr,
        mix=_readout(model, config.mix) if config.mix else "",
        sigmoid=bool(config.mix or config.background),
    )


def score_maps(
    images: Sequence[Image.Image],
    scorer: Scorer,
    rules: SlidingWindowProtocol,
    batch_size: int,
    names: Sequence[str] | None = None,
) -> Iterator[ScoreMap]:
    """Class scores of each image at the size the protocol scales it to; windows overlap, scores are means.

    `names` are for a complaint about one of them.

    Raises:
        BadInput: an image too thin to be scaled.
    """
    names = names or [""] * len(images)
    scaled = [_scaled(image, rules, name) for image, name in zip(images, names, strict=True)]
    boxes = [windows(pixels.shape[1], pixels.shape[2], rules.window, rules.stride) for pixels in scaled]
    crops = [
        (box, pixels[:, box.y1 : box.y2, box.x1 : box.x2])
        for pixels, own in zip(scaled, boxes, strict=True)
        for box in own
    ]
    scored = score_windows(scorer, crops, batch_size)
    for pixels, own in zip(scaled, boxes, strict=True):
        _, height, width = pixels.shape
        yield ScoreMap([next(scored) for _ in own], height, width, scorer.softmax)


def _by_class(counts: Tensor, classes: Sequence[str], absent: metrics.Absent) -> list[dict[str, Any]]:
    """IoU (None where it is not counted) and pixels of every class."""
    columns = zip(classes, metrics.class_iou(counts, absent).tolist(), counts.sum(1).tolist(), strict=True)
    return [{"class": name, "iou": None if math.isnan(iou) else iou, "pixels": pixels} for name, iou, pixels in columns]


def rescale_size(
    width: int, height: int, shorter: int, longer: int | None = None, rounding: str = "nearest"
) -> tuple[int, int]:
    """(width, height) scaled to fit `shorter` x `longer` with the aspect kept.

    mmcv's rule, or with `rounding="down"` torchvision's:

    >>> rescale_size(500, 375, 448, 2048), rescale_size(500, 376, 448, rounding="down")
    ((597, 448), (595, 448))
    """
    if rounding == "down":
        return shorter * width // min(width, height), shorter * height // min(width, height)
    factor = shorter / min(width, height)
    if longer is not None:
        factor = min(longer / max(width, height), factor)
    return max(1, int(width * factor + 0.5)), max(1, int(height * factor + 0.5))


def windows(height: int, width: int, window: int, stride: int) -> list[Box]:
    """Windows that cover an image, row by row; the last of a row or column is moved back inside (mmseg's rule).

    >>> windows(448, 597, 448, 224)
    [Box(y1=0, x1=0, y2=448, x2=448), Box(y1=0, x1=149, y2=448, x2=597)]
    """
    return [
        Box(y1, x1, y2, x2) for y1, y2 in _spans(height, window, stride) for x1, x2 in _spans(width, window, stride)
    ]


def score_windows(scorer: Scorer, crops: Sequence[tuple[Box, Tensor]], batch_size: int) -> Iterator[Window]:
    """Scores of each crop's patches, in order.

    Args:
        crops: places and pixels, uint8 [3, H, W]; neighbours of one size share a forward pass. Sides that the patch
            size does not divide are padded with zeros after normalisation, centred, and the padding is cut off again
            (`pad`), or the crop is enlarged to the next multiple (`resize`).
    """
    model = scorer.model
    for (_, height, width), same in groupby(crops, key=lambda crop: crop[1].shape):
        alike = list(same)
        rest_y, rest_x = -height % model.patch_size, -width % model.patch_size
        top, left = (rest_y // 2, rest_x // 2) if scorer.fit == "pad" else (0, 0)
        for batch in batches(len(alike), batch_size):
            some = alike[batch.start : batch.stop]
            pixels = model.preprocess.normalize(torch.stack([crop for _, crop in some]).to(model.device))
            if scorer.fit == "pad":
                fitted = F.pad(pixels, (left, rest_x - left, top, rest_y - top))
            else:
                fitted = _fit(pixels, height + rest_y, width + rest_x)
            high, wide = fitted.shape[-2:] if scorer.fit == "pad" else (height, width)
            own = patch_scores(scorer, fitted, scorer.readout)
            other = patch_scores(scorer, fitted, scorer.mix) if scorer.mix else own
            for (box, _), image, scores, more in zip(some, fitted, own, other, strict=True):
                if scorer.refined:
                    scores = pamr.refine_at_their_size(scores, image)
                if scorer.mix:
                    scores = (1 - MIX) * scores + MIX * more
                yield Window(box, scores.contiguous(), high, wide, top, left)


@torch.no_grad()
def patch_scores(scorer: Scorer, pixels: Tensor, readout: str) -> Tensor:
    """Cosines [B, C, h, w] of patches and classes, or TCL's masks, of normalised pixels [B, 3, H, W].

    Raises:
        BadInput: features that are not finite.
    """
    dense = finite(scorer.model.encode_dense(pixels, readout).float(), scorer.model)
    features = F.normalize(dense, dim=-1)  # [B, h, w, D]
    cosines = (features @ scorer.classifier.T).permute(0, 3, 1, 2)
    return torch.sigmoid(10 * (cosines - 0.25)) if scorer.sigmoid else cosines


def _scaled(image: Image.Image, rules: SlidingWindowProtocol, name: str) -> Tensor:
    width, height = rescale_size(*image.size, rules.shorter, rules.longer, rules.rounding)
    if width * height > MAX_SCALED:
        who = f"{name}: " if name else ""
        raise BadInput(
            f"{who}an image of {image.width} x {image.height} pixels is too thin to segment: scaled to a shorter side "
            f"of {rules.shorter} it has {width * height:,} pixels, the limit is {MAX_SCALED:,}; cut it into pieces"
        )
    return resample(image, width, height, rules.interpolation)


def _fit(pixels: Tensor, height: int, width: int) -> Tensor:
    """Pixels [B, 3, H, W] at another size, as TIPS and DINOv3 fit a window to their patches."""
    if pixels.shape[-2:] == (height, width):
        return pixels
    return F.interpolate(pixels, size=(height, width), mode="bicubic", align_corners=False)


def _spans(length: int, window: int, stride: int) -> list[tuple[int, int]]:
    count = max(length - window + stride - 1, 0) // stride + 1
    ends = [min(i * stride + window, length) for i in range(count)]
    return [(max(end - window, 0), end) for end in ends]


def _readout(model: DualEncoder, asked: str) -> str:
    if asked and asked not in model.readouts:
        raise BadInput(f"the model has no dense readout '{asked}'; eval.readout can be {', '.join(model.readouts)}")
    if not model.readouts:
        raise BadInput(f"{model.name or 'the model'} has no dense readout, so it cannot segment; choose other tasks")
    return asked or model.readouts[0]
