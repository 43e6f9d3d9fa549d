"""Cache of results, keyed by all that they depend on: weights, data, protocol and the code that scores.

A key is a checksum over all of these; no result is looked up by name. A file enters by path, size and time of change,
because reading every pixel would cost as much as scoring it. Data that is not in files is not cached.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from silc.durable import write_whole
from silc.errors import BadInput
from silc.eval.datasets import Lazy
from silc.records import Evaluation, Picture, Record

if TYPE_CHECKING:
    from silc.encoder import DualEncoder
    from silc.records import Evaluator

CODE = (
    *("eval/**/*.py", "eval/*.json", "eval/classes/*.txt"),
    *("models/*.py", "heads/**/*.py", "interop/groupvit.py", "preprocess.py", "images.py"),
)


@dataclasses.dataclass(frozen=True)
class Cache:
    """Evaluations of a checkpoint in a folder, one JSON file each."""

    folder: Path
    checksum: str
    """Checksum of the checkpoint; empty for weights without one, whose results are not cached."""

    def key(self, weights: str, task: Evaluator, model: DualEncoder) -> str:
        """Checksum of all that an evaluation of student or teacher depends on; empty if it cannot be computed."""
        described = [_described(data) for data in task.sets]
        if not self.checksum or None in described:
            return ""
        parts = [self.checksum, weights, model.name, task.name, described, task.protocol(model), task.drawn, _code()]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    def get(self, key: str) -> Evaluation | None:
        """The evaluation under a key, or None."""
        file = self.folder / f"{key}.json"
        if not key or not file.is_file():
            return None
        found = json.loads(file.read_text(encoding="utf-8"))
        pictures = [
            Picture(one["group"], one["caption"], Image.open(io.BytesIO(base64.b64decode(one["png"]))))
            for one in found["pictures"]
        ]
        return Evaluation(Record(**found["record"]), pictures, found["resampled"])

    def put(self, key: str, evaluation: Evaluation) -> None:
        """Store an evaluation under a key; an empty key stores nothing."""
        if not key:
            return
        pictures = []
        for picture in evaluation.pictures:
            buffer = io.BytesIO()
            picture.image.save(buffer, "PNG")
            png = base64.b64encode(buffer.getvalue()).decode()
            pictures.append({"group": picture.group, "caption": picture.caption, "png": png})
        record = dataclasses.asdict(evaluation.record)
        kept = {"record": record, "pictures": pictures, "resampled": evaluation.resampled}
        write_whole(self.folder / f"{key}.json", json.dumps(kept))


def _described(data: Any) -> list[Any] | None:
    """A data set's lists and the state of its files; None if its images are not in files."""
    if not data.files:
        return None
    lists = [
        value
        for field in dataclasses.fields(data)
        if field.name not in ("images", "files") and not isinstance(value := getattr(data, field.name), Lazy)
    ]
    try:
        states = [(str(file), (state := file.stat()).st_size, state.st_mtime_ns) for file in data.files]
    except OSError as error:
        raise BadInput(f"{data.name}: cannot read {error.filename}: {error.strerror}") from error
    return [lists, states]


@cache
def _code() -> str:
    """A checksum of the code between weights and scores, so that new code never gets an old result."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for file in sorted(file for pattern in CODE for file in root.glob(pattern)):
        digest.update(file.read_bytes())
    return digest.hexdigest()
