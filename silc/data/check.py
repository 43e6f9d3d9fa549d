"""Check a data set before training: usable and broken samples with causes, sizes, captions, duplicates, pictures.

It writes report.html (self-contained, no script), check.json with the same numbers, and quarantine.jsonl with a line
for each broken sample. A training run writes the same quarantine.jsonl.
"""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import signal
from array import array
from collections import Counter, defaultdict, deque
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from silc import places
from silc.batch import Broken
from silc.data.pairs import BadSample
from silc.data.quarantine import QUARANTINE
from silc.data.workers import START_METHOD, Board, Prefetcher, Watch, end_with, lacking
from silc.durable import write_whole
from silc.errors import BadInput
from silc.page import bare, data_uri, render, svg, webp
from silc.terminal import track

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from markupsafe import Markup
    from matplotlib.figure import Figure

    from silc.data.pairs import Pair, Pairs

log = logging.getLogger(__name__)

REPORT, SUMMARY = "report.html", "check.json"
SHOWN = 100
"""Maximum number of broken samples on the page; quarantine.jsonl lists all of them."""
EXAMPLES = 8
"""Maximum number of repeated items of each kind in the report, and of names for each item."""
CHUNK = 16
"""Samples per task of a worker."""
THUMBNAIL = 220
"""Longer side of a thumbnail in the report, in pixels."""
MEANINGS = {
    "no_image": "there is no image, or its format is not one of JPEG, PNG, WebP, GIF, BMP",
    "empty_image": "the image has 0 bytes",
    "broken_image": "the image is cut short or damaged",
    "too_large": "the image's header gives more pixels than data.max_pixels; it is not decoded",
    "no_caption": "there is no caption field or file",
    "no_member": "a file is missing that each sample of this kind of data has",
    "empty_caption": "the caption is empty, or only spaces",
    "broken_caption": "the caption is not UTF-8, JSON or text (for example a number), or its row has too many columns",
    "duplicate_key": "an earlier sample of the same shard has this key",
    "unsafe_path": "the image is outside its table's folder or data.image_root; it is not read",
    "unreadable": "the file system could not read the file",
    "broken_shard": "the shard has no sample that can be read; it is left out",
    "cut_shard": "the shard ends early; the samples before the cut are used",
    "ignored_member": "a member of a shard is a link, a device or a sparse file, or has an unsafe name; it is not read",
}
BAR = "#3b82f6"


class Inspection(NamedTuple):
    """Result of reading one sample: why it is broken, or its key, size, pixel hash and captions."""

    broken: Broken | None
    key: str = ""
    size: tuple[int, int] = (0, 0)
    pixels: bytes = b""  # a hash
    captions: tuple[str, ...] = ()


class Repeats:
    """Counter of duplicates. Items are compared by hash; only repeated items keep a list of names."""

    def __init__(self) -> None:
        self._first: dict[bytes, str] = {}
        self._names: defaultdict[bytes, list[str]] = defaultdict(list)
        self._counts: Counter[bytes] = Counter()

    def add(self, content: bytes, name: str) -> None:
        """Count one item with this content; `name` is shown if the item is repeated."""
        mark = hashlib.blake2b(content, digest_size=8).digest()
        self._counts[mark] += 1
        if self._counts[mark] == 1:
            self._first[mark] = name
        elif len(self._names[mark]) < EXAMPLES:
            self._names[mark].append(name)

    @property
    def num_surplus(self) -> int:
        """Number of duplicates: all items minus the distinct ones."""
        return self._counts.total() - len(self._counts)

    def examples(self) -> list[tuple[int, list[str]]]:
        """(count, some names) of the items that occur most often; at most EXAMPLES items and names."""
        return [
            (count, [self._first[mark], *self._names[mark]][:EXAMPLES])
            for mark, count in self._counts.most_common(EXAMPLES)
            if count > 1
        ]


