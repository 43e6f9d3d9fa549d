"""Throw damaged images and bombs at the decoder, and say what became of them.

    python scripts/fuzz_images.py 10000     damaged ones: about two minutes on a slow core
    python scripts/fuzz_images.py bombs     small files of 169 megapixels: seconds and megabytes their refusal takes

Prints one line of JSON. Anything but a decoded image or a `BadImage`, the same from both decoders, ends the script with
a line that names the number of the image; `mutated(number)` gives it back.
"""

from __future__ import annotations

import functools
import gc
import io
import json
import os
import resource
import statistics
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from silc.images import BadImage, decode_pixels, decode_rgb


@functools.cache
def originals() -> list[bytes]:
    """Valid images of every accepted format, in most of their modes."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (40, 56, 3), dtype=np.uint8))
    smooth = noise.resize((7, 5)).resize((96, 64), Image.Resampling.BICUBIC)
    alpha = smooth.convert("RGBA")
    alpha.putalpha(smooth.convert("L"))
    deep = Image.fromarray(rng.integers(0, 65_536, (40, 56)).astype(np.uint16))
    kinds = [
        (smooth, "JPEG", {}),
        (smooth, "JPEG", {"progressive": True, "quality": 95}),
        (smooth.convert("L"), "JPEG", {}),
        (smooth.convert("CMYK"), "JPEG", {}),
        (noise, "PNG", {}),
        (alpha, "PNG", {}),
        (smooth.convert("P"), "PNG", {"transparency": 3}),
        (smooth.convert("1"), "PNG", {}),
        (deep, "PNG", {}),
        (smooth, "PNG", {"save_all": True, "append_images": [smooth.rotate(90)]}),
        (smooth, "WEBP", {}),
        (alpha, "WEBP", {"lossless": True}),
        (smooth, "WEBP", {"save_all": True, "append_images": [smooth.rotate(90)]}),
        (smooth, "GIF", {}),
        (smooth, "GIF", {"save_all": True, "append_images": [smooth.rotate(90)], "interlace": 1}),
        (smooth, "BMP", {}),
        (smooth.convert("P"), "BMP", {}),
        (smooth.convert("1"), "BMP", {}),
    ]
    encoded = []
    for image, format, options in kinds:
        buffer = io.BytesIO()
        image.save(buffer, format, **options)
        encoded.append(buffer.getvalue())
    return encoded


def mutated(number: int) -> bytes:
    """One damaged image: bits flipped, a piece cut out, or another image's bytes spliced in. A function of `number`."""
    rng = np.random.default_rng(number)
    images = originals()
    data = bytearray(images[int(rng.integers(len(images)))])
    for _ in range(int(rng.integers(1, 3))):
        # A quarter of the damage goes into the first bytes, where the structure is.
        end = len(data) if rng.random() < 0.75 else min(len(data), 128)
        start = int(rng.integers(end)) if end else 0
        match int(rng.integers(4)):
            case 0:
                for place in rng.integers(start, max(end, start + 1), int(rng.integers(1, 9))).tolist():
                    if place < len(data):
                        data[place] ^= 1 << int(rng.integers(8))
            case 1:
                del data[start:]
            case 2:
                del data[start : start + int(rng.integers(1, 200))]
            case 3:
                other = images[int(rng.integers(len(images)))]
                cut = int(rng.integers(len(other)))
                data[start : start + int(rng.integers(0, 300))] = other[cut : cut + int(rng.integers(1, 600))]
    return bytes(data)


def pillows(data: bytes) -> tuple[object, ...]:
    """What `decode_rgb` makes of an image: the cause and the message, or "decoded", its shape and its bytes."""
    try:
        image = decode_rgb(data)
    except BadImage as error:
        return error.cause, str(error)
    assert image.mode == "RGB"
    assert min(image.size) > 0
    return "decoded", (image.height, image.width, 3), image.tobytes()


