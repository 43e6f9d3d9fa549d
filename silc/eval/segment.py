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
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F

from silc.eval import metrics, pamr, pictures
from silc.eval.datasets import IGNORE
from silc.eval.embed import ALONE, Progress, batches, dealt, finite, silent
from silc.eval.prompts import templates, text_classifier
from silc.eval.protocols import SLIDING_WINDOW, SlidingWindowProtocol
from silc.preprocess import resample
from silc.types import BadInput, Evaluation, Picture, Record

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from PIL import Image
    from torch import Tensor

    from silc.distributed import World
    from silc.eval.config import EvalConfig
    from silc.eval.datasets import SegmentationSet
    from silc.types import DualEncoder

MIX = 0.3
"""TCL's share of the second readout."""
CLASS_CHUNK = 32
"""Classes resized to the size of the truth at a time."""


class Box(NamedTuple):
    """Pixels [y1, y2) x [x1, x2)."""

    y1: int
    x1: int
    y2: int
    x2: int


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
    progress: Progress = silent
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
        counts, overlays = self._tally(data, scorer, window_rules(model, self.config))
        if not counts.any():
            raise BadInput(f"{data.name}: every pixel of its {len(data)} labels is ignored; nothing to score")
        record = Record(
            dataset=data.name,
            task="zeroshot_segmentation",
            metrics=metrics.segmentation_scores(counts, absent),
            chance=metrics.segmentation_chance(counts.sum(1), absent),
            protocol=self.protocol(model),
            model=model.name,
            details={
                "class_iou": _by_class(counts, data.classes, absent),
                "most_confused": metrics.most_confused(counts, data.classes),
            },
        )
        return Evaluation(record, [overlays[index] for index in sorted(overlays)])

    def _tally(
        self, data: SegmentationSet, scorer: Scorer, rules: SlidingWindowProtocol
    ) -> tuple[Tensor, dict[int, Picture]]:
        """Confusion counts [C, C] of all ranks' images, and pictures by index."""
        num_classes = len(data.classes)
        shown = pictures.evenly_spaced(len(data), self.config.num_pictures)
        counts, overlays, complaint = torch.zeros(num_classes, num_classes, dtype=torch.int64), {}, ""
        try:
            for index, image, truth, prediction in self._predictions(data, scorer, rules):
                counts += metrics.confusion(truth, prediction, num_classes, IGNORE)
                if index in shown:
                    seen = image if self.config.photographs else None
                    panel = pictures.segmentation_panel(seen, truth.numpy(), prediction.numpy(), data.classes)
                    overlays[index] = Picture(self.name, str(data.ids[index]), panel)
                self.progress(index + 1, len(data))
        except BadInput as error:  # one rank's alone, perhaps; the others wait for its share
            complaint = str(error)
        shares = self.world.collect((counts, overlays, complaint))
        if complaints := [told for _, _, told in shares if told]:
            raise BadInput(complaints[0])
        counts = sum((share for share, _, _ in shares), start=torch.zeros_like(counts))
        return counts, {index: picture for _, share, _ in shares for index, picture in share.items()}

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
            maps = score_maps([image for image, _ in examples], scorer, rules, self.config.batch_size)
            for index, (image, truth), scores in zip(group, examples, maps, strict=True):
                prediction = label_map(scores, truth.shape[0], truth.shape[1], self.config.background)
                yield index, image, torch.from_numpy(truth), prediction


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
    images: Sequence[Image.Image], scorer: Scorer, rules: SlidingWindowProtocol, batch_size: int
) -> Iterator[Tensor]:
    """Class scores [C, h, w] of each image at the size the protocol scales it to; windows overlap, scores are means."""
    scaled = [_scaled(image, rules) for image in images]
    boxes = [windows(pixels.shape[1], pixels.shape[2], rules.window, rules.stride) for pixels in scaled]
    crops = [pixels[:, y1:y2, x1:x2] for pixels, inside in zip(scaled, boxes, strict=True) for y1, x1, y2, x2 in inside]
    maps = class_maps(scorer, crops, batch_size)
    for pixels, inside in zip(scaled, boxes, strict=True):
        yield stitch(maps, inside, scorer.classifier.new_zeros(len(scorer.classifier), *pixels.shape[1:]))


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
    return int(width * factor + 0.5), int(height * factor + 0.5)


