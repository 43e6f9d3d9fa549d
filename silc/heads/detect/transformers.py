"""A detector as transformers' OwlViTForObjectDetection, or Owlv2ForObjectDetection where it has an objectness head.

Both classes have CLIP's towers under other names, and this package's heads under the same names. They cannot hold
other towers: with attention pooling (SigLIP, SILC), without a class token, or with a text tower that sees all tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from silc.errors import BadInput
from silc.exports.formats import TRANSFORMERS
from silc.exports.transformers import RESAMPLE, kind_of
from silc.exports.transformers import model_config as clip_config
from silc.exports.verify import Check, compare
from silc.extras import needs
from silc.interop.mapping import give
from silc.interop.transformers import rules

if TYPE_CHECKING:
    from torch import Tensor

    from silc.heads.detect.model import Detector
    from silc.interop.pretrained import Pretrained
    from silc.models.config import ModelConfig

CLASSES = {"owlvit": "OwlViT", "owlv2": "Owlv2"}
TOLERANCE = 1e-4
"""For the comparisons; logits are cosines times ten or more."""


def kind_for(detector: Detector) -> str:
    """The `model_type` that has the detector's heads."""
    return "owlvit" if detector.head.objectness_head is None else "owlv2"


def tensors_of(detector: Detector, below: Pretrained) -> dict[str, Tensor]:
    """Weights under transformers' names; the towers' projection and scale are those of the model below."""
    kind, weights = kind_for(detector), dict(below.weights)
    learnt = {name: tensor for name, tensor in detector.state_dict().items() if not name.startswith("head.")}
    towers = give(rules("clip", _at_size(detector, below)), {**weights, **learnt})
    found = {f"{kind}.{_their(name)}": tensor for name, tensor in towers.items()}
    found |= detector.head.state_dict()
    return {name: tensor.detach().contiguous().clone() for name, tensor in found.items()}


def _their(name: str) -> str:
    """Turn the name of a tensor in CLIPModel into its name in these classes, which spell `layernorm` correctly."""
    return name.replace("pre_layrnorm", "pre_layernorm")


def _at_size(detector: Detector, below: Pretrained) -> ModelConfig:
    return replace(below.model, image=replace(below.model.image, size=detector.preprocess.size))


def write(directory: Path, detector: Detector, below: Pretrained) -> list[str]:
    """Write configuration, preprocessing and weights into a directory; return notes on what they cannot store.

    Raises:
        BadInput: neither class can hold the model; the message says why.
    """
    kind = kind_for(detector)
    refuse_other_towers(below, kind)
    made = clip_config(replace(below, model=_at_size(detector, below)), "clip")
    made |= {"model_type": kind, "architectures": [f"{CLASSES[kind]}ForObjectDetection"]}
    for part in ("vision", "text"):
        made[f"{part}_config"] |= {"model_type": f"{kind}_{part}_model"}
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors_of(detector, below), directory / "model.safetensors", metadata={"format": "pt"})
    for name, settings in {"config.json": made, "preprocessor_config.json": _pixels(detector, kind)}.items():
        (directory / name).write_text(json.dumps(settings, indent=2) + "\n")
    return notes(kind, below, detector.preprocess.interpolation)


def refuse_other_towers(below: Pretrained, kind: str) -> None:
    """Check that the towers are CLIP's.

    Raises:
        BadInput: they are not.
    """
    called = f"{CLASSES[kind]}ForObjectDetection"
    if below.model.image.pool == "map":
        raise BadInput(
            f"{TRANSFORMERS}: this model pools by attention, as SigLIP and SILC do, and {called} multiplies its "
            "patches by a class token; --formats onnx has the whole model"
        )
    try:
        kind_of(replace(below, weights={**below.weights, "logit_bias": torch.zeros(1)}))
    except BadInput as error:
        raise BadInput(str(error).replace("CLIPModel", called)) from error
    if below.tokenizer.eos_id != below.tokenizer.vocab_size - 1:
        raise BadInput(
            f"{TRANSFORMERS}: {called} takes the token with the highest id as a text's end, and this tokenizer's end "
            f"token has the id {below.tokenizer.eos_id} of {below.tokenizer.vocab_size}; --formats onnx has the whole "
            "model"
        )


def notes(kind: str, below: Pretrained, interpolation: str) -> list[str]:
    """Notes on what the layout cannot store."""
    found = ["a text whose first token has the id 0 counts as padding there"]
    if kind == "owlvit":
        found.append(
            "OwlViTImageProcessor squashes images to a square; this model saw them padded at the right and below: "
            "first pad them with grey, RGB 128, to a square"
        )
    else:
        found.append(
            "Owlv2ImageProcessor pads with black, blurs and resizes bilinearly; this model saw images resized "
            f"({interpolation}), then padded with grey, RGB 128, at the right and below: do so before you call it"
        )
    if below.model.image.position_resample != "bicubic":
        found.append("at other image sizes it resamples positions in its own way (bicubic, not antialiased)")
    return found


def _pixels(detector: Detector, kind: str) -> dict[str, Any]:
    pixels = detector.preprocess
    side = {"height": pixels.size, "width": pixels.size}
    return {
        "processor_class": f"{CLASSES[kind]}Processor",
        "image_processor_type": f"{CLASSES[kind]}ImageProcessor",
        "do_resize": True,
        "size": side,
        "resample": RESAMPLE[pixels.interpolation],
        **({"do_pad": True} if kind == "owlv2" else {}),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(pixels.mean),
        "image_std": list(pixels.std),
    }


def verify(
    directory: Path, detector: Detector, pixels: Tensor, names: Sequence[str], ids: Tensor, queries: Tensor
) -> list[Check]:
    """Load the directory with transformers alone, and compare its processor's output, logits and boxes with ours.

    Args:
        pixels: normalised images [1, 3, S, S].
        names: Q texts.
        ids: ids of the names [Q, T].
        queries: their features [Q, D].

    Raises:
        BadInput: its results differ from the model's.
    """
    package = needs(TRANSFORMERS, "transformers", "interop")
    theirs = getattr(package, f"{CLASSES[kind_for(detector)]}ForObjectDetection").from_pretrained(directory).eval()
    processor, picture = package.AutoProcessor.from_pretrained(directory), _square(detector.preprocess.size)
    given = processor(text=list(names), images=picture, return_tensors="pt")
    wanted = detector.preprocess.normalize(torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None])
    with torch.no_grad():
        own = detector.look(pixels, queries)
        out = theirs(input_ids=given["input_ids"], attention_mask=given["attention_mask"], pixel_values=pixels)
    known = out.logits > torch.finfo(out.logits.dtype).min
    checks = [
        compare(TRANSFORMERS, "pixels of a square", given["pixel_values"], wanted, TOLERANCE),
        compare(TRANSFORMERS, "token ids", given["input_ids"], ids, 0.0),
        compare(TRANSFORMERS, "logits", out.logits.where(known, 0), own.logits.where(known, 0), TOLERANCE),
        compare(TRANSFORMERS, "boxes", out.pred_boxes, own.boxes, TOLERANCE),
    ]
    if own.objectness is not None:
        checks.append(compare(TRANSFORMERS, "objectness", out.objectness_logits, own.objectness, TOLERANCE))
    return checks


def _square(size: int) -> Image.Image:
    """A picture that a processor neither resizes nor pads."""
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(noise)
