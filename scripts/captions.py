"""Captions and answers by text decoders on frozen image towers, over seeds: silc_c beside clip, and teacher beside
student, in the same training on the same data.

    python -m scripts.captions out/captions --towers out/evidence/rows --data $SILC_DATA
    python -m scripts.captions out/quick --quick                       # a minute: whether it runs

Towers are looked for as TOWERS/RECIPE/seed-N, as `scripts.evidence` leaves them (25k examples of the generated world);
those that are missing are trained. STUDIES names what a decoder learns. Beside each mean and its standard deviation
over the seeds stand the same score without images: of questions the commonest answer to questions alike, of captions
the commonest caption. What is there already is not done again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from scripts.silc_command import finish, run
from scripts.spread import Scores


class Study(NamedTuple):
    """What a decoder learns, and what it is scored on."""

    train: str
    tasks: str
    root: str
    texts: int
    """That it sees in training."""
    size: int
    """Side of its images in pixels."""
    batch: int = 32
    lr: str = "2e-3"
    more: tuple[str, ...] = ()
    """Further flags."""


STUDIES = {
    "easy_vqa": Study("vqa:{data}/vqa/easy_vqa", "easy_vqa-vqa", "{data}", 20_000, 96, 16, "1e-3", ("--whiten",)),
    "world": Study(
        "caption:{world}/retrieval/objects/train,vqa:{world}/vqa/objects",
        "objects-caption,objects-vqa",
        "{world}",
        20_000,
        48,
    ),
    "daquar": Study("vqa:{data}/vqa/daquar", "daquar-vqa", "{data}", 12_800, 96),
    "flickr8k": Study(
        "caption:{data}/train/flickr8k-{{000000..000004}}.tar", "flickr8k_test-caption", "{data}", 20_000, 96
    ),
}
ARMS = ("silc_c/teacher", "silc_c/student", "clip_views_ema/teacher", "clip_views_ema/student")
"""Recipe of the towers, and which of theirs."""
DECODER = (
    *("--depth", "2", "--width", "128", "--heads", "4", "--length", "64", "--data.vocab-size", "1024"),
    *("--data.workers", "0"),
    *("--train.precision", "float32", "--train.log-every", "100 steps"),
)
"""A decoder for towers of 48 pixels."""
SHOWN = ("accuracy", "cider")
"""Metrics of the table."""


def decoder(study: Study, towers: Path, which: str, cache: Path, out: Path, seed: int, steps: int) -> None:
    """Train a decoder and score it."""
    if not (out / "done").is_file():
        given = (
            "--init",
            towers,
            "--weights",
            which,
            "--data.train",
            study.train,
            "--data.cache",
            cache,
            "--size",
            study.size,
            "--train.batch-size",
            study.batch,
            "--train.optim.lr",
            study.lr,
            *study.more,
        )
        long = ("--train.duration", f"{steps} steps", "--train.save-every", f"{steps} steps", "--train.seed", seed)
        run("train", "decoder", *given, *DECODER, *long, "--out", out, "--resume", "auto")
        run("eval", out, "--root", study.root, "--tasks", study.tasks, "--out", out / "scores.json", "--no-photographs")
        (out / "done").touch()


def summary(arms: dict[str, list[Path]]) -> Iterator[str]:
    """A line of Markdown for each score: of each arm over its seeds, and without images."""
    read = {arm: [json.loads((one / "scores.json").read_text()) for one in places] for arm, places in arms.items()}
    first: list[dict[str, Any]] = next(iter(read.values()))[0]
    for number, record in enumerate(first):
        for metric in (one for one in SHOWN if one in record["metrics"]):
            cells = []
            for arm, seeds in read.items():
                values = [100 * records[number]["metrics"][metric] for records in seeds]
                cells.append(f"{arm} {Scores(values)} (least {min(values):.1f})")
            chance = f"without images {100 * record['chance'][metric]:.1f}"
            yield f"| {record['dataset']} | {metric} | {' | '.join(cells)} | {chance} |"


def towers_of(folder: Path, recipe: str, seed: int, quick: bool) -> Path:
    """The towers of a recipe and a seed, trained if they are not there."""
    towers = folder / recipe / f"seed-{seed}"
    if (towers / "checkpoints").is_dir():
        finish(towers)
    else:
        short = ("--train.duration", "2 steps", "--train.optim.warmup", "0 steps") if quick else ()
        run("train", f"{recipe}-tiny", "--data.source", "objects", "--train.seed", seed, *short, "--out", towers)
    return towers


def main() -> None:
    """Everything that is not there yet, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--towers", type=Path, help="folder of the towers; by default towers/ in OUT")
    parser.add_argument("--data", type=Path, help="$SILC_DATA; needed for all studies but `world`")
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--quick", action="store_true", help="the world alone, one seed, one arm, a few steps")
    asked = parser.parse_args()
    quick: bool = asked.quick
    studies, arms, seeds = (["world"], ARMS[:1], [1]) if quick else (asked.studies, asked.arms, asked.seeds)
    if asked.data is None and studies != ["world"]:
        parser.error("--data is needed for all studies but `world`")
    world = asked.out / "world"
    if "world" in studies and not world.is_dir():
        few = ("--num", 8, "--num-train", 16, "--num-retrieval", 8)
        run("data", "generate", world, *(few if quick else ("--num", 500, "--num-train", 3000)))
    lines: list[str] = []
    for name in studies:
        places = {"data": asked.data, "world": world}
        study = STUDIES[name]._replace(
            train=STUDIES[name].train.format(**places), root=STUDIES[name].root.format(**places)
        )
        steps = 2 if quick else study.texts // study.batch
        made: dict[str, list[Path]] = {arm: [] for arm in arms}
        for seed in seeds:
            for arm in arms:
                recipe, which = arm.split("/")
                towers = towers_of(asked.towers or asked.out / "towers", recipe, seed, quick)
                out = asked.out / name / recipe / f"{which}-{seed}"
                decoder(study, towers, which, asked.out / "tokens", out, seed, steps)
                made[arm].append(out)
        lines += summary(made)
        print("\n".join(lines))
    (asked.out / "table.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
