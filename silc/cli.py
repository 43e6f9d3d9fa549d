"""The command line: reads what a person wrote, calls the composer, prints what came out.

    silc train RECIPE --data.train '/data/{00000..00331}.tar' --out out/run
    silc finetune --init MODEL --data.train '/data/{000..009}.tar' --out out/mine   go on from a run, hf:, open_clip:
    silc eval RUN [RUN ...] --root /data --tasks all --out scores.json
    silc eval --list --root /data
    silc eval RUN [RUN ...] --table main
    silc import SOURCE OUT  open_clip:NAME/PRETRAINED, hf:ORG/NAME, FILE.npz or a directory, into silc's own form
    silc export MODEL OUT   for open_clip, transformers, onnx, torch_export, int8, each checked before it is there
    silc predict classify|embed|segment MODEL IMAGES... [--names ...] [--out OUT]
    silc doctor             what is installed, device, precision, data
    silc plan RECIPE --gpus 64 --gpu h100   parameters, FLOPs, memory, traffic, hours and cost, before it is started
    silc show RECIPE        every field with its value and meaning
    silc recipes            the names of the recipes
    silc data check SHARDS  counts, broken samples, sizes, captions, duplicates and pictures, before training on it
    silc demo               what `make demo` runs
    silc bench [PART ...]   how fast, against what one would use otherwise: loader step losses eval start all

Exit codes: 0 done, 2 bad input (one line on stderr), 75 try again (another rank was lost, a server does not answer),
130 interrupted (the first Ctrl-C lets a run save, the second leaves at once), 143 asked to stop (SIGTERM, SIGUSR1) and
saved.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import io
import os
import platform
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeVar

import tyro

import silc
from silc import config as configs
from silc import given, places, recipes
from silc.eval.config import EvalConfig
from silc.given import Idle, evaluated
from silc.models.variants import LOCAL_SIZE
from silc.settings import NATURAL, Device, Duration, Range, Settings, limits
from silc.terminal import complain, finish, page, prepare, say
from silc.threads import wait_briefly
from silc.types import BadInput, LostRank, Preempted

if TYPE_CHECKING:
    from silc.config import Config

T = TypeVar("T")
COMMANDS = (
    *("train", "finetune", "eval", "import", "export", "predict", "plan", "bench", "doctor", "show", "recipes"),
    *("data", "demo"),
)


def main(args: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code."""
    wait_briefly()
    prepare()
    try:
        return _run(list(sys.argv[1:] if args is None else args))
    finally:
        finish()


def _run(args: list[str]) -> int:
    try:
        return _dispatch(args)
    except BadInput as error:
        complain(error)
        return error.exit_code
    except LostRank as error:
        complain(error)
        finish()
        # At once: taking the interpreter down beside broken connections took seconds, and aborted now and then.
        os._exit(75)
    except OSError as error:
        if error.filename is None and error.errno not in places.CANNOT_WRITE:
            raise
        complain(places.complaint(error))
        return 2
    except Preempted as stop:
        if said := str(stop):
            complain(said)
        return stop.exit_code
    except KeyboardInterrupt as interrupt:
        complain("; ".join(["interrupted", *map(str, interrupt.args)]))
        return 130


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        say(__doc__)
        return 0
    if args[0] in ("-V", "--version"):
        say(f"silc {silc.__version__}, torch {importlib.metadata.version('torch')}, Python {platform.python_version()}")
        return 0
    command, rest = args[0], args[1:]
    match command:
        case "train":
            return _train(rest)
        case "finetune":
            return _finetune(rest)
        case "eval":
            return _eval(rest)
        case "import":
            return _import(rest)
        case "export":
            return _export(rest)
        case "predict":
            return _predict(rest)
        case "doctor":
            return _doctor(rest)
        case "plan":
            return _plan(rest)
        case "show":
            return _show(rest)
        case "recipes":
            return _recipes(rest)
        case "data":
            return _data(rest)
        case "demo":
            return _demo(rest)
        case "bench":
            return _bench(rest)
        case _:
            raise BadInput(f"unknown command '{command}'{configs.nearest(command, COMMANDS)} (silc --help lists them)")


