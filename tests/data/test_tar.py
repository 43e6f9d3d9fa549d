"""The index against tarfile's own reading, and tars made by strangers."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from silc.data.check import check
from silc.data.open_files import OpenFiles
from silc.data.shards import ShardPairs
from silc.data.tar import Members, index_shard, walk
from silc.errors import BadInput
from silc.images import READ, UNREAD
from tests.data.conftest import encoded, labelled, photo, sample, write_tar


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("folder", ["", "./", "a.b/", "ü" * 40 + "/" + "long" * 20 + "/"])
def test_every_member_is_where_tarfile_finds_it(tmp_path: Path, format: int, folder: str) -> None:
    if format == tarfile.USTAR_FORMAT and len(folder) > 9:
        folder = "x" * 120 + "/"  # USTAR's own way of long names
    members = [(folder + name, data) for number in range(5) for name, data in sample(number)]
    path = write_tar(tmp_path / "a.tar", members, format)

    index, files = index_shard(path), OpenFiles()

    assert len(index) == 5
    assert not index.damage
    assert not index.ignored
    for row in range(5):
        assert index.key(row) == f"{folder}{row:05d}"
        for part, (_, data) in zip(("image", "json"), members[2 * row : 2 * row + 2], strict=True):
            assert files.read(path, *index.samples[row][part].item()) == data
        assert index.samples[row]["txt"]["offset"] == 0


JPEG = encoded(photo(0))
KEYS = {
    # What is in a shard: the samples' keys, those without image or caption in brackets, and what is not read.
    "a.jpg a.txt img.v2.jpg img.v2.txt": ("a img.v2", {}),
    "2024.01.05.JPG 2024.01.05.TXT 2024.01.06.jpg 2024.01.06.json": ("2024.01.05 2024.01.06", {}),
    "v1.0/a.b.png v1.0/a.b.txt": ("v1.0/a.b", {}),
    "img.jpg img.v2.jpg img.txt img.v2.txt": ("img img.v2", {}),
    "a.jpg a.seg.png a.txt": ("a", {".png": 1}),
    "a.seg.png a.jpg a.txt a.depth.png a.cls": ("a", {".png": 2, ".cls": 1}),
    "a.b.jpg a.b.txt a.b.seg.png": ("a.b", {".png": 1}),
    "x.jpg x.txt a.img.jpg a.cap.txt": ("x (a.img) (a.cap)", {}),
    "a.jpg a.txt b.v2.jpg c.v2.txt": ("a (b.v2) (c.v2)", {}),
    "a.jpg a.txt a.en.txt a.de.txt": ("a", {".txt": 2}),
    "0.jpg 1.jpg 1.txt 0.txt": ("0 1", {}),
    "0.txt 1.txt 2.txt 2.jpg 0.jpg 1.jpg": ("0 1 2", {}),
    "0.jpg 1.jpg 0.png 1.png 0.txt 1.txt": ("0 1", {".png": 2}),
    "images/0.jpg texts/0.txt 0.jpg 0.txt": ("(images/0) (texts/0) 0", {}),
    "./0.jpg ./1.jpg 0.txt 1.txt": ("./0 ./1", {}),
    "a.GIF a.txt b.bmp b.txt c.tif c.txt d.jfif d.txt": ("a b c d", {}),
    "a.gif a.jpg a.txt": ("a", {".gif": 1}),
    "._a.jpg a.jpg ._a.txt a.txt __MACOSX/._a.jpg .DS_Store .jpg": ("a", {"hidden": 5}),
    "a.jpg a.txt README LICENSE.md": ("a", {".": 1, ".md": 1}),
}


@pytest.mark.parametrize("names", KEYS)
def test_members_meet_by_key_wherever_they_stand(tmp_path: Path, names: str) -> None:
    keys, unread = KEYS[names]
    index = index_shard(write_tar(tmp_path / "a.tar", [(name, name.encode()) for name in names.split()]))
    found, files = [], OpenFiles()
    for row in range(len(index)):
        sample = index.samples[row]
        parts = [part for part in ("image", "txt", "json") if sample[part]["offset"]]
        whole = "image" in parts and len(parts) > 1
        found.append(index.key(row) if whole else f"({index.key(row)})")
        for part in parts:  # each holds its own name
            name = files.read(index.path, *sample[part].item()).decode()
            assert name.rpartition(".")[0].removeprefix("./") == index.key(row).removeprefix("./")
    assert " ".join(found) == keys
    assert not index.samples["duplicate"].any()
    assert {fate: count for fate, count in index.contents.items() if fate != "samples"} == unread
    assert sum(index.contents.values()) == len(names.split())


LABELLED = {
    # The members that are declared: what is in a shard, and per sample the suffixes of what is read.
    Members(must=("seg.png",)): (
        "a.jpg a.seg.png a.txt b.c.jpg b.c.seg.png d.seg.png e.jpg",
        "jpg+seg.png jpg+seg.png seg.png jpg",
    ),
    Members(must=("png",)): ("a.jpg a.png a.v2.jpg a.v2.png", "jpg+png jpg+png"),
    Members(must=("json",)): ("a.jpg a.json a.v2.jpg a.v2.json", "jpg+json jpg+json"),
    Members(must=("boxes.json",), may=("txt",)): (
        "a.txt a.jpg a.boxes.json a.json b.jpg b.boxes.json",
        "jpg+boxes.json+txt jpg+boxes.json",
    ),
    Members(must=("seg.png", "json")): (
        "a.jpg a.seg.png a.json b.jpg b.json b.seg.png",
        "jpg+seg.png+json jpg+seg.png+json",
    ),
    Members(must=("cls",), may=("x.cls",)): (
        "a.jpg a.x.cls a.cls A.B.JPG A.B.X.CLS A.B.CLS",
        "jpg+cls+x.cls JPG+CLS+X.CLS",
    ),
}


@pytest.mark.parametrize("members", LABELLED, ids=str)
def test_shards_are_read_for_the_members_that_are_declared(tmp_path: Path, members: Members) -> None:
    names, expected = LABELLED[members]
    index = index_shard(write_tar(tmp_path / "a.tar", [(name, name.encode()) for name in names.split()]), members)
    found, files = [], OpenFiles()
    for row, each in enumerate(index.samples):
        own = [files.read(index.path, *each[name].item()).decode() for name in members.fields if each[name]["offset"]]
        assert {name[: len(index.key(row)) + 1] for name in own} == {f"{index.key(row)}."}
        found.append("+".join(name[len(index.key(row)) + 1 :] for name in own))
    assert " ".join(found) == expected
    assert sum(index.contents.values()) == len(names.split())


def test_shards_without_what_must_be_there(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", sample(0) + sample(1))
    with pytest.raises(BadInput, match=r"2 \.jpg, 2 \.json, so there is no \.seg\.png; .*webp with \{key\}\.seg\.png$"):
        index_shard(path, Members(must=("seg.png",)))
    with pytest.raises(BadInput, match=r"with \{key\}\.seg\.png and \{key\}\.txt$"):
        index_shard(path, Members(must=("seg.png", "txt")))
    with pytest.raises(BadInput, match=r"so there is no sample with all of them; "):
        index_shard(write_tar(tmp_path / "b.tar", labelled(0) + sample(1)), Members(must=("seg.png", "json")))


@pytest.mark.parametrize(
    ("names", "duplicates"),
    [
        ("a.jpg a.txt a.jpg a.txt", [False, True]),
        ("a.jpg a.jpg a.txt", [False, True]),
        ("a.jpg a.txt b.jpg b.txt a.png a.txt", [False, False, True]),
        ("a.jpg a.txt b.jpg b.txt ./a.jpg ./a.txt", [False, False, True]),
        ("a.jpg a.txt b.jpg b.txt a.json", [False, False]),
        ("a.txt a.txt a.jpg", [False, True]),
        ("a.jpg a.txt " * 4, [False, True, True, True]),
    ],
)
def test_what_comes_again_is_a_duplicate(tmp_path: Path, names: str, duplicates: list[bool]) -> None:
    index = index_shard(write_tar(tmp_path / "a.tar", [(name, b"x") for name in names.split()]))
    assert index.samples["duplicate"].tolist() == duplicates
    assert index.samples["image"]["offset"][0] > 0
    assert index.samples["txt"]["offset"][0] > 0
    assert sum(index.contents.values()) == len(names.split())


def test_what_is_known_of_a_mask_is_no_sample(tmp_path: Path) -> None:
    """A compound suffix with JSON: a sample where the JSON has a caption, else a part of another's."""
    members = [("a.jpg", JPEG), ("a.txt", b"a dog"), ("a.seg.png", b"x"), ("a.seg.json", b'{"classes": ["dog"]}')]
    members += [("a.v2.jpg", JPEG), ("a.v2.json", b'{"caption": "another"}'), ("a.v3.jpg", JPEG), ("a.v3.json", b"{")]
    index = index_shard(write_tar(tmp_path / "a.tar", members))
    assert [index.key(row) for row in range(len(index))] == ["a", "a.v2", "a.v3"]
    assert index.contents == {"samples": 6, ".png": 1, ".json": 1}


