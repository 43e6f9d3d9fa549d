"""`silc import`: another library's model in silc's own form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from silc import places
from silc.commands import flags
from silc.commands.flags import TokenizerPath
from silc.errors import BadInput
from silc.given import Idle
from silc.interop import sources
from silc.settings import Range, Settings
from silc.terminal import announce, say
from silc.training.directory import is_run


@dataclass(frozen=True)
class ImportCommand(Settings):
    """Read a model of another library, check every tensor, and write it in silc's own form."""

    idle: ClassVar[tuple[Idle, ...]] = (
        Idle("text_pool", lambda c: not c.source.endswith(".npz"), "only big_vision's .npz files need it"),
    )
    source: tyro.conf.Positional[str]
    """open_clip:NAME/PRETRAINED, hf:ORG/NAME, a big_vision .npz, or a directory of open_clip or transformers."""
    out: tyro.conf.Positional[str]
    """Directory to write."""
    tokenizer: TokenizerPath = ""
    size: Annotated[int, Range(least=0, most=8192)] = 0
    """Side of the images that the result is for; its position embedding is resampled. 0: the model's own."""
    text_pool: Literal["last", "first", "mean", "max"] = "last"
    """How a big_vision text tower pools its tokens; its file does not say so."""


def main(args: list[str]) -> int:
    """Read, check and write a model; prints what each of its tensors became."""
    command = flags.read(ImportCommand, args, "silc import")
    if is_run(command.source):
        raise BadInput(
            f"{command.source} is a run of silc, which every command takes without an import; leave the import out"
        )
    sources.kind_of(command.source)
    out = places.empty_folder(command.out)
    announce(f"import: {command.source} into {out}")
    from silc.interop import pretrained

    tokenizer = Path(command.tokenizer) if command.tokenizer else None
    pool = command.text_pool if command.source.endswith(".npz") else None
    model = sources.read(command.source, tokenizer=tokenizer, size=command.size or None, text_pool=pool)
    pretrained.save(model, out)
    say("\n".join(model.mapped))
    say(f"{len(model.mapped)} rows, nothing left over: {out}   next: silc eval {out} --root DATA")
    return 0
