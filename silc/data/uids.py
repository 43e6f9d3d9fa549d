"""Names of samples that hold wherever a sample lies, and files of them: DataComp's subsets.

A uid is 32 hexadecimal digits. A subset is a sorted `.npy` of their two halves as unsigned integers, which DataComp's
`resharder.py` reads too. Samples that were given no uid have one of their shard's name, their key, and where their JSON
has it, their address: shards and keys of img2dataset have the same names in every data set.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from silc.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

UID = np.dtype([("f0", "<u8"), ("f1", "<u8")])
"""The first and the last 16 digits of a uid."""
_HEX = re.compile(r"[0-9a-f]{32}")


def uid_of(fields: Mapping[str, Any], shard: str, key: str) -> str:
    """The uid in the JSON of a sample, or the one that shard (a name without folders), key and `url` make."""
    given = fields.get("uid")
    if isinstance(given, str) and _HEX.fullmatch(given.lower()):
        return given.lower()
    address = fields.get("url")
    parts = (shard, key, address) if isinstance(address, str) and address else (shard, key)
    return hashlib.sha256("\0".join(parts).encode(errors="replace")).hexdigest()[:32]


def halves(uids: Sequence[str]) -> np.ndarray:
    """Uids as an array of `UID` [n].

    >>> halves(["00000000000000010000000000000002"]).tolist()
    [(1, 2)]
    """
    digits = np.frombuffer(bytes.fromhex("".join(uids)), dtype=">u8").astype("<u8")
    return digits.view(UID)


def is_subset(uids: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Which of `uids` [n] are among the sorted `chosen`, bool [n]."""
    if not len(chosen):
        return np.zeros(len(uids), dtype=bool)
    return np.asarray(chosen[places_in(chosen, uids).clip(max=len(chosen) - 1)] == uids)


def places_in(chosen: np.ndarray, uids: np.ndarray) -> np.ndarray:
    """Where `uids` [n] stand in the sorted `chosen`, or would stand, int64 [n]: `np.searchsorted`, half by half.

    numpy compares pairs of numbers by a call for each; numbers it compares at once.
    """
    low = np.searchsorted(chosen["f0"], uids["f0"], side="left")
    high = np.searchsorted(chosen["f0"], uids["f0"], side="right")
    last = chosen["f1"]
    while len(left := np.flatnonzero(low < high)):  # of those with one first half, by the last
        middle = (low[left] + high[left]) // 2
        less = last[middle] < uids["f1"][left]
        low[left[less]], high[left[~less]] = middle[less] + 1, middle[~less]
    return low


def read_subset(path: Path) -> np.ndarray:
    """The uids of a subset, `UID` [n], sorted.

    Raises:
        BadInput: it cannot be read, is no array of pairs of 64 bits, is not sorted, or is empty.
    """
    advice = "needed is what `silc data select` or DataComp's filters write, a sorted .npy of (u8, u8)"
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise BadInput(f"subset {path} does not exist; {advice}") from None
    except (OSError, ValueError, EOFError) as error:
        raise BadInput(f"subset {path} cannot be read: {error}; {advice}") from error
    if (
        found.ndim != 1
        or found.dtype.kind != "V"
        or [found.dtype[i].str for i in range(len(found.dtype))]
        != [
            "<u8",
            "<u8",
        ]
    ):
        raise BadInput(f"subset {path} is an array {list(found.shape)} of {found.dtype}; {advice}")
    if not len(found):
        raise BadInput(f"subset {path} is empty; choose some samples")
    uids: np.ndarray = found.view(UID)
    first, last = uids["f0"], found["f1"]
    if not ((first[1:] > first[:-1]) | ((first[1:] == first[:-1]) & (last[1:] >= last[:-1]))).all():
        raise BadInput(f"subset {path} is not sorted; {advice}")
    return uids


BEST = np.dtype([("f0", "<u8"), ("f1", "<u8"), ("best", "<u2")])
"""A uid, and which caption of its sample scored best."""


def best_captions(subset: Path) -> Path:
    """Where it stands which caption of each sample scored best: `BEST` [n] in the order of the subset, once uint16."""
    return subset.with_name(f"{subset.stem}.captions.npy")
