"""The file of scores of one shard: one row per sample, broken ones too; its metadata describes the scoring.

| column | content |
| --- | --- |
| uid, key | the sample's name in any table, and in its shard |
| caption, num_captions, best_caption | the caption with the first model's best score; number of captions; its index |
| chars, words, fasttext_tokens | lengths of that caption (`captions.words_of`) |
| language, language_prob, english | language of that caption (`traits.Language`) |
| width, height | size before img2dataset resized the image, if its JSON has both; else the size now |
| sha256, phash | hash of the image's bytes; perceptual hash of its pixels |
| json | the sample's own JSON, without the field of its captions |
| cause, detail | why the sample is broken; then all columns but the names are empty |
| clip_score[_NAME] | cosine of image and caption |
| embedding[_NAME] | the image's unit embedding in half precision |
| cut[_NAME] | whether the model truncated the caption |
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from silc.curate.scores import ASKED, METADATA
from silc.durable import whole, write_whole
from silc.errors import BadInput
from silc.extras import needs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

VERSION = 1
"""Increase this when a column changes its meaning."""


@dataclass
class Row:
    """The columns of one sample that do not depend on a model."""

    uid: str
    key: str
    caption: str | None = None
    num_captions: int | None = None
    best_caption: int | None = None
    chars: int | None = None
    words: int | None = None
    fasttext_tokens: int | None = None
    language: str | None = None
    language_prob: float | None = None
    english: float | None = None
    width: int | None = None
    height: int | None = None
    sha256: str | None = None
    phash: int | None = None
    json: str | None = None
    cause: str | None = None
    detail: str | None = None


@dataclass
class ByModel:
    """Results of one model for the good samples of a shard."""

    name: str
    """Suffix of its columns (`clip_score_NAME`); empty for plain names."""
    dim: int
    scores: list[float] = field(default_factory=list)
    cut: list[bool] = field(default_factory=list)
    embeddings: list[np.ndarray] = field(default_factory=list)
    """Arrays float16 [n, D], to be concatenated."""


def file_of(out: Path, shard: str) -> Path:
    """The file of a shard's scores; `shard` is its name without folders."""
    return out / f"{shard.removesuffix('.tar')}.parquet"


def write_asked(out: Path, shards: Sequence[str]) -> None:
    """Record which shards are to be scored, so that `open_scores` can report missing ones.

    Each list has its own file, because several commands may write into one folder at the same time.
    """
    text = json.dumps(sorted(file_of(out, shard).name for shard in shards), indent=0)
    file = out / f"{ASKED}{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    if not file.is_file():
        write_whole(file, text + "\n")


def write(path: Path, rows: Sequence[Row], models: Sequence[ByModel], about: Mapping[str, Any]) -> None:
    """Write the file atomically. The same content gives the same bytes."""
    import numpy as np

    pa, pq = (needs("writing scores", module, "curate") for module in ("pyarrow", "pyarrow.parquet"))
    types = {"phash": pa.uint64(), "num_captions": pa.int32(), "best_caption": pa.int32()}
    types |= dict.fromkeys(("chars", "words", "fasttext_tokens", "width", "height"), pa.int32())
    types |= dict.fromkeys(("language_prob", "english"), pa.float32())
    columns: dict[str, Any] = {
        name: pa.array([getattr(row, name) for row in rows], types.get(name, pa.string()))
        for name in Row.__dataclass_fields__
    }
    sound = np.array([row.cause is None for row in rows], bool)
    places = pa.array(np.where(sound, np.cumsum(sound) - 1, 0), mask=~sound)
    for model in models:
        suffix = f"_{model.name}" if model.name else ""
        flat = np.concatenate([*model.embeddings, np.zeros((0, model.dim), np.float16)]).reshape(-1)
        columns[f"clip_score{suffix}"] = pa.array(model.scores, pa.float32()).take(places)
        columns[f"embedding{suffix}"] = pa.FixedSizeListArray.from_arrays(pa.array(flat), model.dim).take(places)
        columns[f"cut{suffix}"] = pa.array(model.cut, pa.bool_()).take(places)
    table = pa.table(columns).replace_schema_metadata({METADATA: json.dumps(about, sort_keys=True)})
    with whole(path) as beside:
        pq.write_table(table, beside, compression="zstd")


def about_of(path: Path) -> dict[str, Any]:
    """The description of the scoring in a file's metadata.

    Raises:
        BadInput: the file is no file of scores, or is incomplete.
    """
    parquet = needs("reading scores", "pyarrow.parquet", "curate")
    try:
        metadata = parquet.read_schema(path).metadata or {}
        if METADATA not in metadata:
            raise BadInput(
                f"{path} is no file of scores, and scores would replace it (img2dataset writes such files beside its "
                "shards); give another --out"
            )
        return dict(json.loads(metadata[METADATA]))
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{path} is no complete file of scores ({' '.join(str(error).split())[:120]}); delete it and score again"
        ) from error
