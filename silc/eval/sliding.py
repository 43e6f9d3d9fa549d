"""Class scores of whole images: an image is scaled and cut into sliding windows, whose scores are stitched.

The protocols differ in numbers and in whether each window goes through a softmax; see `protocols.py`. A model trained
below a protocol's resolution gets windows of its training resolution, with all other sizes in proportion. Its images
are scaled by its own filter, because it never saw photographs shrunk without antialias. `eval.window` sets
another side of windows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from silc.errors import BadInput
from silc.eval.decoders import predictor_of, refiner_of
from silc.eval.embed import ALONE, batches, finite, text_classifier
from silc.eval.joint import JointPredictor
from silc.eval.prompts import templates
from silc.eval.protocols import SLIDING_WINDOW, SlidingWindowProtocol
from silc.eval.score_map import Box, ImagePredictor, ScoreMap, Window
from silc.preprocess import Interpolation, resample
from silc.settings import one_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from PIL import Image
    from torch import Tensor

    from silc.distributed import World
    from silc.encoder import DensePredictor, DualEncoder
    from silc.eval.config import EvalConfig
    from silc.eval.cosine import Refine

MAX_SCALED = 2**24
"""Maximum number of pixels of a scaled image: with a shorter side of 448 px, the longer side may be 83 times that."""


@dataclass(frozen=True)
class Scorer:
    """All that turns images into class scores."""

    predictor: DensePredictor
    classes: Tensor
    """Features of the class names, made by the predictor."""
    rules: SlidingWindowProtocol
    batch_size: int
    refine: Refine | None = None
    """Refiner of the stitched maps; a refiner of each window belongs to the predictor."""


def scorer_of(
    model: DualEncoder | DensePredictor,
    names: Sequence[str],
    config: EvalConfig,
    world: World = ALONE,
    dataset: str = "",
) -> Scorer:
    """The scorer of images for classes with these names, by a model or a given predictor.

    `dataset` is the name of the images' data set: protocols have other numbers for some sets.

    Raises:
        BadInput: see `predictor_of` and `window_rules`; `eval.confidence` if scores are no cosines.
    """
    predictor, refiner = predictor_of(model, config), refiner_of(config)
    rules = window_rules(predictor, config, dataset)
    if config.confidence and (why := no_cosines(model, predictor, config, rules)):
        raise BadInput(f"eval.confidence is a probability, softmax(100 cosines), and {why}; leave it out")
    prompts, at_once = templates(rules.templates), config.batch_size
    embed = partial(text_classifier, templates=prompts, order=rules.ensemble, batch_size=at_once, world=world)
    classes = predictor.classes(names, embed)
    stitched = refiner.refine if refiner and refiner.at == "image" else None
    return Scorer(predictor, classes, rules, config.batch_size, stitched)


def no_cosines(
    model: DualEncoder | DensePredictor, predictor: DensePredictor, config: EvalConfig, rules: SlidingWindowProtocol
) -> str:
    """The reason why a predictor's scores under these rules are no cosines; empty if they are."""
    if isinstance(predictor, JointPredictor):
        return f"scores of decoder {config.decoder} are no cosines"
    if rules.softmax:
        return f"protocol {config.segmentation} takes a softmax of windows"
    if config.mix or config.background or getattr(model, "makes_masks", False):
        return "masks of TCL are no cosines"
    return f"{model.name} gives scores of its own" if isinstance(predictor, ImagePredictor) else ""


