"""What strangers call an image: bombs are refused from their header, damage of any kind is an image or a `BadImage`.
And pixels by libjpeg-turbo are those that Pillow has of the same bytes, or its judgement of them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts.fuzz_images import bombs, decoded, mutated, originals, pillows
from silc import images
from silc.images import FORMATS, BadImage, decode_pixels, decode_rgb

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


def jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def picture(size: tuple[int, int] = (101, 67)) -> Image.Image:
    """Smooth enough for its damage to show, rough enough for each kind of sampling to differ."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 15, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


ROTATED = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
SOUND = {
    "444": jpeg(picture(), subsampling=0),
    "422": jpeg(picture(), subsampling=1),
    "420": jpeg(picture(), subsampling=2),
    "coarse": jpeg(picture(), quality=5),
    "fine": jpeg(picture(), quality=100),
    "optimized": jpeg(picture(), optimize=True),
    "restarts": jpeg(picture(), restart_marker_blocks=3),
    "progressive": jpeg(picture(), progressive=True),
    "progressive_444": jpeg(picture(), progressive=True, subsampling=0, quality=97),
    "grey": jpeg(picture().convert("L")),
    "progressive_grey": jpeg(picture().convert("L"), progressive=True),
    "rgb": jpeg(picture(), keep_rgb=True),
    "rotated": jpeg(picture(), exif=ROTATED),
    "profile": jpeg(picture(), icc_profile=bytes(range(256)) * 300),
    "comment": jpeg(picture(), comment=b"hello"),
    "garbage_behind": jpeg(picture()) + b"garbage" * 9,
    "another_behind": jpeg(picture()) + jpeg(picture((30, 20))),
} | {f"{size[0]}x{size[1]}": jpeg(picture(size)) for size in [(1, 1), (1, 9), (8, 1), (15, 17), (16, 16), (33, 2)]}


def several_pictures() -> bytes:
    buffer = io.BytesIO()
    picture().save(buffer, "MPO", save_all=True, append_images=[picture((30, 20))])
    return buffer.getvalue()


