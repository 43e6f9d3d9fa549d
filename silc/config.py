"""The configuration of a whole run: built from the packages' dataclasses, with strict types, to YAML and back.

Only modules later in the import order take a `Config`, so no package can read another package's settings.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import itertools
import textwrap
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, TypeVar, overload

import yaml
from pydantic import TypeAdapter, ValidationError

from silc.data.config import CropConfig, DataConfig
from silc.durable import write_whole
from silc.errors import BadInput
from silc.eval.config import EvalConfig
from silc.kinds import KINDS
from silc.losses.config import ObjectiveConfig
from silc.models.config import ModelConfig, multiples_near
from silc.regular import regular
from silc.settings import Range, Settings, nearest, needed
from silc.training.config import TrainConfig

if TYPE_CHECKING:
    from silc.preprocess import Preprocess


@dataclass(frozen=True)
class PixelsConfig(Settings):
    """How pixels become the towers' input. A run that starts from a model uses that model's settings."""

    section: ClassVar[str] = "pixels"
    mean: Annotated[tuple[float, float, float], Range(least=-1000, most=1000)] = (0.5, 0.5, 0.5)
    """Subtracted from red, green and blue in [0, 1]."""
    std: Annotated[tuple[float, float, float], Range(least=1e-4, most=1000)] = (0.5, 0.5, 0.5)
    """The difference is divided by this."""
    resize: Literal["squash", "squash_crop", "crop", "crop_floor"] = "squash"
    """How a whole image becomes a square: squashed, or its centre cut out (silc/preprocess.py)."""
    interpolation: Literal["bilinear", "bicubic", "tf_bilinear", "cv2_bilinear"] = "bicubic"
    """Filter for whole images."""

    def preprocess(self, size: int) -> Preprocess:
        """The preprocessing of a model with these settings, for images of `size` pixels a side."""
        from silc.preprocess import Preprocess  # imports torch, which is not needed to read settings

        return Preprocess(size, self.mean, self.std, self.resize, self.interpolation)


InitWeights = Literal["all", "student", "teacher"]


@dataclass(frozen=True)
class Config:
    """The configuration of one pretraining run."""

    kind: ClassVar[str] = "pretrain"
    recipe: str = ""
    """Name of the recipe this run started from."""
    out: str = ""
    """Directory of the run: config, tokenizer, metrics, checkpoints, scores."""
    init: str = ""
    """The model whose weights the run starts from: a run, or what else `silc.load` takes. Optimizer state and position
    in the data are not used."""
    init_weights: InitWeights = "all"
    """What is taken from `init`: `all` is student, teacher, head and centre; `student` and `teacher` are the towers
    alone, with teacher := student and a fresh head."""
    resume: Literal["auto", "never"] = "never"
    """`auto` goes on from the newest checkpoint in `out`, if there is one."""
    extend: bool = False
    """With `resume auto`: continue the run in `out`, finished or not, to a longer `train.duration`."""
    data: DataConfig = field(default_factory=DataConfig)
    """Pairs and views."""
    pixels: PixelsConfig = field(default_factory=PixelsConfig)
    """How 8-bit pixels become the towers' input."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Towers, head, teacher."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """Losses."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Optimisation."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Evaluation, during training and after."""

    def __post_init__(self) -> None:
        crops, patch = self.data.crops, self.model.image.patch
        if self.objective.distill and crops.local_size % patch:
            raise BadInput(
                f"data.crops.local_size {crops.local_size} is not a multiple of model.image.patch {patch}; "
                f"use {multiples_near(crops.local_size, patch)}"
            )
        if self.objective.needs_globals and crops.num_global < 1:
            raise BadInput("data.crops.num_global is 0, but the objective uses global views; use at least 1")
        if self.objective.contrastive == "softmax" and self.train.batch_size < 2:
            raise BadInput("train.batch_size is 1, but the softmax loss compares a pair with others; needed at least 2")
        if self.objective.distill and crops.num_local < 1:
            raise BadInput("data.crops.num_local is 0, but self-distillation needs local views; use at least 1")
        if (self.objective.distill or self.objective.patches != "off") and "image" in self.train.optim.freeze:
            raise BadInput("train.optim.freeze names the image tower, which the teacher trains; leave it out")
        if self.objective.student_globals and crops.num_global < 2:
            raise BadInput(
                "objective.student_globals needs data.crops.num_global >= 2: no view is compared with itself"
            )

    @property
    def drawn(self) -> CropConfig:
        """The settings of the crops, with 0 crops of a kind that no loss reads."""
        crops, objective = self.data.crops, self.objective
        return replace(
            crops,
            num_global=crops.num_global if objective.needs_globals else 0,
            num_local=crops.num_local if objective.distill else 0,
        )


