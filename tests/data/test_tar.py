"""The index against tarfile's own reading, and tars made by strangers."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from silc.data.tar import Files, index_shard
from silc.types import BadInput
from tests.data.conftest import encoded, photo, sample, write_tar


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("folder", ["", "./", "a.b/", "ü" * 40 + "/" + "long" * 20 + "/"])
def test_every_member_is_where_tarfile_finds_it(tmp_path: Path, format: int, folder: str) -> None:
    if format == tarfile.USTAR_FORMAT and len(folder) > 9:
        folder = "x" * 120 + "/"  # USTAR's own way of long names
    members = [(folder + name, data) for number in range(5) for name, data in sample(number)]
    path = write_tar(tmp_path / "a.tar", members, format)

    index, files = index_shard(path), Files()

    assert len(index) == 5
    assert not index.damage
    assert not index.ignored
    for row in range(5):
        assert index.key(row) == f"{folder}{row:05d}"
        for part, (_, data) in zip(("image", "json"), members[2 * row : 2 * row + 2], strict=True):
            assert files.read(path, *index.samples[row][part].item()) == data
        assert index.samples[row]["txt"]["offset"] == 0


def test_the_key_ends_at_the_first_dot_of_the_last_part(tmp_path: Path) -> None:
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
from silc.data.pairs import BadSample, ShardPairs
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


def nothing(path: Path) -> None:
    pass


@pytest.mark.parametrize("write", [no_tar, empty_file, empty_tar, compressed, images_without_captions, nothing])
def test_a_file_without_samples_is_named(tmp_path: Path, write: object) -> None:
    path = tmp_path / "00017.tar"
    write(path)  # type: ignore[operator]
    with pytest.raises(BadInput, match=r"00017\.tar") as caught:
        index_shard(path)
    assert "\n" not in str(caught.value)


def test_files_keep_few_descriptors_open_and_survive_pickling(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(5)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 10)
    files = Files(limit=2)
    for _ in range(2):
        for number, path in enumerate(paths):
            assert files.read(path, 3, 4) == bytes([number]) * 4
            assert len(files._descriptors) <= 2
    copy = pickle.loads(pickle.dumps(files))
    assert copy.read(paths[1], 0, 2) == b"\1\1"
    assert files.read(paths[0], 8, 100) == b"\0\0"  # to the end
