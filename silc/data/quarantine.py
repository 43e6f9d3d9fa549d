"""The list of broken samples, counted over all ranks; each one is written once.

Each rank sees the broken samples of its own slices. The ranks exchange them after steps 1, 2, 4, ... 64, then every 64
steps, and at every checkpoint. So the counts, the file and the decision to stop are the same for every number of ranks
and workers, and the other steps cost nothing.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from silc.batch import AnyBatch, Broken
from silc.data.pairs import FAULTS
from silc.durable import write_whole
from silc.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from silc.distributed import World

log = logging.getLogger(__name__)
Watched = TypeVar("Watched", bound=AnyBatch)

QUARANTINE = "quarantine.jsonl"
MIN_READS = 200
"""Too many broken samples stop the run only after this many reads, or after one epoch if that is less."""
EVERY = 64
"""Steps between two exchanges of broken samples."""


@dataclass(frozen=True)
class Samples:
    """The facts about a run's samples that `Quarantine` needs."""

    num: int
    faults: Sequence[Broken] = ()
    """Problems found when the source was opened."""
    max_bad_rate: float = 1.0
    """The run stops above this fraction of broken samples."""


class Quarantine:
    """The broken samples of one run.

    The file has one line (shard, key, cause, detail) for each broken sample, in the order of first occurrence. Each
    sample is listed once, even if several epochs, or several runs of the same directory, read it.
    """

    def __init__(
        self,
        file: Path,
        samples: Samples,
        *,
        batch_size: int,
        met: Mapping[str, int],
        world: World,
    ) -> None:
        """`met` is the number of broken samples by cause, over all ranks, before this process started."""
        self.file, self.samples, self.batch_size, self.world = file, samples, batch_size, world
        self.met = Counter({cause: count for cause, count in met.items() if cause not in FAULTS})
        """Number of broken samples by cause, over all ranks, at the last exchange."""
        self._fresh: list[tuple[int, Broken]] = []
        # Hashes save memory: a run over a billion pairs may have millions of broken samples.
        self._written = {hash(entry[:3]) for entry in _entries(file)} if world.is_main else set()
        if world.is_main:
            self._write(faults := samples.faults)
            for (shard, cause), count in Counter((fault.shard, fault.cause) for fault in faults).items():
                detail = next(fault.detail for fault in faults if (fault.shard, fault.cause) == (shard, cause))
                log.warning("%s: %s: %s%s", shard, cause, detail, f" (and {count - 1} more)" if count > 1 else "")

    def watch(self, batches: Iterator[Watched], start: int) -> Iterator[Watched]:
        """Yield the same batches, from step `start` on, and record their broken samples. Every rank takes one per step.

        Raises:
            BadInput: more than `max_bad_rate` of the samples read are broken; on every rank at the same step.
        """
        for step, batch in enumerate(batches, start=start):
            self._fresh += [(step, broken) for broken in batch.broken]
            done = step + 1
            if done % EVERY == 0 or (done < EVERY and done & (done - 1) == 0):
                self.sync()
                self._judge(done * self.batch_size)
            yield batch

    def sync(self) -> None:
        """Collect the broken samples of all ranks since the last call and write them. Every rank must call it."""
        everyone = [entry for share in self.world.collect(self._fresh) for entry in share]
        # A rank's slice of a batch is contiguous, so a stable sort by step gives the order of the global batches.
        broken = [entry for _, entry in sorted(everyone, key=lambda entry: entry[0])]
        self._fresh = []
        self.met.update(entry.cause for entry in broken)
        if self.world.is_main:
            self._write(broken)

    def _judge(self, seen: int) -> None:
        num_bad, limit = self.met.total(), self.samples.max_bad_rate
        if seen >= min(MIN_READS, self.samples.num) and num_bad > limit * seen:
            causes = ", ".join(f"{cause} {count}" for cause, count in sorted(self.met.items()))
            raise BadInput(
                f"{num_bad} of {seen} samples read are broken ({num_bad / seen:.1%}; {causes}), the limit is "
                f"{limit:.1%}; {self.file} lists them: repair the shards or raise data.max_bad_rate"
            )

    def _write(self, broken: Sequence[Broken]) -> None:
        lines = []
        for entry in broken:
            if hash(entry[:3]) not in self._written:
                self._written.add(hash(entry[:3]))
                lines.append(json.dumps(entry._asdict()) + "\n")
        if lines:
            with self.file.open("a", encoding="utf-8") as handle:
                handle.writelines(lines)


def _entries(file: Path) -> list[Broken]:
    """The entries that an earlier process wrote. An incomplete last line, left by a crash, is removed."""
    if not file.is_file():
        return []
    text = file.read_text(encoding="utf-8", errors="replace")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        write_whole(file, whole)
    return [Broken(**json.loads(line)) for line in whole.splitlines()]
