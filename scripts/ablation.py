"""The data and the tables of scripts/ablation.sh.

* `python scripts/ablation.py data out/ablation/data --size tiny`: the evaluation scenes
* `python scripts/ablation.py weight --size tiny`: w of the recipe
* `python scripts/ablation.py equal --size tiny --duration "25k examples"`: rows at another's training FLOPs
* `python scripts/ablation.py table out/ablation --docs docs`: mean and spread of what has been scored
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from spread import Cost, Key, Scores, collect, costs, differences, into, table

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
EQUAL = {
    "clip-flops": ("clip", "silc_c"),
    "clip_views-flops": ("clip_views", "silc_c"),
    "siglip-flops": ("siglip", "silc_s"),
}
"""Longer runs of a row, at the training FLOPs of another for the usual examples."""
AT_EQUAL_FLOPS = {
    "clip-flops": "CLIP, longer",
    "clip_views-flops": "CLIP + additional views, longer",
    "silc_c": ROWS["silc_c"],
    "siglip-flops": "SigLIP, longer",
    "silc_s": ROWS["silc_s"],
}
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


def report(scores: Mapping[Key, Scores], chance: Mapping[str, float], spent: Mapping[str, Cost], plot: str) -> str:
    """The section of docs/results.md."""
    return "\n".join(
        [
            "## Ablation on generated scenes",
            "",
            "Scores in percent, mean and standard deviation over the seeds, at equal examples. A difference counts as",
            "outside the spread where every seed of one row beats every seed of the other; nothing else is claimed.",
            "",
            *table(ROWS, TITLES, scores, chance, spent),
            "",
            *differences(ROWS, BEFORE, TITLES, scores),
            "",
            *_equal(scores, chance, spent, plot),
            "The weight w of self-distillation in SILC-C:",
            "",
            *table(WEIGHTS, TITLES, scores, chance),
            "",
            f"![Scores of every seed]({plot})",
            "",
        ]
    )


def _equal(
    scores: Mapping[Key, Scores], chance: Mapping[str, float], spent: Mapping[str, Cost], plot: str
) -> list[str]:
    """The rows without self-distillation at the training FLOPs of those with it, where they have been run."""
    there = {name for name, _, _ in scores}
    rows = {name: label for name, label in AT_EQUAL_FLOPS.items() if name in there}
    pairs = [(whose, name) for name, (_, whose) in EQUAL.items() if {name, whose} <= there]
    if not pairs:
        return []
    compared = [line for whose, name in pairs for line in differences(rows, {whose: name}, TITLES, scores)]
    return [
        "At equal training FLOPs, the rows without self-distillation trained for longer:",
        "",
        *table(rows, TITLES, scores, chance, spent),
        "",
        *compared,
        "",
        f"![Scores against training FLOPs]({plot.replace('.svg', '-flops.svg')})",
        "",
    ]


def draw_costs(scores: Mapping[Key, Scores], spent: Mapping[str, Cost], path: Path) -> None:
    """Mean scores, the teacher's where there is one, against training FLOPs; a line joins a row and its longer run."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure, handles = Figure(figsize=(12, 2.6 * len(COLUMNS)), layout="constrained"), {}
    for axes, column in zip(figure.subplots(len(COLUMNS), 1, sharex=True), COLUMNS.values(), strict=True):
        axes.set_title(f"{column} in %", loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        axes.set_xscale("log")
        for place, (row, label) in enumerate(ROWS.items()):
            points = []
            for name in (row, f"{row}-flops"):
                own = scores.get((name, "teacher", column)) or scores.get((name, "student", column))
                if own and name in spent:
                    points.append((spent[name].flops, own.mean, own.spread))
            if points:
                flops, means, spreads = zip(*points, strict=True)
                style = {"color": f"C{place}", "marker": "o", "markersize": 4, "capsize": 2}
                handles[label] = axes.errorbar(flops, means, yerr=spreads, **style)
    figure.axes[-1].set_xlabel("training FLOPs", fontsize=9)
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False, fontsize=9)
    FigureCanvasSVG(figure).print_svg(str(path), metadata={"Date": None})


def equal_flops(size: str, duration: str) -> list[tuple[str, str, int]]:
    """(name, recipe, examples) of the longer runs."""
    from silc.pretraining.build import flops_per_example
    from silc.training.config import examples_of

    def flops(name: str) -> float:
        return flops_per_example(recipes.get(f"{name}-{size}"), vocab_size=512, eos_id=1)

    base = recipe(size)
    batch = base.train.batch_size
    examples = examples_of(duration, batch_size=batch, steps_per_epoch=base.data.scenes.num // batch)
    return [(name, row, round(examples * flops(whose) / flops(row))) for name, (row, whose) in EQUAL.items()]


def draw(scores: Mapping[Key, Scores], chance: Mapping[str, float], path: Path) -> None:
    """Every seed as a dot, the mean as a line, a panel per score."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    names = {**ROWS, **{name: AT_EQUAL_FLOPS[name] for name in EQUAL}, **WEIGHTS}
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
    equal = commands.add_parser("equal", help="name, recipe and examples of rows at another's training FLOPs")
    equal.add_argument("--size", default="tiny", help="size of the recipes")
    equal.add_argument("--duration", default="25k examples", help="of the other rows")
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
    if command == "equal":
        for name, row, examples in equal_flops(args["size"], args["duration"]):
            print(name, row, examples)
        return
    folders = {name: _folder(args["out"], name) for name in [*ROWS, *EQUAL, *WEIGHTS]}
    (scores, chance), spent = collect(folders, COLUMNS), costs(folders)
    if not scores:
        raise SystemExit(f"{args['out']} holds no scored run; scripts/ablation.sh makes them")
    section = report(scores, chance, spent, "ablation.svg")
    (args["out"] / "ablation.md").write_text(section)
    if args["docs"]:
        results = args["docs"] / "results.md"
        results.write_text(into(results.read_text() if results.is_file() else "", section, START, END))
    for folder in filter(None, (args["out"], args["docs"])):
        draw(scores, chance, folder / "ablation.svg")
        if spent:
            draw_costs(scores, spent, folder / "ablation-flops.svg")
    print(section)


if __name__ == "__main__":
    main()
