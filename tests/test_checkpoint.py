"""The format on disk: what is written comes back, what was changed since is noticed."""

from __future__ import annotations

import errno
import json
import os
import resource
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from silc import checkpoint
from silc.errors import BadInput


def write(root: Path, step: int, keep: int = 3) -> Path:
    parts = {
        "model": {"w": torch.arange(6.0).view(2, 3), "b": torch.tensor([step])},
        "rng": {"cpu": torch.get_rng_state()},
    }
    return checkpoint.write(root, step, parts, {"progress": {"step": step}}, keep=keep)


def test_round_trip(tmp_path: Path) -> None:
    saved = checkpoint.read(write(tmp_path, 7))
    assert saved.state == {"progress": {"step": 7}}
    assert torch.equal(saved.state_dicts["model"]["w"], torch.arange(6.0).view(2, 3))
    assert torch.equal(saved.state_dicts["rng"]["cpu"], torch.get_rng_state())
    assert checkpoint.read(saved.path, only=("rng",)).state_dicts.keys() == {"rng"}


def test_newest_first_and_old_ones_go(tmp_path: Path) -> None:
    for step in (5, 100, 20, 1000):
        write(tmp_path, step, keep=2)
    assert [p.name for p in checkpoint.find(tmp_path)] == ["step-00001000", "step-00000100"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-00000100", "step-00001000"]


def test_latest_leads_to_the_last_one_written(tmp_path: Path) -> None:
    for step in (3, 4):
        path = write(tmp_path, step)
        assert (tmp_path / "latest").resolve() == path.resolve()


def refusing(number: int, *, over_another: bool = False) -> Callable[..., None]:
    """A system call that the file system has no notion of; renames it does, but not over what is there."""
    rename = os.rename

    def call(*args: Any, **_: Any) -> None:
        if over_another and not os.path.lexists(args[1]):
            rename(*args)
        else:
            raise OSError(number, os.strerror(number))

    return call


def on_directories(number: int) -> Callable[[int], None]:
    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))

    return fsync


