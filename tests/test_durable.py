"""What stands in a place is whole, or what stood there before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from silc.durable import whole, write_whole


def test_a_file_is_written_whole_through_a_link_and_into_a_device(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real/bench.json")
    write_whole(tmp_path / "link", "one")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "bench.json").read_text() == "one"
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["bench.json"]
    write_whole(Path(os.devnull), "two")
    assert Path(os.devnull).is_char_device()


@pytest.mark.parametrize("folder", [False, True])
def test_what_failed_half_way_leaves_what_was_there(folder: bool, tmp_path: Path) -> None:
    place = tmp_path / ("x" * 250)
    write_whole(place, "before")

    def fail() -> None:
        with whole(place) as beside:
            if folder:
                beside.mkdir()
            (beside / "part" if folder else beside).write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert place.read_text() == "before"
    assert list(tmp_path.iterdir()) == [place]


def test_bytes_are_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut after the rename must not leave an empty file of that name."""
    done: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda handle: (done.append(os.readlink(f"/proc/self/fd/{handle}")), fsync(handle))
    )
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("renamed"), replace(*names)))
    with whole(tmp_path / "new") as beside:
        (beside / "deep").mkdir(parents=True)
        (beside / "deep" / "file").write_text("all of it")
    before, after = done[: done.index("renamed")], done[done.index("renamed") + 1 :]
    assert set(before) == {str(beside / part) for part in ("", "deep", "deep/file")}
    assert after == [str(tmp_path)]
    assert (tmp_path / "new" / "deep" / "file").read_text() == "all of it"
