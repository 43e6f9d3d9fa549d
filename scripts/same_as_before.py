"""Whether two commits compute the same: every recipe, small, by each checkout's own command line, to the bit.

    git worktree add ../before COMMIT
    python scripts/same_as_before.py ../before .                         # all of it: about 10 minutes of CPU time
    python scripts/same_as_before.py ../before . --only silc_c-tiny      # one case
    python scripts/same_as_before.py ../before . --keep ../before-runs   # the older one's runs are kept and read again

A case is a run of 20 steps of 16 pairs in float32, on one rank or two, in processes that import one checkout alone
(`PYTHONPATH`). Expected of each, by bits: the numbers of metrics.jsonl but times, and every tensor of the last
checkpoint. Where the newer checkout goes on with an older run that was cut after step 10: the same again. Of the
older runs, scored and exported by both: every record and every tensor. A table says what is equal and names the first
difference of what is not; exit code 1 if anything differs. Only commands and files are used, so modules may move.

Both have to run on one machine: processors differ in the last bits.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from ports import free_port

TIMES = ("samples_per_s", "data_wait", "mfu", "seconds")
"""Of a record in metrics.jsonl, what no two runs share."""
TIMEOUT = 600
TOWERS = shlex.split("""
    --model.image.size 16 --model.image.patch 8 --model.image.width 32 --model.image.depth 2 --model.image.heads 2
    --model.image.mlp 64 --model.text.length 12 --model.text.width 32 --model.text.depth 2 --model.text.heads 2
    --model.text.mlp 64 --model.embed-dim 32 --model.head.hidden 32 --model.head.bottleneck 16
    --model.head.prototypes 24
""")
STEPS = shlex.split("""
    --train.batch-size 16 --train.duration '20 steps' --train.save-every '10 steps' --train.log-every '1 steps'
    --train.precision float32 --train.device cpu --data.workers 0 --data.crops.local-size 8
""")
SCENES = shlex.split("--data.scenes.num 96 --data.scenes.size 24 --data.vocab-size 300")
SWITCHES = shlex.split("""
    --objective.patches masked --objective.student-globals --objective.contrastive-views both
    --train.optim.layer-decay 0.75 --train.optim.freeze text --train.micro-batch 4 --train.held-out 4
    --train.eval-every '10 steps' --eval.tasks '*-zs,*-retrieval'
""")
"""Much at once that no recipe has on."""
SCORED = shlex.split("--shots 1 --num-pictures 0 --device cpu --cache off")


@dataclass(frozen=True)
class Case:
    """A run that both checkouts make."""

    name: str
    command: Sequence[str]
    ranks: int = 1
    starts_from: Case | None = None
    goes_on: bool = False
    """Whether the newer checkout also goes on with the older one's."""
    scored: bool = False
    """Whether both score what the older one made."""

    @property
    def folder(self) -> str:
        return self.name.replace(",", "").replace(" ", "-")