def window_rules(predictor: DensePredictor, config: EvalConfig, dataset: str = "") -> SlidingWindowProtocol:
    """The named protocol for a data set, with the configuration's overrides and sizes in proportion to the window.

    A predictor's own rules override these.

    Raises:
        BadInput: a setting that the predictor's own rules fix.
    """
    own_rules = predictor.rules
    if "window" in own_rules and config.segmentation != type(config)().segmentation:
        raise BadInput(f"{predictor.name} has a protocol of its own; leave out eval.segmentation {config.segmentation}")
    for setting in ("templates", "ensemble", "interpolation"):
        given = getattr(config, setting)
        if given and own_rules.get(setting, given) != given:
            raise BadInput(f"{predictor.name} has {setting} of its own, {own_rules[setting]}; leave out eval.{setting}")
    rules, preprocess = one_of(SLIDING_WINDOW, config.segmentation, "protocol"), predictor.preprocess
    rules = replace(rules, **rules.on.get(dataset, {}))
    window = config.window or min(rules.window, preprocess.size)
    own = rules.interpolation if window == rules.window else preprocess.interpolation
    rules = replace(
        rules,
        templates=config.templates or rules.templates,
        ensemble=config.ensemble or rules.ensemble,
        shorter=rules.shorter * window // rules.window,
        longer=rules.longer and rules.longer * window // rules.window,
        interpolation=config.interpolation or own,
        window=window,
        stride=max(1, rules.stride * window // rules.window),
    )
    if config.window and own_rules.get("window", window) != window:
        raise BadInput(f"{predictor.name} has windows of its own, {own_rules['window']} px; eval.window must be 0")
    return replace(rules, **own_rules)


def score_maps(images: Sequence[Image.Image], scorer: Scorer, names: Sequence[str] = ()) -> Iterator[ScoreMap]:
    """Class scores of each image at the size the protocol scales it to; scores are means over windows.

    `names` name the images in error messages.

    Raises:
        BadInput: an image too thin to be scaled; scores that are not finite.
    """
    rules = scorer.rules
    if isinstance(scorer.predictor, ImagePredictor):
        for one, called in zip(images, names or [""] * len(images), strict=True):
            yield scorer.predictor.score_map(one, scorer.classes, called)
        return
    whole = [
        scaled(image, scaled_size(*image.size, rules), rules.interpolation, name)
        for image, name in zip(images, names or [""] * len(images), strict=True)
    ]
    boxes = [windows(pixels.shape[1], pixels.shape[2], rules.window, rules.stride) for pixels in whole]
    crops = [
        (box, pixels[:, box.y1 : box.y2, box.x1 : box.x2])
        for pixels, own in zip(whole, boxes, strict=True)
        for box in own
    ]
    scored = score_windows(scorer, crops)
    for pixels, own in zip(whole, boxes, strict=True):
        _, height, width = pixels.shape
        seen = [next(scored) for _ in own]
        if isinstance(scorer.predictor, JointPredictor):
            seen = scorer.predictor.joined(seen, scorer.classes)
        stitched = ScoreMap(seen, height, width, rules.softmax)
        if scorer.refine:
            image = scorer.predictor.preprocess.normalize(pixels.to(scorer.predictor.device))
            maps = scorer.refine(stitched.whole(), image)
            stitched = ScoreMap([Window(Box(0, 0, height, width), maps, height, width)], height, width)
        yield stitched


def scaled(image: Image.Image, size: tuple[int, int], interpolation: Interpolation, name: str = "") -> Tensor:
    """Pixels uint8 [3, H, W] of an image at a size (W, H).

    Raises:
        BadInput: more pixels than MAX_SCALED.
    """
    width, height = size
    if width * height > MAX_SCALED:
        who = f"{name}: " if name else ""
        raise BadInput(
            f"{who}an image of {image.width} x {image.height} pixels is too thin: with a shorter side of {min(size)} "
            f"it has {width * height:,} pixels, the limit is {MAX_SCALED:,}; cut it into pieces or use a smaller size"
        )
    return resample(image, width, height, interpolation)


@torch.no_grad()
def score_windows(scorer: Scorer, crops: Sequence[tuple[Box, Tensor]]) -> Iterator[Window]:
    """Scores of each crop's patches, in order.

    Args:
        crops: places and pixels, uint8 [3, H, W]; consecutive crops of one size share a forward pass. If the patch size
            does not divide a side, the normalised crop is padded with zeros on both sides and the padding is cut off
            again (`pad`), or the crop is enlarged to the next multiple (`resize`).
    """
    predictor, pads = scorer.predictor, scorer.rules.fit == "pad"
    for (_, height, width), same in groupby(crops, key=lambda crop: crop[1].shape):
        alike = list(same)
        rest_y, rest_x = -height % predictor.patch_size, -width % predictor.patch_size
        top, left = (rest_y // 2, rest_x // 2) if pads else (0, 0)
        for batch in batches(len(alike), min(scorer.batch_size, getattr(predictor, "most_windows", len(alike)))):
            some = alike[batch.start : batch.stop]
            pixels = predictor.preprocess.normalize(torch.stack([crop for _, crop in some]).to(predictor.device))
            if pads:
                pixels = F.pad(pixels, (left, rest_x - left, top, rest_y - top))
            elif rest_y or rest_x:
                pixels = F.interpolate(pixels, (height + rest_y, width + rest_x), mode="bicubic", align_corners=False)
            high, wide = pixels.shape[-2:] if pads else (height, width)
            maps = finite(predictor.maps(pixels, scorer.classes), predictor)
            for (box, _), own in zip(some, maps, strict=True):
                yield Window(box, own.contiguous(), high, wide, top, left)


def scaled_size(width: int, height: int, rules: SlidingWindowProtocol) -> tuple[int, int]:
    """(width, height) that a protocol scales an image to."""
    size = rescale_size(width, height, rules.shorter, rules.longer, rules.rounding)
    return whole_strides(*size, rules.stride, rules.window) if rules.rounding == "strides" else size


def rescale_size(
    width: int, height: int, shorter: int, longer: int | None = None, rounding: str = "nearest"
) -> tuple[int, int]:
    """(width, height) scaled to fit `shorter` x `longer` with the aspect kept.

    The rule is mmcv's, or with `rounding="down"` torchvision's; `squash` makes a square:

    >>> rescale_size(500, 375, 448, 2048), rescale_size(500, 376, 448, rounding="down")
    ((597, 448), (595, 448))
    """
    if rounding == "squash":
        return shorter, shorter
    if rounding == "down":
        return shorter * width // min(width, height), shorter * height // min(width, height)
    factor = shorter / min(width, height)
    if longer is not None:
        factor = min(longer / max(width, height), factor)
    return max(1, int(width * factor + 0.5)), max(1, int(height * factor + 0.5))


def whole_strides(width: int, height: int, stride: int, least: int) -> tuple[int, int]:
    """Sides that a stride divides, by RADSeg's rule: scale both until it divides the longer one, then round each up.

    >>> whole_strides(200, 150, 64, 96), whole_strides(768, 576, 224, 336), whole_strides(448, 224, 224, 336)
    ((256, 192), (896, 672), (448, 224))
    """
    if width % stride == height % stride == 0:
        return width, height
    longer = max(width, height)
    sides = (side * (longer + -longer % stride) // longer for side in (width, height))
    across, down = (max(side + -side % stride, least) for side in sides)
    return across, down


def windows(height: int, width: int, window: int, stride: int) -> list[Box]:
    """Windows that cover an image, row by row; the last of a row or column is moved back inside (mmseg's rule).

    >>> windows(448, 597, 448, 224)
    [Box(y1=0, x1=0, y2=448, x2=448), Box(y1=0, x1=149, y2=448, x2=597)]
    """
    return [
        Box(y1, x1, y2, x2) for y1, y2 in _spans(height, window, stride) for x1, x2 in _spans(width, window, stride)
    ]


def _spans(length: int, window: int, stride: int) -> list[tuple[int, int]]:
    count = max(length - window + stride - 1, 0) // stride + 1
    ends = [min(i * stride + window, length) for i in range(count)]
    return [(max(end - window, 0), end) for end in ends]
