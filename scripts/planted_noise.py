"""How well the filters of `silc data select` find noise: precision and recall on photographs, spoilt for it.

    python scripts/planted_noise.py $SILC_DATA out/noise           # docs/results.md
    python scripts/planted_noise.py $SILC_DATA out/quick --quick   # whether it runs

The pairs: Flickr8k's 1,000 test photographs, spoilt as web-like shards are (650 clean; 150 captions of another picture,
50 copies, 50 near copies, 50 tiny pictures, 25 captions in other languages, 25 of junk). A copy is found when it or its
original goes. The scorer never saw them: a CLIP that is trained here on the pictures of Tiny ImageNet in `pretrain64`
(keys `n0...`) and their made captions, alone. Beside the filters stands what choosing as many at random would give.

The same filters then choose from `curation`, whose noise is not told: how many go, beside how many were planted.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import shutil
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageEnhance
from silc_command import run

PLANTED = {"mismatch": 150, "copy": 50, "near copy": 50, "tiny": 50, "foreign": 25, "junk": 25}
"""Of 1,000 pairs, as in the README of `curation`."""
FOREIGN = (
    "Zwei Hunde laufen über eine grüne Wiese",
    "Ein Mann mit rotem Hut steht am Wasser",
    "Deux enfants jouent au ballon dans la rue",
    "Une femme regarde la mer depuis un rocher",
    "Un perro salta para atrapar una pelota",
    "Tres personas caminan por la playa al atardecer",
    "Un ragazzo corre nel parco con il suo cane",
    "Een jongen springt van een duikplank in het zwembad",
    "Dwoje dzieci bawi się na śniegu przed domem",
)
JUNK = ("IMG_{}.JPG", "DSC0{}", "free shipping on {} items", "click to enlarge", "untitled", "page {}", "photo {}")
FILTERS = {
    "tiny": "width >= 40 and height >= 40",
    "language": "english > 0.05",
    "words": "words > 2",
    "copies": "distinct sha256",
    "near copies": "distinct phash",
    "score": "clip_score top 70%",
}
"""In the order in which "all" joins them."""
TRAINING = (
    *("--data.vocab-size", 2048, "--data.workers", 0),
    *("--model.image.width", 64, "--model.image.heads", 2, "--model.image.mlp", 256, "--model.embed-dim", 64),
    *("--model.text.width", 64, "--model.text.heads", 2, "--model.text.mlp", 256),
)


@dataclass(frozen=True)
class Planted:
    """A pair as it was made."""

    image: bytes
    caption: str
    kind: str
    """Of noise; empty for a clean one."""
    original: int = -1
    """Number of the pair that a copy is of."""


def spoilt(images: Sequence[bytes], captions: Sequence[str], seed: int) -> list[Planted]:
    """The pairs, of which as many as `PLANTED` says, a thousandth of each for every pair, are made noise."""
    rng = random.Random(seed)
    order = rng.sample(range(len(images)), len(images))
    kinds = [kind for kind, count in PLANTED.items() for _ in range(count * len(images) // 1000)]
    noisy, clean = order[: len(kinds)], order[len(kinds) :]
    found = [Planted(image, caption, "") for image, caption in zip(images, captions, strict=True)]
    copied = iter(rng.sample(clean, kinds.count("copy") + kinds.count("near copy")))
    for number, kind in zip(noisy, kinds, strict=True):
        image, caption = images[number], captions[number]
        if kind == "mismatch":
            found[number] = Planted(image, captions[rng.choice([one for one in clean if one != number])], kind)
        elif kind in ("copy", "near copy"):
            of = next(copied)
            found[number] = Planted(images[of] if kind == "copy" else nearly(images[of], rng), captions[of], kind, of)
        elif kind == "tiny":
            side = rng.randint(8, 24)
            found[number] = Planted(changed(image, lambda shown, to=side: shown.resize((to, to))), caption, kind)  # type: ignore[misc]
        else:
            text = rng.choice(FOREIGN if kind == "foreign" else JUNK)
            found[number] = Planted(image, text.format(rng.randint(100, 999)), kind)
    return found


def nearly(image: bytes, rng: random.Random) -> bytes:
    """A copy that was cropped by at most a tenth, scaled or made brighter, and saved again."""

    def change(shown: Image.Image) -> Image.Image:
        width, height = shown.size
        off = rng.choice((0, rng.uniform(0.02, 0.1)))
        shown = shown.crop((int(off * width), int(off * height), width, height))
        scale = rng.uniform(0.7, 1.2)
        shown = shown.resize((round(scale * width), round(scale * height)))
        return ImageEnhance.Brightness(shown).enhance(rng.choice((1, rng.uniform(0.8, 1.2))))

    return changed(image, change)


def changed(image: bytes, change: Callable[[Image.Image], Image.Image]) -> bytes:
    """A JPEG, changed."""
    out = io.BytesIO()
    change(Image.open(io.BytesIO(image)).convert("RGB")).save(out, "JPEG", quality=80)
    return out.getvalue()


def told(kept: set[int], pairs: Sequence[Planted]) -> tuple[float, float, dict[str, float]]:
    """Precision and recall of what is kept, and the share of each kind of noise that goes; in percent.

    A copy that stays is clean if its original is gone, and then stands for it.
    """
    stands_for = {
        number: pair.original
        for number, pair in enumerate(pairs)
        if number in kept and pair.original >= 0 and pair.original not in kept
    }
    clean = {number for number in kept if not pairs[number].kind} | set(stands_for.values())
    gone = {
        kind: [number not in kept or number in stands_for for number, pair in enumerate(pairs) if pair.kind == kind]
        for kind in PLANTED
    }
    total = sum(not pair.kind for pair in pairs)
    shares = {kind: 100 * sum(each) / len(each) for kind, each in gone.items() if each}
    return 100 * len(clean) / len(kept), 100 * len(clean) / total, shares


def area_under(scores: np.ndarray, clean: np.ndarray) -> float:
    """How often a clean pair's score is above a noisy one's; 50 by chance, in percent."""
    above = scores[clean][:, None] - scores[~clean][None, :]
    return float(100 * ((above > 0) + 0.5 * (above == 0)).mean())


def scorer(data: Path, out: Path, *, quick: bool) -> Path:
    """A CLIP of Tiny ImageNet's pictures in `pretrain64`."""
    model, shards = out / "scorer", out / "shards"
    if not shards.is_dir():
        shards.mkdir(parents=True)
        for packed in sorted((data / "pretrain64").glob("*.tar.gz"))[: 1 if quick else None]:
            with tarfile.open(packed) as source, tarfile.open(shards / packed.stem, "w") as target:
                for member in source:
                    if member.name.startswith("n0"):
                        target.addfile(member, source.extractfile(member))
    length = "256 examples" if quick else "2 epochs"
    run(
        "train",
        "clip-tiny",
        "--data.train",
        f"{shards}/*.tar",
        *TRAINING,
        "--train.duration",
        length,
        "--resume",
        "auto",
        "--out",
        model,
    )
    return model