@pytest.mark.parametrize("formats", [(0,), (0, 1), (1, 0, 2), (2, 2, 2, 2)])
def test_archives_put_together_by_cat(tmp_path: Path, formats: tuple[int, ...]) -> None:
    """As GNU tar reads them with --ignore-zeros: all, whatever the format of each."""
    whole, members = b"", []
    for number, format in enumerate(formats):
        own = [("long/" * 30 + name, data) for name, data in sample(number)]
        whole += write_tar(tmp_path / "part.tar", own, format).read_bytes()
        members += own
    for zeros in (0, 512, 5120):
        path = tmp_path / "cat.tar"
        path.write_bytes(whole + bytes(zeros))
        index, files = index_shard(path), OpenFiles()
        assert not index.damage
        assert [index.key(row)[-5:] for row in range(len(index))] == [f"{number:05d}" for number in range(len(formats))]
        for row in range(len(index)):
            for part, (_, data) in zip(("image", "json"), members[2 * row : 2 * row + 2], strict=True):
                assert files.read(path, *index.samples[row][part].item()) == data


def test_what_follows_the_end_and_is_no_archive_is_damage(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [member for number in range(4) for member in sample(number)])
    good = path.read_bytes()
    with tarfile.open(path) as tar:
        third = tar.getmembers()[4]
    hole = bytearray(good)
    hole[third.offset : third.offset + 1024] = bytes(1024)  # a block that a copy lost
    for data, num in ((good + b"\1" * 700, 4), (good + good[:700], 4), (bytes(hole), 2)):
        path.write_bytes(data)
        index = index_shard(path)
        assert len(index) == num
        assert index.damage


