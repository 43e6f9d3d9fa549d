"""Probes of a model: k nearest neighbours at once, linear layers by the engine, a run for each task."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from silc import config as configs
from silc import places
from silc.data.quarantine import Samples
from silc.distributed import join
from silc.errors import BadInput
from silc.eval import suite
from silc.eval.asked import probes_asked_for
from silc.eval.classify import classified
from silc.loading import load_any
from silc.predict import Model
from silc.probes.config import ProbeConfig
from silc.probes.learner import Batches, Probe
from silc.probes.patches import Segmentation
from silc.probes.pooled import Classification, pooled, votes
from silc.terminal import say
from silc.training.config import steps_of
from silc.training.directory import CONFIG, claim
from silc.training.fit import fit
from silc.training.precision import settle
from silc.training.preemption import Interruptible
from silc.training.protocols import Place, Scores, Work
from silc.training.schedules import LearningRate
from silc.training.sharding import in_one_piece

if TYPE_CHECKING:
    from silc.distributed import World
    from silc.eval.asked import Task
    from silc.records import Evaluation

FREE = {"resume", "out", "init", "root", "tasks", "k", "temperature", "feature_batch", "feature_cache_gb"}
FREE |= {"train.device", "train.sharding", "train.compile", "train.max_skips", "train.trackers", "train.timeout"}
FREE |= {"train.log_every", "train.save_every", "train.keep"}
"""Settings that may differ when a run goes on."""


def probe(config: ProbeConfig) -> list[Evaluation]:
    """Probe a model; the evaluations, on the main rank.

    Raises:
        BadInput: no such task, model or data set; a place that cannot be written, or that holds another probe.
        Preempted: the process, or that of another rank, was asked to stop; what it had is saved.
    """
    out, todo = places.folder(config.out), list[Any]()
    for task in probes_asked_for(config.root, config.tasks):  # all are looked at before the first is begun
        own = replace(config, tasks=task.name, out=str(out / task.name))
        if task.kind == "knn_classification":
            todo.append(partial(_neighbours, own, task))
        else:
            todo.append(partial(_trained, _Run(replace(own, resume="never"), task), claim(own.out, config.resume)))
    with join(config.train.device) as world:
        found = [score(world) for score in todo]
        return found if world.is_main else []


def _model(config: ProbeConfig, world: World) -> tuple[Model, str]:
    """The model, and the checksum of all that makes it."""
    weights = "both" if config.weights == "auto" else config.weights
    loaded = load_any(config.init, weights=weights, device=world.device)
    return loaded.best(), loaded.checksum


def _sets(config: ProbeConfig, task: Task, world: World) -> list[Any]:
    """Training and test images, as they are to be held."""
    assert task.source.read_train is not None
    sets = [suite.held(read(), config.exif_orientation) for read in (task.source.read_train, task.source.read)]
    if world.is_main:
        say(f"{task.name}: {len(sets[0].images):,} images to learn from, {len(sets[1].images):,} to score")
    return sets


def _protocol(config: ProbeConfig, model: Model, data: Any, resize: str, **more: Any) -> dict[str, Any]:
    """Every choice that moves the number."""
    counts = {"split": "train -> test", "num_images": len(data.images), "num_classes": len(data.classes)}
    pixels = {"image_size": model.preprocess.size, "resize": f"{resize}, {model.preprocess.interpolation}"}
    return counts | more | pixels | {"exif_orientation": config.exif_orientation}


def _neighbours(config: ProbeConfig, task: Task, world: World) -> Evaluation:
    model, _ = _model(config, world)
    train, test = _sets(config, task, world)
    (own, labels), (unseen, _) = (pooled(model, data, config.feature_batch, world) for data in (train, test))
    settings: dict[str, Any] = {"k": config.k, "temperature": config.temperature}
    own, labels, unseen = (x.to(model.device) for x in (own, labels, unseen))
    scores = votes(own, labels, unseen, len(test.classes), **settings).cpu()
    method = "DINO's weighted votes, pooled features of unit length"
    protocol = _protocol(config, model, test, model.preprocess.resize, method=method, **settings)
    return suite.with_intervals(classified(task.kind, test, scores, protocol, model.name), model.weights)


def _trained(run: _Run, claimed: tuple[Path, bool], world: World) -> Evaluation:
    fit(run.config.train, claimed, run.compose)
    return run.found[-1]


@dataclass
class _Run(Scores):
    """The run of one task: composes it, and scores it."""

    config: ProbeConfig
    task: Task
    found: list[Evaluation] = field(default_factory=list)

    def compose(self, place: Place) -> Work:
        """All that the engine needs; every rank calls it.

        Raises:
            BadInput: the model or the data cannot be used; the training is shorter than a step.
        """
        train, world = self.config.train, Interruptible(**vars(place.world), asked=place.preemption.asked)
        written = configs.load(place.out / CONFIG, ProbeConfig).train.precision if place.goes_on else None
        train = replace(train, precision=settle(train.precision, world, written).precision)
        config = self.config = replace(self.config, train=train)
        place.out.mkdir(parents=True, exist_ok=True)
        self.model, checksum = _model(config, world)
        sets = _sets(config, self.task, world)
        kind: type[Any] = Classification if self.task.kind == Classification.task else Segmentation
        self.kind = kind(config, self.model, *sets, world)
        self.module = self._heads()
        held_back = self.kind.held_back
        size = min(len(held_back), self.kind.batch_size)
        settings = {path: value for path, value, _ in configs.fields(config) if path not in FREE | kind.unread}
        source = {"model": checksum, "images": _checksum(sets[0]), **json.loads(json.dumps(settings))}
        batches = Batches(self.kind.batch, held_back, 2 * len(config.l2), size, train.seed, world, source)
        in_steps = {"batch_size": size, "steps_per_epoch": batches.steps_per_epoch}
        total = steps_of(train.duration, **in_steps)
        if total < 1:
            raise BadInput(f"train.duration {train.duration!r} is less than one step of {size} images")
        return Work(
            replace(train, batch_size=size),
            configs.plain(config),
            Probe(self.module),
            batches,
            LearningRate.of(train.optim, total=total, **in_steps),
            Samples(len(held_back)),
            6.0 * self.module.weight.numel(),
            lambda _: self,
            unit="images",
        )

    def along(self) -> Mapping[str, float]:
        """As at the ends."""
        return self.at_the_ends()

    def at_the_ends(self) -> Mapping[str, float]:
        """On the test images, by the head of the penalty that is best on the images held back."""
        heads, train, l2 = in_one_piece(self.module, self._heads), self.config.train, self._penalties()
        scores = [self.kind.score(heads, head) for head in range(len(l2))]
        chosen = max(range(len(scores)), key=scores.__getitem__)
        told = {
            "method": self.kind.how,
            "l2": l2[chosen],
            "held_back": f"{int(self.kind.held_back.sum())} of {len(self.kind.held_back)} training images",
            "held_back_scores": dict(zip(map(str, l2), scores, strict=True)),
            "duration": train.duration,
            "lr": train.optim.lr,
            "seed": train.seed,
        }
        protocol = _protocol(self.config, self.model, self.kind.test, self.kind.resize, **told)
        evaluation = self.kind.evaluation(heads, len(l2) + chosen, protocol)
        self.found = [suite.with_intervals(evaluation, self.model.weights)]
        return suite.scalars(self.found)

    def _penalties(self) -> list[float]:
        """The strongest first: of those that score alike it is taken."""
        return sorted(self.config.l2, reverse=True)

    def _heads(self) -> Any:
        """Each penalty twice: without the images held back, to be chosen by, and with them, to be scored."""
        torch.manual_seed(self.config.train.seed)
        return self.kind.heads(2 * self._penalties())


def _checksum(data: Any) -> str:
    """Of a training set's files and classes."""
    described = [*map(str, data.files), *map(str, getattr(data, "labels", ()))]
    return hashlib.sha256("\n".join(described).encode()).hexdigest()[:16]