def _train(args: list[str]) -> int:
    config, fields = _configured("train", args)
    from silc import checks

    out, goes_on = checks.training(config)
    given.say_unread(given.flags(configs.Config, fields), config)
    _begin(f"train: {config.recipe} {'goes on' if goes_on else 'begins'} in {out}")
    from silc import run

    run.train(config)
    return 0


FINETUNE = """usage: silc finetune --init MODEL [--mode MODE] --data.train SHARDS --out DIR [--field value ...]

Goes on from a model with its own towers, tokenizer and image-text loss. MODE is one of

{modes}

`silc finetune --init MODEL --help` lists the fields and their defaults for this model."""


def _finetune(args: list[str]) -> int:
    chosen, rest = _taken(args, ("init", "mode"))
    if not chosen.get("init"):
        if {"-h", "--help"} & set(args):
            say(FINETUNE.format(modes=_first_lines(recipes.MODES)))
            return 0
        raise BadInput("silc finetune needs a model to go on from: --init MODEL (silc finetune --help)")
    rest = _spelled_out(rest, "silc_c")
    from silc import rundir

    asked, _ = _taken(rest, ("out", "resume"))
    mode = chosen.get("mode", "late")
    recipes.mode_called(mode)
    rundir.check_model(chosen["init"])
    out, _ = rundir.claim(asked.get("out", ""), asked.get("resume", configs.Config().resume))
    _begin(f"finetune: {chosen['init']} goes on in {out}")
    from silc import continuation, run

    config = continuation.configured(chosen["init"], mode, lambda base: _over(base, rest, "finetune"))
    given.say_unread(given.flags(configs.Config, rest), config)
    run.train(config)
    return 0


