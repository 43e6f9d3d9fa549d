"""`silc eval`: scores of models on the data sets under a root, a report, and tables of the paper beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from silc import checks, places, terminal
from silc.commands import flags
from silc.commands.flags import DeviceName, is_import
from silc.errors import BadInput
from silc.eval.config import EvalConfig
from silc.eval.tasks import TASKS, readers
from silc.given import Idle
from silc.settings import Range
from silc.terminal import announce, complain, say
from silc.training.directory import is_run

ALONE = "figures compare two or more results: give two models, or --decoder cosine,radseg, or a run and --weights both"


def _only_read_by(setting: str, suffixes: Sequence[str]) -> Idle:
    """The rule for a setting that only tasks with `suffixes` read: idle if each name in `--tasks` has another suffix. A
    glob that ends in * has none, because it may match any task."""
    known = tuple(f"-{kind.suffix}" for kind in TASKS.values())
    own = tuple(f"-{suffix}" for suffix in suffixes)

    def none_of_them(command: Any) -> bool:
        names = [name.strip() for name in command.tasks.split(",")]
        return all(name.endswith(known) and not name.endswith(own) for name in names)

    return Idle(setting, none_of_them, f"only {', '.join(f'<set>{end}' for end in own)} read it")


@dataclass(frozen=True)
class EvalCommand(EvalConfig):
    """Score runs on the data sets under a root, side by side."""

    section: ClassVar[str] = ""
    idle: ClassVar[tuple[Idle, ...]] = (
        Idle("*", lambda c: c.list, "--list shows the tasks under --root and scores nothing", but="root list"),
        Idle(
            "*",
            lambda c: (c.table or c.paper) and not c.root,
            "without --root, tables are made from existing scores",
            but="table paper out",
        ),
        *(_only_read_by(setting, suffixes) for setting, suffixes in readers().items()),
        _only_read_by("figures*", ["zs-seg", "ov-seg"]),
        Idle("figures", lambda c: bool(c.figures_of), "--figures-of names the images"),
        Idle("tokenizer", lambda c: all(map(is_run, c.runs)), "runs have the tokenizer that they were trained with"),
        Idle("weights", lambda c: all(map(is_import, c.runs)), "none of these is a run with a student and a teacher"),
    )
    exif_orientation: Literal["ignore", "apply"] = "apply"
    """Whether a photograph is turned by its EXIF orientation. Label maps never are."""
    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Directories of runs made by `silc train` or `silc import`, open_clip:NAME/PRETRAINED, hf:ORG/NAME, FILE.npz."""
    out: str = ""
    """JSON file for all records; default each run's own scores.json. The page is FILE.html, or report.html."""
    tokenizer: str = ""
    """tokenizer.json, spiece.model or a directory with one, for models that are no runs; a .npz has none of its own."""
    device: DeviceName = "auto"
    cache: str = ""
    """Folder that keeps results by weights, data and protocol; default eval-cache in the first run, `off` for none."""
    table: Literal[
        "", "main", "few-shot", "sizes", "teacher-student", "ablation", "open-vocabulary", "zero-shot-segmentation"
    ] = ""
    """Write the runs' scores beside this table of the paper (.md, .html, .json, .tex); without --root, from existing
    scores."""
    paper: bool = False
    """Write every table of the paper for which the runs have scores, with figures, as paper.html; without --root, from
    existing scores."""
    figures: Annotated[int, Range(least=0, most=1000)] = 0
    """Number of images whose segmentations are shown side by side in figures-TASK.html: those in which models or
    decoders differ most."""
    figures_of: str = ""
    """Show these images of the sets side by side: their ids (file names without ending), joined by commas."""
    list: bool = False
    """Show every task, what it needs under the root and whether it is there; score nothing."""

    def config(self) -> EvalConfig:
        """The settings of the evaluation, without the command's own flags."""
        return EvalConfig(**{f.name: getattr(self, f.name) for f in dataclasses.fields(EvalConfig)})


def main(args: list[str]) -> int:
    """Score models, list the tasks, or write tables of existing scores; 2 if a task could not be scored."""
    command = flags.read(EvalCommand, args, "silc eval")
    if command.list:
        return _list_tasks(command.root)
    if not command.runs:
        raise BadInput(
            "silc eval needs a run, e.g. `silc eval out/run --root DATA`; `silc eval --list` shows the tasks"
        )
    beside = Path(command.out or command.runs[0])
    stem = _table_stem(command.table, beside) if command.table else None
    folder = (
        places.folder(beside if beside.is_dir() or not beside.suffix else beside.parent, flag="--out")
        if command.paper
        else None
    )
    scored = command.root or not (command.table or command.paper)
    files, unscored = _score(command.runs, command) if scored else ([Path(name) for name in command.runs], [])
    if stem and files:
        from silc.eval import tables

        table = tables.paper_table(command.table, files)
        say(tables.to_markdown(table))
        say("\n".join(f"table: {path}" for path in tables.write(table, stem)))
    if folder and files:
        from silc.eval import paper

        page, *others = paper.write(paper.paper(files), files, folder)
        say(f"tables: {', '.join(str(file) for file in others if file.suffix == '.md')}\npage: {page}")
    if unscored and files:
        complain(f"not scored: {', '.join(unscored)}; the files have the scores of the other tasks")
    return BadInput.exit_code if unscored else 0


