"""CAT-Seg on our own clip and silc_c over several seeds: what a head adds to the towers' cosines, on names and images
that its training did not show.

    python -m scripts.open_vocabulary out/open_vocabulary                          # generated objects, three seeds
    python -m scripts.open_vocabulary out/open_vocabulary --real out/real --data $SILC_DATA     # photographs besides
    python -m scripts.open_vocabulary OUT --only photographs --real out/real --data $SILC_DATA
    python -m scripts.open_vocabulary OUT --towers out/evidence/rows --seeds 1 2 3 # on runs that are there
    python -m scripts.open_vocabulary out/quick --quick                            # minutes: whether it runs

Objects: towers of each seed (`clip-tiny`, `silc_c-tiny`), trained unless `--towers` has them; heads learn from the
world's training part and are scored on new images, and on pairs of name and ground that training never shows.
Photographs: towers of `scripts/real_photographs.sh`; heads of each seed learn from the 50 images of VOC's train_aug and
are scored on its val, and on COCO's 133 classes, most of them new. Beside each mean and its standard deviation over the
seeds stand the untrained head, the towers' cosines, the best constant answer and chance. The same command goes on where
it stopped.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path

from scripts.silc_command import finish, run

RECIPES, OBJECTS, PHOTOGRAPHS = ("clip", "silc_c"), ("objects", "objects_unseen"), ("voc2012", "coco_panoptic133")
HEAD = (
    *("--templates", "plain", "--aggregator.width", "32", "--aggregator.guidance", "16"),
    *("--aggregator.decoder", "16", "16", "--aggregator.decoder-guidance", "32", "16"),
    *("--aggregator.decoder-projected", "8", "4", "--train.batch-size", "8", "--train.optim.lr", "1e-3"),
    *("--train.optim.clip-norm", "1.0", "--data.workers", "0"),
)
"""A head for towers of 48 and 64 pixels."""


def run_to_the_end(kind: str, *args: object) -> None:
    """Train, from the last checkpoint where there is one: a run that was stopped is not taken for a finished one."""
    run("train", kind, *args, "--resume", "auto")


def voc_parts(data: Path, out: Path, of_coco: int) -> None:
    """VOC's images in two parts: train_aug to learn from, and val to be scored on; beside them COCO's first."""
    source, target = data / "segmentation" / "voc2012", out / "segmentation" / "voc2012"
    for row in json.loads((source / "meta.json").read_text()):
        part = target / "train" if row["voc_split"] == "train_aug" else target
        for kind in ("images", "labels"):
            (part / kind).mkdir(parents=True, exist_ok=True)
            for file in (source / kind).glob(f"{row['id']}.*"):
                shutil.copyfile(file, part / kind / file.name)
    shutil.copyfile(source / "classes.txt", target / "classes.txt")
    source, target = (place / "segmentation" / "coco_panoptic133" for place in (data, out))
    shutil.rmtree(target, ignore_errors=True)  # another number of photographs may be there
    for kind in ("images", "labels"):
        (target / kind).mkdir(parents=True)
        for file in sorted((source / kind).iterdir())[:of_coco]:
            shutil.copyfile(file, target / kind / file.name)
    shutil.copyfile(source / "classes.txt", target / "classes.txt")


def head(
    towers: Path, root: Path, train: str, sets: Sequence[str], out: Path, seed: int, crop: int, steps: int
) -> None:
    """Train a head and score it, before training too, beside its towers."""
    tasks = ",".join(f"{name}-ov-seg" for name in sets)
    along = ("--train.eval-every", f"{steps} steps", "--eval.root", root, "--eval.tasks", tasks)
    given = ("--init", towers, "--data.train", root / "segmentation" / train, "--crop", crop, *HEAD, *along)
    run_to_the_end("catseg", *given, "--train.duration", f"{steps} steps", "--train.seed", seed, "--out", out)
    run("eval", towers, "--root", root, "--tasks", tasks, "--out", out / "towers.json")


def summary(heads: Sequence[Path], sets: Sequence[str]) -> list[str]:
    """A line of Markdown for each set: mIoU in percent."""
    lines = []
    for name in sets:
        rows: dict[str, list[float]] = {}
        for folder in heads:
            task = f"eval/catseg/{name}-ov-seg/miou"
            logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            scores = [line[task] for line in logged if task in line]
            rows.setdefault("start", []).append(scores[0])
            rows.setdefault("head", []).append(scores[-1])
            for record in json.loads((folder / "towers.json").read_text()):
                if record["dataset"] == name:
                    rows.setdefault(f"cosines, {record['weights']}", []).append(record["metrics"]["miou"])
                    rows["constant"] = [record["chance"]["best_constant_miou"]]
                    rows["chance"] = [record["chance"]["miou"]]
        cells = [f"{which} {100 * statistics.fmean(x):.1f}{_spread(x)}" for which, x in rows.items()]
        worst, bar = (
            min(rows["head"]),
            max(max(x) for which, x in rows.items() if which in ("start", "constant", "chance")),
        )
        cells.append("every seed above start, constant and chance" if worst > bar else "NOT above in every seed")
        best = max((x for which, x in rows.items() if which.startswith("cosines")), key=statistics.fmean)
        gains = [ours - theirs for ours, theirs in zip(rows["head"], best, strict=True)]
        cells.append(f"head less best cosines {100 * statistics.fmean(gains):+.1f}{_spread(gains)}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _spread(values: Sequence[float]) -> str:
    return f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""


def objects(recipe: str, towers: Path | None, out: Path, seeds: Sequence[int], steps: int, quick: bool) -> list[str]:
    """Heads on generated objects; towers are trained where none are given."""
    places = [out / "objects" / recipe / f"head-{seed}" for seed in seeds]
    for seed, place in zip(seeds, places, strict=True):
        own = towers / recipe / f"seed-{seed}" if towers else out / "objects" / recipe / f"towers-{seed}"
        if towers:
            finish(own)
        else:
            short = ("--train.duration", "2 steps", "--train.optim.warmup", "0 steps") if quick else ()
            shown = ("--data.source", "objects", "--train.seed", seed)
            run_to_the_end(f"{recipe}-tiny", *shown, *short, "--out", own)
        head(own, out / "world", "objects", OBJECTS, place, seed, 48, steps)
    return [f"| {recipe} {line}" for line in summary(places, OBJECTS)]


def photographs(recipe: str, real: Path, out: Path, seeds: Sequence[int], steps: int) -> list[str]:
    """Heads on photographs, on the one run of the recipe."""
    places = [out / "photographs" / recipe / f"head-{seed}" for seed in seeds]
    finish(real / recipe)
    for seed, place in zip(seeds, places, strict=True):
        head(real / recipe, out / "photographs", "voc2012", PHOTOGRAPHS, place, seed, 64, steps)
    return [f"| {recipe} {line}" for line in summary(places, PHOTOGRAPHS)]


def main() -> None:
    """Everything that is not there yet, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=RECIPES)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--images", type=int, default=200, help="generated images of each set that is scored")
    parser.add_argument("--towers", type=Path, help="a folder with RECIPE/seed-N, trained, as scripts/evidence.py has")
    parser.add_argument("--real", type=Path, help="the folder of scripts/real_photographs.sh")
    parser.add_argument(
        "--data", type=Path, help="$SILC_DATA, with segmentation/voc2012 and segmentation/coco_panoptic133"
    )
    parser.add_argument("--only", choices=["photographs"], help="leave the objects out")
    parser.add_argument("--coco", type=int, default=100, help="how many photographs are scored on COCO's 133 classes")
    parser.add_argument("--quick", action="store_true", help="one seed and a few steps: whether it runs")
    asked = parser.parse_args()
    seeds, steps, out = ([0], 4, asked.out) if asked.quick else (asked.seeds, asked.steps, asked.out)
    on_objects, on_photographs = asked.only != "photographs", asked.only == "photographs" or bool(asked.real)
    if on_photographs and not (asked.real and asked.data):
        parser.error("photographs need --real and --data")
    if on_objects and not (out / "world").is_dir():
        counts = ("--num", 8, "--num-train", 32, "--num-retrieval", 8) if asked.quick else ("--num", asked.images)
        run("data", "generate", out / "world", *counts)
    if on_photographs:
        voc_parts(asked.data, out / "photographs", asked.coco)
    lines = list[str]()
    for recipe in asked.recipes:
        if on_objects:
            lines += objects(recipe, asked.towers, out, seeds, steps, asked.quick)
        if on_photographs:
            lines += photographs(recipe, asked.real, out, seeds, steps)
    print("\n".join(lines))
    (out / "table.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