@dataclass(frozen=True)
class DownstreamConfig(Settings):
    """The configuration of a run that trains a head on an existing model. A subclass adds the head's settings and its
    `kind`."""

    kind: ClassVar[str]
    extend: ClassVar[bool] = False
    out: str = ""
    """Directory of the run: config, metrics, checkpoints, scores."""
    init: str = ""
    """The model: a run, or what else `silc.load` takes."""
    weights: Literal["auto", "student", "teacher"] = "auto"
    """Which weights of a run; `auto` is the teacher where there is one."""
    resume: Literal["auto", "never"] = "never"
    """`auto` goes on from the newest checkpoint in `out`, if there is one."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Optimisation."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Evaluation, during training and after."""

    @property
    def recipe(self) -> str:
        """The name that stands in place of a recipe's name: the kind."""
        return self.kind


Trained = Config | DownstreamConfig
"""The configurations that `silc train` takes."""


class Schema(Protocol):
    """The configuration of a kind of run: a dataclass whose fields all have defaults."""

    kind: ClassVar[str]
    """One of `KINDS`."""


C = TypeVar("C", bound=Schema)
T = TypeVar("T", bound=Trained)


def to_dict(config: Schema) -> dict[str, Any]:
    """The settings as plain values, in the order of the fields."""
    values: dict[str, Any] = _adapter(type(config)).dump_python(config, mode="json")
    return values


def plain(config: Schema) -> dict[str, Any]:
    """What config.yaml holds: the kind of run, and every setting."""
    return {"kind": config.kind, **to_dict(config)}


@overload
def from_dict(values: dict[str, Any]) -> Config: ...
@overload
def from_dict(values: dict[str, Any], schema: type[C]) -> C: ...
def from_dict(values: dict[str, Any], schema: Any = Config) -> Any:
    """Read plain values; unknown fields are refused with the nearest name.

    Raises:
        BadInput: an unknown field, or a value of the wrong type, named by its path.
    """
    known = flat(schema())
    for path, _ in _leaves(values):
        if path not in known:
            raise BadInput(f"unknown field '{path}'{nearest(path, known)}")
    try:
        return _adapter(schema).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(part for part in first["loc"] if isinstance(part, str))
        said = f"field '{path}': {first['msg']} (got {first['input']!r}){needed(schema, path)}"
        raise BadInput(said) from error


def save(config: Schema, file: Path) -> None:
    """Write YAML that `load` reads back to an equal value."""
    write_whole(file, yaml.safe_dump(plain(config), sort_keys=False))


@overload
def load(file: Path) -> Config: ...
@overload
def load(file: Path, schema: type[C]) -> C: ...
def load(file: Path, schema: Any = Config) -> Any:
    """Read a YAML file.

    Raises:
        BadInput: the file does not exist, is not YAML, or is not a configuration of this kind; names the file.
    """
    return load_of(file, [schema.kind])


