"""A pretraining run: makes data, learner, schedule and scores from its configuration; the engine does the rest."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from silc import checks
from silc import config as configs
from silc.checkpoint import step_of
from silc.data.collate import PairCollate
from silc.data.loader import Loader, LoaderPlan
from silc.data.quarantine import Samples
from silc.data.remote import without_secrets
from silc.data.sources import open_pairs
from silc.data.split import Subset, draw_held_out
from silc.data.tokenizer import BPETokenizer
from silc.errors import BadInput
from silc.eval import held_out, suite
from silc.eval.retrieval import Retrieval
from silc.pretraining import origin as origins
from silc.pretraining.alarm import CollapseAlarm
from silc.pretraining.build import flops_per_example, objective_of, views_of
from silc.pretraining.learner import SilcLearner, adapt
from silc.pretraining.rates import Schedule, schedule_of
from silc.pretraining.scores import PretrainingScores
from silc.rundir import TOKENIZER, as_begun, with_its_init, with_one_source
from silc.terminal import say
from silc.training.directory import CONFIG
from silc.training.fit import fit
from silc.training.precision import choose
from silc.training.preemption import Interruptible
from silc.training.protocols import Run, RunContext

if TYPE_CHECKING:
    from silc.batch import Batch
    from silc.config import Config
    from silc.data.pairs import Pairs
    from silc.distributed import World
    from silc.objective import SilcObjective

CAPTIONS_FOR_TOKENIZER = 1_000_000


def train(config: Config) -> Path:
    """Train a run to its end and return its directory.

    Raises:
        BadInput: the configuration, the data, or what `out` or `init` hold cannot be used.
        Preempted: this process or another rank's was asked to stop; its progress is saved.
    """
    return fit(config.train, checks.training(config), partial(compose, config))


def compose(config: Config, context: RunContext) -> Run:
    """Build all parts of a pretraining run; every rank calls it.

    Raises:
        BadInput: the configuration, the data or the model to go on from cannot be used.
    """
    world = context.world
    config = _settled(config, context)
    origin = _origin(config, context)
    in_evaluation = Interruptible(**vars(world), asked=context.preemption.asked)
    # Before anything is read, because data to evaluate on may be missing.
    along = suite.tasks(config.eval, in_evaluation.heed, in_evaluation) if config.train.eval_every != "never" else []
    whole = open_pairs(config.data, seed=config.train.seed, show=world.is_main)
    pairs, apart = _split(config, whole, in_evaluation)
    if world.is_main:
        say(_reading(config, pairs))
    # From here on the address is only written down: no signature or password in it goes into files or trackers.
    config = replace(config, data=replace(config.data, train=without_secrets(config.data.train)))
    tokenizer = _tokenizer(config, pairs, origin, context)
    torch.manual_seed(config.train.seed)  # the same weights on every rank
    objective = objective_of(config, tokenizer.vocab_size, tokenizer.eos_id, world)
    loader = loader_of(config, pairs, tokenizer, world)
    schedule = schedule_of(config, loader.steps_per_epoch)
    taken_over = _filled(config, objective, origin)
    extended = _extended(config, context, schedule, loader.steps_per_epoch)
    config = replace(config, resume="never", extend=False)
    num_targets = config.data.crops.num_global * config.train.batch_size
    return Run(
        config.train,
        configs.plain(config),
        SilcLearner(objective, config.train, CollapseAlarm(config.model.head.prototypes, num_targets)),
        loader,
        schedule,
        Samples(len(pairs), pairs.faults, config.data.max_bad_rate),
        flops_per_example(config, tokenizer.vocab_size, tokenizer.eos_id),
        partial(PretrainingScores, config, objective, tokenizer, along, apart, in_evaluation),
        said=[line for line in (taken_over, extended) if line],
    )


def _settled(config: Config, context: RunContext) -> Config:
    """The final configuration: a run that resumes keeps its settings; `auto` precision is decided."""
    out = context.out
    written = configs.load(out / CONFIG).train.precision if (out / CONFIG).is_file() else None
    precision = choose(config.train.precision, context.world, written)
    config = replace(config, train=replace(config.train, precision=precision.precision))
    config, source = with_one_source(config, out)
    config, kept = as_begun(config, out)
    config, init = with_its_init(config, out) if context.checkpoint is not None else (config, "")
    out.mkdir(parents=True, exist_ok=True)
    for said in filter(None, (source, init, kept, precision.said)):
        if context.world.is_main:
            say(said)
    return config


def _origin(config: Config, context: RunContext) -> origins.Origin | None:
    """The model that the run starts from; None if it resumes from a checkpoint, or starts from nothing.

    Raises:
        BadInput: it needs one and none is named.
    """
    if context.checkpoint is not None:
        return None
    checks.origin(config)
    return origins.find(config.init) if config.init else None


def _filled(config: Config, objective: SilcObjective, origin: origins.Origin | None) -> str:
    """Fill an objective with the weights of its origin, and add LoRA to its towers; returns what was done, in words."""
    size, lora = config.model.image.size, config.train.optim.lora
    said = "" if origin is None else origins.initialize(objective, origin, size, config.init_weights)
    learning = adapt(objective, lora) if lora else ""
    return f"{said}; {learning}" if said and learning else said


def _split(config: Config, pairs: Pairs, world: Interruptible) -> tuple[Pairs, list[Retrieval]]:
    """The pairs to train on, and retrieval on the held-out pairs, if there are any."""
    if not config.train.held_out:
        return pairs, []
    numbers = draw_held_out(pairs, config.train.held_out)
    data = held_out.held_out_set(pairs, numbers)
    quiet = replace(config.eval, num_pictures=0)
    return Subset(pairs, numbers), [Retrieval(held_out.TASK, data, quiet, world.heed, world)]


def _reading(config: Config, pairs: Pairs) -> str:
    source = config.data.source
    what = f"generated {source} (data.source {source})" if config.data.generated else without_secrets(config.data.train)
    apart = f"; {config.train.held_out:,} more are held out" if config.train.held_out else ""
    chosen = f", chosen by {config.data.subset}" if config.data.subset else ""
    return f"reading {len(pairs):,} pairs: {what}{chosen}{apart}"


def _tokenizer(config: Config, pairs: Pairs, origin: origins.Origin | None, context: RunContext) -> BPETokenizer:
    """The run's tokenizer; the main rank of a new run makes it."""
    if context.world.is_main and context.checkpoint is None:
        _make_tokenizer(config, pairs, origin).save(context.out / TOKENIZER)
    context.world.barrier()
    return BPETokenizer.load(context.out / TOKENIZER, config.model.text.length)


