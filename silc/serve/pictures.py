"""Pictures that were sent, in memory, under names made of their bytes."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

NAME = r"[0-9a-f]{32}"


class NoPicture(Exception):
    """There is no picture of this name, or no longer."""


class Pictures:
    """Pictures by name. A name is made of all bytes of its picture, so it cannot be guessed without the picture.

    Args:
        most: bytes in memory; the least recently used pictures are dropped first, pinned ones never.
    """

    def __init__(self, most: int) -> None:
        self.most, self.bytes = most, 0
        self._kept: OrderedDict[str, Image.Image] = OrderedDict()
        self._pinned: dict[str, Image.Image] = {}
        self._lock = threading.Lock()  # the computing thread reads here while pictures arrive

    def __contains__(self, name: object) -> bool:
        return name in self._kept or name in self._pinned

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, name: str) -> Image.Image:
        """The picture.

        Raises:
            NoPicture: it was never sent, or was dropped.
        """
        if name in self._pinned:
            return self._pinned[name]
        with self._lock:
            if name not in self._kept:
                raise NoPicture(f"there is no picture {name}; unused pictures are deleted after a while: send it again")
            self._kept.move_to_end(name)
            return self._kept[name]

    def keep(self, name: str, image: Image.Image) -> None:
        """Keep a picture; the least recently used ones are dropped if there is no room."""
        with self._lock:
            if name in self:
                return
            self._kept[name] = image
            self.bytes += _size(image)
            while self.bytes > self.most and len(self._kept) > 1:
                _, gone = self._kept.popitem(last=False)
                self.bytes -= _size(gone)

    def pin(self, name: str, image: Image.Image) -> None:
        """Keep a picture for good."""
        self._pinned[name] = image


def name_of(data: bytes) -> str:
    """The name of a picture with these bytes.

    >>> name_of(b"")
    'e3b0c44298fc1c149afbf4c8996fb924'
    """
    return hashlib.sha256(data).hexdigest()[:32]


def _size(image: Image.Image) -> int:
    return 4 * image.width * image.height  # Pillow keeps RGB in four bytes
