"""The second stage, end to end: a first stage on noisy pairs scores its own pairs, the better ones are chosen, and
`silc_c_finetune` goes on with them, beside the same steps on all pairs.

    python scripts/second_stage.py out/second_stage                 # three seeds, three arms; docs/results.md
    python scripts/second_stage.py out/quick --quick                # a minute: whether it runs

Pairs are generated objects with parts (one an image), a caption each, of which the share `--noise` leaves something
out, has another name, or has nothing to do with the image. Each seed has a pool of its own. Arms, all from the same
first stage, the same number of steps, the same seed:

* `all`: the pool as it is;
* `selected`: what `silc data select` keeps by the scores of the first stage;
* `right`: the pairs whose caption is right, which only a generated world tells: the most that selecting can give.

The table has each arm's scores on new images, means over the seeds with their standard deviation; below it stand the
differences, taken seed by seed, and precision and recall of what was selected. What is there already is not done
again.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from silc_command import run
from spread import Key, Scores, collect, table

from silc.data.config import ObjectsConfig
from silc.data.objects import GROUNDS, SENTENCES, TRAINING, Layout, captions, content, draw, lay_out, listed
from silc.data.uids import halves

ARMS = {"first": "first stage", "all": "+ all pairs", "selected": "+ selected pairs", "right": "+ right pairs"}
AGAINST = {"all": "first", "selected": "all", "right": "all"}
COLUMNS = {
    ("objects", "acc1"): "acc1",
    ("objects_unseen", "acc1"): "unseen acc1",
    ("objects", "image_retrieval_recall@1"): "T2I R@1",
    ("objects_bodies", "miou"): "bodies mIoU",
    ("objects_grounds", "miou"): "grounds mIoU",
}
TASKS = "objects-zs,objects_unseen-zs,objects-retrieval,objects_bodies-zs-seg,objects_grounds-zs-seg"
TOWERS = {"width": 64, "heads": 2, "mlp": 256}
RECIPE = (
    *("--objective.weight", 1.0, "--data.crops.num-local", 2, "--data.workers", 0, "--model.embed-dim", 64),
    *(
        word
        for tower in ("image", "text")
        for name, value in TOWERS.items()
        for word in (f"--model.{tower}.{name}", value)
    ),
)
"""Narrow towers: three seeds of four trainings are ten minutes of a slow core."""


class Size(NamedTuple):
    """Of the study."""

    pairs: int
    first: str
    second: str
    sets: tuple[object, ...]


FULL = Size(8000, "12k examples", "6k examples", ("--num", 200, "--num-train", 2, "--num-retrieval", 32))
QUICK = Size(600, "256 examples", "256 examples", ("--num", 8, "--num-train", 2, "--num-retrieval", 8))


def right_captions(layout: Layout) -> set[str]:
    """Every caption that tells all of a layout, and nothing else."""
    ground, shown = content(layout)
    orders = [listed(order) for order in permutations(shown)]
    return {frame.format(order, GROUNDS[ground]) for frame in SENTENCES for order in orders}


def write_pool(folder: Path, config: ObjectsConfig, seed: int) -> list[bool]:
    """Shards of `config.num` pairs, whose uids are their numbers; which of them have a right caption."""
    made, rows, right = folder / "made", [], []
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    for number in range(config.num):
        turn = seed, TRAINING, number
        layout = lay_out(turn, config)
        caption = captions(layout, turn, config.caption_noise)[0]
        Image.fromarray(draw(layout, turn, config).pixels).save(made / f"{number:06d}.png", compress_level=1)
        rows.append({"image": f"{number:06d}.png", "caption": caption, "uid": uid(number)})
        right.append(caption in right_captions(layout))
    (made / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("data", "make", made / "pairs.jsonl", "--out", f"{folder}/{{00000..}}.tar", "--per-shard", 1000)
    shutil.rmtree(made)
    return right


def uid(number: int) -> str:
    """Of a pair."""
    return f"{number:032x}"


def one_seed(out: Path, size: Size, seed: int, noise: float, keep: str, arms: Sequence[str]) -> None:
    """Pool, first stage, scores, subsets, and every arm that is not there."""
    pool, place = out / "pool" / f"seed-{seed}", f"seed-{seed}"
    shards, told = f"{pool}/*.tar", pool / "right.json"
    config = ObjectsConfig(num=size.pairs, most=1, caption_noise=noise)
    if not told.is_file():
        told.write_text(json.dumps(write_pool(pool, config, seed)))
    right = json.loads(told.read_text())
    first = out / "first" / place
    trained("silc_c-tiny", first, size.first, shards, seed)
    run("data", "score", shards, "--model", first, "--out", out / "scores" / place, "--device", "cpu")
    subsets = {"selected": out / "selected" / f"{place}.npy", "right": out / "right" / f"{place}.npy"}
    for subset in subsets.values():
        subset.parent.mkdir(exist_ok=True)
    run("data", "select", out / "scores" / place, "--keep", keep, "--out", subsets["selected"])
    np.save(subsets["right"], halves([uid(number) for number in np.flatnonzero(right)]))
    for arm in arms:
        chosen = ("--data.subset", subsets[arm]) if arm in subsets else ()
        trained("silc_c_finetune-tiny", out / arm / place, size.second, shards, seed, "--init", first, *chosen)
    for arm in ("first", *arms):
        if not (out / arm / place / "scores.json").is_file():
            told_to = ("--root", out / "world", "--tasks", TASKS, "--num-pictures", 0, "--cache", "off")
            run("eval", out / arm / place, *told_to, "--out", out / arm / place / "scores.json")


def trained(recipe: str, out: Path, duration: str, shards: str, seed: int, *more: object) -> None:
    """A run, from where it has come to. One that is finished is left alone: scores know it by its configuration too."""
    ended = out / "ended"
    if not ended.is_file():
        given = ("--data.train", shards, *RECIPE, "--train.duration", duration, "--train.seed", seed)
        run("train", recipe, *given, *more, "--resume", "auto", "--out", out)
        ended.touch()


def differences(scores: Mapping[Key, Scores], arms: Sequence[str]) -> list[str]:
    """What each arm changes to the one it is set against: the mean over the seeds, and how many of them are up."""
    lines = []
    for arm in arms:
        for weights in ("student", "teacher"):
            said = []
            for title in COLUMNS.values():
                new, old = scores[arm, weights, title].values, scores[AGAINST[arm], weights, title].values
                changes = [after - before for after, before in zip(new, old, strict=True)]
                ups = sum(change > 0 for change in changes)
                said.append(f"{title} {sum(changes) / len(changes):+.1f} ({ups} of {len(changes)} up)")
            lines.append(f"* {ARMS[arm]}, {weights}, against {ARMS[AGAINST[arm]]}: {', '.join(said)}.")
    return lines


def found(out: Path, seeds: Sequence[int]) -> list[str]:
    """How much of what was selected is right, and how much of what is right was selected; in percent."""
    precisions, recalls, shares = [], [], []
    for seed in seeds:
        right = np.array(json.loads((out / "pool" / f"seed-{seed}" / "right.json").read_text()))
        chosen = np.load(out / "selected" / f"seed-{seed}.npy")["f1"].astype(np.int64)
        precisions.append(100 * right[chosen].mean())
        recalls.append(100 * right[chosen].sum() / right.sum())
        shares.append(100 * right.mean())
    return [
        f"Of the pairs {Scores(shares)} % have a right caption; of those that were selected {Scores(precisions)} %, "
        f"which are {Scores(recalls)} % of the right ones."
    ]


def main() -> None:
    """Everything that is not there yet, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=["all", "selected", "right"])
    parser.add_argument("--noise", type=float, default=0.5, help="share of the captions that are made wrong")
    parser.add_argument("--keep", default="clip_score top 30%", help="DataComp's fraction, by default")
    parser.add_argument("--quick", action="store_true", help="one seed and a few steps: whether it runs")
    asked = parser.parse_args()
    seeds, size, out = ([0], QUICK, asked.out) if asked.quick else (asked.seeds, FULL, asked.out)
    if not (out / "world").is_dir():
        run("data", "generate", out / "world", "--objects.most", 1, *size.sets)
    for seed in seeds:
        one_seed(out, size, seed, asked.noise, asked.keep, asked.arms)
    rows = {name: label for name, label in ARMS.items() if name in ("first", *asked.arms)}
    scores, chance = collect({name: out / name for name in rows}, COLUMNS)
    lines = [*table(rows, list(COLUMNS.values()), scores, chance), "", *differences(scores, asked.arms), ""]
    lines += found(out, seeds)
    print("\n".join(lines))
    (out / "table.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
