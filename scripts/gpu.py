"""What scripts/gpu.sh packs and runs.

* `pack DATA [OUT] [--dry]`: the payload
* `call 1|2 [RESULTS] [--tiny]`: its parts one after the other, each in a process with a time limit
* `ablation | photographs | profile OUT [--tiny]`: a part
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from silc.config import Config
    from silc.eval.config import EvalConfig

ROOT = Path(__file__).parents[1]
MOST_BYTES = 60_000_000
THERE = (
    *("torch", "torchvision", "timm", "transformers", "safetensors", "tokenizers", "tensorboard"),
    # which ask for these themselves
    *("numpy", "pillow", "pyyaml", "jinja2", "huggingface-hub", "regex"),
)
"""What the machine has."""
NEEDED = ("silc", "open_clip_torch", "pytest", "pytest-timeout")
WITHOUT = ("matplotlib",)
"""Draws what is drawn at home; its wheels weigh a quarter of the payload."""
TARGET = ("--python-version", "3.12", "--implementation", "cp", "--only-binary", ":all:", "--no-deps")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
SOURCE = ("silc", "benchmarks", "scripts", "tests", "pyproject.toml", "LICENSE")
DATA = ("pretrain64", "segmentation")
SEEDS = range(5)
SECONDS = {1: 540, 2: 240}
"""A call takes no longer than this."""
PATIENCE = 20
"""Limits are so many times as long where the parts are only tried: what else the machine does is not in question."""
KEPT = {".json", ".jsonl", ".log", ".md", ".txt", ".yaml"}
"""What results are made of; weights and pictures stay there."""


@dataclass(frozen=True)
class Part:
    """A command and how long it may take."""

    name: str
    seconds: int
    command: Sequence[str]


def plan(results: Path, *, tiny: bool) -> dict[int, list[Part]]:
    """The parts of each call, in order of worth."""
    python, flag = sys.executable, ["--tiny"] * tiny
    device = "cpu" if tiny else "cuda"
    bench = ["start"] if tiny else ["step", "losses", "eval", "loader", "start"]
    # Other versions of libraries may warn of other things; what is asked here is whether the numbers agree.
    tests = [python, "-m", "pytest", "tests/gpu", "-m", "gpu", "-W", "default", "-p", "no:cacheprovider"]

    def own(name: str) -> list[str]:
        return [python, "scripts/gpu.py", name, str(results), *flag]

    return {
        1: [
            Part("tests", 90, [*tests, *(["-k", "distillation_in_blocks and float32-8"] if tiny else [])]),
            Part(
                "bench",
                170,
                [python, "-m", "silc", "bench", *bench, "--device", device, "--out", str(results / "bench.json")],
            ),
            Part("ablation", 240, own("ablation")),
        ],
        2: [Part("photographs", 165, own("photographs")), Part("profile", 45, own("profile"))],
    }


def carried() -> list[str]:
    """Requirements, `name==version` of this environment, that the machine has not; extras are left out."""
    from packaging.requirements import Requirement

    found, waiting = set[str](), list(NEEDED)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name not in found and name not in (*THERE, *WITHOUT):
            found.add(name)
            needed = map(Requirement, metadata.requires(name) or [])
            waiting += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return [f"{name}=={metadata.version(name)}" for name in sorted(found - {"silc"})]


def data_files(data: Path) -> list[tuple[Path, str]]:
    """What is taken of a data folder, and its names in the payload."""
    missing = [name for name in DATA if not (data / name).is_dir()]
    if missing:
        raise SystemExit(
            f"gpu: {data} has no folder {' and no '.join(missing)}; needed a folder with {', '.join(DATA)}"
        )
    found = [*sorted((data / "pretrain64").glob("*.tar.gz")), *sorted((data / "segmentation").rglob("*"))]
    return [(file, f"data/{file.relative_to(data)}") for file in found if file.is_file()]


def pack(data: Path, out: Path, *, dry: bool) -> None:
    """Print what will be run, and how large the payload is; make it, unless that is all that was asked."""
    for number, parts in plan(Path("RESULTS"), tiny=False).items():
        print(f"call {number}: at most {SECONDS[number]} s")
        for part in parts:
            print(f"  {part.seconds:4} s  {part.name}: {' '.join(part.command[1:])}")
    files = data_files(data)
    for name in DATA:
        _size(name, sum(file.stat().st_size for file, inside in files if inside.startswith(f"data/{name}/")))
    source = subprocess.run(["git", "archive", "HEAD", *SOURCE], cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    _size("source", len(gzip.compress(source)))
    print("wheels", *carried())
    if dry:
        return
    if _git("status", "--porcelain"):
        print("changes that are not committed stay here: the payload holds the last commit")
    wheels = fetch(out / "wheels")
    files += [(wheel, f"wheels/{wheel.name}") for wheel in wheels]
    _size("wheels", sum(wheel.stat().st_size for wheel in wheels))
    out.mkdir(parents=True, exist_ok=True)
    payload, beside = out / "payload.tar.gz", out / "payload.tar.gz.part"
    with tarfile.open(beside, "w:gz") as tar:
        with tarfile.open(fileobj=io.BytesIO(source)) as archive:
            for member in archive:
                tar.addfile(member, archive.extractfile(member) if member.isfile() else None)
        _add_text(tar, "COMMIT", _git("rev-parse", "HEAD"))
        for file, inside in files:
            tar.add(file, inside)
    size = beside.stat().st_size
    _size("payload", size)
    if size > MOST_BYTES:
        beside.unlink()
        raise SystemExit(f"gpu: the payload has {size / 1e6:.1f} MB; at most {MOST_BYTES / 1e6:.0f} travel")
    beside.replace(payload)
    print(payload)


def fetch(folder: Path) -> list[Path]:
    """The wheels of what is carried, for Linux on x86-64."""
    shutil.rmtree(folder, ignore_errors=True)
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", *TARGET, *platforms, "--dest", str(folder)]
    subprocess.run([*command, *carried()], check=True)
    return sorted(folder.iterdir())


def _size(name: str, size: int) -> None:
    print(f"{name:<14}{size / 1e6:6.1f} MB")


def _add_text(tar: tarfile.TarFile, name: str, text: str) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(text.encode())
    tar.addfile(member, io.BytesIO(text.encode()))


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def call(number: int, results: Path, *, tiny: bool, parts: Sequence[Part] = ()) -> int:
    """Run the parts of a call, and keep what there is after each; 0 where every one ended well."""
    begun = time.monotonic()
    if tiny:
        os.environ["SILC_TEST_DEVICE"] = "cpu"
    folder = results / f"call-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "environment.json").write_text(json.dumps(environment(), indent=1) + "\n")
    outcomes: list[dict[str, Any]] = []
    patience = PATIENCE if tiny else 1
    for part in parts or plan(folder, tiny=tiny)[number]:
        left = patience * SECONDS[number] - 10 - (time.monotonic() - begun)
        outcomes.append(_run(part, folder / f"{part.name}.log", min(patience * part.seconds, int(left))))
        print(f"{part.name}: {outcomes[-1]['outcome']} after {outcomes[-1]['seconds']:.0f} s", flush=True)
        (folder / "parts.json").write_text(json.dumps(outcomes, indent=1) + "\n")
        archive(folder, results / f"call-{number}.tar.gz")
    print(results / f"call-{number}.tar.gz")
    return int(any(one["outcome"] != "done" for one in outcomes))


def _run(part: Part, log: Path, seconds: int) -> dict[str, Any]:
    """A part's outcome: done, failed, cut at its limit, or left out where no time is left."""
    told = asdict(part) | {"limit": seconds, "seconds": 0.0, "outcome": "left out"}
    if seconds < 1:
        return told
    begun = time.monotonic()
    limited = ["timeout", "--kill-after=5", str(seconds), *part.command]  # the signal goes to its whole process group
    with log.open("w") as file:
        code = subprocess.run(limited, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    cut = code in (124, 137, -9)
    outcome = "done" if code == 0 else ("cut" if cut else f"failed ({code})")
    return told | {"seconds": round(time.monotonic() - begun, 1), "outcome": outcome}


def archive(folder: Path, file: Path) -> None:
    """Write every record and log under a folder into one file, whole at any time."""
    beside = file.with_name(f"{file.name}.part")
    with tarfile.open(beside, "w:gz") as tar:
        for one in sorted(folder.rglob("*")):
            if one.suffix in KEPT and "checkpoints" not in one.parts and one.name != "tokenizer.json" and one.is_file():
                tar.add(one, f"{folder.name}/{one.relative_to(folder)}")
    beside.replace(file)


def environment() -> dict[str, Any]:
    """What a number needs beside it to be repeated: device, driver, versions, commit, command."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        devices = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip().splitlines()
    except (OSError, subprocess.CalledProcessError) as error:
        devices = [f"none: {error}"]
    commit = ROOT / "COMMIT"
    wanted = (*THERE, "pytest", "open_clip_torch", "simplejpeg", "triton")
    return {
        "devices (name, driver, memory)": devices,
        "cores": os.cpu_count(),
        "python": sys.version,
        "versions": {name: _version(name) for name in wanted},
        "commit": commit.read_text() if commit.is_file() else _git("rev-parse", "HEAD"),
        "command": sys.argv,
        "date": time.strftime("%Y-%m-%d"),
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


def ablation(out: Path, *, tiny: bool) -> int:
    """The ablation's rows on generated scenes, seed after seed, so that what is cut leaves whole seeds behind."""
    from ablation import ROWS, write_data

    from silc import recipes
    from silc.eval.config import EvalConfig

    counts = {"num_retrieval": 8, "num_segmentation": 2, "per_class": 1} if tiny else {}
    write_data(out / "scenes", "tiny", **counts)
    seeds, duration = ([0], "2 steps") if tiny else (SEEDS, "50k examples")
    fields = {"duration": duration, "device": "cpu" if tiny else "cuda"}
    configs = []
    for seed in seeds:
        for row in list(ROWS)[:: 3 if tiny else 1]:
            base = recipes.get(f"{row}-tiny")
            train = replace(base.train, seed=seed, **fields)
            configs.append(replace(base, out=str(out / f"ablation/{row}/seed-{seed}"), train=train))
    return trials(configs, EvalConfig(root=str(out / "scenes"), num_pictures=0), at_once=2 if tiny else 6)


def photographs(out: Path, *, tiny: bool) -> int:
    """CLIP and SILC-C, S/8 at 64 px, on the packed photographs; scored on the packed segmentation sets."""
    from silc import recipes
    from silc.eval.config import EvalConfig

    shards = out / "pretrain64"
    shards.mkdir(parents=True, exist_ok=True)
    for packed in sorted((ROOT / "data/pretrain64").glob("*.tar.gz"))[: 1 if tiny else None]:
        with gzip.open(packed) as source, (shards / packed.stem).open("wb") as target:
            shutil.copyfileobj(source, target)
    configs = []
    for name in ("clip", "silc_c"):
        base = recipes.get(f"{name}-{'tiny' if tiny else 's16'}")
        image = replace(base.model.image, patch=8, size=64)
        text = replace(base.model.text, length=32)
        head = replace(base.model.head, prototypes=4096)
        crops = replace(base.data.crops, num_local=8, local_size=24)
        optim = replace(base.train.optim, schedule="cosine", warmup="10%", cooldown="0 steps")
        train = replace(base.train, batch_size=512, duration="10 epochs", held_out=500, device="cuda", optim=optim)
        if tiny:
            train = replace(train, batch_size=8, duration="2 steps", held_out=8, device="cpu")
        train = replace(train, log_every="10 steps", save_every="never")
        data = replace(
            base.data, source="shards", train=f"{shards}/*.tar", vocab_size=512 if tiny else 8192, crops=crops
        )
        model = replace(base.model, image=image, text=text, head=head)
        objective = replace(base.objective, weight=1.0)
        run = str(out / f"photographs/{name}/seed-0")
        configs.append(replace(base, data=data, model=model, train=train, objective=objective, out=run))
    tasks = "voc2012-zs-seg" if tiny else "all"
    return trials(configs, EvalConfig(root=str(ROOT / "data"), tasks=tasks, num_pictures=0), at_once=2)


def trials(configs: Sequence[Config], scored: EvalConfig, *, at_once: int) -> int:
    """Train and score runs, some at a time; the number of those that failed, which stop no other."""
    cores = max(1, (os.cpu_count() or 1) // at_once)
    os.environ["OMP_NUM_THREADS"] = "1"
    failed = 0
    with ProcessPoolExecutor(at_once, multiprocessing.get_context("spawn")) as pool:
        workers = 0 if configs[0].train.device == "cpu" else max(1, cores - 1)
        given = [replace(one, data=replace(one.data, workers=workers)) for one in configs]
        waiting = {pool.submit(trial, one, scored): one.out for one in given}
        for future in as_completed(waiting):
            error = future.exception()
            failed += error is not None
            print(f"{waiting[future]}: {error or 'scored'}", flush=True)
    return failed


def trial(config: Config, scored: EvalConfig) -> None:
    """Train and score one run, unless that is done. The page is left out: matplotlib may be missing here."""
    from silc import evaluation
    from silc.eval.suite import write_scores
    from silc.pretraining import run

    scores = Path(config.out) / "scores.json"
    if not scores.is_file():
        run.train(replace(config, resume="auto"))
        evaluations = evaluation.evaluate(config.out, scored, device=config.train.device)
        write_scores(scores, [evaluation.record for evaluation in evaluations])


def profile(out: Path, *, tiny: bool) -> int:
    """torch's profile of one SILC step, B/16, the most expensive kernels first."""
    from benchmarks import step

    small = step.Setting("cpu", "tiny", 48, 1, 4, half=False, turns=1)
    step.profile(small if tiny else step.ON_GPU, out / "profile.txt")
    return 0


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="make the payload")
    packing.add_argument("data", type=Path)
    packing.add_argument("out", type=Path, nargs="?", default=Path("out/gpu"))
    packing.add_argument("--dry", action="store_true", help="say what would be done")
    calling = commands.add_parser("call", help="run the parts of a call")
    calling.add_argument("number", type=int, choices=SECONDS)
    calling.add_argument("out", type=Path, nargs="?", default=Path("out/gpu"))
    calling.add_argument("--tiny", action="store_true", help="in seconds, on a CPU")
    for name in ("ablation", "photographs", "profile"):
        part = commands.add_parser(name, help="run one part")
        part.add_argument("out", type=Path)
        part.add_argument("--tiny", action="store_true", help="in seconds, on a CPU")
    given = parser.parse_args(words)
    match given.command:
        case "pack":
            pack(given.data, given.out, dry=given.dry)
            return 0
        case "call":
            return call(given.number, given.out.resolve(), tiny=given.tiny)
        case name:
            return {"ablation": ablation, "photographs": photographs, "profile": profile}[name](
                given.out, tiny=given.tiny
            )


if __name__ == "__main__":
    sys.exit(main())
