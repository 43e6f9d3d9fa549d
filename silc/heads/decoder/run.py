"""A run of a decoder: builds data, learner, schedule and scores from the configuration; the engine does the rest."""

from __future__ import annotations

import copy
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from silc import checks
from silc import config as configs
from silc.data.loader import Loader
from silc.data.pairs import BadSample
from silc.data.quarantine import Samples
from silc.errors import BadInput
from silc.heads import tuning
from silc.heads.decoder.config import DecoderConfig
from silc.heads.decoder.data import Joined, ToldTexts, opened, shown
from silc.heads.decoder.kept import KeptTokens
from silc.heads.decoder.learner import Teller, TextLearner
from silc.heads.decoder.model import Shape, TextDecoder, answer_loss
from silc.heads.decoder.predictor import TextModel
from silc.heads.decoder.texts import Texts
from silc.heads.decoder.tokenizer import TextTokenizer
from silc.heads.run import (
    HeadScores,
    OnModel,
    along,
    evaluation_world,
    finished,
    loader_plan,
    model_below,
    rates,
    settled,
    size_in_patches,
    with_towers,
)
from silc.models import lora
from silc.rundir import TOKENIZER
from silc.terminal import say
from silc.training.fit import fit
from silc.training.flops import FlopCounter
from silc.training.protocols import Run, RunContext
from silc.training.sharding import unsharded

if TYPE_CHECKING:
    from silc.loading import Loaded
    from silc.predict import Model

LOOKED_AT = 1000
"""Samples of each task whose texts are checked for length."""
WHITENED_BY = 256
"""Images whose tokens `--whiten` begins with."""
MAX_BAD_RATE = 0.1
"""Share of samples that may be broken."""


def train(config: DecoderConfig) -> Path:
    """Train a decoder to the end and return the run's directory.

    Raises:
        BadInput: the configuration, the data, or what `out` or `init` hold cannot be used.
        Preempted: this rank or another was asked to stop; the progress is saved.
    """
    if not config.data.train or not config.init:
        raise BadInput(
            "decoder needs a model and images with texts: --init MODEL --data.train 'caption:DATA/coco,vqa:DATA/vqav2'"
        )
    return fit(config.train, checks.training(config), partial(compose, config))


def compose(config: DecoderConfig, context: RunContext) -> Run:
    """Build all that the engine needs; every rank calls this.

    Raises:
        BadInput: the model or the data cannot be used; the training is shorter than a step.
    """
    world, config = evaluation_world(context), settled(config, context)
    tasks = along(config, world)
    source = opened(config.data)
    if world.is_main:
        counts = ", ".join(f"{len(part):,} of {part.prefix}" for part in source.parts)
        say(f"reading {len(source):,} texts: {counts}")
    # From here on data.train is only written to files, which must not contain signatures or passwords of addresses.
    config = replace(config, data=replace(config.data, train=shown(config.data.train)))
    below = model_below(config, world.device)
    model = below.best()
    text = Texts(_tokenizer(config, source, context), config.length)
    torch.manual_seed(config.train.seed)  # the same weights on every rank
    module = network(config, model, text).train()
    module.kept = kept_tokens(config, below, model, module)
    if config.whiten and context.checkpoint is None:
        whiten(module, source)
    plan = loader_plan(config.train, config.data.workers)
    loader = Loader(source, ToldTexts(module.preprocess, text), plan, context.world)
    batches = OnModel(loader, {"model": below.checksum, "prefixes": source.prefixes})

    def whole() -> Teller:
        return unsharded(module, lambda: network(config, model_below(config, "cpu").best(), text))

    def as_it_is(built: Teller) -> TextModel:
        return in_use(model, built, text, source.prefixes)

    return Run(
        config.train,
        configs.plain(config),
        TextLearner(module, config.image_lr, config.train.micro_batch),
        batches,
        rates(config.train, batches.steps_per_epoch, "texts"),
        Samples(len(source), source.faults, MAX_BAD_RATE),
        flops_per_text(module),
        partial(HeadScores, config.kind, module, whole, as_it_is, tasks, world),
        said=[told] if (told := too_long(source, text)) else [],
        unit="texts",
    )


def too_long(source: Joined, text: Texts) -> str:
    """A message about texts that are too long for the decoder; empty if there are none."""
    looked = [
        text.is_cut(part.prefix, question, answer)
        for part in source.parts
        for question, answers in part.some(LOOKED_AT)
        for answer in answers
    ]
    told = f"{sum(looked):,} of {len(looked):,} texts that were checked, or their questions, exceed {text.half} tokens"
    return f"{told} and are cut; a larger --length keeps more of them" if any(looked) else ""


