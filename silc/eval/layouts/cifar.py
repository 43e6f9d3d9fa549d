"""Read CIFAR's Python batches without running code in them.

The batches are pickles, and a pickle may call any function. This reader makes only plain Python values and arrays of
bytes; a file that asks for anything else is refused.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from silc.errors import BadInput
from silc.eval.datasets import ClassificationSet, Lazy
from silc.regular import regular

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray


def read_cifar(name: str, split: str, files: Sequence[Path], meta: Path, label: str) -> ClassificationSet:
    """Read CIFAR's Python batches; `label` is the prefix of their keys, `fine_label` in CIFAR-100.

    Raises:
        BadInput: a file is missing or is no such batch.
    """
    classes = [str(name).replace("_", " ") for name in read_batch(meta)[f"{label}_names"]]
    batches = [read_batch(file) for file in files]
    try:
        pixels = np.concatenate([batch["data"].values.reshape(-1, 3, 32, 32) for batch in batches])
        labels = [int(one) for batch in batches for one in batch[f"{label}s"]]
    except (KeyError, AttributeError, ValueError, TypeError) as error:
        raise BadInput(f"{files[0].parent} holds no CIFAR batches: {error!r}; unpack the archive again") from error
    if len(pixels) != len(labels) or min(labels) < 0 or max(labels) >= len(classes):
        raise BadInput(
            f"{files[0].parent}: {len(pixels)} images, {len(labels)} labels of {len(classes)} classes; unpack the "
            "archive again"
        )
    images = Lazy(range(len(pixels)), lambda index: Image.fromarray(pixels[index].transpose(1, 2, 0)))
    return ClassificationSet(name, split, classes, images, labels, files=[*files, meta])


def read_batch(file: Path) -> dict[str, Any]:
    """The dictionary in one of CIFAR's pickles; arrays come as `Pixels`.

    Raises:
        BadInput: the file is missing, or asks for more than plain values and arrays of bytes.
    """
    try:
        with regular(file).open("rb") as handle:
            # Written by Python 2: its strings, also those with the bytes of pixels, are read as latin-1.
            found = _PlainUnpickler(handle, encoding="latin1").load()
    except FileNotFoundError:
        raise BadInput(f"{file} is missing") from None
    except Exception as error:
        raise BadInput(f"{file} is no CIFAR batch: {error}; unpack the archive again") from error
    if not isinstance(found, dict):
        raise BadInput(f"{file} is no CIFAR batch: a {type(found).__name__} instead of a dictionary")
    return {key.decode() if isinstance(key, bytes) else str(key): value for key, value in found.items()}


class Pixels:
    """Stands in for a numpy array in a pickle: unsigned bytes [shape]."""

    def __init__(self, *_: object) -> None:
        self.values: NDArray[np.uint8] = np.zeros(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, data = state
        if kind.name not in ("u1", "|u1") or fortran:
            raise pickle.UnpicklingError(f"an array of {kind.name} instead of bytes")
        raw = data.encode("latin1") if isinstance(data, str) else data
        self.values = np.frombuffer(raw, np.uint8).reshape(shape)


class _Kind:
    """Stands in for a numpy dtype in a pickle."""

    def __init__(self, name: Any, *_: object) -> None:
        self.name = name.decode() if isinstance(name, bytes) else str(name)

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment do not matter to bytes."""


class _PlainUnpickler(pickle.Unpickler):
    """Builds only plain Python values and the two stand-ins above, so a pickle cannot run code."""

    def find_class(self, module: str, name: str) -> Any:
        known = {"_reconstruct": Pixels, "ndarray": Pixels, "dtype": _Kind}
        if module.split(".")[0] == "numpy" and name in known:
            return known[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")
