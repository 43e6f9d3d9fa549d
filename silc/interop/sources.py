"""Readers for sources of models, by the name of a source.

open_clip:NAME/PRETRAINED   a tag of open_clip's list, or a .safetensors file
open_clip:DIR, local-dir:DIR
hf:ORG/NAME, hf:DIR         SiglipModel, Siglip2Model, CLIPModel
FILE.npz                    big_vision's two towers; the tokenizer is given separately
DIR                         what `silc import` wrote, or one of the above by the files in it
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from silc.errors import BadInput
from silc.interop.files import HUGGING_FACE, OPEN_CLIP, SAVED

if TYPE_CHECKING:
    from silc.interop.big_vision import TextPool
    from silc.interop.pretrained import Pretrained


def read(
    source: str | Path, *, tokenizer: Path | None = None, size: int | None = None, text_pool: TextPool | None = None
) -> Pretrained:
    """Read a model from any of the above.

    Args:
        tokenizer: a tokenizer.json, a spiece.model or a directory with one, instead of the model's own.
        size: side in pixels of the images the model is for; its position embedding is resampled by its source's rule.
        text_pool: pooling of a big_vision text tower, which its file does not tell; None is "last".

    Raises:
        BadInput: no model there, an unknown format, an error of the reader, or a `text_pool` for another source.
    """
    if text_pool is not None and kind_of(source) != "npz":
        raise BadInput(
            f"text_pool {text_pool!r} is for big_vision's .npz files; {source} has its own, leave text_pool out"
        )
    found = _read(str(source), tokenizer, text_pool)
    return found if size is None else found.at(size)


def kind_of(source: str | Path) -> Literal["open_clip", "hf", "npz", "saved"]:
    """The reader that a source needs; nothing is read or downloaded.

    Raises:
        BadInput: no reader knows such a source.
    """
    prefix, path = str(source).partition(":")[0], Path(source)
    if prefix in ("open_clip", "local-dir"):
        return "open_clip"
    if prefix == "hf":
        return "hf"
    if path.suffix == ".npz":
        return "npz"
    if (path / SAVED).is_file():  # first, because an export also holds the other formats
        return "saved"
    if (path / OPEN_CLIP).is_file():
        return "open_clip"
    if (path / HUGGING_FACE).is_file():
        return "hf"
    raise BadInput(
        f"{source} is no model: neither a run of `silc train`, a directory of `silc import`, open_clip or "
        "transformers, a .npz file, nor open_clip:NAME/PRETRAINED or hf:ORG/NAME"
    )


def _read(source: str, tokenizer: Path | None, text_pool: TextPool | None) -> Pretrained:
    # Each reader is imported only when needed: `kind_of` works without torch, and only open_clip's reader needs timm.
    match kind_of(source):
        case "saved":
            from silc.interop import pretrained

            return pretrained.read(Path(source), tokenizer)
        case "open_clip":
            from silc.interop import open_clip

            return open_clip.read(source.removeprefix("open_clip:"), tokenizer)
        case "hf":
            from silc.interop import transformers

            return transformers.read(source.removeprefix("hf:"), tokenizer)
    if tokenizer is None:
        raise BadInput(
            f"{source} holds no tokenizer (no file of big_vision does); give one with tokenizer=FILE "
            "(--tokenizer FILE), a tokenizer.json or spiece.model"
        )
    from silc.interop import big_vision

    return big_vision.read(Path(source), tokenizer, text_pool=text_pool or "last")
