"""README.md of an exported head: the model card, for people and (front matter) for a hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from silc.heads.card import front_matter, page

if TYPE_CHECKING:
    from silc.exports.verify import Check
    from silc.heads.catseg.config import CatSegConfig
    from silc.heads.catseg.predictor import CatSegModel

USE = """\
```python
import silc

model = silc.load("DIR")
model.segment("street.jpg", ["road", "car", "sky"]).overlay().save("segmented.png")
```"""


def card(
    run: Path, config: CatSegConfig, model: CatSegModel, license: str, datasets: Sequence[str], checks: Sequence[Check]
) -> str:
    """The text of README.md."""
    front = front_matter("image-segmentation", ("cat-seg", "open-vocabulary-segmentation"), license, datasets)
    own, optim = sum(p.numel() for p in model.catseg.head.parameters()), config.train.optim
    changes = f"low-rank changes, rank {optim.lora}" if optim.lora else "queries and values of the attention"
    tuned = " and ".join(tower for tower in ("image", "text") if tower not in optim.freeze)
    towers = f", {config.tower_lr:g} of it for the {tuned} tower ({changes})" if tuned else "; towers untuned"
    trained = [
        f"* steps: {config.train.duration}, batches of {config.train.batch_size} crops of {config.crop} px",
        f"* learning rate {optim.lr:g}{towers}",
        f"* data: {', '.join(datasets) or 'images with label maps'}",
    ]
    about = [
        f"Open-vocabulary segmentation by CAT-Seg (Cho et al., CVPR 2024): a head of {own:,} parameters on the two "
        f"towers in `encoder/`. Windows of {config.crop} px and a view of the whole image.",
    ]
    return page(run, config.kind, front, about, USE, trained, checks)
