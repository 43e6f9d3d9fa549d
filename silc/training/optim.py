"""AdamW: what decays and what does not; layers may learn at different rates, towers may stand still."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from silc.models import lora
from silc.training.sharding import share, whole
from silc.types import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from silc.training.config import OptimConfig
    from silc.types import Hyper

TOWERS = {"image": "student.visual.", "text": "student.text."}
BLOCK = re.compile(r"student\.(visual|text)\..*blocks\.(\d+)\.")
EMBEDDING = re.compile(
    r"student\.(visual|text)\.(trunk\.)?(patch_embed|pos_embed|cls_token|norm_pre|token_embedding|positional_embedding)\b"
)


class _AdamW(torch.optim.AdamW):
    """torch's own, except that it does not hide from torch's compiler, which would load it (as long as torch takes)."""

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)


class Optimizer:
    """AdamW with clipping, and a state that is named by parameter.

    Args:
        config: rates, decay, clipping.
        module: whose trainable parameters are optimised.
    """

    def __init__(self, config: OptimConfig, module: nn.Module) -> None:
        self.config = config
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        factors, decaying = layer_factors(self.parameters, config.layer_decay), decays(module, config.decay)
        groups: dict[tuple[bool, float], list[Tensor]] = {}
        # Those that decay come first, then the top layers.
        for name in sorted(self.parameters, key=lambda name: (name not in decaying, -factors[name])):
            groups.setdefault((name in decaying, factors[name]), []).append(self.parameters[name])
        self.adamw = _AdamW(
            [
                {"params": own, "weight_decay": config.weight_decay if decay else 0.0, "factor": factor}
                for (decay, factor), own in groups.items()
            ],
            lr=config.lr,
            betas=config.betas,
            fused=True,
        )

    def clip(self) -> Tensor:
        """Scale gradients down to the configured norm; the norm before that, []."""
        return whole(nn.utils.clip_grad_norm_(self.parameters.values(), self.config.clip_norm))

    def step(self, hyper: Hyper) -> None:
        """One update at this step's learning rate."""
        for group in self.adamw.param_groups:
            group["lr"] = hyper.lr * group["factor"]
        self.adamw.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """Moments and step counts as a flat dict of tensors, `<parameter>/<exp_avg|exp_avg_sq|step>`."""
        return {
            f"{name}/{key}": value
            for name, parameter in self.parameters.items()
            for key, value in self.adamw.state[parameter].items()
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over a state made by `state`.

        Raises:
            BadInput: it is of other parameters.
        """
        known = {f"{name}/{key}" for name in self.parameters for key in ("exp_avg", "exp_avg_sq", "step")}
        # Where every step so far was skipped there are no moments yet.
        if state and (odd := sorted(state.keys() ^ known)):
            raise BadInput(f"the optimizer's state is of another architecture: {odd[0]} is in only one of them")
        for entry, value in state.items():
            name, key = entry.rsplit("/", 1)
            parameter = self.parameters[name]
            # Fused AdamW keeps its step count, which is never sharded, on the parameter's device.
            device = parameter.device
            self.adamw.state[parameter][key] = value.to(device, copy=True) if key == "step" else share(value, parameter)


def freeze(module: nn.Module, towers: Iterable[str]) -> None:
    """Let towers of an objective ("image", "text") stay as they are: no gradient, no moments, no weight decay."""
    for name, parameter in module.named_parameters():
        if name.startswith(tuple(TOWERS[tower] for tower in towers)):
            parameter.requires_grad_(False)


def layer_factors(names: Iterable[str], decay: float) -> dict[str, float]:
    """Share of the learning rate of each parameter of an objective: decay^(depth + 1 - layer)  (BEiT, MAE).

    Embeddings are layer 0 of their tower, its blocks 1 to depth, and what is above, its head and the scale with it,
    depth + 1, which learns at the full rate.
    """
    names = list(names)
    blocks = {name: (block[1], int(block[2])) for name in names if (block := BLOCK.match(name))}
    depth = {tower: 1 + max(number for own, number in blocks.values() if own == tower) for tower, _ in blocks.values()}

    def factor(name: str) -> float:
        if name in blocks:
            tower, number = blocks[name]
            return decay ** (depth[tower] - number)
        if embedding := EMBEDDING.match(name):
            return decay ** (depth[embedding[1]] + 1)
        return 1.0

    return {name: factor(name) for name in names}


def decays(module: nn.Module, which: Literal["matrices", "kernels"]) -> set[str]:
    """Names of the parameters on which weight decay falls; never norms, biases and the scale, which are vectors.

    `kernels` are what big_vision's `wd_mults = ((".*/kernel$", 1.0),)` finds: weights of linear layers and
    convolutions.
    """
    matrices = {name for name, p in module.named_parameters() if p.ndim > 1}
    if which == "matrices":
        return matrices
    embeddings = {f"{path}.weight" for path, part in module.named_modules() if isinstance(part, nn.Embedding)}
    # Positions, tokens of the towers and prototypes are no layer's `weight`; low-rank changes are to kernels.
    return {name for name in matrices - embeddings if name.endswith("weight") or lora.ADDED in name}