def _score(models: Sequence[str], command: EvalCommand) -> tuple[Sequence[Path], Sequence[str]]:
    """Score models and write the results.

    Returns:
        The files of records (on the main rank only), and the tasks that could not be scored.
    """
    beside = next((Path(model) for model in models if Path(model).is_dir()), None)
    if not command.out and beside is None and any(":" in model or Path(model).is_file() for model in models):
        raise BadInput("none of these models is in a directory that could keep its scores; give --out FILE.json")
    config = checks.scoring(models, command.config())
    files = checks.result_files(models, command.out or None)
    _check_figures(models, command)
    cache = _cache(command.cache, beside or files.page.parent)
    announce(f"eval: {config.tasks} under {config.root}, of {', '.join(models)}")
    from silc import evaluation, results
    from silc.distributed import join
    from silc.eval.progress import Unscored

    tokenizer = Path(command.tokenizer) if command.tokenizer else None
    unscored = Unscored(complain if terminal.is_heard() else lambda _: None)
    title = ", ".join(Path(one).name if Path(one).is_dir() else one for one in models)
    written: Sequence[Path] = []
    with join(command.device):
        evaluations = evaluation.evaluate(
            models, config, device=command.device, cache=cache, tokenizer=tokenizer, failed=unscored
        )
        if evaluations:  # empty on all ranks but the main one, and if no task was scored
            written, page = results.write(models, evaluations, command.out or None, title=title)
            say("\n".join([*(f"scores: {file}" for file in written), f"report: {page}"]))
        if command.figures or command.figures_of:
            compared = evaluation.figures(
                models,
                config,
                most=command.figures,
                ids=_listed(command.figures_of),
                device=command.device,
                tokenizer=tokenizer,
                failed=unscored,
            )
            say("\n".join(f"figures: {file}" for file in results.write_figures(compared, files.page)))
    return written, unscored.tasks


def _check_figures(models: Sequence[str], command: EvalCommand) -> None:
    """
    Raises:
        BadInput: figures are asked for, but there is only one model with one decoder, protocol and list of names.
    """
    ways = (command.decoder, command.segmentation, command.names)
    alone = (
        len(models) == 1 and not any("," in way for way in ways) and (command.weights != "both" or is_import(models[0]))
    )
    if alone and (command.figures or command.figures_of):
        raise BadInput(ALONE)


def _listed(names: str) -> Sequence[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def _cache(given: str, beside: Path) -> Path | None:
    """The folder that keeps results: the one asked for, or one beside the scores; None if it is `off` or, when no
    folder is asked for, cannot be written."""
    if given:
        return None if given == "off" else places.folder(given, flag="--cache")
    try:
        return places.folder(beside / "eval-cache", flag="--cache")
    except BadInput as error:
        announce(f"eval: results are not cached: {error}")
        return None


def _table_stem(name: str, beside: Path) -> Path:
    """The path of a table without suffix, checked to be writable: in a folder, or beside a file of scores and named
    after it."""
    if beside.is_dir() or not beside.suffix:
        stem = beside / f"table-{name}"
    else:
        stem = beside.with_name(f"table-{name}" if beside.name == "scores.json" else f"{beside.stem}.table-{name}")
    *_, tried = (places.file(f"{stem}{suffix}", flag="the table") for suffix in (".tex", ".html", ".json", ".md"))
    return tried.with_suffix("")


def _list_tasks(root: str) -> int:
    from silc.eval import asked

    rows = []
    for task in asked.listing(root):
        missing = [path for path in task.needs if not path.exists()]
        needs = "\n".join(f"{path}{' (missing)' if path in missing and root else ''}" for path in task.needs)
        if missing and root and task.source.prepared:
            needs += f"\n`silc data prepare {task.source.prepared}` makes it from the release"
        rows.append((task.name, "-" if not root else "no" if missing else "yes", needs))
    terminal.table(f"Tasks under {root or 'the --root you give'}", ("task", "there", "needs"), rows)
    say("\n" + Path(asked.__file__).with_name("own_sets.txt").read_text(encoding="utf-8").rstrip("\n"))
    return 0
