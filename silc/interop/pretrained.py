"""An imported model: towers' shapes, weights under our names, tokenizer and preprocessing. It is the same type for
every source. It is saved in a directory:

    silc.json           towers, preprocessing, loss, source
    silc.safetensors    weights under our names
    tokenizer/          tokenizer.json and its settings
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import save_file

from silc import checkpoint, places
from silc.data.tokenizer import BPETokenizer
from silc.errors import BadInput
from silc.interop.files import SAVED, read_json, read_safetensors
from silc.models.config import ModelConfig
from silc.models.image import POSITIONS, positions_at
from silc.models.silc import TwoTower
from silc.preprocess import Preprocess

if TYPE_CHECKING:
    from torch import Tensor

SETTINGS, WEIGHTS, TOKENIZER = SAVED, "silc.safetensors", "tokenizer"


@dataclass(frozen=True)
class Pretrained:
    """All parts of a two-tower model, from any source."""

    model: ModelConfig
    """Towers; `text.vocab_size` is set. Head and teacher are settings for a run that starts from this model."""
    weights: Mapping[str, Tensor]
    """State dict of a `TwoTower`, float32."""
    tokenizer: BPETokenizer
    preprocess: Preprocess
    contrastive: Literal["softmax", "sigmoid"]
    """The loss it was trained with; it decides how similarities become probabilities."""
    source: str
    """The source, as the user named it."""
    mapped: Sequence[str] = ()
    """A line for each rule of the import: the source's tensors and ours."""

    def build(self) -> TwoTower:
        """Build the towers with these weights; names and shapes must fit exactly."""
        towers = TwoTower(self.model, vocab_size=self.tokenizer.vocab_size, eos_id=self.tokenizer.eos_id)
        checkpoint.load_into(towers, self.weights, Path(self.source))
        return towers.eval()

    @property
    def checksum(self) -> str:
        """Checksum of all that its results depend on: weights, settings and tokenizer."""
        digest = hashlib.sha256(repr((self.model, self.preprocess)).encode())
        digest.update(self.tokenizer.tokenizer.to_str().encode())
        for name in sorted(self.weights):
            digest.update(name.encode())
            digest.update(self.weights[name].contiguous().numpy().tobytes())
        return digest.hexdigest()

    def at(self, size: int) -> Pretrained:
        """The same model for images of another size; its position embedding is resampled by its source's rule.

        Raises:
            BadInput: the size is no multiple of the patch size.
        """
        if size == self.model.image.size:
            return self
        image = replace(self.model.image, size=size)
        positions = positions_at(self.weights[POSITIONS], self.model.image, size)
        return replace(
            self,
            model=replace(self.model, image=image),
            weights={**self.weights, POSITIONS: positions},
            preprocess=replace(self.preprocess, size=size),
        )


@dataclass(frozen=True)
class _Settings:
    """Content of silc.json, where the fields of `preprocess` are at the top level."""

    model: ModelConfig
    preprocess: Preprocess
    contrastive: Literal["softmax", "sigmoid"]
    source: str


_SCHEMA: TypeAdapter[_Settings] = TypeAdapter(_Settings)


def save(pretrained: Pretrained, out: Path) -> None:
    """Write the directory that `read` opens.

    Raises:
        BadInput: the directory cannot be written, or is not empty.
    """
    out = places.empty_folder(out)
    known = pretrained
    settings = _SCHEMA.dump_python(
        _Settings(known.model, known.preprocess, known.contrastive, known.source), mode="json"
    )
    settings |= settings.pop("preprocess")
    try:
        out.mkdir(parents=True, exist_ok=True)
        pretrained.tokenizer.save(out / TOKENIZER)
        save_file({name: tensor.contiguous() for name, tensor in pretrained.weights.items()}, out / WEIGHTS)
        # Last, so that a directory with settings is complete.
        (out / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")
    except (OSError, SafetensorError) as error:
        raise BadInput(f"cannot write {out}: {error}") from error


def read(directory: Path, tokenizer: Path | None = None) -> Pretrained:
    """Open a directory that `save` wrote; `tokenizer` is a file or directory that replaces its own tokenizer.

    Raises:
        BadInput: a file is missing, damaged or of another format, or a weight is not finite.
    """
    given = read_json(directory / SETTINGS)
    given["preprocess"] = {one.name: given.pop(one.name, None) for one in fields(Preprocess)}
    try:
        settings = _SCHEMA.validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])).removeprefix("preprocess.")
        raise BadInput(f"{directory / SETTINGS}: field '{where}': {first['msg']}; import the model again") from error
    weights = read_safetensors(directory / WEIGHTS)
    if broken := [name for name, tensor in weights.items() if not tensor.isfinite().all()]:
        raise BadInput(f"{directory / WEIGHTS}: {broken[0]} holds NaN or infinity; import or export the model again")
    return Pretrained(
        model=settings.model,
        weights=weights,
        tokenizer=BPETokenizer.load(tokenizer or directory / TOKENIZER, settings.model.text.length),
        preprocess=settings.preprocess,
        contrastive=settings.contrastive,
        source=str(directory),
    )
