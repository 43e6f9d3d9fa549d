"""AdamW over two groups: matrices decay, everything else does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from silc.types import BadInput

if TYPE_CHECKING:
    from torch import Tensor

    from silc.train.config import OptimConfig
    from silc.types import Hyper


class Optimizer:
    """AdamW with clipping, and a state that is named by parameter.

    Args:
        config: rates, decay, clipping.
        module: whose trainable parameters are optimised.
    """

    def __init__(self, config: OptimConfig, module: nn.Module) -> None:
        self.config = config
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        decayed = [p for p in self.parameters.values() if decays(p)]
        others = [p for p in self.parameters.values() if not decays(p)]
        self.adamw = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=config.lr,
            betas=config.betas,
            fused=True,
        )

    def clip(self) -> Tensor:
        """Scale gradients down to the configured norm; the norm before that, []."""
        return nn.utils.clip_grad_norm_(self.parameters.values(), self.config.clip_norm)

    def step(self, hyper: Hyper) -> None:
        """One update at this step's learning rate."""
        for group in self.adamw.param_groups:
            group["lr"] = hyper.lr
        self.adamw.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.adamw.zero_grad(set_to_none=True)

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
            # AdamW keeps its step count on the CPU unless fused on a GPU; follow the parameter in either case.
            self.adamw.state[parameter][key] = value.to(parameter.device, copy=True)


def decays(parameter: Tensor) -> bool:
    """Matrices (and embeddings) decay; norms, biases and the scale, all vectors, do not."""
    return parameter.ndim > 1