def test_the_order_of_shards_that_were_read_before_is_as_it_was(tmp_path: Path) -> None:
    """The digest that the first version of the index gave; a run on such shards goes on."""
    members = []
    for i in range(6):
        members += [(f"{i:04d}.jpg", b"x" * (100 + i)), (f"{i:04d}.seg.png", b"y" * 7), (f"{i:04d}.txt", b"cap")]
        members += [(f"{i:04d}.json", b"{}"), (f"{i:04d}.cls", b"3")]
    members += [("d/9.webp", b"z"), ("d/9.png", b"zz"), ("d/9.txt", b"t"), ("e.txt", b"only"), ("f.jpg", b"only")]
    members += [("f.cls", b"1"), *members[:2], ("0000.txt", b"cap")]
    pairs = ShardPairs([write_tar(tmp_path / "fp.tar", members)])
    assert len(pairs) == 10
    assert pairs.fingerprint == "de3fbdb6a60ed5624109ae9f26aef409745c3c580c83235054a83b2746c71e1b"


def test_the_key_is_the_path_without_its_suffix(tmp_path: Path) -> None:
    jpeg = encoded(photo(0))
    members = [("v1.0/a.JPG", jpeg), ("v1.0/a.seg.png", b"labels"), ("v1.0/a.txt", b"one"), ("v1.0/b.webp", jpeg)]
    index = index_shard(write_tar(tmp_path / "a.tar", [*members, ("v1.0/b.cls", b"3"), ("v1.0/b.txt", b"two")]))
    assert [index.key(row) for row in range(len(index))] == ["v1.0/a", "v1.0/b"]
    assert index.samples["image"]["size"].tolist() == [len(jpeg)] * 2


