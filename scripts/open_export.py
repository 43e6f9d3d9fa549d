"""An export opened by open_clip and by transformers, each with its own files alone, and set against silc.

    python scripts/open_export.py EXPORT SET

EXPORT   a directory of `silc export` with the formats open_clip and transformers
SET      a folder with test/<class>/* and classes.txt

Every library reads the images, cuts and scales them, and tokenizes the names by itself; its probabilities of the names
must be silc's. transformers is asked twice, its zero-shot pipeline as well as model and processor.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
import transformers
from PIL import Image
from torch import Tensor

import silc

ROUNDING = 1e-5
"""Of probabilities from the same pixels: the same sums in another order, times a scale of up to 100."""
ONE_STEP = 0.01
"""Of probabilities where resized pixels round otherwise, by one step of 255."""


@torch.no_grad()
def by_silc(directory: Path, images: Sequence[Image.Image], texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """(token ids [C, T], probabilities [N, C])"""
    model = silc.load(directory, device="cpu")
    return model.tokenizer(texts), model.probs(model.encode_image(images), model.encode_text(texts))


@torch.no_grad()
def by_open_clip(directory: Path, images: Sequence[Image.Image], texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The same by open_clip."""
    created: Any = open_clip.create_model_and_transforms(f"local-dir:{directory}")
    model, _, transform = created
    ids = open_clip.get_tokenizer(f"local-dir:{directory}")(list(texts))
    logits, _ = model.eval().get_logits(torch.stack([transform(image) for image in images]), ids)
    return ids, logits.softmax(dim=-1)


@torch.no_grad()
def by_transformers(directory: Path, images: Sequence[Image.Image], texts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The same by transformers' model and processor."""
    model: Any = transformers.AutoModel.from_pretrained(directory)
    processor: Any = transformers.AutoProcessor.from_pretrained(directory)
    length = model.config.text_config.max_position_embeddings
    padded = {"padding": "max_length", "max_length": length, "truncation": True}
    inputs = processor(images=list(images), text=list(texts), return_tensors="pt", **padded)
    return inputs["input_ids"], model.eval()(**inputs).logits_per_image.softmax(dim=-1)


def by_pipeline(directory: Path, images: Sequence[Image.Image], texts: Sequence[str]) -> Tensor:
    """Probabilities [N, C] of transformers' zero-shot pipeline."""
    pipeline: Any = transformers.pipeline("zero-shot-image-classification", model=str(directory))
    answers = pipeline(list(images), candidate_labels=list(texts), hypothesis_template="{}")
    scores = [{one["label"]: one["score"] for one in answer} for answer in answers]
    return torch.tensor([[each[text] for text in texts] for each in scores])


def main(directory: Path, data: Path) -> int:
    """Print a line for each library; 1 where one answers otherwise."""
    names = (data / "classes.txt").read_text().splitlines()
    folders = sorted(folder for folder in (data / "test").iterdir() if folder.is_dir())
    texts = [f"a photo of a {name}." for name in names]
    files = [(label, file) for label, folder in enumerate(folders) for file in sorted(folder.iterdir())]
    images = [Image.open(file).convert("RGB") for _, file in files]
    truth = torch.tensor([label for label, _ in files])
    ids, expected = by_silc(directory, images, texts)

    def said(library: str, their_ids: Tensor, theirs: Tensor, tolerance: float) -> bool:
        difference = float((theirs - expected).abs().max())
        right, alike = ((theirs.argmax(-1) == other).float().mean() for other in (truth, expected.argmax(-1)))
        fine = torch.equal(their_ids, ids) and difference <= tolerance
        print(
            f"{library:<14}accuracy {right:.4f}   answers as silc {alike:.4f}   "
            f"largest difference of a probability {difference:.1e} {'' if fine else 'DIFFERENT'}"
        )
        return fine

    print(f"{len(images)} images, {len(names)} names, most probable one {expected.amax(-1).mean():.2f} on average")
    fine = [
        said("silc", ids, expected, 0.0),
        said("open_clip", *by_open_clip(directory, images, texts), ROUNDING),
        said("transformers", *by_transformers(directory, images, texts), ONE_STEP),
        said("its pipeline", ids, by_pipeline(directory, images, texts), ONE_STEP),
    ]
    return int(not all(fine))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
