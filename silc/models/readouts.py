"""Dense readouts: how patch tokens are mapped into the joint space (B images, T tokens, C width).

| readout                  | pools     | what it computes per patch                                                   |
| ------------------------ | --------- | ---------------------------------------------------------------------------- |
| `map_value`              | map       | MAP head run on that single token: z = o + MLP(LN(o)), o = O(W_v t + b_v)    |
| `value_block+map_value`  | map       | last block reduced to its value path (MaskCLIP), then `map_value`            |
| `value_block`            | cls, mean | last block reduced to its value path, final norm, projection                 |
| `tokens`                 | cls, mean | final-norm token, projection (for `mean` the pooled embedding is their mean) |

Other combinations are refused: MAP tokens are not in the joint space before the attention pool.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from silc.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor, nn

    from silc.models.vit import Block


def value_path(block: Block, x: Tensor) -> Tensor:
    """Run a block in which each of the tokens [B, T, C] attends only to itself (MaskCLIP, with residual and MLP)."""
    _, _, values = block.attn.split(block.norm1(x))
    x = x + block.attn.merge(values)
    return x + block.mlp(block.norm2(x))  # type: ignore[no-any-return]


def map_value(trunk: nn.Module, tokens: Tensor) -> Tensor:
    """Run the MAP head `attn_pool` on each token [..., C] alone: attention over one token gives its value."""
    pool: Any = trunk.attn_pool
    out = pool.proj(pool.kv(tokens).chunk(2, dim=-1)[1])
    return out + pool.mlp(pool.norm(out))  # type: ignore[no-any-return]


READOUTS: dict[str, dict[str, Callable[[Block, Tensor], Tensor] | None]] = {
    "map": {"map_value": None, "value_block+map_value": value_path},
    "cls": {"value_block": value_path, "tokens": None},
    "mean": {"tokens": None, "value_block": value_path},
}
"""What replaces the last block, by pooling and name; None: the block itself runs. Each pooling's default is first."""


def chosen(asked: str, there: Collection[str], name: str = "") -> str:
    """The readout `asked` if it is among `there`, or the first if none is asked for; `name` is for messages.

    Raises:
        BadInput: there is no such readout, or none at all.
    """
    if asked in there or (there and not asked):
        return asked or next(iter(there))
    which = f"no dense readout '{asked}'; there are: {', '.join(there)}" if there else "no dense readout"
    raise BadInput(f"{name or 'the model'} has {which}")
