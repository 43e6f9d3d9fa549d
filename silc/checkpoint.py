"""Checkpoints on disk: write, find, verify, read. Knows no trainer, and nothing in it is a pickle.

    checkpoints/step-00001200/
        model.safetensors      student towers, scale, bias
        head.safetensors       student head                       (when the run distils)
        teacher.safetensors    image tower, head, centre          (when the run has a teacher)
        optimizer.safetensors  moments, step counts, by parameter name
        rng.safetensors        generator states, one row per rank
        state.json             step, loader position and what else its writer put there
        manifest.json          sha256 and size of every file above; written last

A checkpoint is made under a temporary name, flushed to disk and then renamed, so a directory named `step-*` is whole.
The manifest lets a reader prove that nothing changed since.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from silc.types import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

MANIFEST, STATE = "manifest.json", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read back: named groups of tensors and a JSON state."""

    path: Path
    parts: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


def write(
    root: Path, step: int, parts: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], *, keep: int
) -> Path:
    """Write `root/step-<step>`, then delete all but the `keep` newest.

    Raises:
        BadInput: the disk is full or not writable; earlier checkpoints are untouched.
    """
    final = root / f"step-{step:08d}"
    partial, replaced = root / f".partial-step-{step:08d}", root / f".replaced-step-{step:08d}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, tensors in parts.items():
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, partial / f"{name}.safetensors")
        (partial / STATE).write_text(json.dumps(dict(state), indent=1))
        manifest = {file.name: _fingerprint(file) for file in sorted(partial.iterdir())}
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1))
        for file in partial.iterdir():
            _flush(file)
        _flush(partial)
        if final.exists():
            final.rename(replaced)
        partial.rename(final)
        _flush(root)
        shutil.rmtree(replaced, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            shutil.rmtree(partial, ignore_errors=True)
        raise BadInput(f"cannot write the checkpoint {final}: {error}; earlier checkpoints are intact") from error
    for old in find(root)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def find(root: Path) -> list[Path]:
    """Complete checkpoints under `root`, newest first."""
    return sorted((p for p in root.glob("step-*") if (p / MANIFEST).is_file()), reverse=True)


def verify(path: Path) -> None:
    """Compare every file with the manifest.

    Raises:
        BadInput: a file is missing, or is not what was written.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        entries = {str(name): (str(entry["sha256"]), int(entry["bytes"])) for name, entry in manifest.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path / MANIFEST} is unreadable ({error}); this is no complete checkpoint") from error
    for name, (digest, size) in entries.items():
        file = path / name
        if not file.is_file():
            raise BadInput(f"{file} is missing; remove {path} to go on from the one before")
        if file.stat().st_size != size or _fingerprint(file)["sha256"] != digest:
            raise BadInput(
                f"{file} is damaged (its checksum is not the manifest's); remove {path} to go on from the one before"
            )


def read(path: Path, *, only: tuple[str, ...] | None = None) -> Checkpoint:
    """Verify and read a checkpoint; `only` limits which groups of tensors are loaded.

    Raises:
        BadInput: it is damaged or incomplete.
    """
    verify(path)
    files = sorted(path.glob("*.safetensors"))
    parts = {f.stem: load_file(f) for f in files if only is None or f.stem in only}
    return Checkpoint(path, parts, json.loads((path / STATE).read_text()))


def _fingerprint(file: Path) -> dict[str, Any]:
    with file.open("rb") as handle:
        return {"sha256": hashlib.file_digest(handle, "sha256").hexdigest(), "bytes": file.stat().st_size}


def _flush(path: Path) -> None:
    """Make a file's bytes, or a directory's entries, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Load weights that must fit exactly.

    Raises:
        BadInput: names or shapes differ; names the first difference.
    """
    wanted = module.state_dict()
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or extra:
        what = f"it lacks {missing[0]}" if missing else f"it has {extra[0]}, which this model lacks"
        raise BadInput(f"{source} is of another architecture: {what}; use the configuration it was trained with")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise BadInput(
                f"{source} is of another architecture: {name} is {list(tensor.shape)} there and "
                f"{list(wanted[name].shape)} here; use the configuration it was trained with"
            )
    module.load_state_dict(dict(tensors))