def windows(height: int, width: int, window: int, stride: int) -> list[Box]:
    """Windows that cover an image, row by row; the last of a row or column is moved back inside (mmseg's rule).

    >>> windows(448, 597, 448, 224)
    [Box(y1=0, x1=0, y2=448, x2=448), Box(y1=0, x1=149, y2=448, x2=597)]
    """
    return [
        Box(y1, x1, y2, x2) for y1, y2 in _spans(height, window, stride) for x1, x2 in _spans(width, window, stride)
    ]


def class_maps(scorer: Scorer, crops: Sequence[Tensor], batch_size: int) -> Iterator[Tensor]:
    """Class scores [C, H, W] of each crop, in order: those of its patches, bilinearly upsampled.

    Args:
        crops: uint8 [3, H, W]; neighbours of one size share a forward pass. Sides that the patch size does not
            divide are padded with zeros after normalisation, centred, and the padding is cut off again (`pad`), or
            the crop is enlarged to the next multiple (`resize`).
    """
    model = scorer.model
    for (_, height, width), same in groupby(crops, key=lambda crop: crop.shape):
        alike = list(same)
        rest_y, rest_x = -height % model.patch_size, -width % model.patch_size
        top, left = (rest_y // 2, rest_x // 2) if scorer.fit == "pad" else (0, 0)
        for batch in batches(len(alike), batch_size):
            pixels = model.preprocess.normalize(torch.stack(alike[batch.start : batch.stop]).to(model.device))
            if scorer.fit == "pad":
                fitted = F.pad(pixels, (left, rest_x - left, top, rest_y - top))
            else:
                fitted = _fit(pixels, height + rest_y, width + rest_x)
            upsampled = fitted.shape[-2:] if scorer.fit == "pad" else (height, width)
            own = patch_scores(scorer, fitted, scorer.readout)
            other = patch_scores(scorer, fitted, scorer.mix) if scorer.mix else own
            for image, scores, more in zip(fitted, own, other, strict=True):
                if scorer.refined:
                    scores = pamr.refine_at_their_size(scores, image)
                if scorer.mix:
                    scores = (1 - MIX) * scores + MIX * more
                full = _resize(scores, *upsampled)  # one at a time: these are large
                if scorer.softmax:
                    full = full.softmax(dim=0)
                yield full[:, top : top + height, left : left + width]


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


def stitch(maps: Iterator[Tensor], boxes: Sequence[Box], canvas: Tensor) -> Tensor:
    """Mean [C, H, W] of maps [C, h, w], one per box, laid onto a canvas of zeros that the boxes cover."""
    visits = torch.zeros_like(canvas[0])
    for y1, x1, y2, x2 in boxes:
        canvas[:, y1:y2, x1:x2] += next(maps)
        visits[y1:y2, x1:x2] += 1
    return canvas.div_(visits)


def label_map(scores: Tensor, height: int, width: int, background: float = 0.0) -> Tensor:
    """Best class int64 [height, width], on the CPU, of scores [C, h, w] resized bilinearly.

    With a `background` threshold classes count from 1, and 0 is where none is above it.
    """
    best = scores.new_full((height, width), background or -torch.inf)
    labels = torch.zeros(height, width, dtype=torch.int64, device=scores.device)
    for start in range(0, len(scores), CLASS_CHUNK):  # all classes at once would be large for large truths
        values, indices = _resize(scores[start : start + CLASS_CHUNK], height, width).max(dim=0)
        better = values > best
        best = torch.where(better, values, best)
        labels = torch.where(better, indices + start + bool(background), labels)
    return labels.cpu()


def _scaled(image: Image.Image, rules: SlidingWindowProtocol) -> Tensor:
    size = rescale_size(*image.size, rules.shorter, rules.longer, rules.rounding)
    return resample(image, *size, rules.interpolation)


def _resize(scores: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(scores[None], size=(height, width), mode="bilinear", align_corners=False)[0]


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
