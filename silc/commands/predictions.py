"""Input and output of `silc predict`: images and names of classes in; JSON of probabilities, an array of features, or a
folder of overlays and labels out.

A file that holds no image does not stop the others: the JSON names it, with the reason.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from silc import places
from silc.data.index_cache import expanded
from silc.durable import write_whole
from silc.errors import BadInput
from silc.eval.files import distinct, images_below, lines_in, lines_of, read_image, text_of
from silc.eval.pictures import palette_image
from silc.images import upright
from silc.terminal import console, one_line, progress

if TYPE_CHECKING:
    from silc.eval.config import EvalConfig
    from silc.predict import Model

SHOWN = 3
"""Names printed for an image."""


@dataclass
class Images:
    """The given image files, read a batch at a time with a progress bar."""

    files: Sequence[Path]
    what: str
    """The label of the bar."""
    unreadable: list[dict[str, str]] = field(default_factory=list)

    def batches(self, size: int) -> Iterator[list[tuple[Path, Image.Image]]]:
        """Pairs of file and RGB image.

        Raises:
            BadInput: none of the files is an image.
        """
        with progress(console(stderr=True)) as bar:
            for start in bar.track(range(0, len(self.files), size), description=self.what):
                batch = []
                for file in self.files[start : start + size]:
                    try:
                        batch.append((file, upright(read_image(file))))
                    except BadInput as error:
                        self.unreadable.append({"file": str(file), "why": str(error)})
                if batch:
                    yield batch
        if len(self.unreadable) == len(self.files):
            raise BadInput(self.unreadable[0]["why"])


def images_of(paths: Sequence[str | Path], what: str) -> Images:
    """The files given, and all images below the folders given, in order, each once.

    Raises:
        BadInput: something is not there, or there is no image.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files += images_below(path)
        elif path.is_file():
            files.append(path)
        else:
            raise BadInput(f"{path} does not exist; give images or folders of images")
    if not files:
        raise BadInput(f"there is no image in {', '.join(map(str, paths)) or 'nothing'}; give images or folders")
    return Images(list(dict.fromkeys(files)), what)


def keep_images(images: Images, out: Path | None) -> None:
    """Refuse an output file that is one of the images, under any name.

    Raises:
        BadInput: it is one of them.
    """
    if out is not None and out.is_file() and any(os.path.samefile(out, file) for file in images.files):
        raise BadInput(f"--out {out} is one of the images and would be replaced; give another --out")


def names_of(given: str) -> Sequence[str]:
    """Class names of a comma-separated list, or of a file: one a line, a line with commas, or a JSON list.

    Raises:
        BadInput: there is no name, one comes twice, or it looks like a file that does not exist.
    """
    file = expanded(given)
    if given.strip() and os.path.isdir(file):  # not pathlib, which fails if a long list is no possible name
        raise BadInput(f"--names {given} is a folder; give a file with one class name per line")
    if os.path.isfile(file):
        names = _names_in(file)
    elif "," not in given and re.search(r"[/\\]|\.\w{1,5}$", given):
        raise BadInput(f"--names {given} does not exist; give a file with one class name per line, or 'road, car, sky'")
    else:
        names = _parted(given)
    if not names or not all(names):
        raise BadInput("class names are needed: --names 'road, car, sky', or a file with one per line")
    return distinct(names, f"--names {given}")


def _parted(text: str) -> list[str]:
    """A line with commas, or one name a line, as `--names "$(cat names.txt)"` gives them."""
    lines = lines_in(text)
    return lines if len(lines) > 1 else [name.strip() for name in text.split(",")]


def _names_in(file: Path) -> list[str]:
    if file.suffix.lower() in (".yaml", ".yml", ".jsonl"):
        raise BadInput(f"{file} is no .txt or .json file; give a .txt with one name per line, or a .json with a list")
    if file.suffix.lower() == ".json":
        try:
            names = json.loads(text_of(file))
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{file} is no JSON: {error}") from error
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise BadInput(f'{file} must be a JSON list of names, e.g. ["road", "car"]')
        return [name.strip() for name in names]
    return _parted("\n".join(lines_of(file)))


def place_of(task: str, given: str) -> Path | None:
    """The file or folder that a task writes, checked to be writable; `given` is --out. None if results are only
    printed.

    Raises:
        BadInput: it cannot be written, or the folder is not empty: another call's files would be mixed with this one's.
    """
    if not given and task in ("classify", "caption", "answer"):
        return None
    if not given:
        raise BadInput(f"silc predict {task} needs a place for its results; give --out")
    if task in ("segment", "detect"):
        return places.empty_folder(given, flag="--out")
    out = places.file(given)
    if task == "embed":
        if out.suffix != ".npy":
            raise BadInput(f"features cannot be written to --out {out}; give a name that ends in .npy")
        places.beside(_names_beside(out), out, flag="the files' names")
    return out


def _names_beside(features: Path) -> Path:
    return features.with_suffix(".json")


def classify(
    model: Model, images: Images, names: Sequence[str], out: Path | None, prompts: str, batch_size: int
) -> list[str]:
    """Each image's likeliest names as a line; with `out`, its probability of each name, best first, as JSON."""
    classifier = model.classifier(names, prompts, batch_size=batch_size)
    found: list[dict[str, Any]] = []
    for batch in images.batches(batch_size):
        rows = classifier([image for _, image in batch])
        found += [{"file": str(file), "probabilities": row} for (file, _), row in zip(batch, rows, strict=True)]
    if out is not None:
        _write(out, {"model": model.name, "prompts": prompts, "images": found}, images)
    return [one_line(f"{one['file']}: {_likeliest(one['probabilities'])}") for one in found]


