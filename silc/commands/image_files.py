"""Image files that a person named, themselves or by their folders, read a batch at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from silc.errors import BadInput
from silc.eval.files import images_below, read_image
from silc.images import upright
from silc.terminal import console, progress


@dataclass
class Images:
    """Image files of what was given, read a batch at a time with a progress bar."""

    files: Sequence[Path]
    what: str
    """Said by the bar."""
    unreadable: list[dict[str, str]] = field(default_factory=list)

    def batches(self, size: int) -> Iterator[list[tuple[Path, Image.Image]]]:
        """Pairs of file and RGB image.

        Raises:
            BadInput: not one of the files was an image.
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
    """Refuse a place that is one of the images, by whatever name.

    Raises:
        BadInput: it is.
    """
    if out is not None and out.is_file() and any(os.path.samefile(out, file) for file in images.files):
        raise BadInput(f"--out {out} is one of the images and would be replaced; give another --out")
