"""What a pretrained tower learns while a head is trained on it: nothing, the queries and values of its attention, or
low-rank changes (`models/lora.py`).

Queries and values are rows of one matrix here, so they are learnt in its place, as a parametrization: whoever reads the
matrix gets what was learnt and the keys as they were, and neither weight decay nor clipping meets the keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from silc.errors import BadInput
from silc.models import lora
from silc.models.vit import resample_positions

if TYPE_CHECKING:
    from silc.checkpoint import Checkpoint
    from silc.models.image import ImageTower
    from silc.training.config import OptimConfig

ATTENTION = {"qkv": "weight", "attn": "in_proj_weight"}
"""Where a block's attention has the rows of queries, keys and values: module and matrix, in image and text towers."""


class QueriesAndValues(nn.Module):
    """The rows of queries and values of a matrix [3 W, W], which learn; those of the keys stay as they are."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        q, _, v = matrix.detach().clone().chunk(3)
        self.q, self.v = nn.Parameter(q.contiguous()), nn.Parameter(v.contiguous())

    def forward(self, matrix: Tensor) -> Tensor:
        """The matrix, with what was learnt."""
        return torch.cat([self.q, matrix.chunk(3)[1], self.v])


def tune(towers: Mapping[str, nn.Module], config: OptimConfig) -> str:
    """Let towers, by their names in `train.optim.freeze`, learn what a configuration says; says how much that is.

    The towers of `train.optim.freeze` stay as they are; the others learn the queries and values of each block, or, with
    `train.optim.lora`, low-rank changes.
    """
    for name, tower in towers.items():
        if name in config.freeze:
            tower.requires_grad_(False)
        elif config.lora:
            lora.adapt(tower, config.lora)
        else:
            learn_queries_and_values(tower)
        tower.eval()
    whole = sum(p.numel() for tower in towers.values() for p in tower.parameters())
    learning = sum(p.numel() for tower in towers.values() for p in tower.parameters() if p.requires_grad)
    what = f"rank {config.lora} beside their matrices" if config.lora else "queries and values"
    return f"the towers learn {learning:,} of {whole:,} numbers ({what})" if learning else "the towers stay as they are"


def learn_queries_and_values(tower: nn.Module) -> None:
    """Let a tower learn these rows in each of its blocks and nothing else."""
    tower.requires_grad_(False)
    for path, module in list(tower.named_modules()):
        matrix = ATTENTION.get(path.rpartition(".")[2], "")
        if "blocks." in path and hasattr(module, matrix):
            parametrize.register_parametrization(module, matrix, QueriesAndValues(getattr(module, matrix)))


def see_at(visual: ImageTower, size: int) -> None:
    """Let an image tower learn at another size: its positions become those that it resamples for such images."""
    trunk, new = visual.trunk, (size // visual.patch, size // visual.patch)
    old = trunk.patch_embed.grid_size
    if new == old:
        return
    with torch.no_grad():
        positions = resample_positions(
            trunk.pos_embed, old, new, prefix=trunk.num_prefix_tokens, rule=trunk.resample
        ).contiguous()
    trunk.pos_embed = nn.Parameter(positions, requires_grad=trunk.pos_embed.requires_grad)
    trunk.patch_embed.grid_size = new


def leave_unread(module: nn.Module, names: Iterable[str]) -> None:
    """Take parameters that no loss of a run reads out of what is learnt, by their names in the module."""
    known = dict(module.named_parameters())
    for name in names:
        if name in known:
            known[name].requires_grad_(False)


def learnt(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of a module's state dict that its training changes: what a head's checkpoint holds."""
    names = {name for name, p in module.named_parameters() if p.requires_grad}
    return {name: tensor for name, tensor in module.state_dict().items() if name in names}


def take_over(module: nn.Module, saved: Checkpoint) -> None:
    """Load what `learnt` gave; all else of the module stays as it is.

    Raises:
        BadInput: it is of another architecture.
    """
    there, known = saved.state_dicts["model"], learnt(module)
    odd = sorted(there.keys() ^ known.keys()) or [name for name in known if known[name].shape != there[name].shape]
    if odd:
        raise BadInput(f"{saved.path} is of another architecture: it has another {odd[0]}; use its own configuration")
    module.load_state_dict(dict(there), strict=False)


def settle(module: nn.Module) -> None:
    """Put what was learnt into the towers' own matrices: the module is then plain, and computes the same."""
    for part in module.modules():
        if parametrize.is_parametrized(part):
            for name in list(part.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(part, name, leave_parametrized=True)
