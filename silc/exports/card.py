"""README.md: the model card, for people and (front matter) for a hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from silc.eval.tables import in_markdown, read_scores
from silc.exports.formats import WEB

if TYPE_CHECKING:
    from silc.config import Config
    from silc.exports.verify import Check
    from silc.interop.pretrained import Pretrained

LIBRARIES = ("open_clip", "transformers")
USAGE = {
    "silc": """\
import silc

model = silc.load("DIR")
model.segment("street.jpg", ["road", "car"]).overlay()
""",
    "open_clip": """\
import open_clip

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:DIR")
tokenizer = open_clip.get_tokenizer("local-dir:DIR")
""",
    "transformers": """\
from transformers import AutoModel, AutoProcessor

model, processor = AutoModel.from_pretrained("DIR"), AutoProcessor.from_pretrained("DIR")
texts = {{"padding": "max_length", "max_length": {length}, "truncation": True}}
inputs = processor(images=image, text=["a car", "a bus"], return_tensors="pt", **texts)
""",
    "onnx": """\
import onnxruntime

image = onnxruntime.InferenceSession("DIR/onnx/image.onnx")
pooled, patches = image.run(None, {{"pixel_values": pixels}})
""",
    "web": """\
python -m http.server --directory DIR/web
""",
    "graph": """\
import torch

image = torch.export.load("DIR/{format}/image.pt2").module()
pooled, patches = image(pixels)
""",
}
"""Code that opens each format; `graph` is for those that torch opens itself: torch_export and int8."""


@dataclass(frozen=True)
class Facts:
    """What is known of a model beyond its weights."""

    name: str
    license: str
    datasets: Sequence[str]
    weights: str
    """Which weights these are: teacher, student, or pretrained."""
    config: Config | None
    """Configuration of the run that trained the model."""
    examples_seen: int | None
    scores: Sequence[Mapping[str, Any]]
    """Records of its scores.json."""


def scores_of(source: Path, weights: str) -> list[Mapping[str, Any]]:
    """The records of these weights in a directory's scores.json; empty if there is no such file.

    Raises:
        BadInput: the file is no list of records.
    """
    file = source / "scores.json"
    found = read_scores(file) if file.is_file() else {}
    return [record for (_, whose), records in found.items() if whose == weights for record in records]


def card(model: Pretrained, facts: Facts, notes: Mapping[str, Sequence[str]], checks: Sequence[Check]) -> str:
    """The text of README.md; `notes` holds a list for each format."""
    formats = list(notes)
    library = next((name for name in LIBRARIES[::-1] if name in formats), "silc")
    front = {
        "library_name": library,
        "pipeline_tag": "zero-shot-image-classification",
        "license": facts.license,
        "tags": ["silc", "clip", "vision-language", "dense-features", *formats],
        "datasets": list(facts.datasets),
    }
    image, text = model.model.image, model.model.text
    sections = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {in_markdown(facts.name)}",
        f"A two-tower vision-language model: ViT of width {image.width}, depth {image.depth}, patch {image.patch} at "
        f"{image.size} px with {image.pool} pooling; text tower of width {text.width}, depth {text.depth}, "
        f"{text.length} tokens. Trained with the {model.contrastive} loss. Weights: {facts.weights}.",
        "## Use\n\n" + "\n\n".join(_usage(name, model) for name in ("silc", *formats)),
        "## Training\n\n" + _training(facts),
        "## Scores\n\n" + score_rows(facts.scores),
    ]
    remarks = [f"* {name}: {note}." for name, several in notes.items() for note in several]
    if remarks:
        sections.append("## Know\n\n" + "\n".join(remarks))
    sections.append(
        "## Checked\n\nEach format was read back and compared with the model it was written from, on random pixels "
        f"and texts; int8 and web by 1 - cosine.\n\n{checked(checks)}"
    )
    return "\n\n".join(sections) + "\n"


def _usage(name: str, model: Pretrained) -> str:
    code = USAGE.get(name, USAGE["graph"]).format(format=name, length=model.model.text.length)
    return f"```{'sh' if name == WEB else 'python'}\n{code}```"


def _training(facts: Facts) -> str:
    if facts.config is None:
        return "Converted from another model; its source says how that was trained."
    config = facts.config
    data = f"generated {config.data.source}" if config.data.generated else "image-text shards"
    data += f" (the subset {Path(config.data.subset).name})" if config.data.subset else ""
    return "\n".join(
        [
            f"* recipe: {config.recipe or 'none by name'}",
            f"* data: {data}{': ' + ', '.join(facts.datasets) if facts.datasets else ''}",
            f"* examples seen: {'unknown' if facts.examples_seen is None else f'{facts.examples_seen:,}'}",
            f"* batch: {config.train.batch_size}, duration: {config.train.duration}",
        ]
    )


def checked(checks: Sequence[Check]) -> str:
    """A table of the checks."""
    rows = [f"| {check.format} | {check.what} | {check.difference:.1e} | {check.tolerance:.0e} |" for check in checks]
    return "\n".join(["| format | what | difference | at most |", "| --- | --- | --- | --- |", *rows])


def score_rows(records: Sequence[Mapping[str, Any]]) -> str:
    """A table of the records, or a sentence that there are none."""
    if not records:
        return "None were recorded."
    rows = []
    for record in records:
        data = in_markdown(record["dataset"])
        for metric, value in record["metrics"].items():
            chance = f"{record['chance'][metric]:.4f} " if metric in record["chance"] else ""
            rows.append(f"| {data} | {record['task']} | {metric} | {value:.4f} | {chance}|")
    return "\n".join(["| data | task | metric | value | chance |", "| --- | --- | --- | --- | --- |", *rows])