@dataclass
class Check:
    """Counts of one pass over the samples."""

    num_samples: int
    """Number of samples in the source."""
    faults: Sequence[Broken]
    """Problems of whole shards."""
    contents: Mapping[str, int] = field(default_factory=dict)
    """Number of shard members of each kind (the kinds of `ShardIndex.contents`), or number of `rows` of a table."""
    broken: list[Broken] = field(default_factory=list)
    """Broken samples."""
    num_checked: int = 0
    widths: array[int] = field(default_factory=lambda: array("i"))
    heights: array[int] = field(default_factory=lambda: array("i"))
    words: array[int] = field(default_factory=lambda: array("i"))
    """Number of words of each caption."""
    captions_per_image: array[int] = field(default_factory=lambda: array("i"))
    images: Repeats = field(default_factory=Repeats)
    captions: Repeats = field(default_factory=Repeats)
    keys: Repeats = field(default_factory=Repeats)

    @property
    def num_good(self) -> int:
        """Samples that can be used."""
        return len(self.widths)

    @property
    def causes(self) -> dict[str, int]:
        """Number of broken samples and shards by cause, the most frequent cause first."""
        return dict(Counter(entry.cause for entry in [*self.faults, *self.broken]).most_common())

    def add(self, inspection: Inspection) -> None:
        """Add one inspected sample to the counts."""
        self.num_checked += 1
        if inspection.broken:
            self.broken.append(inspection.broken)
            return
        self.widths.append(inspection.size[0])
        self.heights.append(inspection.size[1])
        self.captions_per_image.append(len(inspection.captions))
        self.words.extend(len(caption.split()) for caption in inspection.captions)
        self.keys.add(inspection.key.encode(errors="replace"), inspection.key)
        self.images.add(inspection.pixels, inspection.key)
        for caption in inspection.captions:
            self.captions.add(caption.encode(), caption)


def place_of(given: str) -> Path:
    """Return the output folder after testing that it can be written.

    Raises:
        BadInput: the folder, or a file in the folder, cannot be written.
    """
    out = places.folder(given)
    for name in (REPORT, SUMMARY, QUARANTINE):
        places.file(out / name)
    return out


