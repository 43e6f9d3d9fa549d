"""Target embeddings for `image_near`: a folder's images, embedded by the model that scored the pool."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from silc.distributed import place
from silc.durable import whole
from silc.errors import BadInput
from silc.eval.files import images_below
from silc.inputs import in_batches, open_image
from silc.loading import load_any
from silc.terminal import complain, track

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from PIL import Image

BATCH = 64


def embeddings_of(about: Mapping[str, Any], device: str, folder: Path, column: str, beside: Path) -> np.ndarray:
    """Embeddings, float32 [n, D], of all images below a folder. Unreadable images are skipped and counted.

    Args:
        about: description of the scoring, from the files of scores.
        column: the column of embeddings to compare with.
        beside: cache folder for the result; its key is the model's weights and the files' names, sizes and times.

    Raises:
        BadInput: no model made the column, the model's weights have changed, or there is no readable image.
    """
    models = {f"embedding_{one['name']}" if one["name"] else "embedding": one for one in about.get("models", ())}
    if column not in models:
        raise BadInput(
            f"image_near {folder}: the model that made the column {column} is not known; give an .npy instead"
        )
    files = images_below(folder)
    kept = beside / f"targets-{_digest(models[column]['checksum'], about['dtype'], files)}.npy"
    if kept.is_file():
        return np.asarray(np.load(kept, allow_pickle=False))
    loaded = load_any(models[column]["source"], device=place(device))
    if loaded.checksum != models[column]["checksum"]:
        raise BadInput(
            f"image_near {folder}: {models[column]['source']} has other weights than the model that scored the pool; "
            "give an .npy of embeddings by that model, or score again"
        )
    model, broken = loaded.best(about["dtype"]), list[str]()
    pictures = track(_readable(files, broken), f"embedding {folder}", True, total=len(files))
    found = [model.encode_image(some).float().cpu().numpy() for some in in_batches(pictures, BATCH)]
    if broken:
        complain(f"image_near {folder}: {len(broken):,} of {len(files):,} images are left out: {broken[0]}")
    if not found:
        raise BadInput(f"image_near {folder}: the folder has no image that can be read")
    embeddings = np.concatenate(found)
    with whole(kept) as partial, partial.open("wb") as handle:
        np.save(handle, embeddings)
    return embeddings


def _readable(files: Sequence[Path], broken: list[str]) -> Iterator[Image.Image]:
    """The images in the readable files; the errors of the others are appended to `broken`."""
    for file in files:
        try:
            image = open_image(file)
        except BadInput as error:
            broken.append(str(error))
        else:
            yield image


def _digest(checksum: str, dtype: str, files: Sequence[Path]) -> str:
    states = [[str(file.absolute()), (state := file.stat()).st_size, state.st_mtime_ns] for file in files]
    return hashlib.sha256(json.dumps([checksum, dtype, states]).encode()).hexdigest()[:16]