def test_links_devices_and_unsafe_names_are_ignored_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in [
            *sample(0),
            ("/etc/1.jpg", b"x"),
            ("/etc/1.txt", b"x"),
            ("../2.jpg", b"x"),
            ("a/../3.txt", b"x"),
        ]:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
        for name, kind in [
            ("4.jpg", tarfile.SYMTYPE),
            ("4.txt", tarfile.LNKTYPE),
            ("5.jpg", tarfile.CHRTYPE),
            ("6.jpg", tarfile.FIFOTYPE),
        ]:
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, "/etc/passwd"
            tar.addfile(header)
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    index = index_shard(path)
    assert len(index) == 1
    assert index.key(0) == "00000"
    assert len(index.ignored) == 8
    assert not index.damage


def hostile(path: Path, canary: Path) -> dict[str, int]:
    """A tar whose extraction, or import, would make the canary; its members other than one good sample, by kind."""
    code = f"open({str(canary)!r}, 'w')".encode()
    reach = "../" * 12 + str(canary).lstrip("/")
    files = {
        "parent": [reach + ".jpg", "a/../../x.txt", "..", "pax/../../../y.json"],
        "absolute": [str(canary) + ".jpg", "//" + str(canary).lstrip("/") + ".txt"],
        "code": ["evil.pyd", "evil.so", "evil.py", "evil.pth", "silc/__init__.py", "sitecustomize.py", "x.pkl", "x.pt"],
    }
    links = [
        ("out", tarfile.SYMTYPE, str(canary.parent)),
        ("link.jpg", tarfile.SYMTYPE, "/etc/passwd"),
        ("link.txt", tarfile.SYMTYPE, "../../../etc/passwd"),
        ("hard.jpg", tarfile.LNKTYPE, str(canary)),
        ("char.jpg", tarfile.CHRTYPE, ""),
        ("block.txt", tarfile.BLKTYPE, ""),
        ("fifo.json", tarfile.FIFOTYPE, ""),
        ("old.jpg", tarfile.GNUTYPE_SPARSE, ""),
    ]
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: str, data: bytes = b"", **fields: object) -> None:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            for field, value in fields.items():
                setattr(header, field, value)
            tar.addfile(header, io.BytesIO(data))

        for name in (name for names in files.values() for name in names):
            add(name, code)
        for name, kind, target in links:
            add(name, type=kind, linkname=target)
        add("out/canary.jpg", code)  # through the link above, if it were made
        # The name that counts is the extended one; a sparse file's bytes are elsewhere than its size says.
        add("innocent.jpg", code, pax_headers={"path": "../" + canary.name + ".jpg"})
        add("sparse.jpg", code, pax_headers={"GNU.sparse.map": "0,4", "GNU.sparse.size": str(1 << 40)})
        for name, data in sample(0):
            add(name, data)
    ignored = len(files["parent"]) + len(files["absolute"]) + len(links) + 2
    return {"ignored": ignored, "code": len(files["code"])}


READ_ALL = """
import sys
from pathlib import Path
from silc.data.pairs import BadSample
from silc.data.shards import ShardPairs
from PIL import Image
Image.init()

def watch(event, arguments):
    writes = event == "open" and (set(str(arguments[1])) & set("wax+") or arguments[2] & (os.O_WRONLY | os.O_RDWR))
    makes = event in ("os.mkdir", "os.symlink", "os.link", "os.rename", "os.chmod", "os.remove", "os.exec", "os.system")
    if writes or makes or event in ("subprocess.Popen", "pickle.find_class"):
        print("did", event, arguments)

import os
pairs = ShardPairs([Path(sys.argv[1])])
sys.addaudithook(watch)
pairs = ShardPairs([Path(sys.argv[1])])
keys = []
for index in range(len(pairs)):
    try:
        keys.append(pairs[index].key)
    except BadSample as error:
        keys.append(error.broken.cause)
print(keys, len(pairs.faults), list(pairs.captions(9)))
"""


