"""Uids: names of samples that do not depend on where a sample is stored; and subset files, as DataComp's.

A uid has 32 hexadecimal digits. A subset is a sorted `.npy` of their two halves as unsigned integers, which DataComp's
`resharder.py` reads too. If a sample has no uid, one is made from the shard's name, the key, and the url if the JSON
has one: img2dataset uses the same names of shards and keys in every data set.
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
AT_ONCE = 1 << 20
"""Number of uids that are looked for at a time."""
_HEX = re.compile(r"[0-9a-f]{32}")


def uid_of(fields: Mapping[str, Any], shard: str, key: str) -> str:
    """The uid in a sample's JSON, or else a hash of the shard (a name without folders), the key and the `url`."""
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
    """Whether each of `uids` [n] is in the sorted `chosen`, bool [n]."""
    found = np.zeros(len(uids), dtype=bool)
    for start in range(0, len(uids) if len(chosen) else 0, AT_ONCE):
        some = uids[start : start + AT_ONCE]
        found[start : start + AT_ONCE] = chosen[places_in(chosen, some).clip(max=len(chosen) - 1)] == some
    return found


def places_in(chosen: np.ndarray, uids: np.ndarray) -> np.ndarray:
    """Insertion indices of `uids` [n] in the sorted `chosen`, int64 [n]: `np.searchsorted` by the two halves.

    Searching by halves is faster: numpy makes one call for each comparison of pairs, but none for plain numbers.
    """
    low = np.searchsorted(chosen["f0"], uids["f0"], side="left")
    high = np.searchsorted(chosen["f0"], uids["f0"], side="right")
    last = chosen["f1"]
    while len(left := np.flatnonzero(low < high)):  # bisect by the last half where first halves are equal
        middle = (low[left] + high[left]) // 2
        less = last[middle] < uids["f1"][left]
        low[left[less]], high[left[~less]] = middle[less] + 1, middle[~less]
    return low


def read_subset(path: Path) -> np.ndarray:
    """The uids of a subset, `UID` [n], sorted.

    Raises:
        BadInput: the file cannot be read, is no array of pairs of 64-bit integers, is not sorted, or is empty.
    """
    advice = "give a sorted .npy of (u8, u8), as `silc data select` and DataComp's filters write it"
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
        raise BadInput(f"subset {path} is empty; select some samples")
    uids: np.ndarray = found.view(UID)
    first, last = uids["f0"], found["f1"]
    if not ((first[1:] > first[:-1]) | ((first[1:] == first[:-1]) & (last[1:] >= last[:-1]))).all():
        raise BadInput(f"subset {path} is not sorted; {advice}")
    return uids


BEST = np.dtype([("f0", "<u8"), ("f1", "<u8"), ("best", "<u2")])
"""A uid, and the index of its sample's best-scored caption."""


def best_captions(subset: Path) -> Path:
    """Path of the file with each sample's best caption: `BEST` [n] in the subset's order (older files: uint16 [n])."""
    return subset.with_name(f"{subset.stem}.captions.npy")
