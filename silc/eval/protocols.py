"""The published protocols by name: how they treat images, names and scores. Nothing else affects a score.

The filter that resizes whole images is the model's own (`Preprocess.interpolation`): an imported big_vision model
brings `tf_bilinear`, and a model trained on images resized by Pillow is scored on such images. `eval.interpolation`
overrides the filter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from silc.preprocess import Interpolation, Resize

Order = Literal["normalize, mean, normalize", "mean, normalize"]


@dataclass(frozen=True)
class WholeImageProtocol:
    """How images and names enter classification and retrieval."""

    templates: str
    """A named prompt set; empty: the data set's own."""
    canonicalize: bool
    """Whether names and templates are put in lower case without punctuation, and names are cut at the first comma."""
    resize: Mapping[str, Resize]
    """How images are made square, by purpose: classify, retrieve, few-shot."""


WHOLE_IMAGE = {
    # big_vision evaluators/proj/image_text/discriminative_classifier.py, retrieval.py
    "big_vision": WholeImageProtocol(
        "clip80+1", True, {"classify": "squash_crop", "retrieve": "squash", "few-shot": "squash_crop"}
    ),
    # CLIP's notebook and CLIP_benchmark: 80 templates for ImageNet, 18 for CIFAR, as published.
    "clip": WholeImageProtocol("", False, {"classify": "crop", "retrieve": "crop", "few-shot": "squash_crop"}),
}
OWN_TEMPLATES = {"cifar10": "cifar18", "cifar100": "cifar18"}
"""Data sets with templates of their own in CLIP; the others take ImageNet's 80."""


@dataclass(frozen=True)
class SlidingWindowProtocol:
    """How an image is cut, scored and put together in segmentation."""

    templates: str
    ensemble: Order
    shorter: int
    """Pixels to which the shorter side is scaled."""
    longer: int | None
    """Limit for the longer side, in pixels; None: no limit."""
    rounding: Literal["nearest", "down", "squash", "strides"]
    """How the other side becomes an integer. nearest: mmcv's rule. down: torchvision's. squash: it is as long as the
    shorter side (CAT-Seg). strides: mmcv's rule, then both sides are raised to whole strides (RADSeg)."""
    interpolation: Interpolation
    window: int
    stride: int
    fit: Literal["pad", "resize"]
    """If the patch size does not divide a window: pad it with zeros, or resize it to a larger size (bicubic)."""
    softmax: bool
    """Whether each window's cosines go through a softmax over the classes, without temperature, before averaging."""
    on: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Fields with other values on some data sets, as the authors have them, by the set's name."""


SLIDING_WINDOW = {
    # kakaobrain/tcl segmentation/evaluation/tcl_seg.py and configs/_base_; engine mmseg 0.27.
    "tcl": SlidingWindowProtocol(
        "tcl9", "mean, normalize", 448, 2048, "nearest", "cv2_bilinear", 448, 224, "pad", softmax=False
    ),
    # wangf3014/SCLIP configs/base_config.py, cfg_city_scapes.py, cfg_coco_stuff164k.py
    "sclip": SlidingWindowProtocol(
        "clip80",
        "normalize, mean, normalize",
        336,
        2048,
        "nearest",
        "cv2_bilinear",
        224,
        112,
        "pad",
        softmax=False,
        on={"cityscapes": {"shorter": 560}, "coco-stuff": {"shorter": 448}},
    ),
    # RADSeg-OVSS/RADSeg configs_mmseg/{mid,high}_res_configs, radseg/radseg.py: _preprocess_image. Sets that
    # are none of its five get A-150's numbers. Its low resolution is SCLIP's protocol, but with Stuff at 336.
    "radseg-mid": SlidingWindowProtocol(
        "clip80",
        "normalize, mean, normalize",
        576,
        2048,
        "strides",
        "cv2_bilinear",
        336,
        224,
        "pad",
        softmax=False,
        on={
            "pc59": {"longer": 4096},
            "voc20": {"shorter": 336, "stride": 112},
            "cityscapes": {"shorter": 688},
            "coco-stuff": {"shorter": 448},
        },
    ),
    "radseg-high": SlidingWindowProtocol(
        "clip80",
        "normalize, mean, normalize",
        672,
        2016,
        "strides",
        "cv2_bilinear",
        336,
        224,
        "pad",
        softmax=False,
        on={"cityscapes": {"shorter": 1344, "longer": 2688}, "coco-stuff": {"shorter": 896, "longer": 1334}},
    ),
    # google-deepmind/tips pytorch/TIPS_zeroshot_segmentation.ipynb
    "tips": SlidingWindowProtocol(
        "tcl9", "normalize, mean, normalize", 448, None, "down", "bicubic", 448, 336, "resize", softmax=True
    ),
    # facebookresearch/dinov3 notebooks/dinotxt_segmentation_inference.ipynb
    "dinov3": SlidingWindowProtocol(
        "clip80", "normalize, mean, normalize", 512, None, "down", "bicubic", 384, 192, "resize", softmax=True
    ),
}
