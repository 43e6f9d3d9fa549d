"""The data and the tables of scripts/ablation.sh.

* `python scripts/ablation.py data out/ablation/data --size tiny`: the evaluation scenes
* `python scripts/ablation.py weight --size tiny`: w of the recipe
* `python scripts/ablation.py table out/ablation --docs docs`: mean and spread of what has been scored
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from spread import Key, Scores, collect, differences, into, table

from silc import recipes
from silc.config import Config

ROWS = {
    "clip": "CLIP",
    "clip_views": "+ additional views",
    "clip_views_ema": "+ EMA teacher",
    "silc_c": "+ self-distillation (SILC-C)",
    "siglip": "SigLIP",
    "silc_s": "SILC-S",
}
BEFORE = {"clip_views": "clip", "clip_views_ema": "clip_views", "silc_c": "clip_views_ema", "silc_s": "siglip"}
"""What each row is compared with."""
WEIGHTS = {f"silc_c-w{weight}": f"w = {weight}" for weight in ("0.03", "0.1", "0.3", "1")}
COLUMNS = {
    ("scenes", "text_retrieval_recall@1"): "I2T R@1",
    ("scenes", "image_retrieval_recall@1"): "T2I R@1",
    ("scenes_seen", "acc1"): "seen acc1",
    ("scenes_heldout", "acc1"): "held-out acc1",
    ("scenes", "miou"): "mIoU",
}
TITLES = list(COLUMNS.values())
START, END = "<!-- ablation: written by scripts/ablation.sh -->", "<!-- ablation: end -->"
COLOURS = {"student": "#3b82f6", "teacher": "#f97316"}


def _folder(out: Path, name: str) -> Path:
    """Where a row's runs are; the recipe's own weight is not trained twice."""
    folder = out / name
    if name in WEIGHTS and not folder.is_dir():
        for file in (out / "silc_c").glob("seed-*/config.yaml"):
            if f"silc_c-w{yaml.safe_load(file.read_text())['objective']['weight']:g}" == name:
                return out / "silc_c"
    return folder


def report(scores: Mapping[Key, Scores], chance: Mapping[str, float], plot: str) -> str:
    """The section of docs/results.md."""
    return "\n".join(
        [
            "## Ablation on generated scenes",
            "",
            "Scores in percent, mean and standard deviation over the seeds, at equal examples. A difference counts as",
            "outside the spread where every seed of one row beats every seed of the other; nothing else is claimed.",
            "",
            *table(ROWS, TITLES, scores, chance),
            "",
            *differences(ROWS, BEFORE, TITLES, scores),
            "",
            "The weight w of self-distillation in SILC-C:",
            "",
            *table(WEIGHTS, TITLES, scores, chance),
            "",
            f"![Scores of every seed]({plot})",
            "",
        ]
    )


def draw(scores: Mapping[Key, Scores], chance: Mapping[str, float], path: Path) -> None:
    """Every seed as a dot, the mean as a line, a panel per score."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    names = {**ROWS, **WEIGHTS}
    figure = Figure(figsize=(12, 2.6 * len(COLUMNS)), layout="constrained")
    for axes, column in zip(figure.subplots(len(COLUMNS), 1, sharex=True), COLUMNS.values(), strict=True):
        axes.set_title(f"{column} in %", loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
        for place, name in enumerate(names):
            for shift, weights in ((-0.12, "student"), (0.12, "teacher")):
                own = scores.get((name, weights, column))
                if own:
                    x = place + shift
                    axes.plot([x] * len(own.values), own.values, "o", color=COLOURS[weights], markersize=4, alpha=0.7)
                    axes.plot([x - 0.09, x + 0.09], [own.mean] * 2, color=COLOURS[weights], linewidth=2)
        if column in chance:
            axes.axhline(chance[column], color="#888", linestyle="--", linewidth=0.9)
        axes.set_xticks(range(len(names)), list(names.values()), rotation=20, ha="right", fontsize=9)
    handles = [figure.axes[0].plot([], [], "o", color=colour, label=weights)[0] for weights, colour in COLOURS.items()]
    figure.axes[0].legend(handles=handles, frameon=False, fontsize=9)
    FigureCanvasSVG(figure).print_svg(str(path), metadata={"Date": None})


def write_data(folder: Path, size: str, **counts: Any) -> None:
    """Evaluation scenes of the size the recipe trains at; nothing if they are there."""
    from silc.data.scenes import write_sets

    if not (folder / "segmentation").is_dir():
        write_sets(folder, size=recipe(size).model.image.size, seed=0, **counts)


def recipe(size: str) -> Config:
    """SILC-C at this size."""
    return recipes.get(f"silc_c-{size}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    data = commands.add_parser("data", help="write the evaluation scenes")
    data.add_argument("folder", type=Path)
    data.add_argument("--size", default="tiny", help="size of the recipes")
    data.add_argument("--num-retrieval", type=int, default=1000)
    data.add_argument("--num-segmentation", type=int, default=200)
    data.add_argument("--per-class", type=int, default=20)
    weight = commands.add_parser("weight", help="w of self-distillation in the recipe")
    weight.add_argument("--size", default="tiny", help="size of the recipes")
    tables = commands.add_parser("table", help="mean and spread of what has been scored")
    tables.add_argument("out", type=Path)
    tables.add_argument("--docs", type=Path, help="folder whose results.md gets the section")
    args = vars(parser.parse_args())
    command = args.pop("command")
    if command == "data":
        write_data(args.pop("folder"), args.pop("size"), **args)
        return
    if command == "weight":
        print(f"{recipe(args['size']).objective.weight:g}")
        return
    scores, chance = collect({name: _folder(args["out"], name) for name in [*ROWS, *WEIGHTS]}, COLUMNS)
    if not scores:
        raise SystemExit(f"{args['out']} holds no scored run; scripts/ablation.sh makes them")
    section = report(scores, chance, "ablation.svg")
    (args["out"] / "ablation.md").write_text(section)
    draw(scores, chance, args["out"] / "ablation.svg")
    if args["docs"]:
        results = args["docs"] / "results.md"
        results.write_text(into(results.read_text() if results.is_file() else "", section, START, END))
        draw(scores, chance, args["docs"] / "ablation.svg")
    print(section)


if __name__ == "__main__":
    main()