def _taken(args: list[str], names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Values of `--name value` and `--name=value` for these names, and the arguments that are left."""
    found, left, words = dict[str, str](), list[str](), iter(args)
    for word in words:
        name, has_value, value = word.removeprefix("--").partition("=")
        if word.startswith("--") and name in names:
            value = value if has_value else next(words, "")
            if found.setdefault(name, value) != value:
                raise BadInput(f"--{name} is given twice, as {found[name]!r} and as {value!r}; give it once")
        else:
            left.append(word)
    return found, left


@dataclass(frozen=True)
class EvalCommand(EvalConfig):
    """Score runs on the data sets under a root, side by side."""

    section: ClassVar[str] = ""
    idle: ClassVar[tuple[Idle, ...]] = (
        Idle(("*",), lambda c: c.list, "--list shows the tasks under --root and scores nothing", but=("root", "list")),
        Idle(
            ("*",),
            lambda c: bool(c.table) and not c.root,
            "without --root the table is made of the scores there are",
            but=("table", "out"),
        ),
        Idle(("segmentation", "window", "readout", "absent_classes"), evaluated("-zs-seg"), "no task segments"),
        Idle(("pamr", "mix", "background"), evaluated("-zs-seg"), "no task segments"),
        Idle(("ensemble",), evaluated("-zs", "-zs-seg"), "no task makes classes of prompts"),
        Idle(("classification",), evaluated("-zs", "-fewshot", "-retrieval"), "no task classifies or retrieves"),
        Idle(("shots",), evaluated("-fewshot"), "no few-shot task"),
        Idle(("max_captions",), evaluated("-retrieval"), "no retrieval task"),
        Idle(("tokenizer",), lambda c: all(map(_is_run, c.runs)), "runs have the one they were trained with"),
        Idle(
            ("weights",), lambda c: all(map(_is_import, c.runs)), "none of these is a run with a student and a teacher"
        ),
    )
    exif_orientation: Literal["ignore", "apply"] = "apply"
    """Whether a photograph is turned as EXIF says that the camera was held. Label maps never are."""
    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Directories of runs made by `silc train` or `silc import`, open_clip:NAME/PRETRAINED, hf:ORG/NAME, FILE.npz."""
    out: str = ""
    """JSON file for all records; default each run's own scores.json. The page is FILE.html, or report.html."""
    tokenizer: str = ""
    """tokenizer.json, spiece.model or a directory with one, for models that are no runs; a .npz has none of its own."""
    device: Annotated[str, Device()] = "auto"
    """Where to compute: auto, cpu, cuda or cuda:N."""
    cache: str = ""
    """Folder that keeps results by weights, data and protocol; default eval-cache in the first run, `off` for none."""
    table: Literal["", "main", "few-shot", "sizes", "teacher-student", "ablation"] = ""
    """Lay the runs out beside this table of the paper (.md, .html, .json); without --root from the scores there are."""
    list: bool = False
    """Show every task, what it needs under the root and whether it is there; score nothing."""

    def config(self) -> EvalConfig:
        """The part that shapes the numbers."""
        return EvalConfig(**{f.name: getattr(self, f.name) for f in dataclasses.fields(EvalConfig)})


def _eval(args: list[str]) -> int:
    command = _read(EvalCommand, args, "silc eval")
    if command.list:
        return _list_tasks(command.root)
    if not command.runs:
        raise BadInput(
            "silc eval needs a run, e.g. `silc eval out/run --root DATA`; `silc eval --list` shows the tasks"
        )
    stem = _table_stem(command.table, Path(command.out or command.runs[0])) if command.table else None
    scored = command.root or not command.table
    files, unscored = _score(command.runs, command) if scored else ([Path(name) for name in command.runs], [])
    if stem and files:
        _paper_table(command.table, files, stem)
    if unscored and files:
        complain(f"not scored: {', '.join(unscored)}; the files hold the others")
    return BadInput.exit_code if unscored else 0


def _score(models: Sequence[str], command: EvalCommand) -> tuple[list[Path], list[str]]:
    """Score models and write what came out.

    Returns:
        The files of records, which are the main rank's, and the tasks that could not be scored.
    """
    from silc import checks

    beside = next((Path(model) for model in models if Path(model).is_dir()), None)
    if not command.out and beside is None and any(":" in model or Path(model).is_file() for model in models):
        raise BadInput("none of these models is in a directory that could keep its scores; give --out FILE.json")
    config = checks.scoring(models, command.config())
    files = checks.result_files(models, command.out or None)
    cache = _cache(command.cache, beside or files.page.parent)
    _begin(f"eval: {config.tasks} under {config.root}, of {', '.join(models)}")
    from silc import scoring
    from silc.eval.progress import Unscored

    tokenizer = Path(command.tokenizer) if command.tokenizer else None
    speaks = os.environ.get("RANK", "0") == "0"
    unscored = Unscored(complain if speaks else lambda _: None)
    evaluations = scoring.evaluate(
        models, config, device=command.device, cache=cache, tokenizer=tokenizer, failed=unscored
    )
    if not evaluations:  # on another rank than the main one, or of no task
        return [], unscored.tasks
    title = ", ".join(Path(one).name if Path(one).is_dir() else one for one in models)
    written, page = scoring.write_results(models, evaluations, command.out or None, title=title)
    say("\n".join([*(f"scores: {file}" for file in written), f"report: {page}"]))
    return written, unscored.tasks


def _cache(given: str, beside: Path) -> Path | None:
    """The folder that keeps results: the one asked for, or one beside the scores where that can be written."""
    if given:
        return None if given == "off" else places.folder(given, flag="--cache")
    try:
        return places.folder(beside / "eval-cache", flag="--cache")
    except BadInput as error:
        _begin(f"eval: no results are kept for the next time: {error}")
        return None


def _paper_table(name: str, scored: list[Path], stem: Path) -> None:
    from silc.eval import tables

    table = tables.paper_table(name, scored)
    say(tables.to_markdown(table))
    say("\n".join(f"table: {path}" for path in tables.write(table, stem)))


def _table_stem(name: str, beside: Path) -> Path:
    """Where a table goes, less its suffixes, tried: into a folder, or beside a file of scores and named after it."""
    if beside.is_dir() or not beside.suffix:
        stem = beside / f"table-{name}"
    else:
        stem = beside.with_name(f"table-{name}" if beside.name == "scores.json" else f"{beside.stem}.table-{name}")
    return [places.file(f"{stem}{suffix}", flag="the table") for suffix in (".html", ".json", ".md")][-1].with_suffix(
        ""
    )


def _list_tasks(root: str) -> int:
    from rich.table import Table

    from silc.eval import own_sets, tasks

    table = Table("task", "there", "needs", title=f"Tasks under {root or 'the --root you give'}", title_justify="left")
    for task in tasks.listing(root):
        missing = [path for path in task.needs if not path.exists()]
        needs = "\n".join(f"{path}{' (missing)' if path in missing and root else ''}" for path in task.needs)
        table.add_row(task.name, "-" if not root else "no" if missing else "yes", needs)
    page(table, width=200)
    say(f"\n{own_sets.shown()}")
    return 0


@dataclass(frozen=True)
class ImportCommand(Settings):
    """Read a model of another library, check every tensor, and write it in silc's own form."""

    idle: ClassVar[tuple[Idle, ...]] = (
        Idle(("text_pool",), lambda c: not c.source.endswith(".npz"), "only big_vision's .npz does not tell it"),
    )
    source: tyro.conf.Positional[str]
    """open_clip:NAME/PRETRAINED, hf:ORG/NAME, a big_vision .npz, or a directory of open_clip or transformers."""
    out: tyro.conf.Positional[str]
    """Directory to write."""
    tokenizer: str = ""
    """tokenizer.json, spiece.model or a directory with one, instead of the model's own; a .npz has none."""
    size: Annotated[int, Range(least=0, most=8192)] = 0
    """Side of the images it is to be made for; its position embedding is resampled. 0: the model's own."""
    text_pool: Literal["last", "first", "mean", "max"] = "last"
    """Where a big_vision text tower takes its embedding; its file does not tell."""


def _import(args: list[str]) -> int:
    command = _read(ImportCommand, args, "silc import")
    from silc.interop.sources import kind_of

    kind_of(command.source)
    out = places.empty_folder(command.out)
    _begin(f"import: {command.source} into {out}")
    from silc.interop import pretrained, sources

    tokenizer = Path(command.tokenizer) if command.tokenizer else None
    pool = command.text_pool if command.source.endswith(".npz") else None
    model = sources.read(command.source, tokenizer=tokenizer, size=command.size or None, text_pool=pool)
    pretrained.save(model, out)
    say("\n".join(model.mapped))
    say(f"{len(model.mapped)} rows, nothing left over: {out}   next: silc eval {out} --root DATA")
    return 0


@dataclass(frozen=True)
class ExportCommand:
    """Write a model for other libraries, all formats or none; each is read back and compared before it is there."""

    idle: ClassVar[tuple[Idle, ...]] = (
        Idle(("weights",), lambda c: _is_import(c.model), "the model is no run with a student and a teacher"),
    )
    model: tyro.conf.Positional[str]
    """A run's directory, what `silc import` wrote, open_clip:NAME/PRETRAINED, hf:ORG/NAME, FILE.npz."""
    out: tyro.conf.Positional[str]
    """Directory to write."""
    formats: str = "open_clip,transformers"
    """Of open_clip, transformers, onnx, torch_export, int8, separated by commas; silc's own is always written."""
    weights: Literal["auto", "student", "teacher"] = "auto"
    """Of a run; `auto` is the teacher where there is one."""
    tokenizer: str = ""
    """tokenizer.json, spiece.model or a directory with one, instead of the model's own; a .npz has none."""
    license: str = "unknown"
    """For the model card, in the hub's words, e.g. apache-2.0."""
    datasets: str = ""
    """For the model card, ORG/NAME separated by commas."""


def _export(args: list[str]) -> int:
    command = _read(ExportCommand, args, "silc export")
    from silc.exports import formats

    out = formats.check(command.model, command.out, _listed(command.formats))
    _begin(f"export: {command.model} as {command.formats} into {out}")
    from silc.exports.directory import export

    checks = export(
        command.model,
        out,
        _listed(command.formats),
        weights=command.weights,
        tokenizer=command.tokenizer or None,
        license=command.license,
        datasets=_listed(command.datasets),
    )
    say("\n".join(map(str, checks)))
    say(f"exported: {out}   what to know of it: {out / 'README.md'}")
    return 0


def _is_run(model: str) -> bool:
    """As `silc.rundir.is_run`, without torch."""
    return (Path(model) / "config.yaml").is_file()


def _is_import(model: str) -> bool:
    """Whether it is some model other than a run; what is not there at all is for its reader to say."""
    return not _is_run(model) and (":" in model or Path(model).exists())


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


@dataclass(frozen=True)
class PredictCommand(Settings):
    """Use a model on images: a run, an import, or whatever `silc import` takes."""

    idle: ClassVar[tuple[Idle, ...]] = (
        Idle(("names",), lambda c: c.task == "embed", "embedding takes no names"),
        Idle(("templates",), lambda c: c.task != "classify", "prompts are for classify; segment has its protocol's"),
        Idle(("segmentation",), lambda c: c.task != "segment", "windows are for segment"),
        Idle(("alpha", "legend", "edges"), lambda c: c.task != "segment", "overlays are for segment"),
        Idle(("weights",), lambda c: _is_import(c.model), "the model is no run with a student and a teacher"),
    )
    task: tyro.conf.Positional[Literal["classify", "embed", "segment"]]
    """Probabilities of names on the screen and as JSON, features as .npy, or overlays and label maps in a folder."""
    model: tyro.conf.Positional[str]
    """A run's directory, what `silc import` wrote, open_clip:NAME/PRETRAINED, hf:ORG/NAME, FILE.npz."""
    images: tyro.conf.Positional[tuple[str, ...]]
    """Image files, or folders of them."""
    out: str = ""
    """Where it goes: FILE.json to classify (or nowhere: the likeliest names are printed), FILE.npy to embed, a new or
    empty folder to segment."""
    names: str = ""
    """Classes to tell apart, separated by commas, or a .txt file with one a line."""
    templates: str = "clip7"
    """Prompts around the names when classifying: clip80+1, clip80, clip7, cifar18, tcl9, maskclip85 or plain."""
    weights: Literal["auto", "student", "teacher"] = "auto"
    """Of a run; `auto` is the teacher where there is one."""
    tokenizer: str = ""
    """tokenizer.json, spiece.model or a directory with one, instead of the model's own; a .npz has none."""
    segmentation: Literal["tcl", "tips", "dinov3"] = "tcl"
    """Sliding windows when segmenting, as for `silc eval`."""
    alpha: Annotated[float, Range(least=0, most=1)] = 0.7
    """Share of the classes' colours in overlays."""
    legend: bool = False
    """Name the classes below overlays."""
    edges: bool = False
    """Draw white lines between classes in overlays."""
    batch_size: Annotated[int, Range(least=1, most=1_000_000)] = 32
    """Images (windows, texts) per forward pass."""
    device: Annotated[str, Device()] = "auto"
    """Where to compute: auto, cpu, cuda or cuda:N."""


def _predict(args: list[str]) -> int:
    command = _read(PredictCommand, args, "silc predict")
    from silc import folders, rundir
    from silc.eval.prompts import templates

    out = folders.place_of(command.task, command.out)
    rundir.check_model(command.model)
    templates(command.templates)
    names = folders.names_of(command.names) if command.task != "embed" else []
    images = folders.images_of(command.images, command.task)
    folders.keep_images(images, out)
    config = EvalConfig(segmentation=command.segmentation, batch_size=command.batch_size)
    into = "" if out is None else f" into {out}"
    _begin(f"predict: {command.task} {len(images.files)} images with {command.model}{into}")
    from silc.loading import load

    model = load(command.model, weights=command.weights, tokenizer=command.tokenizer or None, device=command.device)
    match command.task, out:
        case "classify", _:
            say("\n".join(folders.classify(model, images, names, out, command.templates, command.batch_size)))
        case "embed", Path():
            folders.embed(model, images, out, command.batch_size)
        case "segment", Path():
            overlay = {"alpha": command.alpha, "legend": command.legend, "edges": command.edges}
            folders.segment(model, images, names, out, config, **overlay)
    if images.unreadable:
        told = "the JSON names them" if out else "; ".join(one["why"] for one in images.unreadable)
        complain(f"{len(images.unreadable)} files are no images; {told}")
    say(f"{command.task}: {len(images.files) - len(images.unreadable)} images{f': {out}' if out else ''}")
    return 0


def _doctor(args: list[str]) -> int:
    @dataclass(frozen=True)
    class Doctor:
        """Say what is installed, on what it would compute, in which precision, and what data is found."""

        root: str = ""
        """A folder of evaluation data."""

    command = _read(Doctor, args, "silc doctor")
    from rich.table import Table

    from silc import doctor

    table = Table("what", "found", "to do", title="silc doctor", title_justify="left")
    for row in doctor.findings(command.root):
        table.add_row(*row)
    page(table, width=200)
    return 0


@dataclass(frozen=True)
class PlanCommand(Settings):
    """What a recipe takes: parameters, FLOPs, memory, bytes sent, time, hours, cost. Several are set side by side.

    Their fields follow as in `silc train`. Nothing is trained and no GPU is needed.
    """

    idle: ClassVar[tuple[Idle, ...]] = (
        Idle(
            ("gpus", "gpu", "mfu", "price", "pairs", "network", "gpus_per_node", "json"),
            lambda c: bool(c.cards),
            "--cards tells the largest batches of one card and nothing else",
        ),
        Idle(("price",), lambda c: len(c.recipes) > 1 and not c.json, "recipes side by side show no cost; give --json"),
    )
    recipes: tyro.conf.Positional[tuple[str, ...]]
    """Names, or config.yaml of runs."""
    gpus: Annotated[int, Range(least=1, most=10_000_000)] = 8
    """Number of cards, over all nodes."""
    gpu: str = "h100"
    """a100-40, a100-80, h100, h200, b200, l40s or rtx4090."""
    mfu: Annotated[float, Range(above=0, most=1)] = 0.4
    """Share of the card's bf16 peak that is reached; 0.4 is high for small towers (silc/plan/project.py)."""
    price: Annotated[float | None, Range(least=0, most=1e6)] = None
    """Of a card and hour, for the cost."""
    pairs: Annotated[int | None, Range(least=1, most=10**12)] = None
    """Number of pairs, for a `train.duration` in epochs."""
    network: Annotated[float | None, Range(above=0, most=1e6)] = None
    """GB/s a node sends to others, one direction, instead of the card's usual."""
    gpus_per_node: Annotated[int | None, Range(least=1, most=10_000)] = None
    """Instead of 8."""
    cards: str = ""
    """Gigabytes of cards, e.g. 8,24,80: only tells the largest batch of each recipe that one of them holds."""
    json: str = ""
    """File for every number."""


def _plan(args: list[str]) -> int:
    own = [f.name for f in dataclasses.fields(PlanCommand)[1:]]
    chosen, rest = _taken(args, (*own, "gpus-per-node"))
    first_flag = next((i for i, word in enumerate(rest) if word.startswith("-")), len(rest))
    names, overrides = rest[:first_flag], rest[first_flag:]
    options = [word for name, value in chosen.items() for word in (f"--{name}", value)]
    command = _read(PlanCommand, [*names, *options, *([] if names else overrides)], "silc plan")
    if not names:
        raise BadInput("silc plan needs a recipe, e.g. `silc plan silc_c --gpus 64 --gpu h100`")
    configurations, spelled = zip(*(_configured("plan", [name, *overrides]) for name in names), strict=True)
    given.say_unread(given.flags(configs.Config, spelled[0]), configurations[0])
    file = places.file(command.json, flag="--json") if command.json else None
    from silc.plan import cards, gpus, project, tables

    if command.cards:
        held = cards.largest_batches(configurations, cards.sizes(command.cards))
        say(tables.text(tables.cards(held)).strip("\n"))
        return 0
    card = gpus.get(command.gpu).joined(command.network, command.gpus_per_node)
    plan = partial(project.plan, gpu=card, gpus=command.gpus, mfu=command.mfu, price=command.price, pairs=command.pairs)
    plans = [plan(one) for one in configurations]
    say(tables.text(tables.tables(plans[0]) if len(plans) == 1 else tables.side_by_side(plans)).rstrip("\n"))
    if file:
        tables.write(plans, file)
        say(f"plan: {file}")
    return 0


def _show(args: list[str]) -> int:
    from rich.table import Table

    config, _ = _configured("show", args)
    table = Table("field", "value", "meaning", title=config.recipe, title_justify="left")
    for path, value, meaning in configs.fields(config):
        table.add_row(path, repr(value), meaning)
    page(table, width=200)
    return 0


def _begin(line: str) -> None:
    """What a command is about to do, before it loads torch, which takes seconds; under torchrun of one process."""
    if os.environ.get("RANK", "0") == "0":
        say(line)


def _recipes(args: list[str]) -> int:
    if args and args[0] not in ("-h", "--help"):
        raise BadInput(f"silc recipes lists all and takes nothing; to see one: silc show {args[0]}")
    say(_first_lines(recipes.BASES))
    say(f"\nOther towers: NAME-SIZE with SIZE one of {', '.join(LOCAL_SIZE)} (b16 is the default).")
    say(f"The paper's ablation, 5 B examples: {', '.join(f'{row}-5b' for row in recipes.ABLATION)}.")
    return 0


@dataclass(frozen=True)
class CheckCommand(Settings):
    """Look at data before training on it: report.html with pictures, check.json, and a list of broken samples."""

    data: tyro.conf.Positional[str]
    """What data.train takes: tar shards ('/data/{00000..00331}.tar', 'https://...', 's3://...'), or a folder with a
    table of captions."""
    image_root: str = ""
    """Folder of a table's images, as data.image_root; empty: the table's folder."""
    out: str = "data-check"
    """Folder for what comes out."""
    samples: Annotated[int, NATURAL] = 0
    """Look at this many, evenly spread; 0 is all."""
    workers: Annotated[int, Range(least=0, most=1024)] = min(8, os.cpu_count() or 1)
    """Processes that read; 0 reads in this one."""
    pictures: Annotated[int, Range(least=0, most=10_000)] = 24
    """Pictures on the page."""


def _data(args: list[str]) -> int:
    if args[:1] != ["check"]:
        if args and args[0] not in ("-h", "--help"):
            raise BadInput(f"unknown command 'data {args[0]}'; there is `silc data check SHARDS`")
        args = ["check", "--help"]
    command = _read(CheckCommand, args[1:], "silc data check")
    from silc.data import check
    from silc.data.config import DataConfig
    from silc.data.remote import without_secrets
    from silc.data.sources import open_pairs

    out = check.place_of(command.out)
    _begin(f"data check: {without_secrets(command.data)} into {out}")
    pairs = open_pairs(DataConfig(train=command.data, image_root=command.image_root), seed=0, show=True)
    say(
        check.run(
            pairs,
            out,
            title=without_secrets(command.data),
            limit=command.samples,
            workers=command.workers,
            num_pictures=command.pictures,
        )
    )
    return 0


def _first_lines(functions: Mapping[str, Callable[..., Config]]) -> str:
    """A line per recipe: its name and the first line of its docstring."""
    return "\n".join(f"{name:<18}{(function.__doc__ or '').splitlines()[0]}" for name, function in functions.items())


def _demo(args: list[str]) -> int:
    @dataclass(frozen=True)
    class Demo(Settings):
        """Train a small SILC-C on generated scenes, evaluate it and write a report."""

        out: str = "out/demo"
        """Where everything goes; an earlier demo there is replaced."""
        duration: Annotated[str, Duration(share=False, words=("",))] = ""
        """How long to train; by default as long as this machine allows in five minutes: 25k or 6k examples."""

    command = _read(Demo, args, "silc demo")
    places.folder(command.out)
    _begin(f"demo: into {command.out}")
    from silc import demo

    demo.main(Path(command.out), duration=command.duration)
    return 0


def _bench(args: list[str]) -> int:
    from silc.bench import suite

    config = _read(suite.BenchConfig, args, "silc bench")
    suite.check(config)
    _begin(f"bench: {', '.join(config.parts)}")
    rows = suite.run(config)
    page(suite.table(rows), width=200)
    if config.out:
        say(f"benchmark: {config.out}")
    return 0


def _configured(command: str, args: list[str]) -> tuple[Config, list[str]]:
    """RECIPE (a name or a run's config.yaml) with the fields given after it, and those flags spelled out."""
    if not args or args[0].startswith("-"):
        if args and args[0] in ("-h", "--help"):
            say(
                f"usage: silc {command} RECIPE [--field value ...]\n\n`silc recipes` lists the recipes; "
                f"`silc {command} RECIPE --help` lists the fields."
            )
            raise SystemExit(0)
        raise BadInput(f"silc {command} needs a recipe, e.g. `silc {command} silc_c`; `silc recipes` lists them")
    name = args[0]
    fields = _spelled_out(args[1:], name)
    from silc import rundir

    return _over(rundir.named(name), fields, f"{command} {name}"), fields


def _spelled_out(args: Sequence[str], name: str) -> list[str]:
    """The arguments with every field's whole path (--lr is --train.optim.lr); `name` is whose fields can be listed.

    Raises:
        BadInput: a flag is no field, or could be several.
    """
    known = [path for path, _, _ in configs.fields(configs.Config())]
    spelled = []
    for word in args:
        flag, has_value, value = word.partition("=")
        if flag.startswith("--") and flag != "--help":
            path = flag.removeprefix("--").replace("-", "_")
            *sections, leaf = path.split(".")
            switch = ".".join([*sections, leaf.removeprefix("no_")])
            try:
                whole = configs.path_of(switch, known)
            except BadInput as error:
                asked = str(error).replace(f"'{switch}'", f"'{path}'", 1)
                raise BadInput(f"{asked} (`silc show {name}` lists them)") from None
            sections, leaf = whole.split(".")[:-1], whole.split(".")[-1]
            whole = ".".join([*sections, f"no_{leaf}" if switch != path else leaf])
            word = f"--{whole.replace('_', '-')}{has_value}{value}"
        spelled.append(word)
    return spelled


def _over(base: Config, args: list[str], command: str) -> Config:
    """A configuration with the fields given as flags."""
    config, flags = _read(configs.Config, args, f"silc {command}", base), given.flags(configs.Config, args)
    if "data.train" in flags and not config.data.train:  # a shell's variable that is not set: scenes are not meant
        raise BadInput("--data.train is given and empty; name tar shards or a folder, or leave it out")
    return configs.with_one_source(config, flags)


def _read(kind: type[T], args: Sequence[str], prog: str, default: T | None = None) -> T:
    """Flags as a value; tyro's boxed complaint, on stderr before it exits, becomes a BadInput of one line."""
    complaint, flags = io.StringIO(), given.flags(kind, args)
    try:
        with contextlib.redirect_stderr(complaint):
            value = tyro.cli(kind, args=args, prog=prog, default=tyro.MISSING_NONPROP if default is None else default)
    except SystemExit as stop:
        if not stop.code:
            raise
    else:
        given.refuse_unread(flags, value, getattr(kind, "idle", ()))
        return value
    words = " ".join(re.sub(r"[\u2500-\u257f]+", " ", complaint.getvalue()).split())
    said = words.partition(" For full helptext")[0].partition(" Argument helptext:")[0]
    flag = re.search(r"Error parsing --(\S+):", said)
    path = flag[1].replace("-", "_") if flag else ""
    needed = [f"; needed {allowed}" for name, allowed in limits(kind) if name == path]
    raise BadInput(said.removeprefix("Value error ") + "".join(needed))
