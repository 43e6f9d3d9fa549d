"""The index against tarfile's own reading, and tars made by strangers."""

from __future__ import annotations

import gzip
import io
import pickle
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