def load_of(file: Path, kinds: Collection[str]) -> Any:
    """Read the YAML file of a run into its kind's dataclass; the kind must be one of `kinds`.

    Raises:
        BadInput: as `load`.
    """
    kind, values = _kind_and_values(file)
    if kind not in kinds:
        raise BadInput(
            f"{file} is of a run of kind {kind!r}, not of kind {' or '.join(map(repr, kinds))}; "
            f"`{KINDS[kind].command}` goes on with it"
        )
    try:
        return from_dict(values, KINDS[kind].find("settings"))
    except BadInput as error:
        raise BadInput(f"{file}: {error}") from error


def kind_of(file: Path) -> str:
    """The kind of run that a YAML file is of.

    Raises:
        BadInput: no such file, no YAML, or no kind that is known.
    """
    return _kind_and_values(file)[0]


def _kind_and_values(file: Path) -> tuple[str, dict[str, Any]]:
    """Kind and values of a configuration. A file from before there were kinds is of pretraining.

    Raises:
        BadInput: no such file, no YAML, or no kind that is known.
    """
    values = _values(file)
    kind = values.pop("kind", Config.kind)
    if kind not in tuple(KINDS):  # the value may be of any type
        raise BadInput(
            f"{file} is of a run of kind {kind!r}, known are {' and '.join(KINDS)}; use the silc that wrote it"
        )
    return kind, values


@cache
def _adapter(schema: type) -> TypeAdapter[Any]:
    return TypeAdapter(schema)


def written(file: Path) -> set[str]:
    """Paths of the settings that a YAML file holds. The file of an old run lacks the fields that were added since.

    Raises:
        BadInput: as `load`.
    """
    return set(dict(_leaves(_kind_and_values(file)[1])))


