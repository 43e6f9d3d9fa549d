"""Score a shard: read its samples, run the models, write one file of scores. Each process loads the models once."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import torch
from PIL import Image

from silc.curate import sidecar
from silc.curate.origin import origin_of
from silc.curate.sidecar import ByModel, Row
from silc.curate.traits import language_of, perceptual_hash
from silc.data.captions import FIELDS, captions_in, words_of
from silc.data.pairs import BadSample
from silc.data.remote import RemoteFault, Unreachable
from silc.data.shards import ShardPairs
from silc.data.uids import uid_of
from silc.distributed import place
from silc.errors import BadInput
from silc.images import MAX_PIXELS
from silc.loading import load_any

if TYPE_CHECKING:
    from silc.data.remote import RemoteFile
    from silc.predict import Model


@dataclass(frozen=True)
class ScorePlan:
    """Settings of the scoring; sent to worker processes."""

    out: Path
    models: tuple[tuple[str, str], ...] = ()
    """(name, source) of each model; the name is a suffix of its columns and may be empty."""
    device: str = "auto"
    dtype: str = "float32"
    batch_size: int = 64
    threads: int = 1
    """Number of threads that read and decode ahead. Models on a CPU compute with one thread."""
    max_pixels: int = MAX_PIXELS
    checksums: tuple[str, ...] = ()
    """Checksums of the models that made the existing files of scores; empty if there are none."""


@dataclass(frozen=True)
class Outcome:
    """Result of scoring one shard."""

    shard: str
    rows: int = 0
    causes: tuple[tuple[str, int], ...] = ()
    """(cause, number of broken samples)."""
    cut_texts: int = 0
    """Number of captions that at least one model truncated."""
    fault: str = ""
    """Why the shard could not be read; then no file is written."""


@dataclass
class _Named:
    """A model and the name of its columns."""

    name: str
    source: str
    model: Model
    checksum: str
    dim: int


@dataclass
class _Seen:
    """A good sample, preprocessed for the models."""

    row: Row
    captions: Sequence[str]
    pixels: list[torch.Tensor]
    """uint8 [3, H, W] for each model."""


@dataclass
class _View:
    """Results of one model for n samples."""

    scores: Sequence[np.ndarray]
    """Scores of the captions of each sample."""
    cut: Sequence[bool]
    """Whether a caption was truncated; for all captions of all samples, concatenated."""
    images: np.ndarray
    """Image embeddings, float16 [n, D]."""


class Scorer:
    """The loaded models of one process; call it with a shard to score the shard."""

    def __init__(self, plan: ScorePlan) -> None:
        """
        Raises:
            BadInput: a model cannot be loaded, or its weights differ from those that made the existing files.
        """
        self.plan = plan
        where = place(plan.device)
        if where.type == "cpu":
            torch.set_num_threads(1)
        self.models = [_loaded(name, source, where, plan.dtype) for name, source in plan.models]
        found = tuple(one.checksum for one in self.models)
        if plan.checksums and plan.checksums != found:
            raise BadInput(
                f"{plan.out} holds scores by other weights of {', '.join(one.source for one in self.models)}; give "
                "another --out"
            )

    def __call__(self, path: Path | RemoteFile) -> Outcome:
        """Score a shard and write its file."""
        try:
            origin = origin_of(path)
            pairs = ShardPairs([path], max_pixels=self.plan.max_pixels, turned=True)
        except Unreachable:  # the server is down, for the other shards too
            raise
        except BadInput as error:
            return Outcome(path.name, fault=str(error))
        except OSError as error:
            return Outcome(path.name, fault=f"{path} cannot be read ({error.strerror}); run it again")
        rows: list[Row] = []
        by_model = [ByModel(one.name, one.dim) for one in self.models]
        seen = self._samples(pairs)
        try:
            while some := list(islice(seen, self.plan.batch_size)):
                good = [each for each in some if isinstance(each, _Seen)]
                self._score(good, by_model)
                rows += [each.row if isinstance(each, _Seen) else each for each in some]
        except Unreachable:
            raise
        except RemoteFault as error:
            return Outcome(path.name, fault=str(error))
        except BadSample as error:  # a read error, which may be temporary
            return Outcome(path.name, fault=f"{path} cannot be read ({error.broken.detail}); run it again")
        causes = Counter(row.cause for row in rows if row.cause) + Counter(fault.cause for fault in pairs.faults)
        told = tuple(sorted((str(cause), count) for cause, count in causes.items()))
        shard = {**origin, "rows": len(rows), "causes": dict(told), "max_pixels": self.plan.max_pixels}
        sidecar.write(sidecar.file_of(self.plan.out, path.name), rows, by_model, self.about | {"shard": shard})
        return Outcome(path.name, len(rows), told, sum(map(any, zip(*(one.cut for one in by_model), strict=True))))

    @property
    def about(self) -> dict[str, Any]:
        """The metadata that all files of scores share: version, models and dtype."""
        models = [
            {"name": one.name, "source": one.source, "checksum": one.checksum, "dim": one.dim} for one in self.models
        ]
        return {"version": sidecar.VERSION, "models": models, "dtype": self.plan.dtype}

    def _samples(self, pairs: ShardPairs) -> Iterator[_Seen | Row]:
        """The samples in order, read and decoded ahead by threads. A broken sample gives its `Row`.

        Raises:
            BadSample: the file system could not read a sample, so it is unknown whether the sample is broken.
        """
        with ThreadPoolExecutor(self.plan.threads) as threads:
            numbers = iter(range(len(pairs)))

            def begin(num: int) -> list[Future[_Seen | Row]]:
                some = list(islice(numbers, num))
                pairs.read_ahead(some)
                return [threads.submit(self._read, pairs, number) for number in some]

            waiting = begin(2 * max(self.plan.batch_size, self.plan.threads))
            while waiting:
                yield waiting.pop(0).result()
                waiting += begin(1)

    def _read(self, pairs: ShardPairs, number: int) -> _Seen | Row:
        key, shard = pairs.key(number), pairs.shards[0].path.name
        fields: dict[str, Any] = {}
        try:
            members = pairs.read(number)
            fields = _fields(members.get("json", b""))
            captions = pairs.captions_of(number, members)
            pixels = pairs.pixels(number, members)
        except BadSample as error:
            broken = error.broken
            if broken.cause == "unreadable":
                raise
            return Row(uid_of(fields, shard, key), key, cause=broken.cause, detail=broken.detail)
        width, height = _size_before(fields) or (pixels.shape[1], pixels.shape[0])
        before_txt = FIELDS[:2] if "txt" in members else FIELDS  # the same order as in `captions_of`
        taken = next((name for name in before_txt if captions_in(fields, (name,))), None)
        row = Row(
            uid_of(fields, shard, key),
            key,
            num_captions=len(captions),
            best_caption=0,
            width=width,
            height=height,
            sha256=hashlib.sha256(members["image"]).hexdigest(),
            phash=perceptual_hash(pixels),
            json=json.dumps({name: value for name, value in fields.items() if name != taken}, ensure_ascii=False)
            .encode(errors="replace")
            .decode(),
        )
        if not self.models:
            _of_caption(row, captions, 0)
        image = Image.fromarray(pixels)
        return _Seen(row, captions, [one.model.preprocess(image) for one in self.models])

    def _score(self, seen: Sequence[_Seen], by_model: Sequence[ByModel]) -> None:
        """Run the models on samples; the first model chooses each row's caption.

        A sample with a score that is not finite (possible with weights in half precision) becomes a broken sample.
        """
        if not seen or not self.models:
            return
        texts = [caption for each in seen for caption in each.captions]
        ends = np.cumsum([len(each.captions) for each in seen]).tolist()
        places = [slice(end - len(each.captions), end) for each, end in zip(seen, ends, strict=True)]
        views = [self._view(number, seen, texts, places) for number in range(len(self.models))]
        for place_, each in enumerate(seen):
            if not all(np.isfinite(view.scores[place_]).all() for view in views):
                each.row = Row(each.row.uid, each.row.key, cause="no_score", detail="has a score that is no number")
                continue
            best = int(views[0].scores[place_].argmax())
            _of_caption(each.row, each.captions, best)
            for view, found in zip(views, by_model, strict=True):
                found.scores.append(float(view.scores[place_][best]))
                found.cut.append(view.cut[places[place_]][best])
                found.embeddings.append(view.images[place_ : place_ + 1])

    def _view(self, number: int, seen: Sequence[_Seen], texts: Sequence[str], places: Sequence[slice]) -> _View:
        """Results of one model for samples whose captions are at `places` of `texts`."""
        model = self.models[number].model
        pixels = torch.stack([each.pixels[number] for each in seen]).to(model.device)
        images = model.encode_image(model.preprocess.normalize(pixels)).float().cpu().numpy()
        encoded = np.concatenate([part.cpu().numpy() for part in _encoded(model, texts, self.plan.batch_size)])
        scores = [encoded[of] @ image for of, image in zip(places, images, strict=True)]
        return _View(scores, _are_cut(model, texts), images.astype(np.float16))


def _loaded(name: str, source: str, where: torch.device, dtype: str) -> _Named:
    loaded = load_any(source, device=where)
    model = loaded.best(dtype)
    dim = model.encode_text(["a"]).shape[1]
    return _Named(name, source, model, loaded.checksum, dim)


def _encoded(model: Model, texts: Sequence[str], size: int) -> Iterator[torch.Tensor]:
    for start in range(0, len(texts), size):
        yield model.encode_text(texts[start : start + size])


def _are_cut(model: Model, texts: Sequence[str]) -> list[bool]:
    """Whether each text has more tokens than the model reads."""
    tokenizer: Any = model.tokenizer
    return [bool(encoding.overflowing) for encoding in tokenizer.tokenizer.encode_batch(list(texts))]


def _of_caption(row: Row, captions: Sequence[str], best: int) -> None:
    """Fill the row's fields about the best caption."""
    row.best_caption, row.caption = best, captions[best]
    row.chars = len(row.caption)
    row.words, row.fasttext_tokens = words_of(row.caption)
    row.language, row.language_prob, row.english = language_of(row.caption)


def _fields(data: bytes) -> dict[str, Any]:
    """The object in a sample's JSON; empty if the JSON is absent or not valid."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _size_before(fields: Mapping[str, Any]) -> tuple[int, int] | None:
    """Width and height before img2dataset resized the image, if its JSON has both; else None."""
    width, height = fields.get("original_width"), fields.get("original_height")
    return (width, height) if _is_size(width) and _is_size(height) else None


def _is_size(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31
