"""Tables that map names and layouts of another library's tensors to ours, and back.

A rule says that some of our tensors, concatenated along the first axis, equal some of theirs, each converted to our
layout and concatenated: `attn.qkv.weight` is `q_proj`, `k_proj` and `v_proj`. Nothing is skipped: a tensor is refused
by name if no rule takes it, if it is missing, if it has another shape, or if it is not finite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from silc.errors import BadInput
from silc.models.silc import TwoTower

if TYPE_CHECKING:
    from torch import Tensor

    from silc.models.config import ModelConfig

Layout = Callable[["Tensor"], "Tensor"]


def _only_read(x: Tensor) -> Tensor:
    raise NotImplementedError("checkpoints of this layout are read, not written")


@dataclass(frozen=True)
class Op:
    """A change of layout and its inverse."""

    bring: Layout
    give: Layout = _only_read


SAME = Op(lambda x: x, lambda x: x)
TRANSPOSED = Op(lambda x: x.T, lambda x: x.T)
BATCHED = Op(lambda x: x[None], lambda x: x[0])
"""[N, C] <-> [1, N, C]."""
TOKEN = Op(lambda x: x[None, None], lambda x: x[0, 0])
"""[C] <-> [1, 1, C]."""
SCALAR = Op(lambda x: x.reshape(1), lambda x: x.reshape(()))
"""[] <-> [1]; sharding refuses parameters without a dimension."""


@dataclass(frozen=True)
class Rule:
    """cat(ours) = cat(op.bring(theirs)), along the first axis. If `theirs` is empty, ours is zero."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    op: Op = SAME


def rule(ours: str | tuple[str, ...], theirs: str | tuple[str, ...], op: Op = SAME) -> Rule:
    """Make a rule from one or more names on each side."""
    as_names = lambda names: (names,) if isinstance(names, str) else names  # noqa: E731
    return Rule(as_names(ours), as_names(theirs), op)


def both(ours: str, theirs: str) -> list[Rule]:
    """Rules for weight and bias of a layer with the same layout on both sides."""
    return [rule(f"{ours}.{part}", f"{theirs}.{part}") for part in ("weight", "bias")]


@dataclass(frozen=True)
class BlockNames:
    """A library's names for the layers of a transformer block; the `qkv` names are of tensors, the others of layers."""

    norm1: str
    qkv_weight: tuple[str, ...]
    qkv_bias: tuple[str, ...]
    out: str
    norm2: str
    fc1: str
    fc2: str


IMAGE_BLOCK = BlockNames("norm1", ("attn.qkv.weight",), ("attn.qkv.bias",), "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
TEXT_BLOCK = BlockNames(
    "ln_1", ("attn.in_proj_weight",), ("attn.in_proj_bias",), "attn.out_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"
)


def block(ours: str, our_names: BlockNames, theirs: str, their_names: BlockNames) -> list[Rule]:
    """Rules for one transformer block with torch's layouts on both sides; `ours` and `theirs` are prefixes."""
    rules = [
        rule(
            tuple(f"{ours}{name}" for name in getattr(our_names, part)),
            tuple(f"{theirs}{name}" for name in getattr(their_names, part)),
        )
        for part in ("qkv_weight", "qkv_bias")
    ]
    for part in ("norm1", "out", "norm2", "fc1", "fc2"):
        rules += both(f"{ours}{getattr(our_names, part)}", f"{theirs}{getattr(their_names, part)}")
    return rules


def bring(
    rules: Iterable[Rule], theirs: Mapping[str, Tensor], model: ModelConfig, source: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Convert their tensors to the state dict of a `TwoTower`, float32; also a line for each rule, with its names.

    Args:
        model: the towers; `text.vocab_size` must be set.
        source: the tensors' source, for messages.

    Raises:
        BadInput: a tensor is missing, left over, of another shape, or not finite; names the first.
    """
    shapes = shapes_of(model)
    left, ours, report = dict(theirs), {}, []
    for one in rules:
        for name in one.theirs:
            if name not in left:
                raise BadInput(f"{source} lacks {name}; it is incomplete or of another architecture")
        brought = [one.op.bring(left.pop(name).float()) for name in one.theirs]
        brought = brought or [torch.zeros(shapes[name]) for name in one.ours]
        for name, tensor in zip(one.ours, _split(brought, one, shapes, source), strict=True):
            if tensor.shape != shapes[name]:
                raise BadInput(
                    f"{source} is of another architecture: {', '.join(one.theirs)} make {list(tensor.shape)}, "
                    f"{name} needs {list(shapes[name])}"
                )
            if not tensor.isfinite().all():
                raise BadInput(f"{source}: {', '.join(one.theirs)} hold NaN or infinity; these weights are damaged")
            ours[name] = tensor.contiguous()
        given = ", ".join(f"{name} {list(theirs[name].shape)}" for name in one.theirs) or "0"
        report.append(f"{given} -> {', '.join(f'{name} {list(shapes[name])}' for name in one.ours)}")
    if left:
        names = ", ".join(sorted(left)[:3])
        raise BadInput(
            f"{source} has {len(left)} tensors that this architecture has no place for: {names}"
            f"{', ...' if len(left) > 3 else ''}; nothing was imported"
        )
    absent = sorted(shapes.keys() - ours.keys())
    assert not absent, f"no rule makes {absent[0]}"
    return ours, report


def give(rules: Iterable[Rule], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert our tensors to theirs: the inverse of `bring`. If a rule has several of theirs, these are equal parts."""
    theirs = {}
    for one in rules:
        if not one.theirs:
            continue
        shares = torch.cat([ours[name] for name in one.ours]).chunk(len(one.theirs))
        for name, share in zip(one.theirs, shares, strict=True):
            theirs[name] = one.op.give(share).contiguous()
    return theirs


def _split(tensors: Sequence[Tensor], one: Rule, shapes: Mapping[str, torch.Size], source: str) -> Iterator[Tensor]:
    """Concatenate the tensors, and split the result into our tensors' lengths."""
    if len(tensors) == len(one.ours) == 1:
        yield tensors[0]
        return
    whole, lengths = torch.cat(list(tensors)), [shapes[name][0] for name in one.ours]
    if len(whole) != sum(lengths):
        raise BadInput(
            f"{source} is of another architecture: {', '.join(one.theirs)} make {list(whole.shape)}, "
            f"{', '.join(one.ours)} need {sum(lengths)} rows"
        )
    yield from whole.split(lengths)


def shapes_of(model: ModelConfig) -> dict[str, torch.Size]:
    """Names and shapes of the towers' state dict, without memory for the weights."""
    assert model.text.vocab_size, "an imported tower knows its vocabulary"
    with torch.device("meta"):
        towers = TwoTower(model, vocab_size=model.text.vocab_size, eos_id=0)
    return {name: tensor.shape for name, tensor in towers.state_dict().items()}
