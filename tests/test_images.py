"""What strangers call an image: bombs are refused from their header, damage of any kind is an image or a `BadImage`.
And pixels by libjpeg-turbo are those that Pillow has of the same bytes, or its judgement of them."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from scripts.fuzz_images import bombs, decoded, mutated, originals, pillows
from silc import images
from silc.images import FORMATS, BadImage, decode_pixels, decode_rgb, orientation, to_rgb, upright

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


# --- how the camera was held


def exif(how: int) -> bytes:
    return ROTATED.replace(b"\x01\0\x06\0\0", b"\x01\0" + bytes([how]) + b"\0\0")


@pytest.mark.parametrize("how", range(10))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_pictures_are_turned_as_pillow_turns_them(how: int, format: str) -> None:
    buffer = io.BytesIO()
    picture().save(buffer, format, exif=exif(how))
    data = buffer.getvalue()
    theirs = ImageOps.exif_transpose(Image.open(io.BytesIO(data)).convert("RGB"))
    turned = upright(decode_rgb(data))
    assert np.array_equal(np.asarray(turned), np.asarray(theirs))
    assert np.array_equal(decode_pixels(data, turned=True), np.asarray(theirs))
    assert np.array_equal(decode_pixels(data), np.asarray(decode_rgb(data)))
    assert upright(turned) is turned  # what is upright says so
    assert orientation(decode_rgb(data)) == (how if 2 <= how <= 8 else 1)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16"])
def test_every_mode_is_turned(mode: str) -> None:
    buffer = io.BytesIO()
    grey = picture().convert("L")
    image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "I;16" else grey.convert(mode)
    image.save(buffer, "PNG", exif=exif(6))
    data = buffer.getvalue()
    plain = decode_rgb(data)
    assert np.array_equal(decode_pixels(data, turned=True), np.asarray(plain.transpose(Image.Transpose.ROTATE_270)))


@pytest.mark.parametrize("how", [1, 6])
def test_scales_suffice_for_the_turned_picture(how: int) -> None:
    """Asked of the width and height that come out."""
    data, asked = jpeg(picture(), exif=exif(how)), []
    pixels = decode_pixels(
        data, suffices=lambda *size: bool(asked.append(size)) or size == (51, 34)[:: 1 if how == 1 else -1], turned=True
    )
    assert pixels.shape[1::-1] == asked[-1] == ((51, 34) if how == 1 else (34, 51))


@pytest.mark.parametrize(
    "broken",
    [
        ROTATED[:9],
        ROTATED[:20],
        b"Exif\0\0",
        b"Exif\0\0" + bytes(range(200)),
        ROTATED.replace(b"MM\0*", b"MM\0+"),
        ROTATED.replace(b"\x01\x12\0\x03", b"\x01\x12\0\x07"),
        ROTATED.replace(b"\0\0\0\x08", b"\xff\xff\xff\xf8"),
    ],
)
def test_broken_exif_breaks_no_picture(broken: bytes) -> None:
    data = jpeg(picture(), exif=broken)
    assert decode_pixels(data, turned=True).shape in ((67, 101, 3), (101, 67, 3))
    assert upright(decode_rgb(data)).mode == "RGB"


# --- as a viewer shows them


def png_with(kind: bytes, content: bytes, *, behind: bool = False) -> bytes:
    buffer = io.BytesIO()
    picture().save(buffer, "PNG")
    data = buffer.getvalue()
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    at = data.index(b"IEND") - 4 if behind else 33
    return data[:at] + chunk + data[at:]


LONG = zlib.compress(bytes(3_000_000))


@pytest.mark.parametrize(
    ("kind", "content"),
    [(b"gAMA", b""), (b"cHRM", b"\0"), (b"pHYs", b"\0"), (b"acTL", b"\0"), (b"iCCP", b""), (b"sRGB", b"")],
)
def test_broken_notes_lose_no_picture(kind: bytes, content: bytes) -> None:
    data = png_with(kind, content)
    assert np.array_equal(decode_pixels(data, turned=True), np.asarray(picture()))
    assert np.array_equal(np.asarray(decode_rgb(data)), np.asarray(picture()))


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (b"zTXt", b"note\0\0" + LONG),
        (b"iTXt", b"note\0\x01\0\0\0" + LONG),
        (b"iCCP", b"profile\0\0" + LONG),
        (b"tEXt", b"note\0" + b"x" * 70_000_000),
        (b"zTXt", b"Raw profile type exif\0\0" + LONG),
    ],
)
@pytest.mark.parametrize("behind", [False, True])
def test_long_notes_and_profiles_lose_no_picture(kind: bytes, content: bytes, behind: bool) -> None:
    if kind == b"iCCP" and behind:
        pytest.skip("a profile stands before the pixels")
    data = png_with(kind, content, behind=behind)
    assert np.array_equal(decode_pixels(data), np.asarray(picture()))
    assert np.array_equal(np.asarray(decode_rgb(data)), np.asarray(picture()))


RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
GREYS = {
    "16 bits": RAMP.astype(np.uint16) * 257,
    "16 bits, dark": (RAMP.astype(np.uint16) // 8) * 257,
    "32 bits of 8": RAMP.astype(np.int32),
    "32 bits of 16": RAMP.astype(np.int32) * 257,
    "32 bits": RAMP.astype(np.int32) * 8_421_504,
    "floats to 1": (RAMP / 255).astype(np.float32),
    "floats to 255": RAMP.astype(np.float32),
    "floats, dim": np.minimum(RAMP, 99).astype(np.float32),
    "floats to 65535": RAMP.astype(np.float32) * 257,
}


@pytest.mark.parametrize("name", GREYS)
def test_greys_keep_their_brightness(name: str) -> None:
    want = {"16 bits, dark": RAMP // 8, "floats, dim": np.minimum(RAMP, 99)}.get(name, RAMP)
    shown = np.asarray(to_rgb(Image.fromarray(GREYS[name])))
    assert np.array_equal(shown, want[..., None].repeat(3, axis=2))


def test_what_is_no_number_is_black() -> None:
    values = np.array([[np.nan, np.inf], [-1.0, 0.5]], np.float32)
    assert np.asarray(to_rgb(Image.fromarray(values)))[..., 0].tolist() == [[0, 0], [0, 128]]


def test_transparency_goes_onto_white() -> None:
    half = Image.new("RGBA", (2, 1), (0, 0, 0, 128))
    half.putpixel((1, 0), (0, 0, 0, 0))
    for image in (half, half.convert("LA"), half.convert("RGBa"), half.convert("LA").convert("La")):
        assert np.asarray(to_rgb(image))[0, :, 0].tolist() == [127, 255]
    palette = Image.new("P", (1, 1), 3)
    palette.info["transparency"] = 3
    assert to_rgb(palette).getpixel((0, 0)) == (255, 255, 255)


def test_inks_are_as_pillow_shows_them() -> None:
    """An Adobe JPEG stores its inks inverted; Pillow's own conversion of the same file."""
    data = jpeg(picture().convert("CMYK"), quality=95)
    assert b"Adobe" in data
    shown = np.asarray(decode_rgb(data)).astype(int)
    assert abs(shown - np.asarray(picture()).astype(int)).mean() < 8
