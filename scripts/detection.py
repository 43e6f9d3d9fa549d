"""Detection over several seeds: on pairs of name and ground that training never shows, and on photographs.

    python -m scripts.detection out/detection --towers out/evidence/rows/silc_c/seed-{1,2,3}
    python -m scripts.detection out/detection --data $SILC_DATA                      # photographs
    python -m scripts.detection out/quick --towers RUN --data $SILC_DATA --quick     # minutes: whether it runs

Objects with parts: a head on each of the towers named learns from the world's training part. Beside its AP50 stand a
centre box and the same head with the names of the classes moved on by one. Photographs, from towers of random weights:
twenty of `coco_boxes/train` are learnt by heart, and the 100 of `coco_boxes/val` scored as they come out. Image towers
learn, text towers stay as they are; on objects a row has both at rest. What is there already is not done again.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.silc_command import finish, run
from scripts.spread import Scores

WORLD = ("objects", "objects_unseen", "objects_unseen_moved")
ALIKE = (
    *("--data.mosaics", "1.0", "--data.negatives", "5", "--data.templates", "plain", "--data.workers", "0"),
    *("--train.batch-size", "20", "--train.optim.lr", "1e-3", "--train.optim.warmup", "10%"),
    *("--loss.l1", "5", "--loss.giou", "2", "--train.precision", "float32"),
)
"""Of every head: short training of small towers, from the beginning."""
TEXT_RESTS, BOTH_REST = ("--train.optim.freeze", "text"), ("--train.optim.freeze", "image", "text")
BY_HEART = (*TEXT_RESTS, "--data.crops", "1.0", "--data.no-flip")
TOWERS = (
    *("--model.image.size", "128", "--model.image.patch", "16", "--model.image.width", "128"),
    *("--model.image.depth", "4", "--model.image.heads", "4", "--model.image.mlp", "512", "--model.embed-dim", "128"),
    *("--model.text.length", "12", "--model.text.width", "128", "--model.text.depth", "1", "--model.text.mlp", "64"),
    *("--data.vocab-size", "300", "--data.scenes.num", "96", "--data.scenes.size", "24"),
    *("--train.batch-size", "16", "--train.duration", "1 steps", "--train.optim.warmup", "0 steps"),
)
"""Towers for photographs, which have learnt nothing."""

Found = Mapping[str, Mapping[str, float]]
"""AP50 of head and centre box, by set."""


def move_names(source: Path, target: Path) -> None:
    """A set to score on again, with the names of its classes moved on by one: no box has its name."""
    target.joinpath("annotations").mkdir(parents=True)
    values = json.loads((source / "annotations" / "instances_val.json").read_text())
    names = [one["name"] for one in values["categories"]]
    for one, name in zip(values["categories"], names[1:] + names[:1], strict=True):
        one["name"] = name
    (target / "annotations" / "instances_val.json").write_text(json.dumps(values))
    (target / "val").symlink_to((source / "val").resolve())


def twenty(photographs: Path, target: Path) -> None:
    """The first twenty training photographs with one to five objects, to learn from and to be scored on."""
    target.joinpath("annotations").mkdir(parents=True)
    values = json.loads((photographs / "annotations" / "instances_train.json").read_text())
    counts = Counter(one["image_id"] for one in values["annotations"])
    kept = [one for one in values["images"] if 1 <= counts[one["id"]] <= 5][:20]
    ids = {one["id"] for one in kept}
    boxes = [one for one in values["annotations"] if one["image_id"] in ids]
    for part in ("train", "val"):
        file = target / "annotations" / f"instances_{part}.json"
        file.write_text(json.dumps(values | {"images": kept, "annotations": boxes}))
        (target / part).symlink_to((photographs / "train").resolve())


def head(
    towers: Path, train: Path, root: Path, sets: Sequence[str], out: Path, seed: int, steps: int, *more: str
) -> Found:
    """Train a head and score it."""
    if not (out / "scores.json").is_file():
        length = ("--train.duration", f"{steps} steps", "--train.save-every", f"{steps} steps", "--train.seed", seed)
        given = ("--init", towers, "--data.train", train, *ALIKE, *length, *more)
        run("train", "detect", *given, "--resume", "auto", "--out", out)
        asked = ("--tasks", ",".join(f"{name}-detection" for name in sets), "--templates", "plain")
        run("eval", out, "--root", root, *asked, "--out", out / "scores.json")
    records = json.loads((out / "scores.json").read_text())
    return {
        one["dataset"]: {"head": 100 * one["metrics"]["ap50"], "centre box": 100 * one["chance"]["ap50"]}
        for one in records
    }


def objects(towers: Sequence[Path], out: Path, steps: int, *small: object) -> dict[str, Scores]:
    """A head for each of the towers."""
    for own in towers:
        finish(own)
    world = out / "world" / "detection"
    if not world.is_dir():
        run("data", "generate", out / "world", *small)
        move_names(world / "objects_unseen", world / "objects_unseen_moved")
    learnt, resting = (
        [
            head(own, world / "objects", out / "world", WORLD, out / place / str(seed), seed, steps, *rest)
            for seed, own in enumerate(towers)
        ]
        for place, rest in (("objects", TEXT_RESTS), ("objects_resting", BOTH_REST))
    )
    rows = {
        "pairs of training": [one["objects"]["head"] for one in learnt],
        "unseen pairs": [one["objects_unseen"]["head"] for one in learnt],
        "unseen pairs, a centre box": [one["objects_unseen"]["centre box"] for one in learnt],
        "unseen pairs, names moved on": [one["objects_unseen_moved"]["head"] for one in learnt],
        "pairs of training, both towers at rest": [one["objects"]["head"] for one in resting],
        "unseen pairs, both towers at rest": [one["objects_unseen"]["head"] for one in resting],
    }
    return {name: Scores(values) for name, values in rows.items()}


def photographs(data: Path, out: Path, seeds: Sequence[int], steps: int) -> dict[str, Scores]:
    """Twenty learnt by heart, and scored; the same heads on the hundred that they have not seen."""
    sets, source = out / "photographs" / "detection", data / "detection" / "coco_boxes"
    if not sets.is_dir():
        twenty(source, sets / "twenty")
        (sets / "new").symlink_to(source.resolve())
    found = []
    for seed in seeds:
        own = out / "photographs" / str(seed)
        if not (own / "towers" / "checkpoints").is_dir():
            run("train", "clip-tiny", *TOWERS, "--train.seed", seed, "--out", own / "towers")
        asked = (own / "head", seed, steps, *BY_HEART)
        found.append(head(own / "towers", sets / "twenty", sets.parent, ["twenty", "new"], *asked))
    return {
        f"{name}{which}": Scores([one[data_set][column] for one in found])
        for name, data_set in (("twenty by heart", "twenty"), ("100 new photographs", "new"))
        for which, column in (("", "head"), (", a centre box", "centre box"))
    }


def table(rows: Mapping[str, Scores]) -> list[str]:
    """AP50 in percent: mean and spread over the seeds, and each."""
    return [
        "| AP50 | mean | each |",
        "| --- | ---: | ---: |",
        *(f"| {name} | {own} | {', '.join(f'{x:.1f}' for x in own.values)} |" for name, own in rows.items()),
    ]


def margin(rows: Mapping[str, Scores]) -> str:
    """How many times the better of both others the head has, in the worst seed."""
    own, *others = (rows[f"unseen pairs{which}"].values for which in ("", ", a centre box", ", names moved on"))
    worst = min(mine / max(*rest) for mine, *rest in zip(own, *others, strict=True))
    return f"unseen pairs: {worst:.1f} times the better of centre box and moved names, in the worst seed"


def main() -> None:
    """Everything that is not there yet, then the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--towers", type=Path, nargs="*", default=[], help="runs trained on the world with parts")
    parser.add_argument("--steps", type=int, default=250, help="of 20 images of objects with parts")
    parser.add_argument("--data", type=Path, help="$SILC_DATA, with detection/coco_boxes")
    parser.add_argument("--by-heart", type=int, default=400, help="steps of twenty photographs")
    parser.add_argument("--quick", action="store_true", help="one seed and a few steps: whether it runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the photographs")
    asked = parser.parse_args()
    if asked.quick:
        asked.towers, asked.seeds, asked.steps, asked.by_heart = asked.towers[:1], [0], 4, 4
    small = ("--num", 8, "--num-train", 32, "--num-retrieval", 8) if asked.quick else ()
    lines = list[str]()
    if asked.towers:
        rows = objects(asked.towers, asked.out, asked.steps, *small)
        lines += [*table(rows), "", *([] if asked.quick else [margin(rows), ""])]
    if asked.data:
        lines += table(photographs(asked.data, asked.out, asked.seeds, asked.by_heart))
    print("\n".join(lines))
    (asked.out / "table.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
