"""What scripts/evidence.py carries out: studies of docs/evidence/queue.yaml, and the runs they consist of."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pydantic
import yaml

from silc import config as configs
from silc import recipes
from silc.config import Config
from silc.errors import BadInput

ROOT = Path(__file__).parent.parent
QUEUE, OUT = ROOT / "docs/evidence/queue.yaml", ROOT / "out/evidence"
Name = Annotated[str, pydantic.StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*$")]


class Arm(pydantic.BaseModel, extra="forbid"):
    """One side of a comparison."""

    recipe: str
    fields: dict[str, Any] = {}
    flops_of: Name | None = None
    """Another arm: this one trains until it has cost as many FLOPs as that one."""


class Study(pydantic.BaseModel, extra="forbid"):
    """One question and the runs that answer it."""

    name: Name
    question: str
    prediction: str
    """Written down before the first run."""
    answer: str = ""
    """What is said of the result; written afterwards."""
    fields: dict[str, Any] = {}
    """Of every arm."""
    arms: dict[Name, Arm]
    against: dict[Name, Name] = {}
    """Which arm each is compared with."""
    seeds: list[int]
    columns: dict[str, str]
    """Title of each column, by "task/metric"."""

    @pydantic.model_validator(mode="after")
    def _names_its_arms(self) -> Study:
        named = {*self.against, *self.against.values(), *(arm.flops_of for arm in self.arms.values() if arm.flops_of)}
        if unknown := named - set(self.arms):
            raise ValueError(f"study {self.name} has no arm {', '.join(sorted(unknown))}")
        if wrong := [column for column in self.columns if column.count("/") != 1]:
            raise ValueError(f"column {wrong[0]!r} is not TASK/METRIC")
        return self


class Run(NamedTuple):
    """One arm with one seed."""

    study: Study
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """STUDY/ARM/seed-N: its place under docs/evidence and out/evidence."""
        return f"{self.study.name}/{self.arm}/seed-{self.seed}"

    def config(self, out: Path = OUT) -> Config:
        """What it is told.

        Raises:
            BadInput: no such recipe or field.
        """
        arm = self.study.arms[self.arm]
        told = {**self.study.fields, **arm.fields, "train.seed": self.seed, "out": str(out / self.name)}
        config = configs.override(recipes.get(arm.recipe), told)
        if arm.flops_of:
            config = configs.override(config, {"train.duration": self._as_costly(config, arm.flops_of)})
        return config

    def _as_costly(self, config: Config, arm: str) -> str:
        from silc.pretraining.build import flops_per_example
        from silc.training.config import examples_of

        other = Run(self.study, arm, self.seed).config()
        batch = other.train.batch_size
        num = other.data.generated.num if other.data.generated else 0
        examples = examples_of(other.train.duration, batch_size=batch, steps_per_epoch=num // batch)
        flops = [flops_per_example(one, vocab_size=one.data.vocab_size, eos_id=1) for one in (other, config)]
        return f"{round(examples * flops[0] / flops[1])} examples"


def studies(queue: Path = QUEUE) -> list[Study]:
    """What the file lists.

    Raises:
        BadInput: it is missing or damaged, or names a recipe or field that is not there.
    """
    try:
        read = pydantic.TypeAdapter(list[Study]).validate_python(yaml.safe_load(queue.read_text()))
    except FileNotFoundError:
        raise BadInput(f"{queue} does not exist; it lists the studies") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{queue} is no YAML: {' '.join(str(error).split())}") from None
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BadInput(f"{queue}: {where}: {first['msg']}; got {str(first['input'])[:80]!r}") from None
    names = [study.name for study in read]
    if twice := {name for name in names if names.count(name) > 1}:
        raise BadInput(f"{queue}: two studies are called {twice.pop()}")
    for study in read:
        for name, arm in study.arms.items():
            try:
                configs.override(recipes.get(arm.recipe), {**study.fields, **arm.fields})
            except BadInput as error:
                raise BadInput(f"{queue}: {study.name}, {name}: {error}") from None
    return read


def runs(of: list[Study]) -> Iterator[Run]:
    """Every run, seed by seed, so that pairs are complete early."""
    for study in of:
        for seed in study.seeds:
            yield from (Run(study, arm, seed) for arm in study.arms)
