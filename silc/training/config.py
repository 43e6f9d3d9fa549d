"""How weights are trained: duration, optimizer, schedules, precision, when to save and evaluate."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from silc.types import BadInput

_FACTORS = {"": 1, "k": 1e3, "M": 1e6, "B": 1e9}
_DURATION = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([kMB]?)\s*(steps?|examples|epochs?|%)\s*$")


def steps_of(duration: str, *, batch_size: int, steps_per_epoch: int, total: int | None = None) -> int:
    """A duration in whole steps: '500 steps', '5B examples', '30 epochs', '10%' (of `total` steps).

    Raises:
        BadInput: the text is no duration, or a percentage where there is nothing to take it of.
    """
    return round(
        examples_of(duration, batch_size=batch_size, steps_per_epoch=steps_per_epoch, total=total) / batch_size
    )


def examples_of(duration: str, *, batch_size: int, steps_per_epoch: int, total: int | None = None) -> float:
    """A duration in examples; arguments and errors as in `steps_of`. The only place where durations are converted."""
    amount, unit = _parsed(duration)
    match unit:
        case "step":
            return amount * batch_size
        case "example":
            return amount
        case "epoch":
            return amount * steps_per_epoch * batch_size
        case _:
            if total is None:
                raise BadInput(f"'{duration}' is a share of the run and cannot say how long the run is")
            return amount / 100 * total * batch_size


def _parsed(duration: str) -> tuple[float, str]:
    """Amount and unit (step, example, epoch, %)."""
    match = _DURATION.match(duration)
    if match is None:
        raise BadInput(f"'{duration}' is no duration; write '500 steps', '2.5M examples', '30 epochs' or '10%'")
    return float(match[1]) * _FACTORS[match[2]], match[3].rstrip("s")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW."""

    lr: float = 1e-3
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates."""
    layer_decay: float = 1.0
    """Below 1 each block learns slower than the one above by this factor, embeddings slowest (BEiT, MAE: 0.65-0.75)."""
    freeze: tuple[Literal["image", "text"], ...] = ()
    """Towers that stay as they are: LiT trains against a frozen image tower; a small set may leave the text alone."""
    lora: int = 0
    """Rank of LoRA: towers learn that much beside each matrix of their blocks and nothing else; 0 trains them whole."""
    weight_decay: float = 0.1
    """torch's, which multiplies by the learning rate; big_vision's 1e-4 at lr 1e-3 is this 0.1."""
    decay: Literal["matrices", "kernels"] = "matrices"
    """Where weight decay falls: on all but vectors, or, as big_vision's, on kernels alone, the weights of linear layers
    and convolutions; not on embeddings (positions, tokens, class token, probe, mask token) and prototypes."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this global norm."""
    schedule: Literal["rsqrt", "cosine"] = "rsqrt"
    """Learning rate after the warm-up."""
    warmup: str = "50k steps"
    """Linear warm-up from 0."""
    cooldown: str = "50k steps"
    """Linear cool-down to 0 at the end (rsqrt only; cosine ends at 0 by itself)."""
    timescale: float = 10_000
    """Steps after which rsqrt has fallen to 1/sqrt(2)."""

    def __post_init__(self) -> None:
        _parsed(self.warmup)
        _parsed(self.cooldown)
        if self.lora < 0:
            raise BadInput(f"train.optim.lora is {self.lora}; needed a rank, e.g. 16, or 0 for none")
        if not 0 < self.layer_decay <= 1:
            raise BadInput(f"train.optim.layer_decay is {self.layer_decay}; needed a factor in (0, 1], 1 for none")


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    duration: str = "20B examples"
    """How long to train: '500 steps', '5B examples', '30 epochs'."""
    batch_size: int = 16_384
    """Pairs per step over all ranks."""
    micro_batch: int = 0
    """Pairs of a rank that go through the towers at a time, with the gradient of the whole batch; 0: all at once."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer and schedule."""
    precision: Literal["auto", "bf16", "float32"] = "bf16"
    """`bf16` is autocast; weights, EMA, centre and losses stay float32. `auto` is bf16 where the device is fast at it;
    a run keeps what it began in."""
    sharding: Literal["none", "full"] = "none"
    """Over several ranks: `none` gives each the whole model (DDP), `full` a share of it (FSDP2)."""
    compile: bool = False
    """torch.compile the objective."""
    seed: int = 0
    """Weights, order, crops, captions: everything random follows from it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes a GPU when there is one."""
    trackers: tuple[Literal["wandb", "trackio"], ...] = ()
    """Experiment trackers that get every record too; metrics.jsonl and TensorBoard are always written."""
    log_every: str = "10 steps"
    """How often metrics are written."""
    save_every: str = "10%"
    """How often a checkpoint is written, a duration or 'never'; the end is always written."""
    keep: int = 3
    """Newest checkpoints kept."""
    eval_every: str = "never"
    """How often the evaluators run during training: a duration or 'never'. They always run where they are asked for."""
    held_out: int = 0
    """Pairs kept out of training, the same ones for every seed; retrieval on them is measured before and after."""
    timeout: float = 600.0
    """Seconds a rank waits for the others within a step before it names who does not answer and ends. Ten minutes, as
    torch's for NCCL: longer than any step, a stalled disk or the first compilation. Workers that begin no other sample
    for so long (and data.remote_patience) are held to hang."""
    max_skips: int = 10
    """The run stops after this many steps in a row whose loss or gradient is not finite."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.keep < 1 or self.max_skips < 1:
            raise BadInput("train.batch_size, train.keep and train.max_skips must be >= 1")
        if self.timeout <= 0:
            raise BadInput(f"train.timeout is {self.timeout}; needed a number of seconds above 0")
        for name in ("duration", "log_every", "save_every", "eval_every"):
            value = getattr(self, name)
            if value != "never" or name == "duration":
                _parsed(value)
        if self.optim.lora and self.sharding != "none":
            raise BadInput("train.optim.lora leaves little to share out; it goes with train.sharding none")
        if self.seed < 0 or self.held_out < 0 or self.micro_batch < 0:
            raise BadInput("train.seed, train.held_out and train.micro_batch must be >= 0")
