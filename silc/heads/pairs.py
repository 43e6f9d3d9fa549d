"""The shared part of heads that learn from image-text pairs on frozen towers: data, learner and run.

An image gives one cropped view. Its text is read by the model's own tokenizer and text tower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from silc import checks
from silc import config as configs
from silc.batch import Batch, Views
from silc.data.collate import PairCollate
from silc.data.crops import MultiCrop
from silc.data.loader import Loader, LoaderPlan
from silc.data.quarantine import Samples
from silc.data.remote import without_secrets
from silc.data.sources import open_pairs
from silc.distributed import World
from silc.errors import BadInput
from silc.heads.run import (
    HeadScores,
    OnModel,
    along,
    evaluation_world,
    finished,
    model_below,
    rates,
    settled,
)
from silc.loading import Loaded
from silc.terminal import say
from silc.training.fit import fit
from silc.training.flops import FlopCounter
from silc.training.protocols import Learner, ParamGroup, Passes, Run
from silc.training.sharding import unsharded

if TYPE_CHECKING:
    from silc.checkpoint import Checkpoint
    from silc.data.config import DataConfig
    from silc.data.pairs import Pairs
    from silc.predict import Model
    from silc.training.config import TrainConfig
    from silc.training.protocols import RunContext
    from silc.training.schedules import LearningRate


TEXTS_AT_ONCE = 256
"""Texts that go through the tower together."""


class Objective(nn.Module):
    """A head, and its losses."""

    head: Any
    """The module that is trained and saved."""
    world: World


@dataclass
class PairsLearner(Learner):
    """The `Learner` of a head on a frozen model; a subclass computes the gradients."""

    objective: Objective
    model: Model

    @property
    def module(self) -> Objective:
        return self.objective

    def groups(self) -> Mapping[str, ParamGroup]:
        """Vectors, scales and gates do not decay."""
        return {name: ParamGroup(decays=p.ndim > 1) for name, p in self.module.named_parameters()}

    def seen(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Normalised pixels [B, 3, H, W] and unit-length text features [B, D]."""
        assert batch.views.globals is not None
        # The tower needs no gradient, so it takes some texts at a time: its activations are larger than all features.
        texts = torch.cat([self.model.encode_text(some) for some in batch.text.split(TEXTS_AT_ONCE)])
        return self.model.preprocess.normalize(batch.views.globals[0]), texts

    def state_dicts(self) -> Mapping[str, Mapping[str, Tensor]]:
        """The state dict of the head."""
        return {"model": self.module.head.state_dict()}

    def load(self, saved: Checkpoint) -> None:
        """Load a checkpoint into the head.

        Raises:
            BadInput: the checkpoint is of another architecture.
        """
        saved.load_into(self.module.head, "model")


@dataclass(frozen=True)
class PairsHead:
    """The parts that differ from head to head."""

    settings: type[Any]
    """The dataclass of its configuration: a `DownstreamConfig` with `data`, a `DataConfig`."""
    objective: Callable[[Model, Any, World], Objective]
    learner: Callable[[Objective, Model], PairsLearner]
    model: Callable[..., Model]
    """The class of a model with a head, for evaluation and users: a `Model` with one more field, `head`."""
    schedule: Callable[[LearningRate, Any, int], LearningRate] = lambda rate, *_: rate
    """Makes the schedule from learning rate, configuration and steps per epoch; by default the learning rate alone."""
    check: Callable[[Any], None] = lambda _: None
    """Raises an error for a configuration that no run can begin with."""

    def with_head(self, model: Model, learnt: Any) -> Model:
        """Combine the model below with a head."""
        return self.model(**vars(model) | {"weights": self.settings.kind, "dtype": torch.float32}, head=learnt)

    def train(self, config: Any) -> Path:
        """Train a head to the end and return the run's directory.

        Raises:
            BadInput: the configuration, the data, or what `out` or `init` hold cannot be used.
            Preempted: this rank or another was asked to stop; the progress is saved.
        """
        out, goes_on = checks.training(config)
        if not goes_on:
            self.check(config)
        return fit(config.train, (out, goes_on), partial(compose, self, config))

    def load(self, run: Path, *, device: torch.device | str, name: str) -> Loaded:
        """Load the model of a finished run: the model below that config.yaml names, and the head.

        Raises:
            BadInput: a damaged checkpoint; the model below is not there, or is another one.
        """
        found = finished(run, self.settings, device)
        model = found.below.best()
        learnt = self.objective(model, found.config, World()).head
        found.saved.load_into(learnt, "model")
        model.name = name
        return found.loaded(self.with_head(model, learnt.eval()))


