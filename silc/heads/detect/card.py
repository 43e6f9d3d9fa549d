"""README.md of an exported detector: the model card, for people and (front matter) for a hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from silc.heads.card import front_matter, page
from silc.heads.detect.augment import PADDING

if TYPE_CHECKING:
    from silc.exports.verify import Check
    from silc.heads.detect.config import DetectConfig
    from silc.heads.detect.predictor import DetectModel

USE = """\
```python
import silc

model = silc.load("DIR")
model.detect("street.jpg", ["cat", "traffic light"]).overlay().save("found.png")
```"""


def card(
    run: Path,
    config: DetectConfig,
    model: DetectModel,
    license: str,
    datasets: Sequence[str],
    checks: Sequence[Check],
    told: Sequence[str],
) -> str:
    """The text of README.md.

    Args:
        told: notes on what the layouts of other libraries cannot store.
    """
    front = front_matter("zero-shot-object-detection", ("owl-vit", "open-vocabulary-detection"), license, datasets)
    own = sum(p.numel() for p in model.detector.head.parameters())
    optim, frozen = config.train.optim, ", ".join(config.train.optim.freeze)
    trained = [
        f"* steps: {config.train.duration}, batches of {config.train.batch_size} images",
        f"* learning rate {optim.lr:g}, the text tower's {config.text_lr:g} of it"
        + (f"; frozen: {frozen}" if frozen else ""),
        f"* names left out: {config.data.forbidden or 'none'}",
        f"* data: {', '.join(datasets) or 'images with boxes'}",
    ]
    about = [
        f"Open-vocabulary detection by OWL-ViT (Minderer et al., ECCV 2022): heads of {own:,} parameters on the two "
        f"towers in `encoder/`, as they were trained with them.",
        f"## Images\n\n{pixels_of(model)}",
    ]
    more = ["## Other libraries\n\n" + "\n".join(f"* {line}" for line in told)] if told else []
    return page(run, config.kind, front, about, USE, trained, checks, more)


def pixels_of(model: DetectModel) -> str:
    """How to turn an image into the input of the graphs."""
    pixels = model.preprocess
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (pixels.mean, pixels.std))
    return (
        f"RGB, its longer side resized to {pixels.size} px ({pixels.interpolation}), put at the upper left of a square "
        f"of grey ({PADDING} of 255), divided by 255, less the mean ({mean}), divided by the deviation ({std})."
    )
