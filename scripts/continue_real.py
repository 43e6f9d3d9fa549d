"""The table of scripts/continue_real.sh: `python scripts/continue_real.py out/continue --docs docs`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from spread import Key, Scores, collect, differences, into, table

ROWS = {"before": "before", "contrastive": "+ contrastive alone (control)", "late": "+ late SILC"}
AGAINST = {"contrastive": "before", "late": "contrastive"}
"""What each row is compared with. Before is one model, so the control is set beside it without a verdict."""
COLUMNS = {
    ("cifar10", "acc1"): "CIFAR-10 acc1",
    ("tiny_imagenet200", "acc5"): "Tiny ImageNet acc5",
    ("flickr8k_test", "image_retrieval_recall@10"): "Flickr8k T2I R@10",
    ("flickr8k_test", "text_retrieval_recall@10"): "Flickr8k I2T R@10",
    ("coco_panoptic133", "miou"): "COCO-133 mIoU",
    ("voc2012", "miou"): "VOC mIoU",
    ("camvid", "miou"): "CamVid mIoU",
    ("ccp_clothing", "miou"): "clothing mIoU",
}
TITLES = list(COLUMNS.values())
START, END = "<!-- continue: written by scripts/continue_real.sh -->", "<!-- continue: end -->"


def section(scores: Mapping[Key, Scores], chance: Mapping[str, float]) -> str:
    """Table and differences."""
    said = differences(ROWS, AGAINST, TITLES, scores)
    return "\n".join([*table(ROWS, TITLES, scores, chance), "", *said, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--docs", type=Path, help="folder whose results.md has the section's marks")
    args = parser.parse_args()
    scores, chance = collect({name: args.out / name for name in ROWS}, COLUMNS)
    if not scores:
        raise SystemExit(f"{args.out} holds no scored run; scripts/continue_real.sh makes them")
    text = section(scores, chance)
    (args.out / "continue.md").write_text(text)
    if args.docs:
        results = args.docs / "results.md"
        results.write_text(into(results.read_text(), text, START, END))
    print(text)


if __name__ == "__main__":
    main()
