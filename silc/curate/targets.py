"""Embeddings of a folder's images by the model that scored the pool: targets of `image_near`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from silc.distributed import place
from silc.errors import BadInput
from silc.eval.files import images_below
from silc.loading import load_any
from silc.terminal import track

if TYPE_CHECKING:
    from collections.abc import Mapping

BATCH = 64


def embeddings_of(about: Mapping[str, Any], device: str, folder: Path, column: str) -> np.ndarray:
    """Float32 [n, D] of all images below a folder.

    Args:
        about: what scored the pool, as its files have it.
        column: of the embeddings they are to be compared with.

    Raises:
        BadInput: no model made the column, the one of its name has other weights by now, or there is no image.
    """
    models = {f"embedding_{one['name']}" if one["name"] else "embedding": one for one in about.get("models", ())}
    if column not in models:
        raise BadInput(f"image_near {folder}: no model is known to have made the column {column}; give an .npy instead")
    loaded = load_any(models[column]["source"], device=place(device))
    if loaded.checksum != models[column]["checksum"]:
        raise BadInput(
            f"image_near {folder}: {models[column]['source']} has other weights than scored the pool; give an .npy of "
            "embeddings by those, or score again"
        )
    files, model = images_below(folder), loaded.best(about["dtype"])
    if not files:
        raise BadInput(f"image_near {folder}: there is no image in it")
    starts = range(0, len(files), BATCH)
    found = [
        model.encode_image(files[start : start + BATCH]).float().cpu().numpy()
        for start in track(starts, f"embedding {folder}", True)
    ]
    return np.concatenate(found)