def unsound() -> dict[str, bytes]:
    """Damaged, of another kind, or nothing: what is for Pillow to judge."""
    whole, other = SOUND["420"], io.BytesIO()
    picture().save(other, "PNG")
    frame, scan = whole.index(b"\xff\xc0"), whole.index(b"\xff\xda")
    middle = (scan + len(whole)) // 2
    found = {
        "nothing": b"",
        "start_alone": whole[:2],
        "other_start": b"\xff\xd8\0" + whole[3:],
        "bytes_before": b"\0" + whole,
        "html": b"<html>not found</html>",
        "png": other.getvalue(),
        "cmyk": jpeg(picture().convert("CMYK")),
        "cut_header": whole[: frame + 4],
        "cut_before_the_scan": whole[:scan],
        "cut_middle": whole[:middle],
        "cut_end": whole[:-2],
        "damaged_middle": whole[:middle] + bytes(20) + whole[middle + 20 :],
        "marker_in_the_middle": whole[:middle] + b"\xff\xd9" + whole[middle + 2 :],
        "table_in_the_middle": whole[:middle] + b"\xff\xc4" + whole[middle + 2 :],
        "no_tables": whole.replace(b"\xff\xdb", b"\xff\xe5"),
        "no_codes": whole.replace(b"\xff\xc4", b"\xff\xe5"),
        "12_bits": whole[: frame + 4] + b"\x0c" + whole[frame + 5 :],
        "no_height": whole[: frame + 5] + b"\0\0" + whole[frame + 7 :],
        "larger_by_its_header": whole[: frame + 5] + b"\x01\0" + whole[frame + 7 :],
        "smaller_by_its_header": whole[: frame + 5] + b"\0\x20" + whole[frame + 7 :],
        "two_frames": whole[:frame] + whole[frame:scan] + whole[frame:],
        "two_components": whole[: frame + 9] + b"\2" + whole[frame + 10 :],
        "odd_sampling": whole[: frame + 11] + b"\x33" + whole[frame + 12 :],
        "cut_progressive": SOUND["progressive"][: 2 * len(SOUND["progressive"]) // 3],
    }
    return found | {f"grey_cut_{at}": SOUND["grey"][:-at] for at in (1, 3, 40)}


def test_pixels_are_pillows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of sound JPEGs of each kind, to the bit, though Pillow decodes none of them."""
    expected = {name: pillows(data) for name, data in SOUND.items()} | {"several": pillows(several_pictures())}
    monkeypatch.setattr(images, "_decoded", lambda image: pytest.fail("Pillow was asked"))
    for name, data in [*SOUND.items(), ("several", several_pictures())]:
        assert expected[name][0] == "decoded"
        assert decoded(data) == expected[name], name


def test_pillow_says_what_is_broken() -> None:
    """The same cause in the same words, or the same pixels."""
    outcomes = {name: pillows(data) for name, data in unsound().items()}
    for name, data in unsound().items():
        assert decoded(data) == outcomes[name], name
    assert {outcome[0] for outcome in outcomes.values()} == {"decoded", "broken_image", "no_image"}
    assert outcomes["cmyk"][0] == outcomes["marker_in_the_middle"][0] == "decoded"
    assert outcomes["cut_middle"][0] == "broken_image"


def test_what_warns_is_decoded_by_pillow() -> None:
    """libjpeg-turbo itself would go on with grey where the damage begins."""
    for name in ("cut_middle", "cut_end", "marker_in_the_middle"):
        with pytest.raises(ValueError, match=r"premature|corrupt|Premature|Corrupt"):
            images._decode_jpeg(unsound()[name], (101, 67), None)


@pytest.mark.parametrize("limit", [101 * 67 - 1, 101 * 67])
def test_the_limit_is_of_the_header(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the scale; nothing is decoded."""
    data = SOUND["420"]
    if limit == 101 * 67:
        assert decode_pixels(data, max_pixels=limit).shape == (67, 101, 3)
        return
    monkeypatch.setattr(images, "_decode_jpeg", lambda *_: pytest.fail("decoded"))
    for decode in (decode_rgb, partial(decode_pixels, suffices=lambda width, height: True)):
        with pytest.raises(BadImage, match="101 x 67 pixels, the limit is 6,766") as caught:
            decode(data, max_pixels=limit)
        assert caught.value.cause == "too_large"


def test_threads_do_not_disturb_each_other() -> None:
    sound = [*SOUND.values(), *unsound().values()] * 8
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(decoded, sound)) == [pillows(data) for data in sound]


@pytest.mark.parametrize("divisor", [2, 4, 8])
@pytest.mark.parametrize("kind", ["444", "420", "progressive", "grey", "rgb"])
def test_smaller_scales_are_libjpegs(divisor: int, kind: str) -> None:
    """The least scale that suffices, and the pixels that Pillow has of libjpeg for it."""
    least = -(-101 // divisor), -(-67 // divisor)
    pixels = decode_pixels(SOUND[kind], suffices=lambda *size: size >= least)
    image = Image.open(io.BytesIO(SOUND[kind]))
    image.draft(None, (101 // divisor, 67 // divisor))
    assert image.size == least
    assert np.array_equal(pixels, np.asarray(image.convert("RGB")))


def test_scales_are_asked_for_from_the_least() -> None:
    asked: list[tuple[int, int]] = []
    pixels = decode_pixels(SOUND["420"], suffices=lambda *size: bool(asked.append(size)))
    assert asked == [(13, 9), (26, 17), (51, 34)]
    assert np.array_equal(pixels, np.asarray(decode_rgb(SOUND["420"])))


def test_what_is_no_sound_jpeg_is_decoded_whole() -> None:
    for name in ("png", "cmyk", "marker_in_the_middle"):
        data = unsound()[name]
        assert np.array_equal(decode_pixels(data, suffices=lambda *_: True), np.asarray(decode_rgb(data)))
