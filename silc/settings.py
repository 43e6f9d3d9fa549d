"""Allowed values of settings: written beside a setting's type, checked when its dataclass is made. Imports no torch.

class OptimConfig(Settings):
    section: ClassVar[str] = "train.optim"
    lr: Annotated[float, Range(above=0, most=1)] = 1e-3
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Protocol, TypeVar, get_args, get_type_hints

from silc.errors import BadInput

T = TypeVar("T")
_FACTORS = {"": 1.0, "k": 1e3, "M": 1e6, "B": 1e9}
_DURATION = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([kMB]?)\s*(steps?|examples|epochs?|%)\s*$", re.ASCII)
_DEVICE = re.compile(r"(cpu|cuda)(?::([0-9]{1,4}))?", re.ASCII)
LONGEST = 1e15
"""Steps, examples or epochs above which a duration must be a typing error."""


class Allowed(Protocol):
    """The allowed values of a setting; `str()` gives them in words that follow "needed"."""

    def holds(self, value: Any) -> bool:
        """Whether `value` is one of these."""
        ...


@dataclass(frozen=True)
class Range:
    """Finite numbers. A tuple needs at least one element, all in range. A side that is not given is open."""

    above: float | None = None
    least: float | None = None
    most: float | None = None
    below: float | None = None
    advice: str = ""
    """What to do instead, if the range does not say it."""
    whole: bool = False
    """Only whole numbers; set automatically if a field's type is int."""

    def holds(self, value: Any) -> bool:
        """Whether a number, or each of several, lies inside."""
        if isinstance(value, tuple | list):
            return bool(value) and all(self.holds(one) for one in value)
        return (
            isinstance(value, int if self.whole else int | float)
            and not isinstance(value, bool)
            and math.isfinite(value)
            and (self.above is None or value > self.above)
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        sides = (("above", self.above), ("at least", self.least), ("below", self.below), ("at most", self.most))
        said = " and ".join(f"{words} {bound:,.15g}" for words, bound in sides if bound is not None)
        number = "a whole number" if self.whole else "a number" if said else "a finite number"
        return f"{number} {said}".strip() + (self.advice and f" ({self.advice})")


@dataclass(frozen=True)
class Duration:
    """Texts like '500 steps', '2.5M examples', '30 epochs' and, if `share` is set, '10%' of the run."""

    zero: bool = False
    """Whether zero is allowed: '0 steps'."""
    share: bool = True
    words: tuple[str, ...] = ()
    """Words that are allowed beside durations, e.g. 'never'."""

    def holds(self, value: Any) -> bool:
        """Whether it is such a text, and at most `LONGEST`."""
        if value in self.words:
            return True
        match = _DURATION.match(value) if isinstance(value, str) else None
        if match is None:
            return False
        amount, unit = amount_of(value)
        most = (100 if self.share else -1) if unit == "%" else LONGEST
        return (amount > 0 or self.zero) and amount <= most

    def __str__(self) -> str:
        examples = ["'500 steps'", "'2.5M examples'", "'30 epochs'", *["'10%'"] * self.share]
        limits = f"{'' if self.zero else 'above 0 and '}at most {LONGEST:g}" + ", or 100 %" * self.share
        return f"a duration like {', '.join([*examples, *map(repr, filter(None, self.words))])}; {limits}"


@dataclass(frozen=True)
class Device:
    """Where to compute: auto, cpu, cuda or cuda:N. `distributed.place` checks that the device exists."""

    def holds(self, value: Any) -> bool:
        """Whether it is one of these names."""
        return value == "auto" or (isinstance(value, str) and _DEVICE.fullmatch(value) is not None)

    def __str__(self) -> str:
        return "auto, cpu, cuda or cuda:N"


COUNT, NATURAL, SHARE = Range(least=1), Range(least=0), Range(least=0, most=1)
SEED = Range(least=0, most=2**63 - 1)


class Settings:
    """Base of every dataclass of settings: it refuses values that a field's type does not allow, and names the field.

    Raises:
        BadInput: a number outside of its range, a text that is no duration or no device.
    """

    section: ClassVar[str] = ""
    """Path of the section in a run's configuration; empty: the fields are flags of a command."""

    def __post_init__(self) -> None:
        own: type = type(self)
        for name, allowed in _limits(own).items():
            value = getattr(self, name)
            if value is not None and not allowed.holds(value):
                raise BadInput(f"{self.named(name)} is {value!r}; needed {allowed}")

    @classmethod
    def named(cls, name: str) -> str:
        """A field's name as users write it: train.optim.lr, or --batch-size."""
        return f"{cls.section}.{name}" if cls.section else f"--{name.replace('_', '-')}"


def limits(cls: type, prefix: str = "") -> Iterator[tuple[str, Allowed]]:
    """Every limited setting of a dataclass and those inside it: its path, and its allowed values."""
    hints, own = get_type_hints(cls), _limits(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from limits(hints[field.name], f"{prefix}{field.name}.")
        elif field.name in own:
            yield f"{prefix}{field.name}", own[field.name]


def needed(cls: type, path: str) -> str:
    """'; needed ...' for a limited setting, else ''."""
    return "".join(f"; needed {allowed}" for name, allowed in limits(cls) if name == path)


def amount_of(duration: str) -> tuple[float, str]:
    """Amount and unit (step, example, epoch, %) of a duration.

    Raises:
        BadInput: the text is no duration.
    """
    match = _DURATION.match(duration)
    if match is None:
        raise BadInput(f"'{duration}' is no duration; write '500 steps', '2.5M examples', '30 epochs' or '10%'")
    return float(match[1]) * _FACTORS[match[2]], match[3].rstrip("s")


def kind_and_index(device: str) -> tuple[str, int | None]:
    """The two parts of a device's name other than `auto`: "cuda:1" is ("cuda", 1).

    Raises:
        BadInput: it is no such name.
    """
    match = _DEVICE.fullmatch(device)
    if match is None:
        raise BadInput(f"device {device!r} is not known; needed {Device()}")
    return match[1], None if match[2] is None else int(match[2])


def one_of(table: Mapping[str, T], name: str, what: str) -> T:
    """The entry of a table.

    Raises:
        BadInput: there is no entry of this name; names the nearest one and all.
    """
    if name not in table:
        raise BadInput(f"unknown {what} '{name}'{nearest(name, table)}; there are: {', '.join(table)}")
    return table[name]


def nearest(name: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' when something in `known` is close to `name`, else ''."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


@cache
def _limits(cls: type) -> dict[str, Allowed]:
    """The allowed values of each field, own or inherited, whose type says them."""
    found: dict[str, Allowed] = {}
    for name, hint in get_type_hints(cls, include_extras=True).items():
        for said in getattr(hint, "__metadata__", ()):
            if isinstance(said, Range):
                plain, *_ = get_args(hint)
                found[name] = dataclasses.replace(said, whole=float not in (plain, *get_args(plain)))
            elif isinstance(said, Duration | Device):
                found[name] = said
    return found
