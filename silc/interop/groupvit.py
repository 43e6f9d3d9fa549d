"""GroupViT (Xu et al., CVPR 2022) from transformers, for evaluation: its class maps are made of groups of patches.

It is the only model that is wrapped instead of read into our towers, because these have no groups. The authors' weights
are under NVIDIA's licence, for research only. Records say so for all weights, because silc cannot tell whose they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from silc.errors import BadInput
from silc.extras import needs
from silc.interop.files import read_json
from silc.interop.tokenizers import find_tokenizer, load_tokenizer
from silc.interop.transformers import LEGACY_EOS, PIXELS, located, preprocess, tensors_of
from silc.preprocess import Preprocess

if TYPE_CHECKING:
    from silc.data.tokenizer import BPETokenizer
    from silc.encoder import DualEncoder, Tokenizer

TOP = 5
"""Groups of an image are classified among this many classes: those that fit its pooled embedding best."""
SCALE_MAX = 100.0
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Groups(NamedTuple):
    """Output of GroupViT for B images: G groups."""

    assigned: Tensor  # [B, G, H, W]: share of each pixel in a group
    embedded: Tensor  # [B, G, D] of unit length
    image: Tensor  # [B, D] of unit length


@dataclass
class GroupViT:
    """A `DensePredictor` with the authors' maps; a `DualEncoder` whose patches are not in the space of the texts."""

    model: Any
    """transformers' GroupViTModel."""
    tokenizer: Tokenizer
    preprocess: Preprocess
    name: str
    second: Any = None
    """A second encoder, as `Encoder` may have; no decoder for this model uses it."""
    readouts: ClassVar[tuple[str, ...]] = ()
    makes_masks: ClassVar[bool] = False
    most_windows: ClassVar[int] = 4
    """Maximum windows in a forward pass; it is small because maps are as large as the pixels."""
    rules: ClassVar[Mapping[str, Any]] = {
        **{"shorter": 448, "longer": 2048, "window": 448, "stride": 224},
        **{"interpolation": "cv2_bilinear", "templates": "photo", "ensemble": "mean, normalize"},
        **{"rounding": "nearest", "fit": "pad", "softmax": False},
    }
    record: ClassVar[Mapping[str, Any]] = {
        "decoder": "GroupViT",
        "readout": f"one group a pixel, the image's {TOP} best classes",
        "protocol": "GroupViT",
        "licence": "the authors' weights are under NVIDIA's licence, non-commercial",
    }

    @property
    def patch_size(self) -> int:
        size: int = self.model.config.vision_config.patch_size
        return size

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @property
    def scale(self) -> Tensor:
        """Factor [] of the cosines."""
        scale: Tensor = self.model.logit_scale.exp().clamp(max=SCALE_MAX)
        return scale

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        return self.groups(images, assigned=False).image

    @torch.no_grad()
    def encode_pooled(self, images: Tensor) -> Tensor:
        return self._groups_of(images)[0].mean(dim=1)

    @torch.no_grad()
    def encode_text(self, ids: Tensor, *, normalize: bool = True) -> Tensor:
        features: Tensor = self.model.get_text_features(input_ids=ids).pooler_output
        return F.normalize(features, dim=-1) if normalize else features

    def encode_dense(self, images: Tensor, readout: str) -> Tensor:
        """Not available for GroupViT.

        Raises:
            BadInput: always.
        """
        raise BadInput(f"{self.name} is a GroupViT, which has groups and no patches in the space of the texts")

    def classes(self, names: Sequence[str], embed: Callable[[DualEncoder, Sequence[str]], Tensor]) -> Tensor:
        """Unit-length text features [C, D]."""
        return embed(self, names).to(self.device)

    @torch.no_grad()
    def maps(self, images: Tensor, classes: Tensor) -> Tensor:
        """Class maps [B, C, H, W] as the authors compute them (GroupViT `segmentation/evaluation/group_vit_seg.py`).

        Each pixel belongs to one group. For the five classes that fit the whole image best, a group's score is the
        class's probability among all classes times its probability among these five. Other classes score 0.
        """
        seen = self.groups(images)
        of_groups = seen.embedded @ classes.T * self.scale  # [B, G, C]
        best = (seen.image @ classes.T).topk(min(TOP, len(classes)), dim=-1).indices  # [B, 5]
        others = torch.ones_like(of_groups[:, 0], dtype=torch.bool).scatter(1, best, False)
        among = of_groups.masked_fill(others[:, None], -torch.inf).softmax(dim=-1) * of_groups.softmax(dim=-1)
        group = seen.assigned.argmax(dim=1)  # [B, H, W]
        row = torch.arange(len(group), device=group.device)[:, None, None]
        return among[row, group].movedim(-1, 1)

    def groups(self, images: Tensor, *, assigned: bool = True) -> Groups:
        """Groups of normalised images [B, 3, H, W]."""
        tokens, attentions = self._groups_of(images)
        embedded = self.model.visual_projection(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])
        pooled = self.model.visual_projection(tokens.mean(dim=1))
        share = _assigned(attentions, images) if assigned else tokens
        return Groups(share, F.normalize(embedded, dim=-1), F.normalize(pooled, dim=-1))

    def _groups_of(self, images: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """Tokens [B, G, C] of the last groups, and the assignments of each stage [B, groups, groups before]."""
        tower = self.model.vision_model
        entering = tower.embeddings(images, interpolate_pos_encoding=True)
        out = tower.encoder(hidden_states=entering, output_attentions=True, return_dict=True)
        return tower.layernorm(out.last_hidden_state), [one for one in out.attentions if one is not None]


def _assigned(attentions: Sequence[Tensor], images: Tensor) -> Tensor:
    """Share [B, G, H, W] of each pixel in the last stage's groups, bilinear between patches."""
    share = attentions[0]
    for later in attentions[1:]:
        share = later @ share
    height, width = images.shape[-2:]
    patch = round((height * width / share.shape[-1]) ** 0.5)
    return F.interpolate(share.unflatten(-1, (height // patch, width // patch)), (height, width), mode="bilinear")


def is_one(source: str) -> bool:
    """Whether a directory, or ORG/NAME on the hub, holds a GroupViT.

    Raises:
        BadInput: there is nothing, or no network.
    """
    return read_json(located(source) / "config.json").get("model_type") == "groupvit"


def read(
    source: str, tokenizer: Path | None = None, *, name: str = "", device: torch.device | str = "cpu"
) -> tuple[GroupViT, str]:
    """Read the model of a directory, or of ORG/NAME on the hub; also the checksum of all that its results depend on.

    Raises:
        BadInput: transformers is not installed; pickles; a configuration or weights that make no GroupViT; a tokenizer
            or pixels that are not its own.
    """
    directory = located(source)
    library = needs("GroupViT", "transformers", "interop")
    config = read_json(directory / "config.json")
    if not any(directory.glob("*.safetensors")):
        save = "; ".join(
            f"{kind}.from_pretrained({source!r}).save_pretrained(DIR)" for kind in ("GroupViTModel", "AutoProcessor")
        )
        raise BadInput(
            f"{directory} holds no safetensors, and silc reads no pickles; run `{save}` once, then give hf:DIR"
        )
    tensors = {name: x for name, x in tensors_of(directory).items() if not name.endswith("embeddings.position_ids")}
    try:
        model = library.GroupViTModel(library.GroupViTConfig(**config))
        model.load_state_dict(tensors)
    except Exception as error:  # torch, transformers and huggingface_hub raise different types
        told = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise BadInput(f"{directory} holds no GroupViT that transformers can build: {' '.join(told[:2])}") from error
    length = int(model.config.text_config.max_position_embeddings)
    words = load_tokenizer(tokenizer, length) if tokenizer else find_tokenizer(directory, length)
    _check_words(directory, words, model.config.text_config)
    preprocess = _preprocess(directory, int(model.config.vision_config.image_size))
    found = GroupViT(model.eval().requires_grad_(False).to(device), words, preprocess, name or source)
    return found, _checksum(config, preprocess, words, tensors)


def _checksum(config: Any, preprocess: Preprocess, tokenizer: BPETokenizer, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(repr((config, preprocess)).encode())
    digest.update(tokenizer.tokenizer.to_str().encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def _check_words(directory: Path, words: BPETokenizer, text: Any) -> None:
    """Check that a tokenizer fits the text tower, which pools the end token and has a row for each entry.

    Raises:
        BadInput: the tokenizer has another end token (every text would be pooled at its first token), or more entries
            (texts would fail).
    """
    if words.vocab_size > text.vocab_size:
        raise BadInput(f"{directory}: the tokenizer has {words.vocab_size} entries, the text tower {text.vocab_size}")
    pooled = words.vocab_size - 1 if text.eos_token_id == LEGACY_EOS else text.eos_token_id
    if words.eos_id != pooled:
        raise BadInput(f"{directory}: the text tower pools token {pooled}, and the tokenizer ends with {words.eos_id}")


def _preprocess(directory: Path, size: int) -> Preprocess:
    """The preprocessing that the directory asks for; by default the authors', with ImageNet's normalisation.

    Raises:
        BadInput: see `transformers.preprocess`.
    """
    if any((directory / name).is_file() for name in PIXELS):
        return preprocess(directory, size)
    return Preprocess(size, *IMAGENET, "crop_floor")
