"""How weights are trained: duration, optimizer, schedules, precision, when to save and evaluate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from silc.errors import BadInput
from silc.settings import COUNT, SEED, Device, Duration, Range, Settings, amount_of

PAIRS, EVERY = Range(least=0, most=10_000_000), Duration(words=("never",))


def steps_of(duration: str, *, batch_size: int, steps_per_epoch: int, total: int | None = None) -> int:
    """A duration in whole steps: '500 steps', '5B examples', '30 epochs', '10%' (of `total` steps).

    Raises:
        BadInput: the text is no duration, or a percentage and there is no `total`.
    """
    return round(
        examples_of(duration, batch_size=batch_size, steps_per_epoch=steps_per_epoch, total=total) / batch_size
    )


def examples_of(duration: str, *, batch_size: int, steps_per_epoch: int, total: int | None = None) -> float:
    """A duration in examples; arguments and errors as in `steps_of`. The only place where durations are converted."""
    amount, unit = amount_of(duration)
    match unit:
        case "step":
            return amount * batch_size
        case "example":
            return amount
        case "epoch":
            return amount * steps_per_epoch * batch_size
        case _:
            if total is None:
                raise BadInput(
                    f"'{duration}' is a share of a run, not the length of a run; give steps, examples or epochs"
                )
            return amount / 100 * total * batch_size


@dataclass(frozen=True)
class OptimConfig(Settings):
    """AdamW."""

    section: ClassVar[str] = "train.optim"
    lr: Annotated[float, Range(above=0, most=1)] = 1e-3
    """Peak learning rate."""
    betas: Annotated[tuple[float, float], Range(least=0, below=1)] = (0.9, 0.95)
    """AdamW's decay rates."""
    layer_decay: Annotated[float, Range(above=0, most=1, advice="1: none")] = 1.0
    """Below 1 each block learns slower than the one above by this factor, embeddings slowest (BEiT, MAE: 0.65-0.75)."""
    freeze: tuple[Literal["image", "text"], ...] = ()
    """Frozen towers: LiT trains with a frozen image tower; with a small data set the text tower may be frozen."""
    lora: Annotated[int, Range(least=0, most=65_536, advice="0: none")] = 0
    """Rank of LoRA: the towers then learn only added matrices of this rank, beside each matrix of their blocks. 0
    trains the towers whole."""
    weight_decay: Annotated[float, Range(least=0, most=1000)] = 0.1
    """Weight decay as in torch, times the learning rate; big_vision's 1e-4 at lr 1e-3 is this 0.1."""
    decay: Literal["matrices", "kernels"] = "matrices"
    """Which parameters decay: `matrices` are all but vectors; `kernels`, as in big_vision, are the weights of linear
    layers and convolutions, not embeddings (positions, tokens, class token, probe, mask token) and prototypes."""
    clip_norm: Annotated[float, Range(above=0, advice="a large one, e.g. 1e9, clips nothing")] = 1.0
    """Gradients are scaled down to this global norm; a large one, e.g. 1e9, clips nothing."""
    schedule: Literal["rsqrt", "cosine"] = "rsqrt"
    """Learning rate after the warm-up."""
    warmup: Annotated[str, Duration(zero=True)] = "50k steps"
    """Linear warm-up from 0."""
    cooldown: Annotated[str, Duration(zero=True)] = "50k steps"
    """Linear cool-down to 0 at the end (rsqrt only; cosine ends at 0 by itself)."""
    timescale: Annotated[float, Range(least=1)] = 10_000
    """Steps after which rsqrt has fallen to 1/sqrt(2)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lr * self.weight_decay >= 1:
            raise BadInput(
                f"train.optim.lr {self.lr:g} times train.optim.weight_decay {self.weight_decay:g} is "
                f"{self.lr * self.weight_decay:g}: a step would reverse the sign of weights; needed a product below 1"
            )


@dataclass(frozen=True)
class TrainConfig(Settings):
    """Settings of one training run."""

    section: ClassVar[str] = "train"
    duration: Annotated[str, Duration(share=False)] = "20B examples"
    """How long to train: '500 steps', '5B examples', '30 epochs'."""
    batch_size: Annotated[int, Range(least=1, most=10_000_000)] = 16_384
    """Pairs per step over all ranks."""
    micro_batch: Annotated[int, PAIRS] = 0
    """Pairs of a rank that go through the towers at a time, with the gradient of the whole batch; 0: all at once."""
    passes: Literal["apart", "together"] = "apart"
    """How a batch goes through the towers. `apart`: self-supervision and each view of the image-text loss have a pass
    of their own, to save memory. `together`: one pass, which gathers sharded weights a third less often."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer and schedule."""
    precision: Literal["auto", "bf16", "float32"] = "bf16"
    """`bf16` is autocast; weights, EMA, centre and losses stay float32. `auto` is bf16 if the device is fast at it. A
    run that resumes keeps its precision."""
    sharding: Literal["none", "full"] = "none"
    """Over several ranks: `none` gives each the whole model (DDP), `full` a share of it (FSDP2)."""
    compile: bool = False
    """torch.compile the objective."""
    seed: Annotated[int, SEED] = 0
    """Seed of everything random: weights, order, crops, captions."""
    device: Annotated[str, Device()] = "auto"
    """auto, cpu, cuda or cuda:N; `auto` takes a GPU when there is one. Under torchrun each rank takes its own."""
    trackers: tuple[Literal["wandb", "trackio"], ...] = ()
    """Experiment trackers that get every record too; metrics.jsonl and TensorBoard are always written."""
    log_every: Annotated[str, EVERY] = "10 steps"
    """How often metrics are written."""
    save_every: Annotated[str, EVERY] = "10%"
    """How often a checkpoint is written, a duration or 'never'; one is always written at the end."""
    keep: Annotated[int, COUNT] = 3
    """Newest checkpoints kept."""
    eval_every: Annotated[str, EVERY] = "never"
    """How often the evaluators run during training: a duration or 'never'. With a duration they also run at the end."""
    held_out: Annotated[int, PAIRS] = 0
    """Pairs kept out of training, the same ones for every seed; retrieval on them is measured before and after."""
    timeout: Annotated[float, Range(least=0.1, most=604_800)] = 600.0
    """Seconds that a rank waits for the others within a step. Then it names the ranks that do not answer, and ends. Ten
    minutes, as torch's for NCCL: longer than any step, a stalled disk or the first compilation. Workers that begin no
    new sample for so long (plus data.remote_patience) count as hung."""
    max_skips: Annotated[int, COUNT] = 10
    """The run stops after this many steps in a row whose loss or gradient is not finite."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optim.lora and self.sharding != "none":
            raise BadInput("train.optim.lora trains too few weights to shard; use it with train.sharding none")