@pytest.mark.parametrize(
    "lacking",
    [
        {"symlink": refusing(errno.EOPNOTSUPP)},
        {"symlink": refusing(errno.EPERM)},
        {"symlink": refusing(errno.ENOSYS)},
        {"symlink": refusing(errno.EPERM), "link": refusing(errno.EPERM), "chmod": refusing(errno.EPERM)},
        {"symlink": refusing(errno.EIO), "replace": refusing(errno.EEXIST, over_another=True)},
        {"fsync": on_directories(errno.EINVAL)},
        {"fsync": on_directories(errno.EBADF)},
        {"fsync": refusing(errno.ENOSYS)},
    ],
    ids=["no links", "links forbidden", "links unknown", "no modes", "no renames over", "EINVAL", "EBADF", "no fsync"],
)
def test_file_systems_that_know_less(
    lacking: dict[str, Callable[..., None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 1)  # with links, as older runs have them
    for name, call in lacking.items():
        monkeypatch.setattr(os, name, call)
    for step in (2, 3):
        path = write(tmp_path, step, keep=2)
        latest = tmp_path / "latest"
        named = latest.readlink().name if latest.is_symlink() else latest.read_text().strip()
        assert named == path.name
        assert latest.is_symlink() == ("symlink" not in lacking)
    assert checkpoint.newest_intact(tmp_path) == (path, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-00000002", "step-00000003"]
    monkeypatch.undo()
    assert (write(tmp_path, 4).parent / "latest").is_symlink()  # moved to a file system that knows more


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_flush_that_fails_is_no_save(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1)
    monkeypatch.setattr(os, "fsync", refusing(number))
    with pytest.raises(BadInput, match="cannot write the checkpoint"):
        write(tmp_path, 2)
    assert [path.name for path in checkpoint.find(tmp_path)] == ["step-00000001"]


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    write(tmp_path, 1)
    (tmp_path / ".partial-step-00000002").mkdir()
    (tmp_path / ".partial-latest").symlink_to("nowhere")
    write(tmp_path, 3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest", "step-00000001", "step-00000003"]


def test_a_damaged_one_is_passed_over_and_set_aside(tmp_path: Path) -> None:
    """Set aside, it no longer counts among the newest that are kept."""
    write(tmp_path, 1)
    (write(tmp_path, 2) / "model.safetensors").write_bytes(b"")
    (write(tmp_path, 3) / "manifest.json").unlink()
    newest, damaged = checkpoint.newest_intact(tmp_path)
    assert newest == tmp_path / "step-00000001"
    assert [path.name for path in damaged] == ["step-00000003", "step-00000002"]
    assert "manifest.json is unreadable" in damaged[tmp_path / "step-00000003"]
    assert "model.safetensors is damaged" in damaged[tmp_path / "step-00000002"]
    for path in damaged:
        checkpoint.set_aside(path)
    write(tmp_path, 2, keep=1)
    assert checkpoint.newest_intact(tmp_path) == (tmp_path / "step-00000002", {})
    assert (tmp_path / "damaged-step-00000003").is_dir()


def test_every_bit_of_the_manifest_counts(tmp_path: Path) -> None:
    file = write(tmp_path, 1) / "manifest.json"
    whole = file.read_bytes()
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        file.write_bytes(data)
        with pytest.raises(BadInput):
            checkpoint.verify(file.parent)


def test_a_file_the_manifest_does_not_list_is_not_read(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    (path / "extra.safetensors").write_bytes((path / "model.safetensors").read_bytes())
    assert checkpoint.read(path).state_dicts.keys() == {"model", "rng"}


def test_a_partial_one_is_not_found(tmp_path: Path) -> None:
    write(tmp_path, 1)
    (tmp_path / ".partial-step-00000002").mkdir()
    (tmp_path / "step-00000003").mkdir()
    assert [p.name for p in checkpoint.find(tmp_path)] == ["step-00000001"]


@pytest.mark.parametrize("name", ["model.safetensors", "rng.safetensors", "state.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "empty"])
def test_every_kind_of_damage_is_noticed(name: str, harm: str, tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    file = path / name
    data = bytearray(file.read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif harm == "cut":
        file.write_bytes(data[:-1])
    elif harm == "remove":
        file.unlink()
    else:
        file.write_bytes(b"")
    with pytest.raises(BadInput, match=f"{name} is (missing|damaged)"):
        checkpoint.read(path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model.safetensors": 3}'])
def test_damaged_manifest(text: str, tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    (path / "manifest.json").write_text(text)
    with pytest.raises(BadInput, match=r"manifest\.json is unreadable"):
        checkpoint.read(path)


def test_a_file_that_cannot_grow_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 1)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
    try:
        with pytest.raises(BadInput, match="earlier checkpoints are intact"):
            write(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    checkpoint.read(checkpoint.find(tmp_path)[0])


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"weight": torch.zeros(2, 3)}, "it lacks bias"),
        ({"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "more": torch.zeros(1)}, "it has more, which"),
        ({"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}, r"weight is \[2, 4\] there and \[2, 3\] here"),
    ],
)
def test_another_architecture(tensors: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(BadInput, match=f"another architecture: {message}"):
        checkpoint.load_into(nn.Linear(3, 2), tensors, Path("model.safetensors"))


def test_nothing_is_a_pickle(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    assert {p.suffix for p in path.iterdir()} == {".safetensors", ".json"}
    json.loads((path / "state.json").read_text())


def test_one_of_the_same_step_is_there_until_the_new_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while the former one is deleted: the new one stands, and is what `latest` leads to."""
    write(tmp_path, 3, keep=1)
    before = torch.get_rng_state()
    torch.rand(1)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, 3, keep=1)
    assert [path.name for path in checkpoint.find(tmp_path)] == ["step-00000003"]
    assert not torch.equal(checkpoint.read(tmp_path / checkpoint.LATEST).state_dicts["rng"]["cpu"], before)
