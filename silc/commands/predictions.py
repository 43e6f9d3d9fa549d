"""What `silc predict` makes of images: JSON of probabilities, an array of features, a folder of overlays and labels.

A file that holds no image does not stop the others: it is named in the JSON, with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from silc import places
from silc.durable import write_whole
from silc.errors import BadInput
from silc.eval.pictures import colour
from silc.terminal import one_line

if TYPE_CHECKING:
    from silc.commands.image_files import Images
    from silc.eval.config import EvalConfig
    from silc.predict import Model

SHOWN = 3
"""Names printed for an image."""


def place_of(task: Literal["classify", "embed", "segment"], given: str) -> Path | None:
    """The file or folder that a task writes, tried; `given` is what --out says. Classes may be printed alone.

    Raises:
        BadInput: it cannot be written, or the folder for masks holds something: another call's files would stand
            among this one's.
    """
    if not given and task == "classify":
        return None
    if not given:
        raise BadInput(f"silc predict {task} needs a place for what comes out; give --out")
    if task == "segment":
        return places.empty_folder(given, flag="--out")
    out = places.file(given)
    if task == "embed":
        if out.suffix != ".npy":
            raise BadInput(f"--out {out} is where features go; give a name that ends in .npy")
        places.beside(_names_beside(out), out, flag="the files' names")
    return out


def _names_beside(features: Path) -> Path:
    return features.with_suffix(".json")


def classify(
    model: Model, images: Images, names: Sequence[str], out: Path | None, prompts: str, batch_size: int
) -> list[str]:
    """Each image's likeliest names as a line; its probability of each name, best first, as JSON where `out` is."""
    classifier = model.classifier(names, prompts, batch_size=batch_size)
    found: list[dict[str, Any]] = []
    for batch in images.batches(batch_size):
        rows = classifier([image for _, image in batch])
        found += [{"file": str(file), "probabilities": row} for (file, _), row in zip(batch, rows, strict=True)]
    if out is not None:
        _write(out, {"model": model.name, "prompts": prompts, "images": found}, images)
    return [one_line(f"{one['file']}: {_likeliest(one['probabilities'])}") for one in found]


def _likeliest(probabilities: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:.1%}" for name, share in list(probabilities.items())[:SHOWN])


def embed(model: Model, images: Images, out: Path, batch_size: int) -> None:
    """Write features of unit length [N, D] as .npy, and the N files' names as .json beside it."""
    import torch

    rows, files = [], []
    for batch in images.batches(batch_size):
        rows.append(model.encode_image([image for _, image in batch]).cpu())
        files += [str(file) for file, _ in batch]
    _write(_names_beside(out), {"model": model.name, "files": files}, images)
    np.save(out, torch.cat(rows).numpy())


def segment(model: Model, images: Images, names: Sequence[str], out: Path, config: EvalConfig, **overlay: Any) -> None:
    """Write into a folder, for each image, an overlay and a label map (a PNG whose values index the names).

    Args:
        overlay: what `Segmentation.overlay` takes.
    """
    if len(names) > 2**16:
        raise BadInput(f"{len(names):,} names are more than a label map of 16 bits holds; give at most 65,536")
    segmenter = model.segmenter(names, config)
    found: list[dict[str, Any]] = []
    for batch in images.batches(1):
        (file, image), number = batch[0], len(found)
        try:
            result = segmenter(image)
        except BadInput as error:  # too thin
            images.unreadable.append({"file": str(file), "why": str(error)})
            continue
        stem = f"{number:05d}-{file.stem}"
        out.mkdir(parents=True, exist_ok=True)
        result.overlay(**overlay).save(out / f"{stem}.overlay.png")
        _palette_image(result.labels.numpy(), len(names)).save(out / f"{stem}.labels.png")
        shares = np.bincount(result.labels.flatten().numpy(), minlength=len(names)) / result.labels.numel()
        found.append({"file": str(file), "stem": stem, "shares": dict(zip(names, shares.tolist(), strict=True))})
    _write(out / "segments.json", {"model": model.name, "names": list(names), "images": found}, images)


def _palette_image(labels: Any, num_classes: int) -> Image.Image:
    """Label values as pixels, in the overlay's colours where a palette holds them."""
    if num_classes > 256:
        return Image.fromarray(labels.astype(np.uint16))
    picture = Image.fromarray(labels.astype(np.uint8))
    picture.putpalette([value for index in range(num_classes) for value in colour(index)])
    return picture


def _write(file: Path, content: dict[str, Any], images: Images) -> None:
    write_whole(file, json.dumps({**content, "unreadable": images.unreadable}, indent=1) + "\n")
