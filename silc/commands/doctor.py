"""`silc doctor`: libraries, device, precision, data. For bug reports, and before a long run."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import silc
from silc import terminal
from silc.commands import flags
from silc.extras import install

LIBRARIES = {
    **dict.fromkeys(("torch", "torchvision", "timm", "tokenizers", "safetensors", "numpy", "pillow"), ""),
    **dict.fromkeys(("open_clip_torch", "transformers", "sentencepiece", "protobuf"), "interop"),
    **dict.fromkeys(("onnx", "onnxscript", "onnxruntime"), "export"),
    **dict.fromkeys(("fastapi", "uvicorn"), "serve"),
    **dict.fromkeys(("duckdb", "pyarrow", "py3langid"), "curate"),
    **dict.fromkeys(("faster-coco-eval", "scipy"), "detect"),
    **dict.fromkeys(("fsspec", "s3fs"), "remote"),
    **{"torchao": "quant", "wandb": "log", "trackio": "log", "ray": "ray"},
}
"""Libraries, and the extra that installs each; empty: silc's own dependencies."""


@dataclass(frozen=True)
class DoctorCommand:
    """Show what is installed, which device and precision would be used, and what data is found."""

    root: str = ""
    """A folder of evaluation data."""


def main(args: list[str]) -> int:
    """Print what was found, and what to do about it."""
    command = flags.read(DoctorCommand, args, "silc doctor")
    terminal.table("silc doctor", ("what", "found", "to do"), findings(command.root))
    return 0


def findings(root: str = "") -> list[tuple[str, str, str]]:
    """(what, how it is, what to do about it or nothing), in the order in which they matter.

    Args:
        root: a folder of evaluation data; empty leaves data out.
    """
    found = [("silc", silc.__version__, "")]
    found += [("python", f"{platform.python_version()} on {platform.machine()}, {os.cpu_count()} cores", "")]
    found += [("device", *_device()), ("precision", *_precision())]
    found += [(name, *_version(name, extra)) for name, extra in LIBRARIES.items()]
    if root:
        from silc.eval import asked

        there = [task.name for task in asked.listing(root) if task.found] if Path(root).is_dir() else []
        advice = "" if there else f"`silc eval --list --root {root}` shows what each task needs"
        found.append(("data", ", ".join(there) or f"no task's data under {root}", advice))
    return found


def _device() -> tuple[str, str]:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return ", ".join(f"{one.name}, {one.total_memory / 2**30:.0f} GiB" for one in names), ""
    without = torch.version.cuda is None
    advice = (
        "torch was built without CUDA" if without else "torch sees no GPU; check the driver and CUDA_VISIBLE_DEVICES"
    )
    return f"cpu, {torch.get_num_threads()} threads", advice


def _precision() -> tuple[str, str]:
    from silc.distributed import place
    from silc.training.precision import speed_of

    fit = speed_of(place())
    return f"{fit.best} where train.precision is auto: {fit.why}", ""


def _version(name: str, extra: str) -> tuple[str, str]:
    try:
        return importlib.metadata.version(name), ""
    except importlib.metadata.PackageNotFoundError:
        return "not installed", install(extra) if extra else "silc needs it; install silc again"
