"""Measure a step at every operator: count FLOPs, track allocated memory, record the collectives' payloads."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

if TYPE_CHECKING:
    from torch import Tensor

    from silc.objective import SilcObjective

VIEWS, CONTRASTIVE, LOSSES, BACKWARD = "views", "image-text loss", "other losses", "backward"
WEIGHTS, CASTS, GATHERED = "weights", "weights in bf16", "gathered weights"
GRADIENTS, TEACHER_WEIGHTS = "gradients", "teacher's weights"
DEVICE = torch.ops.prim.device.default
OWNERS = {
    "student.visual.": "image tower",
    "student.text.": "text tower",
    "student.logit_": "scale and bias",
    "head.": "head",
    "patch_head.": "head",
    "teacher.": "teacher",
    "patch_teacher.": "teacher",
}
"""The part of the model that owns a parameter or module, by the prefix of its name in the objective."""


class Meter(TorchDispatchMode):
    """Counts FLOPs, allocated bytes and payloads of collectives, by phase of the step.

    It works on real and on fake tensors. Memory used inside a kernel is not counted. `at_peak` holds the bytes by name
    at the moment of the peak.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = LOSSES
        self.flops: Counter[str] = Counter()
        self.payloads: Counter[tuple[str, str]] = Counter()  # bytes by (kind, phase)
        self.alive: Counter[str] = Counter()
        self.at_peak: Counter[str] = Counter()
        self.total = self.peak = 0
        self.names: dict[int, str] = {}  # of every storage that exists
        self.sizes: dict[int, int] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing here is compiled, and hiding each operator from the compiler costs more than the rest

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is DEVICE:  # the most frequent call
            return args[0].device
        out = func(*args, **(kwargs or {}))
        if (formula := _formula(func)) is not None:
            self.flops[self.now] += formula(*args, **(kwargs or {}), out_val=out)
        if func.namespace == "c10d" and _kind(func) != "recv":  # the same bytes as the neighbour's send
            # The payload is the larger one of input and output.
            self.payloads[_kind(func), self.now] += max(sum(map(_bytes, _tensors(arg))) for arg in args)
        casts = func is torch.ops.aten._to_copy.default and self.names.get(_key(args[0])) in (WEIGHTS, GATHERED)
        for tensor in _tensors(out):
            self.keep(tensor, CASTS if casts else self.now)
        return out

    def keep(self, tensor: Tensor, name: str) -> None:
        """Count the tensor's memory under this name until it is freed, unless it is counted already."""
        storage, key = _local(tensor).untyped_storage(), _key(tensor)
        if key not in self.names:
            self.names[key], self.sizes[key] = name, 0
            self._resize(key, storage.nbytes())
            weakref.finalize(storage, self._drop, key)

    def rename(self, tensor: Tensor, name: str) -> None:
        """Count the tensor's memory under another name from now on."""
        self.keep(tensor, name)
        key = _key(tensor)
        self.alive[self.names[key]] -= self.sizes[key]
        self.alive[name] += self.sizes[key]
        self.names[key] = name

    def _resize(self, key: int, size: int) -> None:
        grown, self.sizes[key] = size - self.sizes[key], size
        self.alive[self.names[key]] += grown
        self.total += grown
        if self.total > self.peak:
            self.peak, self.at_peak = self.total, self.alive.copy()

    def _drop(self, key: int) -> None:
        self._resize(key, 0)
        del self.names[key], self.sizes[key]

    @contextmanager
    def following_resizes(self) -> Iterator[None]:
        """Inside, count `UntypedStorage.resize_` too: sharding frees and allocates memory by it, not by operators."""
        resize = torch.UntypedStorage.resize_

        def seen(storage: Any, size: int) -> Any:
            out = resize(storage, size)
            if storage._cdata in self.names:
                self._resize(storage._cdata, size)
            return out

        torch.UntypedStorage.resize_ = seen  # type: ignore[assignment, method-assign]
        try:
            yield
        finally:
            torch.UntypedStorage.resize_ = resize  # type: ignore[method-assign]

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count all operators inside in this phase."""
        before, self.now = self.now, name
        yield
        self.now = before

    @contextmanager
    def phases_of(self, objective: SilcObjective) -> Iterator[None]:
        """Inside, count the objective's modules in their own phases, and its other operators as views or losses.

        The image tower has one phase for each side length of the views.
        """
        outer: list[str] = []
        side = 0

        def entering(name: str) -> Callable[..., None]:
            def enter(module: Any, args: Any) -> None:
                nonlocal side
                outer.append(self.now)
                if name.endswith((".visual", ".patch_embed")):
                    side = args[0].shape[-1]
                self.now = self._phase(name, side)

            return enter

        def gathered(module: Any, args: Any) -> None:
            for parameter in module.parameters():
                if not isinstance(parameter, DTensor) and _key(parameter) not in whole:
                    self.rename(parameter, GATHERED)

        def leave(module: Any, args: Any, out: Any) -> None:
            self.now = outer.pop()

        whole = {_key(parameter) for parameter in objective.parameters()}
        handles = []
        for name, module in objective.named_modules():
            if owner(f"{name}."):
                # Sharding gathers weights in its own hook, which must run between these two: the phase must be set
                # before it, and the gathered weights exist only after it.
                handles.append(module.register_forward_pre_hook(entering(name), prepend=True))
                handles.append(module.register_forward_pre_hook(gathered))
                handles.append(module.register_forward_hook(leave))
        methods = {
            "features": VIEWS,
            "contrastive_loss": CONTRASTIVE,
            "output": LOSSES,
        }
        for method, phase in methods.items():
            setattr(objective, method, self._within(phase, getattr(objective, method)))
        for name, parameter in objective.named_parameters():
            self.keep(parameter, TEACHER_WEIGHTS if owner(name) == "teacher" else WEIGHTS)
            if parameter.requires_grad:
                handles.append(parameter.register_post_accumulate_grad_hook(lambda p: self.rename(p.grad, GRADIENTS)))
        for buffer in objective.buffers():
            self.keep(buffer, TEACHER_WEIGHTS)
        yield
        for handle in handles:
            handle.remove()
        for method in methods:
            delattr(objective, method)

    def _phase(self, name: str, side: int) -> str:
        whose = owner(f"{name}.")
        if whose == "image tower":
            return f"image tower, {side} px" if torch.is_grad_enabled() else "teacher"
        return whose

    def _within(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*args: Any) -> Any:
            with self.phase(name):
                return function(*args)

        return measured


def owner(name: str) -> str:
    """Owner of a parameter or module by its name in the objective; '' for the objective itself."""
    return next((owner for prefix, owner in OWNERS.items() if name.startswith(prefix)), "")


@cache
def _formula(func: Any) -> Any:
    """torch's FLOP formula of an operator; an in-place operator has the formula of its plain form."""
    packet = func.overloadpacket
    return flop_registry.get(packet) or flop_registry.get(
        getattr(torch.ops.aten, packet.__name__.removesuffix("_"), None)
    )


def _kind(func: Any) -> str:
    """Kind of a collective: `c10d.allreduce_` -> `all-reduce`."""
    name = func.overloadpacket.__name__.strip("_").removesuffix("_base")
    known = {"allreduce": "all-reduce", "allgather": "all-gather", "reduce_scatter": "reduce-scatter"}
    return str(known.get(name, name))


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _local(tensor: Tensor) -> Tensor:
    """This rank's shard of a sharded tensor; any other tensor unchanged."""
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor


def _key(tensor: Tensor) -> int:
    return int(_local(tensor).untyped_storage()._cdata)