def compose(head: PairsHead, config: Any, context: RunContext) -> Run:
    """Build all that the engine needs; every rank calls this.

    Raises:
        BadInput: the model or the data cannot be used; the training is shorter than a step.
    """
    config, world = settled(config, context), evaluation_world(context)
    tasks = along(config, world)
    loaded = model_below(config, world.device)
    model = loaded.best("bfloat16" if config.train.precision == "bf16" else "float32")
    model.visual.requires_grad_(False)
    pairs = opened(config.data, config.train.seed, world)
    config = replace(config, data=replace(config.data, train=without_secrets(config.data.train)))
    batches = OnModel(batches_of(config.data, config.train, pairs, model, world), {"model": loaded.checksum})
    rate = rates(config.train, batches.steps_per_epoch, "pairs")
    schedule = head.schedule(rate, config, batches.steps_per_epoch)
    flops = flops_per_pair(head.learner(head.objective(model, config, World()), model), schedule.at(rate.total - 1))
    torch.manual_seed(config.train.seed)  # the same weights on every rank
    learner = head.learner(head.objective(model, config, world), model)

    def whole() -> Any:
        return unsharded(learner.objective, lambda: head.objective(model, config, world)).head

    return Run(
        config.train,
        configs.plain(config),
        learner,
        batches,
        schedule,
        Samples(len(pairs), pairs.faults, config.data.max_bad_rate),
        flops,
        partial(HeadScores, config.kind, learner.objective, whole, partial(head.with_head, model), tasks, world),
    )


def opened(data: DataConfig, seed: int, world: World) -> Pairs:
    """Open the pairs that a head learns from; the main rank says how many there are.

    Raises:
        BadInput: no source is named, two are, or the pairs cannot be read.
    """
    if data.generated and data.train:
        raise BadInput(f"data.train and data.source {data.source} are two sources of pairs; leave one out")
    pairs = open_pairs(data, seed=seed, show=world.is_main)
    if world.is_main:
        named = f"generated {data.source}" if data.generated else without_secrets(data.train)
        say(f"reading {len(pairs):,} pairs: {named}")
    return pairs


def batches_of(data: DataConfig, train: TrainConfig, pairs: Pairs, model: Model, world: World) -> Loader[Batch]:
    """Batches of pairs, preprocessed for a model."""
    crops = replace(data.crops, num_global=1, num_local=0)
    views = MultiCrop(crops, size=model.preprocess.size, original=False, preprocess=model.preprocess)
    plan = LoaderPlan(
        batch_size=train.batch_size,
        seed=train.seed,
        shuffle_shards=data.shuffle_shards,
        workers=data.workers,
        accept_changed_shards=data.accept_changed_shards,
        patience=train.timeout + data.remote_patience,
    )
    reduced = pairs.reduced(views.suffices) if crops.scaled_decoding else pairs
    return Loader(reduced, PairCollate(views, model.tokenizer, data.photometric), plan, world)


def flops_per_pair(learner: PairsLearner, hyper: Any) -> float:
    """Training FLOPs of one pair, without its comparison with other pairs."""
    model = learner.model
    pixels = torch.zeros(1, 1, 3, model.preprocess.size, model.preprocess.size, dtype=torch.uint8)
    blank = Batch(Views(None, pixels, None), model.tokenizer([""]), [""]).to(model.device)
    with FlopCounter() as counter:
        learner.gradients(Passes(learner.module), blank, hyper)
    return float(counter.total)
