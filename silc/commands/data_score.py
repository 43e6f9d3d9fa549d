"""`silc data score`: score each sample of each shard, by models and by counts."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from silc import places
from silc.commands import flags
from silc.commands.flags import DeviceName
from silc.errors import BadInput
from silc.extras import needs
from silc.rundir import check_model
from silc.settings import COUNT, Range, Settings
from silc.terminal import announce, complain, say, track

if TYPE_CHECKING:
    from collections.abc import Iterable

    from silc.curate.scorer import Outcome


@dataclass(frozen=True)
class ScoreCommand(Settings):
    """Score the pairs of shards: a parquet beside each, which `silc data stats` shows and `silc data select` reads.
    Files that exist are skipped, so the same command continues after an interruption.
    """

    shards: tyro.conf.Positional[str]
    """Tar shards as data.train takes them: '/data/{00000..11999}.tar', 'https://...', 's3://...'."""
    out: str
    """Folder for the parquet files."""
    model: tuple[str, ...] = ()
    """Models that score image and caption: a run, an import, hf:ORG/NAME, open_clip:NAME/PRETRAINED. Several, each with
    a name for its columns: b32=open_clip:ViT-B-32/openai l14=runs/l14. None: only sizes, words, language
    and hashes."""
    device: DeviceName = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision in which models compute."""
    batch_size: Annotated[int, Range(least=1, most=100_000)] = 64
    """Images in a forward pass."""
    workers: Annotated[int, Range(least=1, most=1024)] = 1
    """Processes (actors with --ray), each with its own models and, if there are several GPUs, its own GPU."""
    threads: Annotated[int, Range(least=1, most=1024)] = 4
    """Threads of a worker that read and decode ahead; on a CPU models compute with one."""
    max_pixels: Annotated[int, COUNT] = 64_000_000
    """Images with more pixels count as broken; they are refused by their header, undecoded."""
    ray: str = ""
    """Score on Ray: the address of a cluster, `auto` for the one this machine is part of, `local` for this machine."""


def main(args: list[str]) -> int:
    """Score the shards that have no scores yet."""
    command = flags.read(ScoreCommand, args, "silc data score")
    out, models = places.folder(command.out).absolute(), named(command.model)
    for _, source in models:
        check_model(source)
    models = tuple((name, _absolute(source)) for name, source in models)
    needs("scores", "pyarrow", "curate")
    needs("telling languages", "py3langid", "curate")
    if command.ray:
        needs("--ray", "ray", "ray")
    announce(f"data score: {command.shards} by {', '.join(source for _, source in models) or 'no model'} into {out}")
    from silc.curate.engine import described, left_to_do, run
    from silc.curate.scorer import ScorePlan, Scorer
    from silc.curate.sidecar import write_asked
    from silc.data.sources import expand

    shards = [shard.absolute() if isinstance(shard, Path) else shard for shard in expand(command.shards)]
    plan = ScorePlan(
        out, models, command.device, command.dtype, command.batch_size, command.threads, command.max_pixels
    )
    left, plan = left_to_do(shards, plan)
    if len(left) < len(shards):
        say(f"{len(shards) - len(left):,} of {len(shards):,} shards are scored already")
    if not left:
        Scorer(plan)  # checks that the scores are by these weights
    write_asked(out, [shard.name for shard in shards])
    begun = time.monotonic()
    outcomes = list(_told(run(left, plan, workers=command.workers, ray=command.ray), len(left))) if left else []
    say(described(outcomes, time.monotonic() - begun))
    if outcomes and all(outcome.fault for outcome in outcomes):
        raise BadInput(f"none of {len(outcomes):,} shards could be read; the first: {outcomes[0].fault}")
    say(f"scores: {out}")
    if faults := sum(bool(outcome.fault) for outcome in outcomes):
        raise BadInput(
            f"{faults:,} of {len(outcomes):,} shards were left out; repair or download them and run the command again"
        )
    return 0


def named(given: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """(name, source) of each model; the name is empty if a single model is given without one.

    Raises:
        BadInput: one of several has no name, or two have the same.
    """
    found = []
    for one in given:
        parts = re.fullmatch(r"(?:([a-z0-9_]+)=)?(.+)", one)
        if parts is None:
            raise BadInput("--model is given and empty; name one, or leave it out")
        found.append((parts[1] or "", parts[2]))
    names = [name for name, _ in found]
    if len(found) > 1 and (not all(names) or len(set(names)) < len(names)):
        raise BadInput(f"with several models, each needs a name for its columns, as in b32={found[0][1]}")
    return tuple(found)


def _absolute(source: str) -> str:
    """A model's absolute path, because other processes, above all Ray's on other nodes, have other working folders."""
    return str(Path(source).absolute()) if Path(source).exists() else source


def _told(outcomes: Iterable[Outcome], total: int) -> Iterable[Outcome]:
    """The outcomes, with a bar on a terminal; a shard that cannot be read is reported at once."""
    for outcome in track(outcomes, "scoring shards", True, total=total):
        if outcome.fault:
            complain(outcome.fault)
        yield outcome
