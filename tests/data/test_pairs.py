"""Shard patterns, captions in both layouts, and every way a pair can be broken."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from silc import recipes
from silc.data.config import DataConfig, ScenesConfig
from silc.data.pairs import BadSample
from silc.data.shards import ShardPairs
from silc.data.sources import expand, open_pairs
from silc.errors import BadInput
from tests.data.conftest import encoded, photo, sample

JPEG = encoded(photo(0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("00008.tar", "00009.tar", "00010.tar", "a.tar", "b.tar", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("{00008..00010}.tar", ["00008", "00009", "00010"]),
        ("000{08..10}.tar", ["00008", "00009", "00010"]),
        ("{b,a}.tar", ["b", "a"]),
        ("*.tar", ["00008", "00009", "00010", "a", "b"]),
        ("0000{8,9}.{tar,tar}", ["00008", "00008", "00009", "00009"]),
        ("a.tar::{folder}/0001?.tar", ["a", "00010"]),
        ("{[ab],00009}.tar", ["a", "b", "00009"]),
    ],
)
def test_patterns(folder: Path, pattern: str, names: list[str]) -> None:
    found = expand(f"{folder}/{pattern.replace('{folder}', str(folder))}")
    assert [path.name for path in found] == [f"{name}.tar" for name in names]


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        ("{00008..00011}.tar", "00011.tar"),  # one of the range is missing
        ("c*.tar", "c*.tar"),  # no match
        ("c.tar", "c.tar"),
        ("{9..8}.tar", "9..8"),  # a range that is empty
        ("empty", "captions.jsonl"),  # a directory
        ("a.tar::ftp://bucket/0.tar", "ftp://bucket/0.tar"),
    ],
)
def test_a_pattern_that_matches_nothing_is_named(folder: Path, pattern: str, named: str) -> None:
    with pytest.raises(BadInput) as caught:
        expand(f"{folder}/{pattern}")
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_open_pairs_takes_shards_or_scenes(shards: list[Path]) -> None:
    assert len(open_pairs(DataConfig(train=str(shards[0].with_name("*.tar"))), seed=0)) == 35
    assert len(open_pairs(DataConfig(source="scenes", scenes=ScenesConfig(num=12, size=32)), seed=0)) == 12
    with pytest.raises(BadInput, match=r"data\.train"):
        open_pairs(DataConfig(), seed=0)


def test_indices_run_through_the_shards(shards: list[Path]) -> None:
    pairs = ShardPairs(shards)
    assert pairs.blocks.tolist() == [7, 3, 9, 5, 11]
    assert len(pairs) == 35
    assert not pairs.faults
    for index in range(35):
        pair = pairs[index]
        assert pair.key == f"{index:05d}"
        assert pair.captions == (f"photo {index}", f"picture number {index}")
        # JPEG of noise is far from the noise, but much nearer to its own than to another's.
        difference = pair.pixels.astype(int) - np.asarray(photo(index), dtype=int)
        other = pair.pixels.astype(int) - np.asarray(photo(index + 1), dtype=int)
        assert pair.pixels.dtype == np.uint8
        assert np.abs(difference).mean() < 0.8 * np.abs(other).mean()
    for index in (-1, 35):
        with pytest.raises(IndexError):
            pairs[index]
    assert pickle.loads(pickle.dumps(pairs))[20].key == "00020"


@pytest.mark.parametrize(
    ("texts", "captions"),
    [
        ({"txt": b" a dog\nruns \n"}, ("a dog\nruns",)),
        ({"json": b'{"captions": ["one", " two "]}'}, ("one", "two")),
        ({"json": b'{"caption": "alt text", "url": "x", "width": 3}'}, ("alt text",)),
        ({"txt": b"from txt", "json": b'{"uid": "00ff", "caption": null}'}, ("from txt",)),
        ({"txt": b"same", "json": b'{"captions": ["same", "more"]}'}, ("same", "more")),
        ({"json": b'{"captions": ["", "good", null, "  "]}'}, ("good",)),
        ({"json": b'{"captions": "a string"}'}, ("a string",)),
        ({"json": b'{"caption": ["a", "list"]}'}, ("a", "list")),
        ({"json": b'{"captions": [], "caption": "second"}'}, ("second",)),
        ({"json": b'\xef\xbb\xbf{"captions": [null], "text": "as in tables"}'}, ("as in tables",)),
        ({"json": b'{"title": "a title"}', "txt": b"\xef\xbb\xbfby a mark"}, ("by a mark",)),
        ({"json": b'{"caption": "half \\ud800 pair"}'}, ("half ? pair",)),
        ({"txt": "Bơ Lạc 🍫".encode()}, ("Bơ Lạc 🍫",)),
    ],
)
def test_captions_of_both_layouts(shard: Callable[..., Path], texts: dict[str, bytes], captions: tuple[str]) -> None:
    members = [("7.jpg", JPEG), *((f"7.{part}", data) for part, data in texts.items())]
    assert ShardPairs([shard(members)])[0].captions == captions


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises pixels and holds none."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    data = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data + end


@pytest.mark.parametrize(
    ("image", "text", "cause"),
    [
        (("jpg", b"<html>gone</html>"), ("txt", b"a"), "no_image"),
        (("jpg", b""), ("txt", b"a"), "empty_image"),
        (("jpg", JPEG[:-300]), ("txt", b"a"), "broken_image"),
        (("png", png_header(30, 30)), ("txt", b"a"), "broken_image"),
        # Over the limit it is refused for its size, so it was not decoded: its pixels are missing as well.
        (("png", png_header(2000, 2001)), ("txt", b"a"), "too_large"),
        (("png", png_header(100_000, 100_000)), ("txt", b"a"), "too_large"),
        (("jpg", JPEG), ("json", b'{"url": "x"}'), "no_caption"),
        (("jpg", JPEG), ("json", b"[1, 2]"), "no_caption"),
        (("jpg", JPEG), ("cls", b"3"), "no_caption"),
        (("cls", b"3"), ("txt", b"a"), "no_image"),
        (("jpg", JPEG), ("txt", b" \n"), "empty_caption"),
        (("jpg", JPEG), ("json", b'{"captions": ["", " "]}'), "empty_caption"),
        (("jpg", JPEG), ("json", b'{"captions": ["cut'), "broken_caption"),
        (("jpg", JPEG), ("json", b"[" * 100_000), "broken_caption"),
        (("jpg", JPEG), ("txt", b"\xff\xfe"), "broken_caption"),
        (("jpg", JPEG), ("json", b'{"caption": 3}'), "broken_caption"),
        (("jpg", JPEG), ("json", b'{"captions": ["good", 3]}'), "broken_caption"),
        (("jpg", JPEG), ("json", b'{"captions": [["nested"]]}'), "broken_caption"),
        (("jpg", JPEG), ("json", b'{"caption": {"en": "a dog"}}'), "broken_caption"),
        (("jpg", JPEG), ("json", b'{"caption": true}'), "broken_caption"),
        (("jpg", JPEG), ("json", b'{"captions": []}'), "no_caption"),
        (("jpg", JPEG), ("txt", b"\xef\xbb\xbf\r\n"), "empty_caption"),
        (("tif", b"II*\0"), ("txt", b"a"), "no_image"),
    ],
)
def test_a_broken_pair_tells_its_cause_and_place(
    shard: Callable[..., Path], image: tuple[str, bytes], text: tuple[str, bytes], cause: str
) -> None:
    members = [("bad." + image[0], image[1]), ("bad." + text[0], text[1]), *sample(1)]
    pairs = ShardPairs([shard(members)], max_pixels=4_000_000)
    with pytest.raises(BadSample) as caught:
        pairs[0]
    shard_name, key, found, detail = caught.value.broken
    assert (Path(shard_name).name, key, found) == ("00000.tar", "bad", cause)
    assert detail
    assert str(caught.value).startswith(f"{cause}: {shard_name}: 'bad' ")
    assert pairs[1].key == "00001"


def test_a_shard_that_vanishes_is_unreadable(shard: Callable[..., Path]) -> None:
    path = shard(sample(0))
    pairs = ShardPairs([path])
    path.unlink()
    with pytest.raises(BadSample, match="unreadable"):
        pairs[0]


def test_other_kinds_of_images_become_rgb(shard: Callable[..., Path]) -> None:
    ramp = np.linspace(0, 65535, 32 * 32).reshape(32, 32)
    frames = [photo(1), photo(2)]
    kinds = {
        "grey.jpg": encoded(photo(0).convert("L")),
        "cmyk.jpg": encoded(photo(0).convert("CMYK")),
        "deep.png": encoded(Image.fromarray(ramp.astype(np.uint16)), "PNG"),
        "palette.png": encoded(photo(0).convert("P"), "PNG"),
        "alpha.png": encoded(Image.new("RGBA", (9, 9), (255, 0, 0, 0)), "PNG"),
        "animated.webp": encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True),
    }
    members = [m for name, data in kinds.items() for m in ((name, data), (name.split(".")[0] + ".txt", b"a"))]
    pairs = ShardPairs([shard(members)])
    images = {pair.key: pair.pixels for pair in (pairs[index] for index in range(len(pairs)))}
    assert list(images) == ["grey", "cmyk", "deep", "palette", "alpha", "animated"]
    assert {(image.dtype, image.shape[2]) for image in images.values()} == {(np.dtype(np.uint8), 3)}
    assert np.abs(images["deep"][:, :, 1] - ramp / 257).max() <= 1
    assert images["alpha"].min() == 255  # transparent is white
    assert np.array_equal(images["animated"], np.asarray(frames[0]))


def test_a_cut_shard_is_used_and_reported(shards: list[Path], tmp_path: Path) -> None:
    cut = tmp_path / "cut.tar"
    cut.write_bytes(shards[2].read_bytes()[: shards[2].stat().st_size // 2])
    pairs = ShardPairs([shards[0], cut])
    assert 0 < pairs.blocks[1] < 9
    assert pairs[7].key == "00010"
    assert [fault[:3] for fault in pairs.faults] == [(str(cut), "", "cut_shard")]
    assert f"its {pairs.blocks[1]} complete samples" in pairs.faults[0].detail


def test_a_shard_that_holds_nothing_is_left_out_and_reported(shards: list[Path], tmp_path: Path) -> None:
    empty, html = tmp_path / "empty.tar", tmp_path / "html.tar"
    empty.touch()
    html.write_bytes(b"<html>404 not found</html>" * 100)
    pairs = ShardPairs([empty, shards[0], html])
    assert pairs.blocks.tolist() == [7]
    assert [(fault.shard, fault.cause) for fault in pairs.faults] == [
        (str(empty), "broken_shard"),
        (str(html), "broken_shard"),
    ]
    assert pairs.fingerprint == ShardPairs(shards[:1]).fingerprint
    with pytest.raises(BadInput, match=r"empty\.tar holds no sample"):
        ShardPairs([empty, html])


def test_a_key_that_comes_twice_in_a_shard_is_a_duplicate(shard: Callable[..., Path]) -> None:
    (image, text), (_, other) = sample(0), sample(7)
    again = [image, (text[0], other[1])]
    # Apart, one after the other; a second image format is one sample's; another folder's is another key.
    png = ("00001.png", encoded(photo(1), "PNG"))
    members = [image, text, image, text, *sample(1)[:1], sample(1)[1], png, *again]
    members += [("folder/" + name, data) for name, data in sample(0)]
    pairs = ShardPairs([shard(members)])
    assert len(pairs) == 5
    assert [pairs[index].key for index in (0, 2, 4)] == ["00000", "00001", "folder/00000"]
    for index in (1, 3):
        with pytest.raises(BadSample) as caught:
            pairs[index]
        assert caught.value.broken[1:3] == ("00000", "duplicate_key")


def test_the_fingerprint_is_of_the_list_and_not_of_its_folder(shards: list[Path], tmp_path: Path) -> None:
    moved = [Path(shutil.copy(path, tmp_path)) for path in shards]
    fingerprint = ShardPairs(shards).fingerprint
    assert len(fingerprint) == 64
    assert ShardPairs(moved).fingerprint == fingerprint
    assert ShardPairs(shards[::-1]).fingerprint != fingerprint
    assert ShardPairs(shards[:-1]).fingerprint != fingerprint
    moved[0].write_bytes(moved[0].read_bytes()[:-4096])
    moved[0].rename(renamed := moved[0].with_name("other.tar"))
    assert ShardPairs([renamed, *moved[1:]]).fingerprint != fingerprint


def test_captions_are_spread_over_the_shards(shards: list[Path]) -> None:
    pairs = ShardPairs(shards)
    every = list(pairs.captions(1000))
    assert len(every) == 70
    assert len(set(every)) == 70
    few = list(pairs.captions(7))
    assert few == [f"photo {index}" for index in range(0, 35, 5)] == list(pairs.captions(7))
    assert list(pairs.captions(0)) == []


def test_real_shards(real_shards: list[Path]) -> None:
    pairs = ShardPairs(real_shards)
    assert len(real_shards) == 6
    assert not pairs.faults
    assert len(pairs) == 5015
    assert sum(1 for _ in pairs.captions(1_000_000)) == 22_682
    last = pairs[len(pairs) - 1]
    assert min(last.pixels.shape[:2]) == 112
    assert last.captions
    with real_shards[0].with_name("ATTRIBUTION-open.tsv").open() as table:
        attributed = {line.split("\t")[0] for line in table}
    assert last.key in attributed


def test_json_of_a_real_sample_is_what_python_reads(real_shards: list[Path]) -> None:
    import tarfile

    pair = ShardPairs(real_shards)[3]
    with tarfile.open(real_shards[0]) as tar:
        member = tar.extractfile(f"{pair.key}.json")
        assert member is not None
        assert tuple(caption.strip() for caption in json.load(member)["captions"]) == pair.captions


def test_photographs_are_turned_where_that_is_asked(tmp_path: Path) -> None:
    """Shards and tables alike; a run from before reads them as they are stored."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 16, 3), dtype=np.uint8))
    image.save(tmp_path / "1.png", exif=exif)
    (tmp_path / "captions.csv").write_text("file_name,caption\n1.png,a phone\n")
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name, data in (("1.png", (tmp_path / "1.png").read_bytes()), ("1.txt", b"a phone")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    stored = np.asarray(image)
    for where in (tmp_path, tmp_path / "0.tar"):
        for how, expected in (("ignore", stored), ("apply", np.rot90(stored, -1))):
            config = DataConfig(train=str(where), exif_orientation=how, index_cache="off")  # type: ignore[arg-type]
            assert np.array_equal(open_pairs(config, seed=0)[0].pixels, expected)
    assert DataConfig().exif_orientation == "ignore"
    assert recipes.get("silc_c").data.exif_orientation == recipes.get("clip-tiny").data.exif_orientation == "apply"
