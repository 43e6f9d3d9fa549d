"""Checkpoints on disk: write, find, verify, read. The module knows no trainer, and no file is a pickle.

    checkpoints/step-00001200/
        model.safetensors      student towers, scale, bias
        lora.safetensors       original matrices, LoRA's A and B  (when the run trains LoRA)
        head.safetensors       student head                       (when the run distils)
        teacher.safetensors    image tower, head, centre          (when the run has a teacher)
        optimizer.safetensors  moments, step counts, by parameter name
        rng.safetensors        generator states, one row per rank
        state.json             step, loader position and whatever else the writer adds
        manifest.json          sha256 and size of every file above; written last
    checkpoints/latest         a link to the newest; where links cannot be made, a file that holds its name

A checkpoint is made under a temporary name, flushed to disk and then renamed, so a directory named `step-*` is whole.
The manifest lets a reader prove that nothing changed since. Then `latest` moves, and then older ones go.
One process at a time writes below one root.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from silc.durable import flush
from silc.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

HEADS = ("head", "teacher", "patch_head", "patch_teacher")
"""Networks that an objective may have beside its towers (`model`). Each is saved in a file of its name."""
WEIGHTS = ("model", *HEADS)
"""Files that another run can start from."""
MANIFEST, STATE, LATEST = "manifest.json", "state.json", "latest"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read back: tensors and a JSON state."""

    path: Path
    state_dicts: Mapping[str, Mapping[str, Tensor]]
    """Tensors, by the name of their file."""
    state: Mapping[str, Any]

    def load_into(self, module: nn.Module, name: str) -> None:
        """Load a file's tensors, which must fit exactly.

        Raises:
            BadInput: names or shapes differ; the message says where they first do.
        """
        load_into(module, self.state_dicts.get(name, {}), self.path / f"{name}.safetensors")


def write(
    root: Path, step: int, state_dicts: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any], *, keep: int
) -> Path:
    """Write `root/step-<step>`, then delete all but the `keep` newest.

    Raises:
        BadInput: the disk is full or not writable; earlier checkpoints are untouched.
    """
    final, partial = root / f"step-{step:08d}", root / f".partial-step-{step:08d}"
    from safetensors.torch import save_file  # imports torch, which is not needed to find checkpoints

    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        for leftover in root.glob(".partial-*"):  # of a killed writer
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()
        partial.mkdir()
        for name, tensors in state_dicts.items():
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, partial / f"{name}.safetensors")
        (partial / STATE).write_text(json.dumps(dict(state), indent=1))
        manifest = {file.name: _fingerprint(file) for file in sorted(partial.iterdir())}
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1))
        for file in partial.iterdir():
            flush(file)
        flush(partial)
        # A checkpoint of this step may exist: a newer one was damaged, or the run was stopped twice at its end. It is
        # deleted after the new one is in place.
        former = _hide(final) if final.exists() else None
        partial.rename(final)
        flush(root)
        _point_latest(root, final)
        for hidden in (former, *(_hide(old) for old in find(root)[keep:])):
            if hidden is not None:
                shutil.rmtree(hidden, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            shutil.rmtree(partial, ignore_errors=True)
        raise BadInput(f"cannot write the checkpoint {final}: {error}; earlier checkpoints are intact") from error
    return final


def step_of(path: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(path.name.removeprefix("step-"))


def find(root: Path) -> list[Path]:
    """Complete checkpoints under `root`, newest first."""
    return sorted((p for p in root.glob("step-*") if (p / MANIFEST).is_file()), reverse=True)


def newest_intact(root: Path) -> tuple[Path | None, dict[Path, str]]:
    """The newest undamaged checkpoint, or None; and the damage of each newer one."""
    damaged = {}
    for path in sorted(root.glob("step-*"), reverse=True):
        try:
            verify(path)
        except BadInput as error:
            damaged[path] = str(error)
        else:
            return path, damaged
    return None, damaged


def set_aside(path: Path) -> None:
    """Rename a damaged checkpoint to `damaged-*`: it is kept for inspection, but no longer found or counted."""
    target = path.with_name(f"damaged-{path.name}")
    shutil.rmtree(target, ignore_errors=True)
    path.rename(target)


def _point_latest(root: Path, final: Path) -> None:
    """Point `latest` at a checkpoint in one atomic step, so that it always leads to a whole one."""
    partial, latest = root / f".partial-{LATEST}", root / LATEST
    try:
        partial.symlink_to(final.name)
    except (OSError, NotImplementedError):  # FAT, many network file systems, some containers
        partial.write_text(f"{final.name}\n", encoding="utf-8")
        flush(partial)
    try:
        partial.replace(latest)
    except OSError:  # some of these also refuse to rename over an existing file
        latest.unlink(missing_ok=True)
        partial.rename(latest)
    flush(root)


def _hide(path: Path) -> Path:
    """Rename a checkpoint before it is deleted, so that `find` never sees half of it."""
    hidden = path.with_name(f".partial-removed-{path.name}")
    path.rename(hidden)
    return hidden


def listed(path: Path) -> list[str]:
    """Names of the files that a checkpoint's manifest lists, unverified; empty if the manifest cannot be read."""
    try:
        return list(json.loads((path / MANIFEST).read_text()))
    except (OSError, ValueError):
        return []


def verify(path: Path) -> list[str]:
    """Compare every file with the manifest; return the names of the files that it lists.

    Raises:
        BadInput: a file is missing or damaged.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        entries = {str(name): (str(entry["sha256"]), int(entry["bytes"])) for name, entry in manifest.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path / MANIFEST} is unreadable ({error}); this is no complete checkpoint") from error
    for name in {STATE, *entries}:
        file = path / name
        if name not in entries or not file.is_file():
            raise BadInput(f"{file} is missing; this is no complete checkpoint, go on from the one before")
        digest, size = entries[name]
        if file.stat().st_size != size or _fingerprint(file)["sha256"] != digest:
            raise BadInput(f"{file} is damaged (its checksum is not the manifest's); go on from the one before")
    return list(entries)


def read(path: Path, *, only: tuple[str, ...] | None = None) -> Checkpoint:
    """Verify and read a checkpoint; `only` limits which files of tensors are loaded.

    Raises:
        BadInput: it is damaged or incomplete.
    """
    from safetensors.torch import load_file

    names = [name.removesuffix(".safetensors") for name in verify(path) if name.endswith(".safetensors")]
    tensors = {}
    # The manifest proves that a file is unchanged, not that silc wrote it.
    try:
        for name in names if only is None else [name for name in names if name in only]:
            file = path / f"{name}.safetensors"
            tensors[name] = load_file(file)
        file = path / STATE
        return Checkpoint(path, tensors, json.loads(file.read_text()))
    except (SafetensorError, ValueError) as error:
        kind = "JSON" if file.name == STATE else "safetensors file"
        raise BadInput(f"{file} is no {kind}: {error}; it was not written by silc") from error


def _fingerprint(file: Path) -> dict[str, Any]:
    with file.open("rb") as handle:
        return {"sha256": hashlib.file_digest(handle, "sha256").hexdigest(), "bytes": file.stat().st_size}


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Load weights that must fit exactly.

    Raises:
        BadInput: names or shapes differ; the message says where they first do.
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
