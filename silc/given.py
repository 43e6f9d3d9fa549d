"""Flags and settings that the user gave: refuse repeated flags, and tell which settings are not read.

A command refuses a flag that it would not read. A run's configuration is large, and recipes leave parts of it unused:
there, one line names the settings that were given and are not read.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from silc import config as configs
from silc.config import Config, Trained
from silc.data.config import DataConfig, GeneratedConfig
from silc.errors import BadInput
from silc.kinds import KINDS
from silc.terminal import announce

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Idle:
    """Settings that are not read if `when` is true."""

    paths: str
    """Names or globs, separated by spaces."""
    when: Callable[[Any], bool]
    because: str
    """The reason; it may contain a setting's value: {0.train.passes}."""
    but: str = ""
    """Settings that match `paths` and are read all the same."""

    def has(self, path: str) -> bool:
        """Whether the rule is about this setting."""
        return path not in self.but.split() and any(fnmatchcase(path, glob) for glob in self.paths.split())


def flags(kind: type, args: Sequence[str]) -> dict[str, list[str]]:
    """The settings of a dataclass that a command line gives: each path, and the words of its value.

    Raises:
        BadInput: a flag is given twice with different values, or a switch with a value.
    """
    hints, given = dict(_hints(kind)), dict[str, list[str]]()
    starts = [i for i, word in enumerate(args) if word.startswith("--")]
    for start, end in itertools.pairwise([*starts, len(args)]):
        name, has_value, value = args[start].removeprefix("--").partition("=")
        path = name.replace("-", "_")
        words = [value] * bool(has_value) + list(args[start + 1 : end])
        positive = switch(path)
        if hints.get(positive) is bool:
            if words and words[0].lower() in ("true", "false"):
                *sections, leaf = positive.split(".")
                on, off = (f"--{'.'.join([*sections, name])}".replace("_", "-") for name in (leaf, f"no_{leaf}"))
                raise BadInput(f"{on} takes no value; write {on} or {off}")
            path, words = positive, [str(path == positive)]
        elif get_origin(hints.get(path)) is not tuple:
            words = words[:1]
        if given.setdefault(path, words) != words:
            was, now = " ".join(given[path]), " ".join(words)
            raise BadInput(f"--{name} is given twice, as {was!r} and as {now!r}; give it once")
    return given


def paths(kind: type) -> list[str]:
    """Every setting of a dataclass and those inside it."""
    return [path for path, _ in _hints(kind)]


def switch(path: str) -> str:
    """The setting that a flag turns off: data.crops.flip for data.crops.no_flip; any other path stays as it is."""
    return re.sub(r"(^|\.)no_(?=[^.]+$)", r"\1", path)


def unread(given: Iterable[str], value: Any, rules: Iterable[Idle]) -> dict[str, str]:
    """The given paths that are not read in the configuration `value`, each with the reason."""
    given, found = list(given), dict[str, str]()
    for rule in rules:
        spoken_of = [path for path in given if rule.has(path)]
        if spoken_of and rule.when(value):
            found = dict.fromkeys(spoken_of, rule.because.format(value)) | found
    return found


def refuse_unread(given: Iterable[str], command: Any, rules: Iterable[Idle]) -> None:
    """Refuse flags that a command would not read.

    Raises:
        BadInput: there is such a flag.
    """
    if found := unread(given, command, rules):
        said = "; ".join(f"--{path.replace('_', '-')}: {why}" for path, why in found.items())
        raise BadInput(f"not used, leave it out: {said}")


def say_unread(given: Iterable[str], config: Trained) -> None:
    """Print the given settings that a run's configuration does not read, in one line on stderr of the main rank.

    Args:
        given: their paths, or names as for `config.override`.
    """
    known, rules = configs.flat(config), KINDS[config.kind].find("idle") or ()
    if found := unread((configs.path_of(name, known) for name in given), config, rules):
        said = "; ".join(f"{path} ({why})" for path, why in found.items())
        announce(f"silc: given and not used in this run: {said}", error=True)


def _heads(config: Config) -> bool:
    return config.objective.distill or config.objective.patches != "off"


def _views(config: Config) -> bool:
    return config.objective.needs_globals or config.objective.distill


