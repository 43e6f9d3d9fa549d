"""Weights of a pretrained tower that are trained with a head: none, the queries and values of its attention, or
low-rank changes (`models/lora.py`).

Queries, keys and values are rows of one matrix here, so queries and values are learnt as a parametrization of it. Code
that reads the matrix gets the learnt rows and the unchanged keys; weight decay and clipping do not touch the keys.
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
from silc.training.protocols import Learner

if TYPE_CHECKING:
    from silc.checkpoint import Checkpoint
    from silc.models.image import ImageTower
    from silc.training.config import OptimConfig

ATTENTION = {"qkv": "weight", "attn": "in_proj_weight"}
"""Names of the module and its matrix that hold a block's queries, keys and values; image towers first, then text."""


class QueriesAndValues(nn.Module):
    """A matrix [3 W, W] whose rows of queries and values learn; the rows of the keys are frozen."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        q, _, v = matrix.detach().clone().chunk(3)
        self.q, self.v = nn.Parameter(q.contiguous()), nn.Parameter(v.contiguous())

    def forward(self, matrix: Tensor) -> Tensor:
        """The matrix with the learnt rows."""
        return torch.cat([self.q, matrix.chunk(3)[1], self.v])


def tune(towers: Mapping[str, nn.Module], config: OptimConfig) -> str:
    """Choose what towers learn, by their names in `train.optim.freeze`; return a message that says how much it is.

    Towers in `train.optim.freeze` are frozen. The others learn the queries and values of each block, or low-rank
    changes with `train.optim.lora`.
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
    return (
        f"{learning:,} of the towers' {whole:,} weights are trained ({what})"
        if learning
        else "the towers are not trained"
    )


def learn_queries_and_values(tower: nn.Module) -> None:
    """Let a tower learn the queries and values of each block and nothing else."""
    tower.requires_grad_(False)
    for path, module in list(tower.named_modules()):
        matrix = ATTENTION.get(path.rpartition(".")[2], "")
        if "blocks." in path and hasattr(module, matrix):
            parametrize.register_parametrization(module, matrix, QueriesAndValues(getattr(module, matrix)))


def see_at(visual: ImageTower, size: int) -> None:
    """Let an image tower learn at another size: replace its positions by those that it resamples for this size."""
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
    """Freeze parameters that no loss of a run uses, by their names in the module."""
    known = dict(module.named_parameters())
    for name in names:
        if name in known:
            known[name].requires_grad_(False)


def learnt(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of a module's state dict that its training changes: what a head's checkpoint holds."""
    names = {name for name, p in module.named_parameters() if p.requires_grad}
    return {name: tensor for name, tensor in module.state_dict().items() if name in names}


def take_over(module: nn.Module, saved: Checkpoint) -> None:
    """Load the tensors that `learnt` gave; the rest of the module does not change.

    Raises:
        BadInput: the checkpoint is of another architecture.
    """
    there, known = saved.state_dicts["model"], learnt(module)
    odd = sorted(there.keys() ^ known.keys()) or [name for name in known if known[name].shape != there[name].shape]
    if odd:
        raise BadInput(f"{saved.path} is of another architecture: it has another {odd[0]}; use its own configuration")
    module.load_state_dict(dict(there), strict=False)


class TunedLearner(Learner):
    """A `Learner` that saves only what it learns; the rest comes from the model below, which config.yaml names."""

    def state_dicts(self) -> Mapping[str, Mapping[str, Tensor]]:
        """The tensors that training changes."""
        return {"model": learnt(self.module)}

    def load(self, saved: Checkpoint) -> None:
        """Load a checkpoint; raises BadInput if it is of another architecture."""
        take_over(self.module, saved)


def settle(module: nn.Module) -> None:
    """Write the learnt rows into the towers' own matrices: the module then is plain and computes the same."""
    for part in module.modules():
        if parametrize.is_parametrized(part):
            for name in list(part.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(part, name, leave_parametrized=True)
