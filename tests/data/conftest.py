"""Shards written for the test, by `tarfile`."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.fuzz_images import png_bomb

Members = Sequence[tuple[str, bytes]]


def encoded(image: Image.Image, format: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def photo(number: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """Noise, different for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def sample(number: int) -> list[tuple[str, bytes]]:
    """A whole sample of two captions."""
    captions = {"captions": [f"photo {number}", f"picture number {number}"]}
    return [(f"{number:05d}.jpg", encoded(photo(number))), (f"{number:05d}.json", json.dumps(captions).encode())]


def labelled(number: int, suffix: str = "seg.png") -> list[tuple[str, bytes]]:
    """A photograph of 40 x 30 pixels and a label map, whose values are its number and one more."""
    labels = np.full((30, 40), number, np.uint8)
    labels[:, 20:] += 1
    return [
        (f"{number:05d}.jpg", encoded(photo(number))),
        (f"{number:05d}.{suffix}", encoded(Image.fromarray(labels), "PNG")),
    ]


def write_tar(path: Path, members: Members, format: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


@pytest.fixture
def shard(tmp_path: Path) -> Callable[..., Path]:
    """`shard(members)` writes tmp_path/00000.tar."""

    def write(members: Members, name: str = "00000.tar", format: int = tarfile.USTAR_FORMAT) -> Path:
        return write_tar(tmp_path / name, members, format)

    return write


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five good shards of 3 to 11 samples, 35 in all."""
    folder, paths, number = tmp_path_factory.mktemp("shards"), [], 0
    for i, size in enumerate((7, 3, 9, 5, 11)):
        members = [member for j in range(number, number + size) for member in sample(j)]
        paths.append(write_tar(folder / f"{i:05d}.tar", members))
        number += size
    return paths


@pytest.fixture(scope="session")
def real_shards() -> list[Path]:
    """The six shards of `../shared/data`, or of $SILC_DATA."""
    root = Path(os.environ.get("SILC_DATA", Path(__file__).parents[3] / "shared/data"))
    if not (root / "train").is_dir():
        pytest.skip(f"no real data: {root}/train does not exist (set SILC_DATA)")
    return sorted((root / "train").glob("*.tar"))


PLANTED = {
    "html": "no_image",
    "more html": "no_image",
    "zero bytes": "empty_image",
    "bomb": "too_large",
    "no caption": "no_caption",
    "empty caption": "empty_caption",
    "broken utf-8": "broken_caption",
    "duplicate": "duplicate_key",
}


def planted(kind: str, number: int) -> list[tuple[str, bytes]]:
    """A sample broken in one way."""
    (image_name, image), (_, captions) = sample(number)
    text_name = f"{number:05d}.txt"
    match kind:
        case "html" | "more html":
            return [(image_name, b"<html>404</html>"), (text_name, b"a photo")]
        case "zero bytes":
            return [(image_name, b""), (text_name, b"a photo")]
        case "bomb":
            return [(f"{number:05d}.png", png_bomb()), (text_name, b"a photo")]
        case "no caption":
            return [(image_name, image)]
        case "empty caption":
            return [(image_name, image), (text_name, b" \n")]
        case "broken utf-8":
            return [(image_name, image), (text_name, b"a caf\xe9")]
        case _:  # the first key of its shard once more
            first = f"{number // 40 * 40:05d}"
            return [(f"{first}.jpg", image), (f"{first}.json", captions)]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], set[tuple[str, str, str]]]:
    """160 samples in 4 shards, 8 of them broken (5 %), the last shard cut; and the truth (shard, key, cause)."""
    folder = tmp_path_factory.mktemp("corpus")
    paths, truth, kinds = [], set(), iter(PLANTED)
    for shard in range(4):
        path = folder / f"{shard}.tar"
        members = []
        for number in range(40 * shard, 40 * shard + 40):
            if number % 20 == 13:
                kind = next(kinds)
                members += planted(kind, number)
                key = members[-1][0].split(".")[0]
                truth.add((str(path), key, PLANTED[kind]))
            else:
                members += sample(number)
        paths.append(write_tar(path, members + sample(999) * (shard == 3)))
    with tarfile.open(paths[3]) as tar:
        last = tar.getmember("00999.jpg")
    paths[3].write_bytes(paths[3].read_bytes()[: last.offset_data + last.size // 2])
    truth.add((str(paths[3]), "", "cut_shard"))
    return paths, truth
