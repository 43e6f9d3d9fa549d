"""The file of scores of one shard: a row a sample, broken ones too, and in its metadata what scored it.

| column | what |
| --- | --- |
| uid, key | the sample's name in any table, and in its shard |
| caption, num_captions, best_caption | the one that the first model scores best; how many there are; which it is |
| chars, words, fasttext_tokens | of that caption (`captions.words_of`) |
| language, language_prob, english | of that caption (`traits.Language`) |
| width, height | as they were before img2dataset made them smaller, where its JSON says both, else as they are |
| sha256, phash | of the image's bytes; of how it looks |
| json | the sample's own JSON, without the field of its captions |
| cause, detail | why the sample is broken; all but names is then missing |
| clip_score[_NAME] | cosine of image and caption |
| embedding[_NAME] | the image's unit embedding in half precision |
| cut[_NAME] | whether the model saw the first tokens of the caption only |
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
"""Counted up when a column means something else than before."""


@dataclass
class Row:
    """What is said of one sample."""

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
    """What a model says of the samples of a shard that are not broken."""

    name: str
    """Of its columns: `clip_score_NAME`; empty for plain ones."""
    dim: int
    scores: list[float] = field(default_factory=list)
    cut: list[bool] = field(default_factory=list)
    embeddings: list[np.ndarray] = field(default_factory=list)
    """float16 [n, D] each."""


def file_of(out: Path, shard: str) -> Path:
    """The file of a shard's scores; `shard` is its name without folders."""
    return out / f"{shard.removesuffix('.tar')}.parquet"


def write_asked(out: Path, shards: Sequence[str]) -> None:
    """Note which shards there are to be scores of, so that `open_scores` can tell that some are missing.

    Each list has a file of its own: several commands may score into one folder at a time.
    """
    text = json.dumps(sorted(file_of(out, shard).name for shard in shards), indent=0)
    file = out / f"{ASKED}{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    if not file.is_file():
        write_whole(file, text + "\n")


def write(path: Path, rows: Sequence[Row], models: Sequence[ByModel], about: Mapping[str, Any]) -> None:
    """Write the file, whole or not at all. The same content gives the same bytes."""
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
    """What a file says of how it was made.

    Raises:
        BadInput: it is no such file, or half of one.
    """
    parquet = needs("reading scores", "pyarrow.parquet", "curate")
    try:
        metadata = parquet.read_schema(path).metadata or {}
        if METADATA not in metadata:
            raise BadInput(
                f"{path} is no file of scores, and scores would go there (img2dataset writes such files beside its "
                "shards); give another --out"
            )
        return dict(json.loads(metadata[METADATA]))
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{path} is no whole file of scores ({' '.join(str(error).split())[:120]}); delete it and score again"
        ) from error