def decoded(data: bytes) -> tuple[object, ...]:
    """The same of `decode_pixels`."""
    try:
        pixels = decode_pixels(data)
    except BadImage as error:
        return error.cause, str(error)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    return "decoded", pixels.shape, pixels.tobytes()


def fuzz(num: int) -> dict[str, float]:
    """Decode images 0 to `num`, to an image and to pixels; how many of what kind, the slowest in seconds, and growth in
    the second half in MB.
    """
    outcomes: Counter[str] = Counter()
    slowest, half = 0.0, 0.0
    for number in range(num):
        data = mutated(number)
        start = time.perf_counter()
        try:
            outcome = pillows(data)
            if decoded(data) != outcome:
                raise AssertionError(f"decode_pixels differs from decode_rgb, which gives {outcome[0]}")
            outcomes[str(outcome[0])] += 1
        except BaseException as error:
            raise SystemExit(f"image {number} ({len(data)} bytes): {type(error).__name__}: {error}") from error
        slowest = max(slowest, time.perf_counter() - start)
        if number == num // 2:
            half = resident()
    return {"tried": num, **dict(sorted(outcomes.items())), "slowest_s": slowest, "grown_mb": resident() - half}


def resident() -> float:
    """Memory of this process in MB, now (Linux), or at its largest so far."""
    gc.collect()
    statm = Path("/proc/self/statm")
    if statm.is_file():
        return round(int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)
    return largest()


def largest() -> float:
    """The most memory this process has had, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3), 1)


def png_bomb(side: int = 13_000) -> bytes:
    """A valid PNG of `side` squared black pixels, one bit each."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    packer, row = zlib.compressobj(9), bytes(1 + -(-side // 8))
    pixels = b"".join([*(packer.compress(row) for _ in range(side)), packer.flush()])
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def bombs(side: int = 13_000) -> Mapping[str, bytes]:
    """Small files that say they have `side` squared pixels: a whole PNG, and others with their sizes overwritten."""
    image = Image.new("RGB", (64, 48))
    animated = {"save_all": True, "append_images": [Image.new("RGB", (64, 48), "white")]}
    whole: dict[str, bytearray] = {}
    for format in ("JPEG", "GIF", "WEBP", "BMP"):
        buffer = io.BytesIO()
        # WebP has a size of its own, apart from its frames', where it is animated.
        image.save(buffer, format, **animated if format == "WEBP" else {})
        whole[format] = bytearray(buffer.getvalue())
    frame = whole["JPEG"].index(b"\xff\xc0")
    struct.pack_into(">HH", whole["JPEG"], frame + 5, side, side)
    struct.pack_into("<HH", whole["GIF"], 6, side, side)
    canvas = whole["WEBP"].index(b"VP8X") + 12
    whole["WEBP"][canvas : canvas + 6] = 2 * (side - 1).to_bytes(3, "little")
    struct.pack_into("<ii", whole["BMP"], 18, side, side)
    return {"PNG": png_bomb(side), **{format: bytes(data) for format, data in whole.items()}}


def refuse_bombs() -> dict[str, dict[str, float]]:
    """What it takes to refuse each: the median of 20 in milliseconds, and the growth of the memory's peak in MB."""
    for data in originals():
        decode_pixels(data)  # what the first image of a process loads is no part of it
    figures = {}
    for format, data in bombs().items():
        before, seconds = largest(), []
        for _ in range(20):
            start = time.perf_counter()
            try:
                decode_pixels(data)
                raise SystemExit(f"the {format} bomb was decoded")
            except BadImage as error:
                if error.cause != "too_large":
                    raise SystemExit(f"the {format} bomb was refused as {error.cause}: {error}") from error
            seconds.append(time.perf_counter() - start)
        figures[format] = {
            "kilobytes": len(data) / 1e3,
            "milliseconds": 1e3 * statistics.median(seconds),
            "grown_mb": largest() - before,
        }
    return figures


if __name__ == "__main__":
    what = sys.argv[1] if len(sys.argv) > 1 else "10000"
    print(json.dumps(refuse_bombs() if what == "bombs" else fuzz(int(what))))