def test_nothing_a_tar_holds_is_ever_made_or_run(tmp_path: Path) -> None:
    """An audit hook watches a process that reads every member; nothing is opened for writing, made, linked or run."""
    inside = tmp_path / "deep" / "data"
    inside.mkdir(parents=True)
    canary = tmp_path / "canary"
    expected = hostile(inside / "a.tar", canary)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    done = subprocess.run(
        [sys.executable, "-B", "-c", READ_ALL, "a.tar"],
        cwd=inside,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # "out/canary" is a plain file in a folder, as far as a reader in place is concerned: its bytes are no image.
    assert done.stdout == f"['no_caption', '00000'] {expected['ignored']} ['photo 0', 'picture number 0']\n"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert not list(tmp_path.rglob("canary*"))


def test_the_canary_would_be_made_by_one_who_extracts(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    hostile(tmp_path / "deep" / "a.tar", tmp_path / "canary")
    with tarfile.open(tmp_path / "deep" / "a.tar") as tar:
        member = next(member for member in tar if member.name.startswith("/"))
        assert Path(member.name).is_relative_to(tmp_path)
        tar.extract(member, filter="fully_trusted")
    assert list(tmp_path.rglob("canary*"))


def test_a_cut_shard_keeps_the_samples_before_the_cut(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.tar", [member for number in range(4) for member in sample(number)])
    with tarfile.open(whole) as tar:
        members = tar.getmembers()
    ends = [member.offset_data + member.size for member in members[1::2]]  # where a sample's last byte is
    data, last_block = whole.read_bytes(), -(-ends[-1] // 512) * 512
    path = tmp_path / "cut.tar"
    cuts = {cut + shift for cut in range(512, last_block + 1, 512) for shift in (-1, 0, 7)} | set(ends)
    for cut in sorted(cut for cut in cuts if cut <= last_block):
        path.write_bytes(data[:cut])
        num_whole = sum(end <= cut for end in ends)
        if num_whole:
            index = index_shard(path)
            assert len(index) == num_whole, cut
            assert index.damage, cut
        else:
            with pytest.raises(BadInput, match=r"cut\.tar"):
                index_shard(path)


def test_a_header_overwritten_in_the_middle_is_damage_and_not_the_end(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [member for number in range(4) for member in sample(number)])
    with tarfile.open(path) as tar:
        third = tar.getmembers()[4].offset
    data = bytearray(path.read_bytes())
    data[third : third + 512] = b"\xff" * 512
    path.write_bytes(data)
    index = index_shard(path)
    assert len(index) == 2
    assert f"{third:,}" in index.damage


def no_tar(path: Path) -> None:
    path.write_bytes(b"<html>404 not found</html>" * 100)


def empty_file(path: Path) -> None:
    path.write_bytes(b"")


def empty_tar(path: Path) -> None:
    write_tar(path, [])


def compressed(path: Path) -> None:
    write_tar(path, sample(0))
    path.write_bytes(gzip.compress(path.read_bytes()))


def images_without_captions(path: Path) -> None:
    write_tar(path, [sample(0)[0], sample(1)[0]])


def zstd(path: Path) -> None:
    path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(2000))


def zipped(path: Path) -> None:
    path.write_bytes(b"PK\3\4" + bytes(2000))


def parquet(path: Path) -> None:
    path.write_bytes(b"PAR1" + bytes(2000))


def captions_elsewhere(path: Path) -> None:
    write_tar(path, [("images/0.jpg", JPEG), ("captions/0.txt", b"a dog"), ("x.mp4", b"")])


def compound(path: Path) -> None:
    write_tar(path, [("0.img.jpg", JPEG), ("0.cap.txt", b"a dog")])


def captions_behind_suffixes(path: Path) -> None:
    write_tar(path, [("0.jpg", JPEG), ("0.jpg.txt", b"a dog")])


def only_links(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        for name in ("0.jpg", "0.txt"):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = tarfile.SYMTYPE, "/data/" + name
            tar.addfile(header)


def nothing(path: Path) -> None:
    pass


WORDS = {
    no_tar: "no uncompressed tar",
    compressed: "compressed by gzip.*`gunzip`",
    zstd: "compressed by zstd.*`zstd -d`",
    zipped: "zip archive; unpack it",
    parquet: r"Parquet.*name the \.tar files",
    images_without_captions: r"2 \.jpg, so there is no caption; a shard must be",
    captions_elsewhere: r"1 \.jpg, 1 \.txt, 1 \.mp4.*'images/0'.*'captions/0'.*folders included",
    compound: r"'0\.img'.*'0\.cap'.*without its last suffix",
    captions_behind_suffixes: r"first image's key is '0'.*as in 0\.jpg\.txt.*rename them to 0\.txt",
    only_links: "2 ignored",
    empty_tar: "its members are none",
}


@pytest.mark.parametrize("write", WORDS)
def test_a_file_without_samples_is_told_why(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "0.tar")
    with pytest.raises(BadInput, match=WORDS[write]) as caught:
        index_shard(tmp_path / "0.tar")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("write", [no_tar, empty_file, empty_tar, compressed, images_without_captions, nothing])
def test_a_file_without_samples_is_named(tmp_path: Path, write: object) -> None:
    path = tmp_path / "00017.tar"
    write(path)  # type: ignore[operator]
    with pytest.raises(BadInput, match=r"00017\.tar") as caught:
        index_shard(path)
    assert "\n" not in str(caught.value)


# --- shards made wrong at random


def random_members(rng: np.random.Generator) -> list[tuple[str, bytes, bytes]]:
    """(name, type, data) of a few samples, and of what else people put into shards, in disorder."""
    png = encoded(photo(0, (8, 6)), "PNG")
    images = [png, png, png, b"", b"<html>", png[:100]]
    texts = [b"a dog", b"a dog", b"", b" \n", b"caf\xe9", "ein Hund".encode("utf-8-sig")]
    objects = [b'{"caption": "a dog"}', b'{"captions": ["a", "b"]}', b'{"caption": 3}', b"{", b"[]", b'{"url": "x"}']
    members = []
    for number in range(int(rng.integers(1, 9))):
        stem = rng.choice(["{}", "{}.v2", "d/{}", "./{}", "d.1/{}.a.b", "{} (1)"]).format(number)
        for suffix, data, share in (
            (rng.choice(["jpg", "PNG", "webp", "gif", "tif"]), images[rng.integers(len(images))], 0.9),
            ("txt", texts[rng.integers(len(texts))], 0.7),
            ("json", objects[rng.integers(len(objects))], 0.5),
            (rng.choice(["cls", "seg.png", "npy", "png", "json.gz"]), png, 0.4),
        ):
            if rng.random() < share:
                members.append((f"{stem}.{suffix}", tarfile.REGTYPE, data))
    others = [
        ("d", tarfile.DIRTYPE),
        ("0.jpg", tarfile.SYMTYPE),
        ("1.txt", tarfile.LNKTYPE),
        ("../0.jpg", tarfile.REGTYPE),
        ("/2.txt", tarfile.REGTYPE),
        ("._0.jpg", tarfile.REGTYPE),
        ("pipe.jpg", tarfile.FIFOTYPE),
        ("README", tarfile.REGTYPE),
        ("long/" * 40 + "0.jpg", tarfile.REGTYPE),
    ]
    members += [(*others[i], b"") for i in rng.integers(len(others), size=rng.integers(3))]
    if members and rng.random() < 0.4:
        members += [members[i] for i in rng.integers(len(members), size=2)]
    if rng.random() < 0.5:
        rng.shuffle(members)
    return members


def random_shard(path: Path, rng: np.random.Generator) -> int:
    """Write a shard that is wrong in some ways; the number of its members, counted by `tarfile`."""
    whole, num_archives = b"", int(rng.choice([1, 1, 1, 2, 3]))
    for _ in range(num_archives):
        format = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)[rng.integers(3)]
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
            for name, kind, data in random_members(rng):
                header = tarfile.TarInfo(name)
                header.type, header.size, header.linkname = kind, len(data), "x" * (kind in b"12")
                tar.addfile(header, io.BytesIO(data))
        whole += buffer.getvalue()
    if num_archives == 1 and rng.random() < 0.4:
        whole = whole[: rng.integers(512, len(whole))]
    path.write_bytes(whole)
    num = 0
    try:
        with tarfile.open(path, "r:", ignore_zeros=True) as tar:
            for member in tar:
                num += not member.isreg() or member.offset_data + member.size <= len(whole)
    except tarfile.TarError:
        pass
    return num


def balanced(path: Path, num_members: int) -> Counter[str]:
    """Demand that members in are samples out and counted causes; the causes that were met."""
    found = walk(path)
    assert sum(found.contents.values()) == num_members
    if not any(sample.usable for sample in found.samples):
        with pytest.raises(BadInput, match=r"0\.tar"):
            ShardPairs([path])
        return Counter(broken_shard=1)
    pairs = ShardPairs([path])
    checked = check(pairs)
    assert sum(checked.contents.values()) == num_members
    assert checked.num_samples == checked.num_good + len(checked.broken) == len(found.samples)
    assert checked.contents.get("ignored", 0) == checked.causes.get("ignored_member", 0)
    shard = pairs.shards[0]
    places = [place for part in ("image", "txt", "json") for place in shard.samples[part]["offset"] if place]
    assert len(set(places)) == len(places) == checked.contents["samples"]
    # By name: whatever has an image and a caption is there, and every image is a sample's or counted.
    suffixes: dict[str, set[str]] = {}
    num_images = 0
    with tarfile.open(path, "r:", ignore_zeros=True) as tar:
        try:
            for member in tar:
                stem, _, suffix = member.name.removeprefix("./").rpartition(".")
                plain = member.isreg() and member.offset_data + member.size <= path.stat().st_size
                if plain and not stem.startswith(("/", "..", "._")):
                    suffixes.setdefault(stem, set()).add(suffix.lower())
                    num_images += suffix.lower() in (*READ, *UNREAD)
        except tarfile.TarError:
            pass
    keys = {shard.key(row).removeprefix("./") for row in range(len(shard))}
    assert {stem for stem, own in suffixes.items() if own & {*READ, *UNREAD} and "txt" in own} <= keys
    unread = sum(checked.contents.get(f".{suffix}", 0) for suffix in (*READ, *UNREAD))
    num_lost = num_images - int((shard.samples["image"]["offset"] > 0).sum()) - unread
    assert 0 <= num_lost <= checked.contents.get("lost", 0)
    return Counter(checked.causes)


def test_members_balance_on_shards_made_wrong_at_random(tmp_path: Path) -> None:
    causes: Counter[str] = Counter()
    for seed in range(60):
        causes += balanced(tmp_path / "0.tar", random_shard(tmp_path / "0.tar", np.random.default_rng(seed)))
    assert len(causes) >= 10, causes  # it does meet faults


@pytest.mark.slow
def test_members_balance_on_a_thousand_shards(tmp_path: Path) -> None:
    causes: Counter[str] = Counter()
    for seed in range(1000, 2000):
        causes += balanced(tmp_path / "0.tar", random_shard(tmp_path / "0.tar", np.random.default_rng(seed)))
    assert len(causes) >= 10, causes


def test_files_keep_few_descriptors_open_and_survive_pickling(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(5)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 10)
    files = OpenFiles(limit=2)
    for _ in range(2):
        for number, path in enumerate(paths):
            assert files.read(path, 3, 4) == bytes([number]) * 4
            assert len(files._descriptors) <= 2
    copy = pickle.loads(pickle.dumps(files))
    assert copy.read(paths[1], 0, 2) == b"\1\1"
    assert files.read(paths[0], 8, 100) == b"\0\0"  # to the end
