"""Low-rank adaptation (LoRA, Hu et al. 2021): towers learn a low-rank product added to each matrix of their blocks.

    W -> W + B A      W [out, in] is frozen, A [r, in] is random at first, B [out, r] starts at 0

It is a parametrization, so all code that reads a weight gets the sum: the towers, the EMA teacher, an evaluator.
Everything else of an adapted tower is frozen. The saved model is merged and has the towers' plain names; the tensors
that are needed to resume are saved beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

ADDED = "parametrizations."
"""Part of the name of every tensor that a plain tower does not have."""


class LowRank(nn.Module):
    """A change of rank r to a matrix. Initialised as in peft, with `alpha` = r, which is a factor of 1."""

    def __init__(self, matrix: Tensor, rank: int) -> None:
        super().__init__()
        rows, columns = matrix.shape
        down = nn.init.kaiming_uniform_(torch.empty(rank, columns), a=math.sqrt(5))
        self.down = nn.Parameter(down.to(matrix.device))
        self.up = nn.Parameter(torch.zeros(rows, rank, device=matrix.device))

    def forward(self, matrix: Tensor) -> Tensor:
        """W + B A, [out, in]."""
        return matrix + self.up @ self.down


def adapt(tower: nn.Module, rank: int) -> None:
    """Let a tower learn low-rank changes of its blocks' matrices and nothing else; frozen matrices stay frozen."""
    learning = [
        (module, name)
        for path, module in tower.named_modules()
        for name, p in module.named_parameters(recurse=False)
        if "blocks." in path and p.ndim == 2 and p.requires_grad
    ]
    tower.requires_grad_(False)
    for module, name in learning:
        parametrize.register_parametrization(module, name, LowRank(getattr(module, name), rank))


def merged(module: nn.Module) -> dict[str, Tensor]:
    """The state dict of the plain module that computes the same."""
    plain = {name: tensor for name, tensor in module.state_dict().items() if ADDED not in name}
    return plain | {name: tensor.detach() for name, tensor in _adapted(module)}


def added(module: nn.Module) -> dict[str, Tensor]:
    """The tensors that are not in `merged`: the original matrices, A and B. Empty if nothing is adapted."""
    return {name: tensor for name, tensor in module.state_dict().items() if ADDED in name}


def unmerged(module: nn.Module, model: Mapping[str, Tensor], beside: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of an adapted module from what `merged` and `added` gave."""
    changed = {name for name, _ in _adapted(module)}
    return {name: tensor for name, tensor in model.items() if name not in changed} | dict(beside)


def _adapted(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name in the plain module, and sum W + B A, of each adapted matrix."""
    for path, part in module.named_modules():
        if parametrize.is_parametrized(part):
            for name in part.parametrizations:
                yield f"{path}.{name}", getattr(part, name)
