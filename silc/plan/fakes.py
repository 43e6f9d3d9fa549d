"""torch's fake tensors, with a faster cache of the operators' outputs.

A step calls ten thousand operators, but only some hundred different ones; the others repeat earlier calls with the same
shapes. `FakeTensorMode` has a cache too, but one look-up takes half a millisecond. This cache takes a tenth of that,
because there is one device, shapes are numbers, and torch computes all other cases anew. The results are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

CPU = torch.device("cpu")
GIVEN = (Tensor, nn.Parameter)
"""Types of tensors that are made outside; they are cached only if they are on the meta device (without data)."""
PLAIN = (int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)
Again = Callable[["Fakes", Any], Any]
"""Function (mode, arguments) -> the operator's output, made without calling torch's dispatch."""


class Fakes(FakeTensorMode):
    """Mode in which all new tensors hold no data; their device is reported as the CPU."""

    known: ClassVar[dict[Hashable, Again | None]] = {}
    """The cache by operator and arguments, shared by all steps of a plan; None: the output cannot be cached."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.cache_enabled = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing here is compiled

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        key = _key(func, args, kwargs)
        if key is not None and (again := self.known.get(key)):
            return again(self, args)
        out = self.dispatch(func, types, args, kwargs)
        if key is not None and key not in self.known:
            unchanged = key == _key(func, args, kwargs)  # no argument took another shape
            self.known[key] = _again(func, args, out) if unchanged else None
        return out


def _key(func: Any, args: Any, kwargs: Any) -> Hashable | None:
    """Cache key of a call: all that determines its output; None if that is more than shapes and plain values."""
    if func.namespace not in ("aten", "fsdp"):
        return None
    key: list[Any] = [func]
    plain = _add(key, args) and (not kwargs or (_add(key, kwargs) and _add(key, kwargs.values())))
    return tuple(key) if plain else None


def _add(key: list[Any], values: Any) -> bool:
    """Append the relevant properties of each value to the key; return False at the first value of an unknown kind."""
    for value in values:
        kind = type(value)
        if kind is FakeTensor and value.constant is None:
            key += (value.dtype, value.shape, value.stride(), value.storage_offset())
        elif kind in PLAIN:
            key += (kind, value)  # 1 and 1.0 are equal and make other dtypes
        elif kind in (list, tuple):
            key += (kind, len(value))
            if not _add(key, value):
                return False
        elif kind in GIVEN and value.is_meta:
            key += (kind, value.dtype, value.shape, value.stride(), value.storage_offset())
        else:
            return False
    return True


def _again(func: Any, args: Any, out: Any) -> Again | None:
    """A function that makes the same output from similar arguments; None if that is not possible."""
    if any(argument.alias_info is not None and argument.alias_info.is_write for argument in func._schema.arguments):
        return _nothing if out is None else _first if args and out is args[0] else None
    if type(out) is FakeTensor:
        return _one(args, out)
    if not isinstance(out, tuple | list) or not all(type(one) is FakeTensor for one in out):
        return None
    ways, kind = [_one(args, one) for one in out], list if isinstance(out, list) else tuple
    return None if None in ways else lambda fakes, args: kind(way(fakes, args) for way in ways if way)


def _one(args: Any, out: FakeTensor) -> Again | None:
    """The same for one tensor: a view of an argument's memory, or new memory (a schema does not always tell which)."""
    if out.constant is not None or out.fake_device != CPU:
        return None
    dtype, shape, stride, offset = out.dtype, out.shape, out.stride(), out.storage_offset()
    memory = [arg.untyped_storage()._cdata if type(arg) is FakeTensor else None for arg in args]
    own = out.untyped_storage()

    def view(fakes: Fakes, args: Any) -> FakeTensor:
        blank = torch.empty((), dtype=dtype, device="meta")
        return FakeTensor(fakes, blank.set_(args[place].untyped_storage(), offset, shape, stride), CPU)

    def fresh(fakes: Fakes, args: Any) -> FakeTensor:
        return FakeTensor(fakes, torch.empty_strided(shape, stride, dtype=dtype, device="meta"), CPU)

    if memory.count(own._cdata) == 1:
        place = memory.index(own._cdata)
        return view
    whole = torch.empty_strided(shape, stride, dtype=dtype, device="meta").untyped_storage().nbytes() == own.nbytes()
    return fresh if whole and not offset and own._cdata not in memory else None


def _first(fakes: Fakes, args: Any) -> Any:
    """The output of an in-place operator: its first argument."""
    return args[0]


def _nothing(fakes: Fakes, args: Any) -> None:
    """The output of an operator that only writes into its arguments: None."""
