"""Convert a pickle that you trust to safetensors, once: `python -m silc.interop.unpickle FILE OUT.safetensors`.

torch's restricted unpickler reads it and makes only tensors and plain values. Wrappers that training scripts add
around the weights (open_clip's `state_dict` beside epoch and optimizer, DDP's `module.`) are removed.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from silc.errors import BadInput
from silc.terminal import complain, say

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WRAPPERS = ("state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "_orig_mod.")


def unpickle(file: Path, out: Path) -> int:
    """Write the tensors of a pickled state dict, alone or in a training checkpoint, as safetensors; return how many.

    Raises:
        BadInput: the file cannot be read without running code, or holds no state dict.
    """
    if out.suffix != ".safetensors":
        raise BadInput(f"the weights cannot be written to {out}; give a name that ends in .safetensors")
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise BadInput(f"{file} cannot be read without running its code: {str(error).partition(chr(10))[0]}") from error
    tensors = {_bare(name): value for name, value in _innermost(found).items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise BadInput(f"{file} holds no state dict: no tensor by name is in it")
    # Copies, because safetensors refuses tensors that share memory.
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, out)
    return len(tensors)


def _innermost(found: Any) -> Mapping[str, Any]:
    while isinstance(found, dict):
        inner = next((found[name] for name in WRAPPERS if isinstance(found.get(name), dict)), None)
        if inner is None:
            return {str(name): value for name, value in found.items()}
        found = inner
    return {}


def _bare(name: str) -> str:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


def main(args: Sequence[str]) -> int:
    """Convert a file; `args` are FILE and OUT.safetensors. Returns the exit code."""
    try:
        if len(args) != 2:
            raise BadInput("usage: python -m silc.interop.unpickle FILE OUT.safetensors")
        say(f"{unpickle(Path(args[0]), Path(args[1]))} tensors: {args[1]}")
    except BadInput as error:
        complain(error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
