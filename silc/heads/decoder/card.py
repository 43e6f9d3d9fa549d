"""README.md of an exported decoder: the model card, for people and (front matter) for a hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from silc.heads.card import front_matter, page

if TYPE_CHECKING:
    from silc.exports.verify import Check
    from silc.heads.decoder.config import DecoderConfig
    from silc.heads.decoder.predictor import TextModel

USE = """\
```python
import silc

model = silc.load("DIR")
model.caption("street.jpg")
model.answer("street.jpg", "how many dogs are there?")
```"""


def card(
    run: Path, config: DecoderConfig, model: TextModel, license: str, datasets: Sequence[str], checks: Sequence[Check]
) -> str:
    """The text of README.md."""
    front = front_matter("image-to-text", ("captioning", "visual-question-answering"), license, datasets)
    shape, optim = model.teller.decoder.shape, config.train.optim
    own = sum(p.numel() for p in model.teller.decoder.parameters())
    tower = "frozen" if "image" in optim.freeze else f"trained with it, at {config.image_lr:g} of the rate"
    trained = [
        f"* steps: {config.train.duration}, batches of {config.train.batch_size} texts",
        f"* learning rate {optim.lr:g}; the image tower is {tower}",
        f"* tasks by prefix: {', '.join(model.prefixes)}",
        f"* data: {', '.join(datasets) or 'images with texts'}",
    ]
    about = [
        f"Captions and answers in the manner of LiT-decoder (arXiv 2303.17376): a text decoder of {shape.depth} blocks "
        f"and {own:,} parameters that looks at the tokens of the image tower in `encoder/`. Images of "
        f"{model.preprocess.size} px, squashed to a square.",
    ]
    return page(run, config.kind, front, about, USE, trained, checks)
