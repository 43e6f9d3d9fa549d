"""What strangers call an image: bombs are refused from their header, damage of any kind is an image or a `BadImage`."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.fuzz_images import bombs, mutated, originals
from silc.images import FORMATS, BadImage, decode_rgb

SCRIPT = Path(__file__).parents[1] / "scripts" / "fuzz_images.py"


def said(what: str, timeout: int) -> dict[str, float]:
    """What the script prints: in a process of its own, for a crash, a hang and its memory are the question."""
    command = [sys.executable, "-X", "faulthandler", str(SCRIPT), what]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return json.loads(done.stdout)


def test_bombs_are_refused_from_their_header() -> None:
    """169 megapixels in 21 kB and less. Time is not asserted here; memory is."""
    figures = said("bombs", 120)
    assert figures.keys() == {"PNG", "JPEG", "GIF", "WEBP", "BMP"} == set(FORMATS)
    assert 20 < figures["PNG"]["kilobytes"] < 21
    for format, figure in figures.items():
        assert figure["kilobytes"] < 21, format
        assert figure["grown_mb"] < 20, format


def test_the_bomb_is_a_bomb() -> None:
    """Pillow itself opens it: 169 megapixels."""
    with pytest.warns(Image.DecompressionBombWarning):
        image = Image.open(io.BytesIO(bombs()["PNG"]))
    assert image.size == (13_000, 13_000)


def test_originals_decode() -> None:
    assert len(originals()) == 18
    assert {Image.open(io.BytesIO(data)).format for data in originals()} == set(FORMATS)
    for data in originals():
        assert decode_rgb(data).mode == "RGB"


def assert_harmless(figures: dict[str, float], num: int) -> None:
    assert figures["tried"] == num
    outcomes = {name: figures[name] for name in ("decoded", "broken_image", "no_image", "too_large")}
    assert sum(outcomes.values()) == num
    # The damage reaches beyond the header, and does not always kill.
    assert min(outcomes["decoded"], outcomes["broken_image"], outcomes["no_image"]) > num / 10
    assert outcomes["too_large"] > 0
    assert figures["grown_mb"] < 20


def test_damaged_images_are_harmless() -> None:
    assert_harmless(said("500", 120), 500)


@pytest.mark.slow
def test_ten_thousand_damaged_images_are_harmless() -> None:
    assert_harmless(said("10000", 540), 10_000)


def test_damage_is_a_function_of_its_number() -> None:
    assert mutated(7) == mutated(7)
    assert len({mutated(number) for number in range(300)}) > 290
    assert not {mutated(number) for number in range(300)} <= set(originals())


@pytest.mark.parametrize("format", ["TIFF", "PPM", "ICO", "TGA"])
def test_other_formats_are_no_images(format: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), dtype=np.uint8)).save(buffer, format)
    with pytest.raises(BadImage) as caught:
        decode_rgb(buffer.getvalue())
    assert caught.value.cause == "no_image"


def test_postscript_is_no_image() -> None:
    with pytest.raises(BadImage) as caught:
        decode_rgb(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    assert caught.value.cause == "no_image"