def _likeliest(probabilities: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:.1%}" for name, share in list(probabilities.items())[:SHOWN])


def embed(model: Model, images: Images, out: Path, batch_size: int) -> None:
    """Write features of unit length [N, D] as .npy, and the N files' names as .json beside it."""
    import torch

    rows, files = [], []
    for batch in images.batches(batch_size):
        rows.append(model.encode_image([image for _, image in batch]).cpu())
        files += [str(file) for file, _ in batch]
    _write(_names_beside(out), {"model": model.name, "files": files}, images)
    np.save(out, torch.cat(rows).numpy())


def segment(model: Model, images: Images, names: Sequence[str], out: Path, config: EvalConfig, **overlay: Any) -> None:
    """Write into a folder, for each image, an overlay and a label map (a PNG whose values index the names).

    Args:
        overlay: what `Segmentation.overlay` takes.
    """
    if len(names) > 2**16:
        raise BadInput(f"{len(names):,} names are more than a label map of 16 bits holds; give at most 65,536")
    segmenter = model.segmenter(names, config)
    found: list[dict[str, Any]] = []
    with _kept(out / "segments.json", {"model": model.name, "names": list(names), "images": found}, images):
        for batch in images.batches(1):
            (file, image), number = batch[0], len(found)
            try:
                result = segmenter(image)
            except BadInput as error:  # too thin
                images.unreadable.append({"file": str(file), "why": str(error)})
                continue
            stem = f"{number:05d}-{file.stem}"
            out.mkdir(parents=True, exist_ok=True)
            result.overlay(**overlay).save(out / f"{stem}.overlay.png")
            palette_image(result.labels.numpy(), len(names)).save(out / f"{stem}.labels.png")
            shares = np.bincount(result.labels.flatten().numpy(), minlength=len(names)) / result.labels.numel()
            found.append({"file": str(file), "stem": stem, "shares": dict(zip(names, shares.tolist(), strict=True))})


def detect(
    model: Model, images: Images, names: Sequence[str], out: Path, templates: str, batch_size: int, **shown: Any
) -> None:
    """Write into a folder the boxes of all images in COCO's form, with scores, and a picture of each.

    Args:
        batch_size: texts at a time.
        shown: which boxes, as `DetectModel.detect_by` takes it.

    Raises:
        BadInput: the model finds no boxes.
    """
    from silc.heads.detect.predictor import detector_of

    detector = detector_of(model)
    asked = detector.named(names, templates, batch_size=batch_size)
    listed, boxes = list[dict[str, Any]](), list[dict[str, Any]]()
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    told = {"info": {"model": model.name, "prompts": templates, **shown}}
    content = {**told, "images": listed, "annotations": boxes, "categories": categories}
    with _kept(out / "detections.json", content, images):
        for batch in images.batches(1):
            file, image = batch[0]
            result = detector.detect_by(image, asked, **shown)
            number = len(listed) + 1
            listed.append({"id": number, "file_name": str(file), "width": image.width, "height": image.height})
            for one in result.found:
                place = {"id": len(boxes) + 1, "image_id": number, "category_id": one.label + 1, "iscrowd": 0}
                corner = [one.x, one.y, one.width, one.height]
                boxes.append({**place, "bbox": corner, "area": one.width * one.height, "score": one.score})
            out.mkdir(parents=True, exist_ok=True)
            result.overlay().save(out / f"{number - 1:05d}-{file.stem}.boxes.png")


def write(
    model: Model, images: Images, out: Path | None, question: str, prefix: str, batch_size: int, **how: Any
) -> list[str]:
    """Each image's caption, or the answer to a question, as a line; with `out`, also as JSON.

    Args:
        prefix: prefix of the question's task; by default the first one that has questions.
        how: as `Writing` takes it.

    Raises:
        BadInput: the model writes no text, or has not learnt the task.
    """
    from silc.eval.captioning import CAPTION
    from silc.heads.decoder.generate import Writing
    from silc.heads.decoder.predictor import writing_model

    writer = writing_model(model)
    prefix, writing = writer.asking(prefix) if question else CAPTION, Writing(**how)
    found: list[dict[str, Any]] = []
    for batch in images.batches(batch_size):
        asked = [question] * len(batch) if question else ()
        numbered = replace(writing, first=len(found))
        texts = writer.write([image for _, image in batch], prefix, asked, numbered)
        found += [{"file": str(file), "text": text} for (file, _), text in zip(batch, texts, strict=True)]
    if out is not None:
        told = {"question": question, "prefix": prefix} if question else {}
        _write(out, {"model": model.name, **told, **how, "images": found}, images)
    return [one_line(f"{one['file']}: {one['text']}") for one in found]


@contextmanager
def _kept(file: Path, content: dict[str, Any], images: Images) -> Iterator[None]:
    """Write the JSON of a folder after its pictures; if the work is cut short, for the pictures made so far."""
    try:
        yield
    except BaseException:
        if file.parent.is_dir():
            _write(file, content, images)
        raise
    _write(file, content, images)


def _write(file: Path, content: dict[str, Any], images: Images) -> None:
    write_whole(file, json.dumps({**content, "unreadable": images.unreadable}, indent=1) + "\n")