def check(pairs: Pairs, *, limit: int = 0, workers: int = 0, show: bool = False) -> Check:
    """Read and decode samples as training does, and count the results.

    Args:
        limit: number of samples to check, evenly spread; 0 checks all.
        workers: number of worker processes; 0 reads in this process.
    """
    found = Check(len(pairs), pairs.faults, pairs.contents)
    num = min(limit or len(pairs), len(pairs))
    with _reading(pairs, (place * len(pairs) // num for place in range(num)), workers) as inspections:
        for seen in track(inspections, "checking samples", show, total=num):
            found.add(seen)
    return found


def write(found: Check, pairs: Pairs, out: Path, *, title: str, num_pictures: int) -> Path:
    """Write the page, the numbers and the list of broken samples into a folder. Return the page's path."""
    out.mkdir(parents=True, exist_ok=True)
    numbers = summary(found)
    write_whole(out / SUMMARY, json.dumps({"data": title} | numbers, indent=1) + "\n")
    with (out / QUARANTINE).open("w", encoding="utf-8") as handle:
        handle.writelines(json.dumps(entry._asdict()) + "\n" for entry in [*found.faults, *found.broken])
    page = render(
        Path(__file__).with_name("check.html.j2"),
        title=title,
        found=found,
        numbers=numbers,
        blocks=len(pairs.blocks),
        causes=found.causes,
        contents=_contents(found) if found.contents else "",
        meanings=MEANINGS,
        broken=[*found.faults, *found.broken][:SHOWN],
        histograms=_histograms(found) if found.num_good else None,
        repeats=[
            ("Keys", "keys that another shard has too", found.keys),
            ("Images", "images with the pixels of an earlier image", found.images),
            ("Captions", "captions equal to an earlier caption, word for word", found.captions),
        ],
        pictures=[(pair.key, pair.captions, _size(pair), _thumbnail(pair)) for pair in _spread(pairs, num_pictures)],
        list_name=QUARANTINE,
    )
    write_whole(out / REPORT, page)
    return out / REPORT


def summary(found: Check) -> dict[str, Any]:
    """The numbers of check.json."""

    widths, heights = np.array(found.widths), np.array(found.heights)
    return {
        "samples": found.num_samples,
        "checked": found.num_checked,
        "usable": found.num_good,
        "broken": len(found.broken),
        "causes": found.causes,
        "contents": dict(found.contents),
        "shorter_side": _quantiles(np.minimum(widths, heights)),
        "aspect": _quantiles(widths / np.maximum(heights, 1)),
        "captions": len(found.words),
        "captions_per_image": _quantiles(np.array(found.captions_per_image)),
        "words_per_caption": _quantiles(np.array(found.words)),
        "duplicates": {
            "keys": found.keys.num_surplus,
            "images": found.images.num_surplus,
            "captions": found.captions.num_surplus,
        },
    }


def run(pairs: Pairs, out: Path, *, title: str, limit: int, workers: int, num_pictures: int) -> str:
    """Check the samples, write the report, and return a summary of a few lines.

    Raises:
        BadInput: no sample can be used; the report is written before that.
    """
    found = check(pairs, limit=limit, workers=workers, show=True)
    page = write(found, pairs, out, title=title, num_pictures=num_pictures)
    if not found.num_good:
        raise BadInput(
            f"none of {found.num_checked:,} samples can be used ({_listed(found.causes)}); repair the data, see {page}"
        )
    lines = [f"{found.num_good:,} of {found.num_checked:,} samples can be used"]
    lines += [f"found: {_contents(found)}"] if found.contents else []
    lines += [f"broken: {_listed(found.causes)}   listed in {out / QUARANTINE}"] if found.causes else []
    repeated = {"images": found.images.num_surplus, "captions": found.captions.num_surplus}
    lines.append(f"duplicates: {_listed(repeated | {'keys': found.keys.num_surplus})}")
    return "\n".join([*lines, f"report: {page}"])


# --- reading ----------------------------------------------------------------------------------------------------------


@contextmanager
def _reading(pairs: Pairs, indices: Iterable[int], workers: int) -> Iterator[Iterable[Inspection]]:
    """Yield the inspections of the samples in order, made in this process or in worker processes."""
    if workers and (why := lacking(workers)):
        log.warning("--workers %d: %s; this process reads all samples", workers, why)
        workers = 0
    if not workers:
        yield (_inspect(pairs, index) for index in indices)
        return
    board = Board(workers)
    start = partial(_chunks, pairs, indices, workers, board)
    with closing(Prefetcher(start, Watch(board, pairs.where, "--workers"))) as chunks:
        yield chain.from_iterable(chunks)


def _chunks(pairs: Pairs, indices: Iterable[int], workers: int, board: Board) -> Iterator[list[Inspection]]:
    """Inspections from worker processes in chunks; the workers run some chunks ahead."""
    context: Any = multiprocessing.get_context(START_METHOD)
    pool = ProcessPoolExecutor(workers, context, initializer=_prepare_worker, initargs=(pairs, board, os.getpid()))
    chunks = iter(partial(lambda rest: list(islice(rest, CHUNK)), iter(indices)), [])
    # The pool forks all processes at the first task.
    waiting = deque(pool.submit(_inspect_there, chunk) for chunk in islice(chunks, 4 * workers))

    def finished() -> Iterator[list[Inspection]]:
        try:
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(_inspect_there, chunk) for chunk in islice(chunks, 1))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    return finished()


_own: tuple[Pairs, Board] | None = None
"""In a worker process: the pairs to inspect, and the board on which it records the sample that it reads."""


def _prepare_worker(pairs: Pairs, board: Board, main: int) -> None:
    global _own
    _own = pairs, board
    end_with(main)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process


def _inspect_there(indices: list[int]) -> list[Inspection]:
    assert _own is not None
    pairs, board = _own
    found = []
    for index in indices:
        board.reading(index)
        found.append(_inspect(pairs, index))
    return found


def _inspect(pairs: Pairs, index: int) -> Inspection:
    try:
        pair = pairs[index]
    except BadSample as error:
        return Inspection(error.broken)
    pixels = hashlib.blake2b(repr(_size(pair)).encode() + pair.pixels.tobytes(), digest_size=8).digest()
    return Inspection(None, pair.key, _size(pair), pixels, pair.captions)


def _size(pair: Pair) -> tuple[int, int]:
    height, width, _ = pair.pixels.shape
    return width, height


def _spread(pairs: Pairs, num: int) -> Iterator[Pair]:
    """Good pairs at equal distances. A broken pair is replaced by a good one among the next 19, or left out."""
    for place in range(min(num, len(pairs))):
        start = place * len(pairs) // min(num, len(pairs))
        for index in range(start, min(start + 20, len(pairs))):
            try:
                yield pairs[index]
                break
            except BadSample:
                continue


# --- showing ----------------------------------------------------------------------------------------------------------


def _quantiles(values: np.ndarray) -> dict[str, float]:
    """Minimum, 5 %, median, 95 %, maximum and mean; empty if there are no values."""
    if not len(values):
        return {}
    names = ("min", "p5", "median", "p95", "max")
    cuts = np.quantile(values, (0, 0.05, 0.5, 0.95, 1)).tolist()
    return {name: round(cut, 3) for name, cut in zip(names, cuts, strict=True)} | {"mean": round(values.mean(), 3)}


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _contents(found: Check) -> str:
    """The contents of the shards or of the table as text (see `Check.contents`)."""
    if "rows" in found.contents:
        return f"{found.contents['rows']:,} rows of {found.num_samples:,} images"
    names = {"samples": "members in samples", "lost": "lost in cut samples", ".": "without suffix"}
    most = sorted(Counter(found.contents).most_common(12), key=lambda each: each[0] != "samples")
    return ", ".join(f"{count:,} {names.get(fate, fate)}" for fate, count in most)


def _thumbnail(pair: Pair) -> str:
    """A small WebP of the image, as a data URI."""
    small = Image.fromarray(pair.pixels)
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return data_uri(webp(small, quality=80))


def _histograms(found: Check) -> Markup:
    """Histograms of image sizes, aspect ratios and captions, as an SVG element."""
    widths, heights = np.array(found.widths), np.array(found.heights)
    words, captions = np.array(found.words), np.array(found.captions_per_image)
    sides = np.minimum(widths, heights)
    num_bars = min(40, int(np.ptp(sides)) + 1)
    panels: dict[str, tuple[np.ndarray, np.ndarray]] = {
        "shorter side in pixels": (sides, np.linspace(sides.min() - 0.5, sides.max() + 0.5, num_bars + 1)),
        "width / height": (np.clip(widths / heights, 0.25, 4), np.geomspace(0.25, 4, 41)),
        "words in a caption": (np.minimum(words, 60), np.arange(min(words.max(), 60) + 2) - 0.5),
        "captions of an image": (np.minimum(captions, 12), np.arange(min(captions.max(), 12) + 2) - 0.5),
    }

    def draw(figure: Figure) -> None:
        for axes, (title, (values, bins)) in zip(figure.subplots(1, len(panels)).flat, panels.items(), strict=True):
            axes.hist(values, bins=bins, color=BAR, rwidth=0.9)
            bare(axes, title, grid="y")
            if num_bars < 5 and title.startswith("shorter"):
                axes.set_xticks(range(sides.min(), sides.max() + 1))
            if title.startswith("width"):
                axes.set_xscale("log")
                axes.set_xticks([0.25, 0.5, 1, 2, 4], ["1:4", "1:2", "1:1", "2:1", "4:1"])
                axes.minorticks_off()

    return svg(draw, (11.5, 2.1), salt="silc", layout="constrained")
