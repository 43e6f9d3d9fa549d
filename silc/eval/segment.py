"""Zero-shot segmentation: each patch is given the class whose text feature is nearest (TCL's protocol, raw).

An image is scaled so that its shorter side is the window, windows slide by half of it, the class scores of patches
are upsampled in each window, averaged where windows overlap, resized to the truth and compared pixel by pixel.
No refinement, no background threshold. TCL works at 448 px with windows of 448; here the window is the resolution
the model was trained at. Source: kakaobrain/tcl `segmentation/evaluation/tcl_seg.py`, mmseg `encoder_decoder.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F

from silc.eval import metrics, pictures
from silc.eval.datasets import IGNORE
from silc.eval.embed import Progress, batches, silent
from silc.eval.prompts import templates, text_classifier
from silc.preprocess import FILTERS, to_uint8
from silc.types import BadInput, Evaluation, Picture, Record

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from PIL import Image
    from torch import Tensor

    from silc.eval.config import EvalConfig
    from silc.eval.datasets import SegmentationSet
    from silc.types import DualEncoder

DEFAULT_TEMPLATES = "tcl9"
LONGER_SIDE = 2048  # no image is scaled beyond this: TCL's Resize(img_scale=(2048, 448), keep_ratio=True)


class Box(NamedTuple):
    """Pixels [y1, y2) x [x1, x2)."""

    y1: int
    x1: int
    y2: int
    x2: int


@dataclass
class ZeroShotSegmentation:
    """miou and pixel_acc on one data set."""

    name: str
    data: SegmentationSet
    config: EvalConfig
    progress: Progress = silent

    def __call__(self, model: DualEncoder) -> Evaluation:
        """Score a model.

        Raises:
            BadInput: a readout the model does not have; no labelled pixel; see also `SegmentationSet.example`.
        """
        readout = _readout(model, self.config.readout)
        template_set = self.config.templates or DEFAULT_TEMPLATES
        classifier = text_classifier(
            model, self.data.classes, templates(template_set), batch_size=self.config.batch_size
        ).to(model.device)
        num_classes, window = len(self.data.classes), model.preprocess.size
        shown = pictures.evenly_spaced(len(self.data), self.config.num_pictures)
        counts, overlays = torch.zeros(num_classes, num_classes, dtype=torch.int64), []
        for index, (image, truth, prediction) in enumerate(self._predictions(model, classifier, readout)):
            counts += metrics.confusion(truth, prediction, num_classes, IGNORE)
            if index in shown:
                panel = pictures.segmentation_panel(image, truth.numpy(), prediction.numpy(), self.data.classes)
                overlays.append(Picture(self.name, str(self.data.ids[index]), panel))
            self.progress(index + 1, len(self.data))
        if not counts.any():
            raise BadInput(f"{self.data.name}: every pixel of its {len(self.data)} labels is ignored; nothing to score")
        record = Record(
            dataset=self.data.name,
            task="zeroshot_segmentation",
            metrics=metrics.segmentation_scores(counts, self.config.absent_classes),
            chance=metrics.segmentation_chance(counts.sum(1), self.config.absent_classes),
            protocol={
                "num_images": len(self.data),
                "num_classes": num_classes,
                "background_ignored": self.data.background_ignored,
                "templates": template_set,
                "ensemble": "normalize, mean, normalize",
                "canonicalize": False,
                "readout": readout,
                "resize": f"shorter side {window}, longer at most {LONGER_SIDE}, {model.preprocess.interpolation}",
                "window": window,
                "stride": _stride(window),
                "absent_classes": self.config.absent_classes,
                "refined": False,
            },
            model=model.name,
        )
        return Evaluation(record, overlays)

    def _predictions(
        self, model: DualEncoder, classifier: Tensor, readout: str
    ) -> Iterator[tuple[Image.Image, Tensor, Tensor]]:
        """(image, truth [H, W], prediction [H, W]) one by one; a few images are in memory at a time."""
        window = model.preprocess.size
        # Most images give two windows, so this many fill about one forward pass.
        for group in batches(len(self.data), max(1, self.config.batch_size // 2)):
            examples = [self.data.example(index) for index in group]
            scaled = [_scale(image, model) for image, _ in examples]
            boxes = [windows(pixels.shape[1], pixels.shape[2], window, _stride(window)) for pixels in scaled]
            crops = [
                pixels[:, y1:y2, x1:x2]
                for pixels, inside in zip(scaled, boxes, strict=True)
                for y1, x1, y2, x2 in inside
            ]
            maps = class_maps(model, crops, classifier, readout, self.config.batch_size)
            for (image, truth), pixels, inside in zip(examples, scaled, boxes, strict=True):
                scores = stitch(maps, inside, classifier.new_zeros(len(classifier), *pixels.shape[1:]))
                yield image, torch.from_numpy(truth), label_map(scores, *truth.shape)


def rescale_size(width: int, height: int, shorter: int, longer: int) -> tuple[int, int]:
    """(width, height) scaled to fit `shorter` x `longer` with the aspect kept, by mmcv's rule.

    >>> rescale_size(500, 375, 448, 2048)
    (597, 448)
    """
    factor = min(longer / max(width, height), shorter / min(width, height))
    return int(width * factor + 0.5), int(height * factor + 0.5)


def windows(height: int, width: int, window: int, stride: int) -> list[Box]:
    """Windows that cover an image, row by row; the last of a row or column is moved back inside (mmseg's rule).

    >>> windows(448, 597, 448, 224)
    [Box(y1=0, x1=0, y2=448, x2=448), Box(y1=0, x1=149, y2=448, x2=597)]
    """
    return [
        Box(y1, x1, y2, x2) for y1, y2 in _spans(height, window, stride) for x1, x2 in _spans(width, window, stride)
    ]


def class_maps(
    model: DualEncoder, crops: Sequence[Tensor], classifier: Tensor, readout: str, batch_size: int
) -> Iterator[Tensor]:
    """Class scores [C, H, W] of each crop, in order: cosines of its patches, bilinearly upsampled.

    Args:
        crops: uint8 [3, H, W]; neighbours of one size share a forward pass. Sides that the patch size does not
            divide are padded with zeros after normalisation, centred, and the padding is cut off again.
        classifier: unit-length [C, D].
    """
    for (_, height, width), same in groupby(crops, key=lambda crop: crop.shape):
        alike = list(same)
        rest_y, rest_x = -height % model.patch_size, -width % model.patch_size
        top, left = rest_y // 2, rest_x // 2
        for batch in batches(len(alike), batch_size):
            pixels = model.preprocess.normalize(torch.stack(alike[batch.start : batch.stop]).to(model.device))
            padded = F.pad(pixels, (left, rest_x - left, top, rest_y - top))
            for cosines in patch_scores(model, padded, classifier, readout):
                full = _resize(cosines, *padded.shape[-2:])  # one at a time: these are large
                yield full[:, top : top + height, left : left + width]


@torch.no_grad()
def patch_scores(model: DualEncoder, pixels: Tensor, classifier: Tensor, readout: str) -> Tensor:
    """Cosines [B, C, h, w] of patches and classes, of normalised pixels [B, 3, H, W]."""
    features = F.normalize(model.encode_dense(pixels, readout).float(), dim=-1)  # [B, h, w, D]
    return (features @ classifier.T).permute(0, 3, 1, 2)


def stitch(maps: Iterator[Tensor], boxes: Sequence[Box], canvas: Tensor) -> Tensor:
    """Mean [C, H, W] of maps [C, h, w], one per box, laid onto a canvas of zeros that the boxes cover."""
    visits = torch.zeros_like(canvas[0])
    for y1, x1, y2, x2 in boxes:
        canvas[:, y1:y2, x1:x2] += next(maps)
        visits[y1:y2, x1:x2] += 1
    return canvas.div_(visits)


def label_map(scores: Tensor, height: int, width: int) -> Tensor:
    """Best class int64 [height, width], on the CPU, of scores [C, h, w] resized bilinearly."""
    return _resize(scores, height, width).argmax(0).cpu()


def _resize(scores: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(scores[None], size=(height, width), mode="bilinear", align_corners=False)[0]


def _spans(length: int, window: int, stride: int) -> list[tuple[int, int]]:
    count = max(length - window + stride - 1, 0) // stride + 1
    ends = [min(i * stride + window, length) for i in range(count)]
    return [(max(end - window, 0), end) for end in ends]


def _stride(window: int) -> int:
    return max(1, window // 2)


def _scale(image: Image.Image, model: DualEncoder) -> Tensor:
    size = rescale_size(*image.size, model.preprocess.size, LONGER_SIDE)
    return to_uint8(image.resize(size, FILTERS[model.preprocess.interpolation]))


def _readout(model: DualEncoder, asked: str) -> str:
    if asked and asked not in model.readouts:
        raise BadInput(f"the model has no dense readout '{asked}'; eval.readout can be {', '.join(model.readouts)}")
    if not model.readouts:
        raise BadInput(f"{model.name or 'the model'} has no dense readout, so it cannot segment; choose other tasks")
    return asked or model.readouts[0]