@dataclass(frozen=True)
class Checkout:
    """A commit's files, and the folder where its command runs."""

    code: Path
    folder: Path

    def silc(self, *args: str, ranks: int = 1, where: Path | None = None) -> None:
        """`silc ARGS` of this checkout, as `torchrun` would start it on so many ranks.

        Raises:
            Failed: a rank did not end well; its last line.
        """
        running = [
            subprocess.Popen(
                [sys.executable, "-m", "silc", *args],
                cwd=where or self.folder,
                env=self._environment() | place,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for place in _places(ranks)
        ]
        try:
            said = [process.communicate(timeout=TIMEOUT)[0] for process in running]
        finally:
            for process in running:
                process.kill()
        for process, text in zip(running, said, strict=True):
            if process.returncode:
                raise Failed(f"exit code {process.returncode}: {(text.splitlines() or [''])[-1]}")

    def asked(self, *python: str) -> str:
        """What a Python command prints that imports this checkout."""
        command = [sys.executable, *python]
        return subprocess.run(
            command, cwd=self.folder, env=self._environment(), capture_output=True, text=True, check=True
        ).stdout

    def check(self) -> None:
        """Make sure that it is this checkout which runs, not what else is installed."""
        found = Path(self.asked("-c", "import silc; print(silc.__file__)").strip())
        if not found.is_relative_to(self.code):
            raise SystemExit(f"{self.code} holds no silc: {found} was imported instead")

    def _environment(self) -> dict[str, str]:
        cache = str(self.folder / "cache")
        return os.environ | {"PYTHONPATH": str(self.code), "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": cache}


class Failed(Exception):
    """A command did not end well."""


def _places(ranks: int) -> list[dict[str, str]]:
    if ranks == 1:
        return [{}]
    group = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
    group["MASTER_PORT"] = str(free_port())
    return [group | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def cases(recipes: Sequence[str], data: Path, runs: Path) -> list[Case]:
    """Every recipe on one rank and on two, sharing out and parts of a batch, and the ways to go on from a run.

    Args:
        recipes: their names without a size; those that go on from a run come after what it is a run of.
        data: what `write_data` wrote.
        runs: the older checkout's, which others start from.
    """
    found = dict[str, Case]()

    def add(name: str, *command: str, start: str = "", **fields: Any) -> None:
        init = ("--init", str(runs / start)) if start else ()
        found[name] = Case(name, (*command, *STEPS, *init), starts_from=found.get(start), **fields)

    for recipe in recipes:
        command = ("train", f"{recipe}-tiny", *TOWERS, *SCENES)
        start = f"{recipe.removesuffix('_finetune')}-tiny" if recipe.endswith("_finetune") else ""
        add(f"{recipe}-tiny", *command, start=start, goes_on=True, scored=True)
        add(f"{recipe}-tiny, 2 ranks", *command, start=start, ranks=2, goes_on=recipe == "silc_c")
    silc_c = ("train", "silc_c-tiny", *TOWERS, *SCENES)
    add("sharded, 2 ranks", *silc_c, "--train.sharding", "full", ranks=2, goes_on=True)
    add("micro_batch 4", *silc_c, "--train.micro-batch", "4")
    add("many switches", *silc_c, *SWITCHES, "--eval.root", str(data / "sets"), goes_on=True, scored=True)
    finetune = ("finetune", "--data.train", str(data / "shards" / "{00000..00001}.tar"), "--mode")
    add("finetune late, LoRA", *finetune, "late", "--train.optim.lora", "4", start="silc_s-tiny")
    add("finetune silc", *finetune, "silc", start="silc_c-tiny")
    add("finetune contrastive", *finetune, "contrastive", start="clip-tiny")
    return list(found.values())


# --- what is compared -------------------------------------------------------------------------------------------------


def numbers(run: Path, after: int = 0) -> dict[str, Any]:
    """Everything that metrics.jsonl says after a step but times, by step and name."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        f"step {line['step']} {name}": value
        for line in lines
        if line["step"] > after
        for name, value in line.items()
        if name not in TIMES
    }


def tensors(folder: Path) -> dict[str, Any]:
    """Type, shape and bytes of every tensor in a folder's safetensors files, by file and name."""
    found = {}
    for file in sorted(folder.rglob("*.safetensors")):
        data = file.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        for name, told in header.items():
            if name != "__metadata__":
                first, end = told["data_offsets"]
                place = f"{file.relative_to(folder)}: {name}"
                found[place] = (told["dtype"], told["shape"], data[start + first : start + end])
    return found


def checkpoints(run: Path) -> list[Path]:
    """A run's checkpoints, the oldest first."""
    return sorted((run / "checkpoints").glob("step-*"))


def records(file: Path) -> dict[str, Any]:
    """Every score with all that its record says, by model, weights and task."""
    found = json.loads(file.read_text())
    return {f"{one['model']} {one['weights']} {one['dataset']} {one['task']}": one for one in found}


def difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """`N equal`, or the first of the old values that is another or missing in the new ones."""
    if not old:
        return "DIFFERS: there is nothing to compare"
    for name, value in old.items():
        if name not in new:
            return f"DIFFERS: {name} is missing"
        if new[name] != value:
            return f"DIFFERS: {name}" + (f" was {value}, is {new[name]}" if isinstance(value, float) else "")
    surplus = sorted(new.keys() - old.keys())
    return f"DIFFERS: {surplus[0]} is new" if surplus else f"{len(old):,} equal"


def compared(old: Path, new: Path, after: int = 0) -> dict[str, str]:
    """What two runs say and end with."""
    ends = [tensors(checkpoints(run)[-1]) for run in (old, new)]
    return {"metrics": difference(numbers(old, after), numbers(new, after)), "tensors": difference(*ends)}


# --- both sides -------------------------------------------------------------------------------------------------------


def run(case: Case, checkout: Checkout) -> Path:
    """A run of a case."""
    out = checkout.folder / case.folder
    shutil.rmtree(out, ignore_errors=True)
    checkout.silc(*case.command, "--out", out.name, ranks=case.ranks)
    return out


def before(case: Case, old: Checkout) -> Path:
    """The older checkout's run of a case, made once, as is what it starts from."""
    if case.starts_from:
        before(case.starts_from, old)
    note, made_by = old.folder / f"{case.name}.txt", shlex.join(case.command)
    if not (note.is_file() and note.read_text() == made_by):
        run(case, old)
        note.write_text(made_by)
    return old.folder / case.folder


def made_anew(case: Case, old: Checkout, new: Checkout) -> dict[str, str]:
    """A run by each."""
    return compared(before(case, old), run(case, new))


def gone_on_with(case: Case, old: Checkout, new: Checkout) -> dict[str, str]:
    """The older run, cut after its first checkpoint, against itself when the newer checkout has gone on with it."""
    whole = before(case, old)
    out = new.folder / "gone-on" / whole.name
    shutil.copytree(whole, out, symlinks=True)
    first, *newer = checkpoints(out)
    for path in newer:
        shutil.rmtree(path)
    latest = out / "checkpoints" / "latest"
    latest.unlink()
    latest.symlink_to(first.name)
    new.silc(*case.command, "--out", str(out), "--resume", "auto", ranks=case.ranks)
    return compared(whole, out, after=int(first.name.partition("-")[2]))


def scored(chosen: Sequence[Case], data: Path, old: Checkout, new: Checkout) -> dict[str, str]:
    """The older runs' scores, by both."""
    found, names = [], [before(case, old).name for case in chosen]
    for checkout in (old, new):
        file = checkout.folder / "scores.json"
        checkout.silc("eval", *names, "--root", str(data / "sets"), *SCORED, "--out", str(file), where=old.folder)
        found.append(records(file))
    return {"scores": difference(*found)}


def exported(run: Path, old: Checkout, new: Checkout) -> dict[str, str]:
    """An older run in other libraries' formats, by both."""
    outs = [checkout.folder / "export" for checkout in (old, new)]
    for checkout, out in zip((old, new), outs, strict=True):
        shutil.rmtree(out, ignore_errors=True)
        checkout.silc("export", run.name, str(out), "--formats", "transformers", where=old.folder)
    texts = [
        {str(file.relative_to(out)): json.loads(file.read_text()) for file in sorted(out.rglob("*.json"))}
        for out in outs
    ]
    return {"tensors": difference(*map(tensors, outs)), "JSON files": difference(*texts)}


def comparisons(
    only: str, data: Path, old: Checkout, new: Checkout
) -> Iterator[tuple[str, Callable[[], dict[str, str]]]]:
    """The rows of the table: a name, and what finds out whether it is equal."""
    listed = old.asked("-m", "silc", "recipes").split("\n\n")[0]
    every = cases([line.split()[0] for line in listed.splitlines()], data, old.folder)
    chosen = [case for case in every if only in ("", case.name)]
    if not chosen:
        raise SystemExit(f"no case '{only}'; there are: {'; '.join(case.name for case in every)}")
    for case in chosen:
        yield case.name, partial(made_anew, case, old, new)
        if case.goes_on:
            yield f"{case.name}, begun by the older", partial(gone_on_with, case, old, new)
    if not only:
        yield "scores of the older runs", partial(scored, [case for case in chosen if case.scored], data, old, new)
        yield "export of an older run", partial(exported, old.folder / "silc_s-tiny", old, new)


def all_equal(rows: Iterator[tuple[str, Callable[[], dict[str, str]]]]) -> bool:
    """Print the table row by row; whether all of it is equal."""
    equal = []
    for name, look in rows:
        try:
            found = look()
        except Failed as error:
            found = {"FAILED": str(error)}
        print(f"{name:<45} " + "   ".join(f"{what}: {said}" for what, said in found.items()), flush=True)
        equal.append(all(said.endswith(" equal") for said in found.values()))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{sum(equal)} of {len(equal)} rows are equal; {used.ru_utime + used.ru_stime:.0f} s of CPU time")
    return all(equal)


# --- data -------------------------------------------------------------------------------------------------------------

COLOURS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (50, 60, 210)}
NAMES = list(COLOURS)


def picture(draw: np.random.Generator, left: str, right: str) -> Image.Image:
    """Two halves of a colour each, with noise."""
    pixels = np.empty((32, 32, 3))
    pixels[:, :16], pixels[:, 16:] = COLOURS[left], COLOURS[right]
    return Image.fromarray(np.clip(pixels + draw.normal(0, 30, pixels.shape), 0, 255).astype(np.uint8))


def write_data(folder: Path) -> None:
    """Two shards of pairs, and a data set of each kind to score on."""
    _write_shards(folder / "shards")
    _write_sets(folder / "sets")


def colours_of(number: int) -> tuple[str, str]:
    """The colours of a picture, left and right."""
    return NAMES[number % 3], NAMES[number // 3 % 3]


def _write_shards(folder: Path) -> None:
    folder.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for shard in range(2):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for number in range(shard * 24, shard * 24 + 24):
                image = io.BytesIO()
                picture(draw, *colours_of(number)).save(image, "JPEG", quality=90)
                members = {"jpg": image.getvalue(), "txt": " beside ".join(colours_of(number)).encode()}
                for suffix, content in members.items():
                    header = tarfile.TarInfo(f"{number}.{suffix}")
                    header.size = len(content)
                    tar.addfile(header, io.BytesIO(content))


def _write_sets(folder: Path) -> None:
    draw = np.random.default_rng(1)
    classes, pairs, halves = (
        folder / kind for kind in ("classification/colours", "retrieval/pairs", "segmentation/halves")
    )
    for split, name in product(("train", "test"), NAMES):
        (classes / split / name).mkdir(parents=True)
        for number in range(4):
            picture(draw, name, name).save(classes / split / name / f"{number}.png")
    for images in (pairs / "images", halves / "images", halves / "labels"):
        images.mkdir(parents=True)
    rows = []
    for number in range(9):
        shown, name = picture(draw, *colours_of(number)), f"{number}.png"
        shown.save(pairs / "images" / name)
        shown.save(halves / "images" / name)
        label = np.repeat([NAMES.index(colour) for colour in colours_of(number)], 16).astype(np.uint8)
        Image.fromarray(np.tile(label, (32, 1))).save(halves / "labels" / name)
        rows.append({"image": f"images/{name}", "captions": [" beside ".join(colours_of(number))]})
    (pairs / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for kind in (classes, halves):
        (kind / "classes.txt").write_text("\n".join(NAMES))


def commit_of(checkout: Path) -> str:
    """A checkout's commit; what it kept is good for this one alone."""
    git = lambda *args: subprocess.run(["git", "-C", str(checkout), *args], capture_output=True, text=True)  # noqa: E731
    if git("status", "--porcelain").stdout:
        raise SystemExit(f"--keep: {checkout} has changes that are in no commit; commit them, or leave --keep out")
    return git("rev-parse", "--short=12", "HEAD").stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, help="the older checkout")
    parser.add_argument("new", type=Path, help="the newer one")
    parser.add_argument("--only", default="", help="one case by its name, without scores and export")
    parser.add_argument("--keep", type=Path, help="folder that keeps the older one's runs for the next time")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        kept = args.keep.resolve() / commit_of(args.old) if args.keep else Path(scratch, "old")
        old, new = Checkout(args.old.resolve(), kept / "runs"), Checkout(args.new.resolve(), Path(scratch, "new"))
        for checkout in (old, new):
            checkout.folder.mkdir(parents=True, exist_ok=True)
            checkout.check()
        if not (kept / "data").is_dir():
            write_data(Path(scratch, "data"))
            shutil.move(Path(scratch, "data"), kept / "data")
        return 0 if all_equal(comparisons(args.only, kept / "data", old, new)) else 1


if __name__ == "__main__":
    sys.exit(main())