def _other_source(name: str, config: Any) -> bool:
    return bool(config.data.source != name)


PAIRS: tuple[Idle, ...] = (
    *(
        Idle(f"data.{name}.*", partial(_other_source, name), "data.source is {0.data.source}")
        for name, section in vars(DataConfig()).items()
        if isinstance(section, GeneratedConfig)
    ),
    Idle(
        "data.shuffle_shards data.index_cache data.remote_* data.max_* data.exif_orientation data.image_root"
        " data.accept_changed_shards data.subset",
        lambda c: c.data.generated is not None,
        "data.source is {0.data.source}",
    ),
    Idle("data.remote_*", lambda c: "://" not in c.data.train, "data.train names no address"),
    Idle("data.accept_changed_shards", lambda c: c.resume == "never", "nothing is resumed"),
    Idle(
        "data.photometric.*",
        lambda c: not c.data.photometric.on,
        "data.photometric.on is off",
        but="data.photometric.on",
    ),
)
"""Rules for every run on image-text pairs."""
TRAINING: tuple[Idle, ...] = (
    Idle(
        "train.optim.timescale train.optim.cooldown",
        lambda c: c.train.optim.schedule == "cosine",
        "train.optim.schedule is cosine",
    ),
    Idle(
        "train.sharding",
        lambda c: c.train.sharding != "none" and os.environ.get("WORLD_SIZE", "1") == "1",
        "one rank holds everything; start several with torchrun",
    ),
)
"""Rules for every training."""
ALONG = Idle(
    "eval.*",
    lambda c: c.train.eval_every == "never",
    "train.eval_every is never",
    but="eval.root",  # `silc eval RUN` uses it if no root is given
)
"""The rule for a head that is not scored during its training."""
RUN: tuple[Idle, ...] = (
    *PAIRS,
    Idle("data.photometric.*", lambda c: not _views(c), "the image-text loss sees only the whole image"),
    Idle("data.crops.*global*", lambda c: not c.objective.needs_globals, "no loss uses global views"),
    Idle("data.crops.*local*", lambda c: not c.objective.distill, "objective.distill is off"),
    Idle("data.crops.aspect data.crops.flip", lambda c: not _views(c), "no loss uses cropped views"),
    Idle("data.vocab_size", lambda c: bool(c.data.tokenizer), "data.tokenizer has its own vocabulary"),
    Idle("data.vocab_size", lambda c: bool(c.init), "init brings its tokenizer"),
    Idle("init_weights", lambda c: not c.init, "init names nothing to start from"),
    Idle("model.head.*", lambda c: not _heads(c), "no loss uses the head"),
    Idle("model.teacher.*", lambda c: not c.objective.teacher, "objective.teacher is off"),
    Idle(
        "model.teacher.temperature model.teacher.centre_momentum objective.student_temperature",
        lambda c: not _heads(c),
        "objective.distill and objective.patches are off",
    ),
    Idle("objective.weight objective.student_globals", lambda c: not c.objective.distill, "distill is off"),
    Idle("objective.patch_*", lambda c: c.objective.patches == "off", "objective.patches is off"),
    Idle("objective.bias_init", lambda c: c.objective.contrastive == "softmax", "the softmax loss has no bias"),
    Idle(
        "objective.scale_init objective.bias_init",
        lambda c: bool(c.init),
        "init brings its own, if its loss is the same",
    ),
    *TRAINING,
    Idle("train.passes", lambda c: c.train.micro_batch > 0, "train.micro_batch has passes of its own"),
    Idle("train.optim.decay", lambda c: c.train.optim.weight_decay == 0, "train.optim.weight_decay is 0"),
    Idle(
        "eval.*",
        lambda c: c.train.eval_every == "never" and not c.train.held_out,
        "train.eval_every is never",
        but="eval.root",
    ),
)
"""Rules for a pretraining run."""


def _hints(kind: type, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Path and plain type of every setting of a dataclass and those inside it."""
    hints: Mapping[str, Any] = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from _hints(hint, f"{prefix}{field.name}.")  # type: ignore[arg-type]
        else:
            yield f"{prefix}{field.name}", next((part for part in get_args(hint) if get_origin(part) is tuple), hint)
