"""AdamW over groups of parameters, with clipping and a state by name."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch
from torch import nn

from silc.errors import BadInput
from silc.training.sharding import full_tensor, shard_like

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from silc.training.config import OptimConfig
    from silc.training.protocols import Hyper, ParamGroup


class _AdamW(torch.optim.AdamW):
    """torch's AdamW without the wrapper that hides a method from torch's compiler: the wrapper would load the compiler,
    which takes as long as loading torch."""

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)


class Optimizer:
    """AdamW with clipping, and a state that is named by parameter.

    Args:
        config: rates, decay, clipping.
        module: whose trainable parameters are optimised.
        groups: the group of each of them, by name.
    """

    def __init__(self, config: OptimConfig, module: nn.Module, groups: Mapping[str, ParamGroup]) -> None:
        self.config = config
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        alike: dict[ParamGroup, list[Tensor]] = {}
        # Groups that decay come first, then those with the highest rate.
        for name in sorted(self.parameters, key=lambda name: (not groups[name].decays, -groups[name].lr_scale)):
            alike.setdefault(groups[name], []).append(self.parameters[name])
        self.adamw = _AdamW(
            [
                {"params": own, "weight_decay": config.weight_decay if decays else 0.0, "lr_scale": lr_scale}
                for (lr_scale, decays), own in alike.items()
            ],
            lr=config.lr,
            betas=config.betas,
            fused=True,
        )

    def clip(self) -> Tensor:
        """Scale gradients down to the configured norm; returns the norm before that, []."""
        return full_tensor(nn.utils.clip_grad_norm_(self.parameters.values(), self.config.clip_norm))

    def step(self, hyper: Hyper) -> None:
        """One update at this step's learning rate."""
        for group in self.adamw.param_groups:
            group["lr"] = hyper.lr * group["lr_scale"]
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
            BadInput: the state is of other parameters.
        """
        # A parameter that no step has changed has no moments: all steps were skipped, or it learns in a later phase.
        met = {entry.rpartition("/")[0] for entry in state}
        known = {f"{name}/{key}" for name in self.parameters.keys() & met for key in ("exp_avg", "exp_avg_sq", "step")}
        if odd := sorted(state.keys() ^ known):
            raise BadInput(
                f"the optimizer's state is of another architecture: only one of the two has {odd[0]}; use the "
                "configuration it was trained with"
            )
        for entry, value in state.items():
            name, key = entry.rsplit("/", 1)
            parameter = self.parameters[name]
            # Fused AdamW keeps its step count, which is never sharded, on the parameter's device.
            device = parameter.device
            self.adamw.state[parameter][key] = (
                value.to(device, copy=True) if key == "step" else shard_like(value, parameter)
            )