def _tokenizer(config: DecoderConfig, source: Joined, context: RunContext) -> TextTokenizer:
    """The run's tokenizer; the main rank of a new run trains it."""
    if context.world.is_main and context.checkpoint is None:
        TextTokenizer.train(source.texts(), config.data.vocab_size).save(context.out / TOKENIZER)
    context.world.barrier()
    return TextTokenizer.load(context.out / TOKENIZER)


def network(config: DecoderConfig, model: Model, text: Texts) -> Teller:
    """Combine the image tower of a model, set to the run's image size, with a new decoder.

    Raises:
        BadInput: the size is no multiple of the patch.
    """
    size = size_in_patches(config.size or model.preprocess.size, model.patch_size)
    visual = model.visual
    tuning.see_at(visual, size)
    learns = "image" not in config.train.optim.freeze
    visual.requires_grad_(learns)  # a teacher's tower comes frozen
    if learns and config.train.optim.lora:
        lora.adapt(visual, config.train.optim.lora)
    for unread in (visual.head, visual.trunk.attn_pool):  # the decoder sees tokens before they are pooled
        if unread is not None:
            unread.requires_grad_(False)
    shape = Shape(
        config.depth,
        config.width,
        config.heads,
        config.mlp or 4 * config.width,
        text.tokenizer.vocab_size,
        config.length,
        visual.trunk.pos_embed.shape[-1],
        config.dropout,
        config.whiten,
    )
    preprocess = replace(model.preprocess, size=size, resize="squash")
    return Teller(visual, TextDecoder(shape), preprocess).to(model.device).eval()


def whiten(module: Teller, source: Joined) -> None:
    """Whiten the tokens that the decoder sees, by training images from all parts; the same on every rank.

    Raises:
        BadInput: none of these images can be read.
    """
    say(f"whitening image tokens by at most {WHITENED_BY} images")
    places = np.unique(np.linspace(0, len(source) - 1, WHITENED_BY).astype(np.int64)).tolist()
    source.read_ahead(places)
    tokens = list[Tensor]()
    for place in places:
        with suppress(BadSample), torch.no_grad():  # training replaces it and reports it
            pixels = module.preprocess(source[place].image)[None].to(module.decoder.positions.device)
            tokens += module.look(module.preprocess.normalize(pixels)).float()
    if not tokens:
        raise BadInput(f"none of {len(places)} images can be read, which whiten needs; mend the data")
    module.decoder.facing.set_from(torch.cat(tokens))


def kept_tokens(config: DecoderConfig, below: Loaded, model: Model, module: Teller) -> KeptTokens | None:
    """The cache for the tokens of a frozen tower; None if there is none."""
    if not config.data.cache or "image" not in config.train.optim.freeze:
        return None
    seen = module.preprocess
    tower = f"{below.checksum} {model.weights} {seen.size} {seen.mean} {seen.std} {config.train.precision}"
    return KeptTokens(Path(config.data.cache), tower)


def in_use(model: Model, module: Teller, text: Texts, prefixes: list[str]) -> TextModel:
    """Make the model for inference, with a trained decoder and its image tower."""
    known = with_towers(model, module.visual, model.model.text)
    known |= {"weights": DecoderConfig.kind, "preprocess": module.preprocess}
    return TextModel(**known, teller=module, text=text, prefixes=prefixes)


def load(run: Path, *, device: torch.device | str, name: str) -> Loaded:
    """Load the model of a finished run: the model below that config.yaml names, what it learnt, and the decoder.

    Raises:
        BadInput: a damaged checkpoint; the model below is not there, or is another one.
    """
    found = finished(run, DecoderConfig, device)
    config, model = found.config, replace(found.below.best(), name=name)
    text = Texts(TextTokenizer.load(run / TOKENIZER), config.length)
    module = network(config, model, text)
    tuning.take_over(module, found.saved)
    tuning.settle(module)
    module.requires_grad_(False)
    return found.loaded(in_use(model, module.eval(), text, list(found.saved.state["loader"]["prefixes"])))


def flops_per_text(module: Teller) -> float:
    """Training FLOPs of one text of the decoder's full length and its image."""
    counted, size, shape = copy.deepcopy(module).to("meta"), module.preprocess.size, module.decoder.shape
    with torch.device("meta"), FlopCounter() as counter:
        ids = torch.zeros(1, shape.length, dtype=torch.int64)
        logits = counted.decoder(ids, counted.look(torch.zeros(1, 3, size, size)))
        answer_loss(logits, ids, torch.ones_like(ids, dtype=torch.bool)).backward()
    return float(counter.total)