class _EachOnce(yaml.SafeLoader):
    """Refuses a name that is given twice. PyYAML would take the last one and silently drop the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines = dict[str, int]()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in lines:
                told = f"{key.value!r} is given twice, in lines {lines[key.value]} and {line}; give it once"
                raise yaml.constructor.ConstructorError(None, None, told)
            lines[key.value] = line
        return super().construct_mapping(node, deep=deep)


def _values(file: Path) -> dict[str, Any]:
    try:
        values = yaml.load(regular(file).read_text(encoding="utf-8-sig"), _EachOnce)
    except RecursionError as error:
        raise BadInput(f"cannot read {file}: it is nested too deeply") from error
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {file}: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise BadInput(f"{file} holds no run configuration; see `silc show silc_c`")
    return values


def override(config: T, values: Mapping[str, Any]) -> T:
    """A configuration with fields changed by name: a path ("train.optim.lr"), or its end if that is unique ("lr").

    If several paths have this end, the one in `train` is meant ("batch_size"). Giving `data.train` also sets
    `data.source` to `shards`.

    Raises:
        BadInput: an unknown, ambiguous or repeated field, a value of the wrong type, or two sources of pairs.
    """
    changed, given = to_dict(config), dict[str, str]()
    known = flat(config)
    for name, value in values.items():
        path = path_of(name, known)
        if path in given:
            raise BadInput(f"'{name}' and '{given[path]}' both mean {path}; give it once")
        given[path] = name
        *sections, leaf = path.split(".")
        inside = changed
        for section in sections:
            inside = inside[section]
        inside[leaf] = value
    return with_one_source(from_dict(changed, type(config)), given)


SYNONYMS = {
    name: path
    for path, names in {
        "train.optim.lr": "learning_rate learningrate peak_lr max_lr base_lr",
        "train.duration": "epochs epoch num_epochs steps num_steps max_steps total_steps iterations max_iterations"
        " examples",
        "train.batch_size": "batch batchsize bs global_batch_size train_batch_size",
        "train.micro_batch": "accum_freq grad_accumulation gradient_accumulation_steps",
        "train.optim.weight_decay": "wd decay_rate",
        "train.optim.clip_norm": "grad_clip grad_clip_norm gradient_clipping max_grad_norm",
        "train.optim.warmup": "warmup_steps warmup_epochs warmup_ratio",
        "train.optim.schedule": "lr_scheduler scheduler",
        "train.precision": "amp dtype fp16 bf16 mixed_precision",
        "data.workers": "num_workers dataloader_num_workers",
        "data.train": "dataset data_path train_data shards data",
        "out": "output output_dir out_dir save_dir logs",
        "init": "pretrained checkpoint from_pretrained",
        "model.image.size": "image_size img_size resolution",
        "model.image.patch": "patch_size",
        "model.text.length": "context_length max_length",
        "train.save_every": "save_freq save_frequency save_steps checkpoint_every",
        "train.eval_every": "eval_freq eval_steps val_frequency",
        "train.log_every": "log_freq logging_steps print_freq",
        "train.seed": "random_seed",
        "train.trackers": "wandb report_to logger tracker",
        "train.optim.lora": "lora_rank lora_r",
        "objective.patch_share": "mask_ratio",
    }.items()
    for name in names.split()
}
"""Other projects' names for settings, and the settings' paths here. The error for an unknown name suggests the path."""


def path_of(name: str, known: Collection[str]) -> str:
    """The known path that a name means, by the rule of `override`.

    Raises:
        BadInput: no path has this end, or several have; for another project's name the message suggests ours.
    """
    found = [path for path in known if path == name] or [path for path in known if path.endswith(f".{name}")]
    if not found:
        asked = name.rpartition(".")[2]
        close = difflib.get_close_matches(asked, SYNONYMS, n=1, cutoff=0.85)
        meant = SYNONYMS[close[0]] if close else None
        names = [*known, *(path.split(".")[-1] for path in known)]
        hint = f"; did you mean '{meant}'?" if meant in known else nearest(name, names)
        raise BadInput(f"unknown field '{name}'{hint}")
    if len(found) > 1:
        found = [path for path in found if path.startswith("train.")] or found
    if len(found) > 1:
        raise BadInput(f"'{name}' could be {' or '.join(found)}; write one of these")
    return found[0]


def with_one_source(config: T, given: Collection[str]) -> T:
    """The configuration with one source of pairs: if it names files and a generated source, the one in `given` stays.

    If neither is given, nothing changes.

    Raises:
        BadInput: both are in `given`.
    """
    data = getattr(config, "data", None)
    if not isinstance(data, DataConfig) or data.generated is None or not data.train:
        return config
    if {"data.train", "data.source"} <= set(given):
        raise BadInput(
            f"data.train {data.train!r} and data.source {data.source} are two sources of pairs; leave one out"
        )
    if "data.source" in given:
        return dataclasses.replace(config, **dict[str, Any](data=dataclasses.replace(data, train="")))
    if "data.train" in given:
        return dataclasses.replace(config, **dict[str, Any](data=dataclasses.replace(data, source="shards")))
    return config


def flat(config: Schema) -> dict[str, Any]:
    """Every setting's plain value by its path, depth first."""
    return dict(_leaves(to_dict(config)))


def fields(value: Any, prefix: str = "") -> list[tuple[str, Any, str]]:
    """Every setting as (path, value, docstring), depth first."""
    found = []
    own: type = type(value)
    docstrings = _attribute_docstrings(own)
    for f in dataclasses.fields(value):
        item = getattr(value, f.name)
        if dataclasses.is_dataclass(item):
            found += fields(item, f"{prefix}{f.name}.")
        else:
            found.append((f"{prefix}{f.name}", item, docstrings.get(f.name, "")))
    return found


@cache
def _attribute_docstrings(cls: type) -> dict[str, str]:
    """The docstring below each field of a dataclass, inherited fields too. Python itself does not keep them."""
    inherited = _attribute_docstrings(cls.__base__) if dataclasses.is_dataclass(cls.__base__) else {}
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
    return inherited | {
        field_.target.id: inspect.cleandoc(below.value.value)
        for field_, below in itertools.pairwise(body)
        if isinstance(field_, ast.AnnAssign)
        and isinstance(field_.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
