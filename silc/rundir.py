"""A pretraining run's directory: what it holds, and whether a run resumes as it began. Imports no torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from silc import checkpoint, recipes
from silc import config as configs
from silc.config import Config, Trained
from silc.data.remote import without_secrets
from silc.errors import BadInput
from silc.interop.sources import kind_of
from silc.kinds import heads, those_that
from silc.training.directory import CHECKPOINTS, CONFIG, is_run

TOKENIZER = "tokenizer"
"""The folder of the tokenizer in a pretraining run's directory."""
CONTINUE = "continue"
"""The folder of an export that holds the run."""

# Fields that may differ when a run resumes, because they do not change what is learnt. Shards may have moved; the
# loader checks that they are the same ones. What a run started from no longer matters once it has a checkpoint.
FREE = (
    "recipe out resume extend eval train.device train.sharding train.compile train.micro_batch train.passes "
    "train.max_skips train.trackers train.timeout train.log_every train.save_every train.keep train.eval_every "
    "data.train data.image_root data.workers data.index_cache data.max_bad_rate data.accept_changed_shards "
    "data.subset data.remote_patience data.remote_cache data.remote_cache_gb"
)

LENGTH = "train.duration"
"""The setting in which an extended run differs from what it began as."""


def named(name: str | Path) -> Trained:
    """The configuration of a recipe or head, by its name, or of a file. For a run's own file, `out` is the file's
    folder.

    Raises:
        BadInput: no such recipe or file.
    """
    if not str(name).endswith((".yaml", ".yml")):
        head = heads().get(str(name))
        if head is None and is_run(name) and name not in recipes.names():
            raise BadInput(
                f"{name} is a run and no recipe; name its file, {Path(name) / CONFIG}, and --resume auto to go on"
            )
        return head() if head else recipes.get(str(name))
    file = Path(name)
    config: Trained = configs.load_of(file, those_that("train"))
    lies_in_run = file.name == CONFIG and (file.parent / CHECKPOINTS).is_dir()
    return replace(config, out=str(file.parent)) if lies_in_run else config


def newest_checkpoint(run: Path) -> Path:
    """The newest checkpoint of a run.

    Raises:
        BadInput: no run there, or no checkpoint yet.
    """
    if not (run / CONFIG).is_file():
        raise BadInput(f"{run} holds no run (no config.yaml); give the --out directory of `silc train`")
    found = checkpoint.find(run / CHECKPOINTS)
    if not found:
        raise BadInput(f"{run} holds no finished checkpoint yet; wait for one, or go on with --resume auto")
    return found[0]


def check_model(source: str | Path) -> None:
    """Check whether a source can be a model at all; no weight is read, and nothing fetched.

    Raises:
        BadInput: it is neither a run that has a checkpoint and whose kind makes a model, nor what `silc import` takes.
    """
    if is_run(source):
        configs.load_of(Path(source) / CONFIG, those_that("load"))
        newest_checkpoint(Path(source))
    else:
        kind_of(source)


def check_same(out: Path, config: Trained) -> None:
    """Check that a configuration is that of the run in `out`.

    Raises:
        BadInput: it is another run's; names the first differences.
    """
    found = checkpoint.find(out / CHECKPOINTS)
    if isinstance(config, Config):
        config, _ = with_one_source(config, out)
        config, _ = as_begun(config, out)
    begun = configs.load(out / CONFIG, type(config))
    if config.train.precision == "auto":  # it resumes in the precision that it has
        config = replace(config, train=replace(config.train, precision=begun.train.precision))
    differing = {
        path: f"{path} is {was!r} there and {now!r} here"
        for path, was, now in _differences(begun, config)
        if not _free(path) and not (path == "init" and found) and not (path == LENGTH and config.extend)
    }
    if differing:
        longer = list(differing) == [LENGTH] and isinstance(config, Config)
        lengthen = "add --extend to lengthen it, " if longer else ""
        raise BadInput(
            f"{out} holds another run: {'; '.join(list(differing.values())[:3])}; {lengthen}give another --out, or go "
            f"on as it began with `silc train {out / CONFIG} --resume auto`"
        )


def with_one_source(config: Config, out: Path) -> tuple[Config, str]:
    """The configuration with one source of pairs, and a line for the user if `data.train` is given and not read.

    Today `data.train` selects its own source. An older run may have been given it and have trained on generated scenes
    all the same; it resumes on scenes.

    Raises:
        BadInput: a new run names both.
    """
    if not config.data.train:
        return config, ""
    if config.resume == "auto" and (out / CONFIG).is_file():
        begun = configs.load(out / CONFIG).data
        if begun.generated and begun.train:
            said = f"data.train is not read: {out} began on generated {begun.source} and goes on with them"
            return replace(config, data=replace(config.data, source=begun.source)), said
    if config.data.generated:
        source = config.data.source
        raise BadInput(
            f"data.train is {without_secrets(config.data.train)!r} and data.source is {source}: two sources of pairs; "
            f"give --data.source shards to read the first, or only --data.source {source}"
        )
    return config, ""


def with_its_init(config: Config, out: Path) -> tuple[Config, str]:
    """The configuration of a run that resumes from its checkpoint, and a line for the user if another `init` is given
    now."""
    began = configs.load(out / CONFIG).init
    said = f"init {config.init} is not read: {out} goes on from its own checkpoint" if config.init != began else ""
    return replace(config, init=began), said if config.init else ""


def as_begun(config: Config, out: Path) -> tuple[Config, str]:
    """The configuration, where settings that only the recipe has changed since the run in `out` began keep the run's
    values; and a line that says so.

    A setting counts as changed by the recipe, and not by the user, if both have the same recipe, the configuration has
    the value that the recipe has today, and the run has the field's default or an earlier value of the recipe
    (`recipes.EARLIER`). A field's default in its dataclass is the behaviour from before the field existed, so a run
    whose config.yaml lacks a field has the default.
    """
    if not (out / CONFIG).is_file():
        return config, ""
    begun, written = configs.load(out / CONFIG), configs.written(out / CONFIG)
    if config.objective.scale_max is None and begun.objective.scale_max == 1000.0:
        # Before None was possible, `silc finetune` wrote this number for "no clamp": nothing to tell.
        config = replace(config, objective=replace(config.objective, scale_max=1000.0))
    before = configs.flat(Config())
    recipe, earlier = dict[str, Any](), dict[str, Any]()
    if begun.recipe == config.recipe and config.recipe in recipes.names():
        recipe = configs.flat(recipes.get(config.recipe))
        earlier = recipes.EARLIER.get(config.recipe, {})
    changed = {}
    for path, was, now in _differences(begun, config):
        of_before = was in (before[path], earlier.get(path, before[path]))
        of_today = path in recipe and now == recipe[path]
        recipe_changed = of_before and of_today
        free = _free(path) and not path.startswith("eval.")  # a run's scores are one curve
        if (recipe_changed and not free) or (path not in written and not _free(path)):
            changed[path] = was
    said = ", ".join(f"{path} {was}" for path, was in changed.items())
    return configs.override(config, changed), said and f"{out} began before its recipe changed; it keeps {said}"


def _differences(begun: Trained, config: Trained) -> list[tuple[str, Any, Any]]:
    """Path, value there and value here of every setting in which two runs differ."""
    ours = configs.flat(config)
    return [(path, was, ours[path]) for path, was in configs.flat(begun).items() if was != ours[path]]


def _free(path: str) -> bool:
    return any(path == free or path.startswith(f"{free}.") for free in FREE.split())
