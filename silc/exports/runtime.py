"""The page's runtime: two packages of npm, by version and checksum, fetched by npm or taken from a folder."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from silc.errors import BadInput

FOLDER = "SILC_NPM"
"""Environment variable: a folder with the packages' files, as `npm pack` writes them; without it npm fetches them."""


@dataclass(frozen=True)
class Package:
    """A version of a package, and the files of it that a page needs."""

    name: str
    version: str
    sha512: str
    """The checksum in base64, as in npm's lock files."""
    files: tuple[str, ...]

    @property
    def file(self) -> str:
        """The file's name, as `npm pack` gives it."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


PACKAGES = (
    Package(
        "onnxruntime-web",
        "1.30.0",
        "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
        ("dist/ort.wasm.min.mjs", "dist/ort-wasm-simd-threaded.mjs", "dist/ort-wasm-simd-threaded.wasm"),
    ),
    Package(
        "@huggingface/tokenizers",
        "0.2.0",
        "LidMHe1FpcSYH4vcSjXooda34pC0M8m1gmDOv7SQi6Iv+ib1zX7J3sHBCC9/3FPCkn2k1b55FneVqMRxrr99pg==",
        ("dist/tokenizers.min.mjs",),
    ),
)
"""Their licences are MIT and Apache 2.0."""


def write(directory: Path) -> None:
    """Put the files into a directory.

    Raises:
        BadInput: a package is neither in the folder that `SILC_NPM` names nor available from npm, or its checksum is
            wrong.
    """
    directory.mkdir()
    with tempfile.TemporaryDirectory() as own:
        for package in PACKAGES:
            file = _found(package, Path(own))
            _check(package, file)
            with tarfile.open(file) as archive:
                for name in package.files:
                    member = archive.extractfile(f"package/{name}")
                    assert member is not None  # the checksum was right, so the file is there
                    (directory / Path(name).name).write_bytes(member.read())


def _found(package: Package, own: Path) -> Path:
    if folder := os.environ.get(FOLDER):
        if not (Path(folder) / package.file).is_file():
            raise BadInput(
                f"{FOLDER}={folder} has no {package.file}; `npm pack {package.name}@{package.version}` makes it"
            )
        return Path(folder) / package.file
    npm = shutil.which("npm")
    missing = f"format web needs {package.name} {package.version}"
    if npm is None:
        raise BadInput(f"{missing}: install npm, or put {package.file} into a folder and name it by {FOLDER}=FOLDER")
    command = [npm, "pack", f"{package.name}@{package.version}", "--silent", "--ignore-scripts"]
    done = subprocess.run(command, cwd=own, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode or not (own / package.file).is_file():
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[0]
        raise BadInput(
            f"{missing}, which npm could not fetch ({said}); put {package.file} into a folder, {FOLDER}=FOLDER"
        )
    return own / package.file


def _check(package: Package, file: Path) -> None:
    if base64.b64encode(hashlib.sha512(file.read_bytes()).digest()).decode() != package.sha512:
        raise BadInput(f"{file.name} is not {package.name} {package.version}: its checksum differs; download it again")