def _make_tokenizer(config: Config, pairs: Pairs, origin: origins.Origin | None) -> BPETokenizer:
    """The given tokenizer, or that of the run this one starts from, or one trained on the captions."""
    length = config.model.text.length
    if config.data.tokenizer:
        given = BPETokenizer.load(config.data.tokenizer, length)
        if origin is not None and given.tokenizer.get_vocab() != origin.tokenizer.tokenizer.get_vocab():
            raise BadInput(
                f"data.tokenizer {config.data.tokenizer} is not the tokenizer of {config.init}; leave data.tokenizer "
                "out"
            )
        return given
    if origin is not None:
        return origin.tokenizer
    return BPETokenizer.train(pairs.captions(CAPTIONS_FOR_TOKENIZER), config.data.vocab_size, length)


def loader_of(config: Config, pairs: Pairs, tokenizer: BPETokenizer, world: World) -> Loader[Batch]:
    """The loader of this rank's batches."""
    data, views = config.data, views_of(config)
    plan = LoaderPlan(
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        shuffle_shards=data.shuffle_shards,
        workers=data.workers,
        accept_changed_shards=data.accept_changed_shards,
        # A server is tried for so long; a batch that takes longer than that and any step will not come.
        patience=config.train.timeout + data.remote_patience,
    )
    reduced = pairs.reduced(views.suffices) if data.crops.scaled_decoding else pairs
    return Loader(reduced, PairCollate(views, tokenizer, data.photometric), plan, world)


def _extended(config: Config, context: RunContext, schedule: Schedule, steps_per_epoch: int) -> str:
    """How the run was lengthened, in words; '' if it was not.

    Raises:
        BadInput: the run is longer already.
    """
    out = context.out
    if not context.resuming:
        return ""
    begun = configs.load(out / CONFIG)
    if begun.train.duration == config.train.duration:
        return ""
    done = 0 if context.checkpoint is None else step_of(context.checkpoint)
    before, after = schedule_of(begun, steps_per_epoch), schedule.total
    if after < before.total:
        raise BadInput(
            f"train.duration {config.train.duration!r} is {after:,} steps, and {out} has {done:,} of {before.total:,} "
            "steps done; --extend makes a run longer, not shorter"
        )
    if after == before.total:
        return ""
    said = f"extended from {before.total:,} to {after:,} steps"
    if not 0 < done < after:
        return said
    was, goes_on = before.at(done - 1).lr, schedule.at(done).lr
    return f"{said}: the learning rate goes from {was:.1e} to {goes_on:.1e} at step {done:,}"