def pairs_of(data: Path, num: int) -> tuple[list[bytes], list[str]]:
    """Photographs that the scorer never saw, each with its first caption."""
    folder = data / "retrieval" / "flickr8k_test"
    rows = json.loads((folder / "captions.json").read_text())[:num]
    return [(folder / row["image"]).read_bytes() for row in rows], [row["captions"][0] for row in rows]


def shards_of(pairs: Sequence[Planted], out: Path) -> Path:
    """A shard of them, their numbers as uids."""
    made = out / "made"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    lines = []
    for number, pair in enumerate(pairs):
        (made / f"{number:04d}.jpg").write_bytes(pair.image)
        lines.append(json.dumps({"image": f"{number:04d}.jpg", "caption": pair.caption, "uid": f"{number:032x}"}))
    (made / "pairs.jsonl").write_text("\n".join(lines))
    run("data", "make", made / "pairs.jsonl", "--out", f"{out}/{{0..}}.tar")
    return out / "0.tar"


def chosen(scores: Path, out: Path) -> dict[str, set[int]]:
    """What each filter keeps, and all of them, by the second half of the uids."""
    out.mkdir(exist_ok=True)
    *pixels_and_words, score = FILTERS.values()
    keeps = {
        **FILTERS,
        "all but the score": " and ".join(pixels_and_words),
        "all": " and ".join([*pixels_and_words, score]),
        "near copies, by embedding": "distinct 0.98",
    }
    found = {}
    for name, keep in keeps.items():
        clusters = ("--centroids", 16) if keep.startswith("distinct 0") else ()
        run("data", "select", scores, "--keep", keep, *clusters, "--out", out / f"{name}.npy")
        found[name] = set(np.load(out / f"{name}.npy")["f1"].tolist())
    return found


def table(found: Mapping[str, set[int]], pairs: Sequence[Planted]) -> list[str]:
    """Markdown: a line for each filter."""
    share = 100 * sum(not pair.kind for pair in pairs) / len(pairs)
    lines = [
        "| filter | kept | precision | at random | recall | at random | " + " | ".join(PLANTED) + " |",
        "| --- |" + " ---: |" * (5 + len(PLANTED)),
    ]
    for name, kept in found.items():
        precision, recall, gone = told(kept, pairs)
        cells = [f"{gone[kind]:.0f}" if kind in gone else "" for kind in PLANTED]
        numbers = f"{precision:.1f} | {share:.1f} | {recall:.1f} | {100 * len(kept) / len(pairs):.1f}"
        lines.append(f"| {name} | {len(kept)} | {numbers} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """The scorer, if it is not there; then both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="$SILC_DATA, with pretrain64, retrieval/flickr8k_test and curation")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="of what is planted where")
    parser.add_argument("--quick", action="store_true", help="a part of it and a few steps: whether it runs")
    asked = parser.parse_args()
    model = scorer(asked.data, asked.out, quick=asked.quick)
    pairs = spoilt(*pairs_of(asked.data, 120 if asked.quick else 1000), asked.seed)
    shard = shards_of(pairs, asked.out / "planted")
    scores = asked.out / "planted" / "scores"
    run("data", "score", shard, "--model", model, "--out", scores, "--device", "cpu")
    lines = table(chosen(scores, asked.out / "planted" / "chosen"), pairs)
    read = pq.read_table(scores / "0.parquet", columns=["clip_score"]).column(0).to_numpy()
    own = [number for number, pair in enumerate(pairs) if pair.kind in ("", "mismatch")]
    area = area_under(read[own], np.array([not pairs[number].kind for number in own]))
    lines += ["", f"A clean pair scores above one with another picture's caption in {area:.1f} % of the cases.", ""]
    scores = asked.out / "curation"
    run("data", "score", f"{asked.data}/curation/*.tar", "--model", model, "--out", scores, "--device", "cpu")
    gone = {name: 1000 - len(kept) for name, kept in chosen(scores, asked.out / "chosen").items()}
    lines += [
        "Of the 1,000 pairs of curation go: " + ", ".join(f"{name} {count}" for name, count in gone.items()) + "."
    ]
    print("\n".join(lines))
    (asked.out / "table.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
