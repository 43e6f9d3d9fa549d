"""The composer: a Config becomes data, objective, optimizer, loop and evaluators.

This is what `silc.train` and the command line call; the only module that knows everybody.
"""

from __future__ import annotations

import json
import platform
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.parallel import DistributedDataParallel

from silc import checkpoint, checks, recipes
from silc import config as configs
from silc import origin as origins
from silc.config import Config
from silc.data.collate import PairCollate
from silc.data.crops import MultiCrop
from silc.data.loader import Loader, Plan
from silc.data.quarantine import QUARANTINE, Quarantine
from silc.data.remote import without_secrets
from silc.data.sources import open_pairs
from silc.data.split import Without, draw_held_out
from silc.data.tokenizer import BPETokenizer
from silc.data.workers import LostWorker, StoppedWaiting
from silc.distributed import World, join
from silc.eval import held_out, suite
from silc.eval.progress import Unscored
from silc.eval.retrieval import Retrieval
from silc.heap import keep_freed_memory
from silc.loading import encoders
from silc.models import lora
from silc.models.attention import choose_attention
from silc.models.teacher import half_life_of, momentum_of
from silc.objective import SilcObjective
from silc.rundir import CHECKPOINTS, CONFIG, TOKENIZER, as_begun, with_its_init, with_one_source
from silc.terminal import complain, say
from silc.training.alarm import CollapseAlarm
from silc.training.config import examples_of, steps_of
from silc.training.flops import training_flops
from silc.training.log import Log, history
from silc.training.loop import Pace, Progress, state_of
from silc.training.loop import train as train_loop
from silc.training.optim import Optimizer, freeze
from silc.training.parts import Gradients
from silc.training.precision import settle
from silc.training.preemption import Interruptible, Preemption
from silc.training.saver import Saver
from silc.training.schedules import Schedule
from silc.training.sharding import is_sharded, shard, whole
from silc.training.trackers import Tracker
from silc.types import BadInput, Batch, Preempted

if TYPE_CHECKING:
    from torch import Tensor

    from silc.data.pairs import Pairs
    from silc.types import Evaluator

ENVIRONMENT = "env.json"
CAPTIONS_FOR_TOKENIZER = 1_000_000
GRACE = 10.0
"""Seconds that a rank asked to stop still waits for its batch, so that all can save. `torchrun` kills after 30."""


def train(config: Config) -> Path:
    """Train a run to its end and return its directory.

    Raises:
        BadInput: the configuration, the data, or what `out` or `init` hold cannot be used.
        Preempted: the process, or that of another rank, was asked to stop; what it had is saved.
    """
    out, goes_on = checks.training(config)
    with join(config.train.device, timedelta(seconds=config.train.timeout)) as world:
        _check_micro_batch(config, world)
        config, precision = _settled(config, out, world)
        config, source = with_one_source(config, out)
        config, kept = as_begun(config, out)
        resumed = _newest(out, world) if goes_on else None
        config, init = with_its_init(config, out) if resumed is not None else (config, "")
        out.mkdir(parents=True, exist_ok=True)
        if world.is_main:
            for said in filter(None, (source, init, kept, precision)):
                say(said)
        origin = origins.find(config.init) if config.init and resumed is None else None
        if config.train.optim.lora and origin is None and resumed is None:
            raise BadInput("train.optim.lora adapts a trained model; name one with --init, or leave it out")
        if recipes.goes_on(config.recipe) and origin is None and resumed is None:
            raise BadInput(f"{config.recipe} goes on from a pre-trained run; name it with --init RUN")
        preemption = Preemption()
        in_evaluation = Interruptible(**vars(world), asked=preemption.asked)
        evaluators = _evaluators(config, in_evaluation)
        pairs, held_out_task = _split(
            config, open_pairs(config.data, seed=config.train.seed, show=world.is_main), in_evaluation
        )
        if world.is_main:
            say(_reading(config, pairs))
        # From here on it is only written down: no signature or password of an address goes into files or trackers.
        config = replace(config, data=replace(config.data, train=without_secrets(config.data.train)))
        if world.is_main and resumed is None:
            _make_tokenizer(config, pairs, origin).save(out / TOKENIZER)
        world.barrier()
        tokenizer = BPETokenizer.load(out / TOKENIZER, config.model.text.length)
        objective = build(config, tokenizer, world)
        loader = loader_of(config, pairs, tokenizer, world)
        schedule = _schedule(config, loader.steps_per_epoch)
        pace = _pace(config, schedule.total, loader.steps_per_epoch)
        if resumed is not None:
            gradients, optimizer, progress = _resume(config, resumed, objective, loader, world)
            began = ""
        else:
            gradients, optimizer, began = _begin(config, origin, objective, world)
            # What was wrong with the shards themselves counts once, on the main rank.
            progress = Progress(bad=Counter(fault.cause for fault in pairs.faults if world.is_main))
        extended = _extended(config, out, loader.steps_per_epoch, schedule, progress.step) if goes_on else ""
        config = replace(config, resume="never", extend=False)
        world.barrier()
        if world.is_main:
            configs.save(config, out / CONFIG)
            (out / ENVIRONMENT).write_text(json.dumps(environment(world), indent=1))

        with _log(config, out, progress.step, schedule.total) if world.is_main else nullcontext() as log:
            flops = flops_per_example(config, tokenizer.vocab_size, tokenizer.eos_id)
            # A data set that became unreadable since the run began costs its scores, not the run.
            unscored = Unscored(log.say if log is not None else lambda _: None)
            evaluate = _evaluation(config, flops, objective, tokenizer, evaluators, log, in_evaluation, unscored)
            both = replace(config, eval=replace(config.eval, weights="both"))
            compare = _evaluation(both, flops, objective, tokenizer, held_out_task, log, in_evaluation, unscored)
            for said in filter(None, (began, extended)):
                if log is not None:
                    log.say(said)
            quarantine = _quarantine(config, out, pairs, progress, world)
            saver = Saver(out / CHECKPOINTS, config.train.keep, world, saved=progress.step if resumed else None)
            save = _saving(config, saver, flops, objective, optimizer, loader, quarantine, world)
            # Other ranks wait for this one's batch within the step, so it is given time to come.
            asked = partial(preemption.asked, GRACE if world.size > 1 else 0.0)
            with preemption, closing(loader.batches(progress.step, schedule.total, asked)) as batches:
                try:
                    if held_out_task and progress.step == 0:
                        compare(progress)
                    train_loop(
                        objective,
                        gradients,
                        quarantine.watch(batches, progress.step),
                        optimizer,
                        schedule,
                        progress,
                        world=world,
                        pace=pace,
                        batch_size=config.train.batch_size,
                        flops_per_example=flops,
                        log=log,
                        alarm=CollapseAlarm(
                            config.model.head.prototypes, config.data.crops.num_global * config.train.batch_size
                        ),
                        save=save,
                        evaluate=evaluate,
                        stop=lambda: preemption.asked() or saver.failed(),
                    )
                    saver.finish()
                    if held_out_task:
                        compare(progress)
                except LostWorker as lost:
                    kept = _save_alone(progress, save, saver, world)
                    raise LostWorker(f"{lost}; {kept}") from lost
                except StoppedWaiting:
                    kept = _save_alone(progress, save, saver, world)
                    said = f"{preemption.name} asked to stop while no batch came; {kept}"
                    raise Preempted(said, exit_code=preemption.exit_code) from None
                except Preempted:
                    save(progress)
                    saver.finish()
                    said = f"{preemption.name or 'another rank'} asked to stop: saved step {progress.step} of "
                    said += f"{schedule.total}; `--resume auto` goes on from there"
                    raise Preempted(said if world.is_main else "", exit_code=preemption.exit_code) from None
                except KeyboardInterrupt:
                    raise KeyboardInterrupt(_left_behind(out)) from None
                except BadInput:
                    saver.wait()  # what was saved before is not to be lost to what came after
                    raise
            if log is not None and unscored.tasks:
                log.say(f"not scored all along: {', '.join(unscored.tasks)}; `silc eval {out}` scores what is mended")
            if log is not None and held_out_task and held_out.TASK not in unscored.tasks:
                log.say(held_out.report(history(out), len(held_out_task[0].sets[0].images)))
            if log is not None:
                log.say(f"done: {out}   next: silc eval {out} --root DATA")
    return out


def _save_alone(progress: Progress, save: Callable[[Progress], None], saver: Saver, world: World) -> str:
    """Save between two steps, where no other rank has to take part: those wait within the step. Says what is kept."""
    if world.size > 1:
        saver.wait()
        return "`--resume auto` goes on from the last checkpoint"
    save(progress)
    saver.finish()
    return f"saved step {progress.step}; `--resume auto` goes on from there"


def build(config: Config, tokenizer: Any, world: World) -> SilcObjective:
    """The objective with its initial weights, the same on every rank, on the CPU."""
    torch.manual_seed(config.train.seed)
    return _objective(config, tokenizer.vocab_size, tokenizer.eos_id, world)


def untrained(config: Config, vocab_size: int, eos_id: int, world: World) -> SilcObjective:
    """The objective on the meta device: every shape, and no memory."""
    with torch.device("meta"):
        return _objective(config, vocab_size, eos_id, world)


def flops_per_example(config: Config, vocab_size: int, eos_id: int) -> float:
    """Training FLOPs per example of a recipe, by counting."""
    # torch's counter trips over a tower that runs with gradient and without; one of the teacher's own costs the same.
    config = replace(config, objective=replace(config.objective, head_only_ema=False))
    objective = untrained(config, vocab_size, eos_id, World())
    with torch.device("meta"):
        return training_flops(objective, blank_batch(config, 1))


def environment(world: World) -> dict[str, Any]:
    """What a number needs beside it to be repeated."""
    gpu = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else ""
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "gpu": gpu,
        "ranks": world.size,
        "threads": torch.get_num_threads(),
    }


def _objective(config: Config, vocab_size: int, eos_id: int, world: World) -> SilcObjective:
    objective = SilcObjective(
        config.model,
        config.objective,
        preprocess=config.pixels.preprocess(config.model.image.size),
        world=world,
        vocab_size=vocab_size,
        eos_id=eos_id,
    )
    freeze(objective, config.train.optim.freeze)
    return objective


def _evaluators(config: Config, world: Interruptible) -> list[Evaluator]:
    """What scores the model along the way."""
    if config.train.eval_every == "never":
        return []
    return suite.tasks(config.eval, world.heed, world)


def _split(config: Config, pairs: Pairs, world: Interruptible) -> tuple[Pairs, list[Evaluator]]:
    """The pairs to train on, and retrieval on those held out of them, if any are."""
    if not config.train.held_out:
        return pairs, []
    numbers = draw_held_out(pairs, config.train.held_out)
    data = held_out.held_out_set(pairs, numbers)
    quiet = replace(config.eval, num_pictures=0)
    return Without(pairs, numbers), [Retrieval(held_out.TASK, data, quiet, world.heed, world)]


def _reading(config: Config, pairs: Pairs) -> str:
    scenes = config.data.source == "scenes"
    what = "generated scenes (data.source scenes)" if scenes else without_secrets(config.data.train)
    apart = f"; {config.train.held_out:,} more are held out" if config.train.held_out else ""
    return f"reading {len(pairs):,} pairs: {what}{apart}"


def _settled(config: Config, out: Path, world: World) -> tuple[Config, str]:
    """The configuration with the precision this run has, and what is to be said about it."""
    written = configs.load(out / CONFIG).train.precision if (out / CONFIG).is_file() else None
    found = settle(config.train.precision, world, written)
    return replace(config, train=replace(config.train, precision=found.precision)), found.said


def _newest(out: Path, world: World) -> Path | None:
    """The checkpoint that a run goes on from; None where it was stopped before its first."""
    # One rank looks, so that all go on from the same one. Checksums take longer than a collective of training may.
    newest: Path | None = world.from_main(_newest_intact(out / CHECKPOINTS) if world.is_main else None)
    return newest


def _left_behind(out: Path) -> str:
    """What a run that was left at once can go on from."""
    found = checkpoint.find(out / CHECKPOINTS)
    if not found:
        return f"{out} holds no checkpoint yet; `--resume auto` starts it again"
    return f"`--resume auto` goes on from {found[0]}"


def _newest_intact(root: Path) -> Path | None:
    """The newest checkpoint that is whole; damaged newer ones are set aside and named."""
    newest, damaged = checkpoint.newest_intact(root)
    if newest is None and damaged:
        raise BadInput(
            f"every checkpoint under {root} is damaged, the newest: {next(iter(damaged.values()))}; "
            "restore one, or start again with another --out"
        )
    for path, complaint in damaged.items():
        complain(f"{complaint.partition(';')[0]}; set aside, going on from {newest}")
        checkpoint.set_aside(path)
    return newest


def _make_tokenizer(config: Config, pairs: Pairs, origin: origins.Origin | None) -> BPETokenizer:
    """The given tokenizer, or that of the run this one starts from, or one trained on the captions."""
    length = config.model.text.length
    if config.data.tokenizer:
        given = BPETokenizer.load(config.data.tokenizer, length)
        if origin is not None and given.tokenizer.get_vocab() != origin.tokenizer.tokenizer.get_vocab():
            raise BadInput(f"data.tokenizer {config.data.tokenizer} is not that of {config.init}; leave it out")
        return given
    if origin is not None:
        return origin.tokenizer
    return BPETokenizer.train(pairs.captions(CAPTIONS_FOR_TOKENIZER), config.data.vocab_size, length)


def views_of(config: Config) -> MultiCrop:
    """What draws the views of an image that a recipe asks for."""
    size, original = config.model.image.size, config.objective.needs_original
    return MultiCrop(config.drawn, size=size, original=original, preprocess=config.pixels.preprocess(size))


def blank_batch(config: Config, num: int) -> Batch:
    """A rank's batch as its loader makes it, of views and texts without content."""
    text = torch.zeros(num, config.model.text.length, dtype=torch.int64)
    return Batch(views_of(config).blank(num), text, keys=[""] * num)


def loader_of(config: Config, pairs: Pairs, tokenizer: BPETokenizer, world: World) -> Loader[Batch]:
    """What gives this rank its batches."""
    data, views = config.data, views_of(config)
    plan = Plan(
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        shuffle_shards=data.shuffle_shards,
        workers=data.workers,
        accept_changed_shards=data.accept_changed_shards,
        # A server is tried for so long; what takes longer than that and any step is not coming.
        patience=config.train.timeout + data.remote_patience,
    )
    reduced = pairs.reduced(views.suffices) if data.crops.scaled_decoding else pairs
    return Loader(reduced, PairCollate(views, tokenizer, data.photometric, device=world.device), plan, world)


def _quarantine(config: Config, out: Path, pairs: Pairs, progress: Progress, world: World) -> Quarantine:
    return Quarantine(
        out / QUARANTINE,
        pairs.faults,
        max_bad_rate=config.data.max_bad_rate,
        batch_size=config.train.batch_size,
        num_samples=len(pairs),
        met=world.total(progress.bad),
        world=world,
    )


def _schedule(config: Config, steps_per_epoch: int) -> Schedule:
    batch_size, teacher = config.train.batch_size, config.model.teacher
    total = steps_of(config.train.duration, batch_size=batch_size, steps_per_epoch=steps_per_epoch)
    if total < 1:
        raise BadInput(f"train.duration {config.train.duration!r} is less than one step of {batch_size} pairs")
    if teacher.half_life == "auto":
        half_life = half_life_of(total * batch_size)
    else:
        half_life = examples_of(teacher.half_life, batch_size=batch_size, steps_per_epoch=steps_per_epoch, total=total)
        if half_life <= 0:
            raise BadInput("model.teacher.half_life is 0: such a teacher is the student; give examples, or 'auto'")
    return Schedule.of(
        config.train.optim,
        total=total,
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch,
        momentum=momentum_of(half_life, batch_size),
        temperature=teacher.temperature,
    )


def _extended(config: Config, out: Path, steps_per_epoch: int, schedule: Schedule, done: int) -> str:
    """How the run in `out` was lengthened, in words; '' where it was not.

    Raises:
        BadInput: it is longer already.
    """
    begun = configs.load(out / CONFIG)
    if begun.train.duration == config.train.duration:
        return ""
    before, after = _schedule(begun, steps_per_epoch), schedule.total
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


def _pace(config: Config, total: int, steps_per_epoch: int) -> Pace:
    def steps(duration: str) -> int:
        if duration == "never":
            return 0
        at = {"batch_size": config.train.batch_size, "steps_per_epoch": steps_per_epoch, "total": total}
        return max(1, steps_of(duration, **at))

    t = config.train
    return Pace(steps(t.log_every), steps(t.save_every), steps(t.eval_every), t.max_skips)


def _log(config: Config, out: Path, start: int, total: int) -> Log:
    values = configs.to_dict(config)
    return Log(out, start=start, total=total, trackers=[Tracker(t, out, values) for t in config.train.trackers])


def _check_micro_batch(config: Config, world: World) -> None:
    share, part = config.train.batch_size // world.size, config.train.micro_batch
    if part and share % part:
        raise BadInput(f"train.micro_batch {part} does not divide a rank's {share} pairs; give one that does, or 0")


def _gradients(config: Config, objective: SilcObjective, world: World) -> Gradients:
    """Move the objective to the ranks' devices, whole or in shares; what the loop calls in its place."""
    half = config.train.precision == "bf16"
    choose_attention(objective, world.device, half=half)
    if world.device.type == "cpu":
        keep_freed_memory()
    forward: Any = objective
    unsynced: Any = nullcontext
    if world.size > 1 and config.train.sharding == "full":
        shard(objective, world)
    else:
        objective.to(world.device)
        if world.size > 1:
            devices = [world.device.index] if world.device.type == "cuda" else None
            # The last pass of a step does not meet every parameter.
            partial_use = objective.supervised and (config.train.micro_batch > 0 or objective.separable)
            forward = DistributedDataParallel(forward, device_ids=devices, find_unused_parameters=partial_use)
            unsynced = forward.no_sync
    forward = torch.compile(forward) if config.train.compile else forward
    autocast = partial(torch.autocast, world.device.type, torch.bfloat16, enabled=half)
    return Gradients(objective, forward, config.train.micro_batch, autocast, unsynced)


def _in_one_piece(config: Config, objective: SilcObjective, tokenizer: BPETokenizer) -> SilcObjective:
    """The objective, or a whole copy of a sharded one: evaluators call its parts, and ranks not equally often."""
    tensors = objective.state_dict()
    if not any(is_sharded(tensor) for tensor in tensors.values()):
        return objective
    copy = untrained(config, tokenizer.vocab_size, tokenizer.eos_id, World())
    copy.load_state_dict({name: whole(tensor) for name, tensor in tensors.items()}, assign=True)
    return copy


def _adapt(objective: SilcObjective, rank: int) -> str:
    """Leave the towers as they are, but for low-rank changes; says how much that is."""
    student = objective.student
    whole = sum(p.numel() for p in student.parameters())
    for tower in (student.visual, student.text):
        lora.adapt(tower, rank)
    learning = sum(p.numel() for p in student.parameters() if p.requires_grad)
    return f"LoRA: {learning:,} numbers learn beside the towers' {whole:,}"


def _parts(objective: SilcObjective, optimizer: Optimizer) -> dict[str, dict[str, Tensor]]:
    """The owned parts of a checkpoint, by file."""
    parts = {"model": lora.merged(objective.student), "optimizer": optimizer.state()}
    if beside := lora.added(objective.student):
        parts["lora"] = beside
    return parts | {name: module.state_dict() for name, module in objective.heads.items()}


def _saving(
    config: Config,
    saver: Saver,
    flops: float,
    objective: SilcObjective,
    optimizer: Optimizer,
    loader: Loader[Batch],
    quarantine: Quarantine,
    world: World,
) -> Callable[[Progress], None]:
    def save(progress: Progress) -> None:
        quarantine.settle()
        rng = {"cpu": world.gather(torch.get_rng_state()[None].to(world.device))}
        if world.device.type == "cuda":
            rng["cuda"] = world.gather(torch.cuda.get_rng_state(world.device)[None].to(world.device))
        examples = progress.step * config.train.batch_size
        state = {
            "progress": state_of(progress) | {"bad": dict(world.total(progress.bad))},
            "loader": loader.state(progress.step),
            "cost": {"examples_seen": examples, "train_flops": examples * flops},
        }
        saver.save(progress.step, _parts(objective, optimizer) | {"rng": rng}, state)

    return save


def _begin(
    config: Config, origin: origins.Origin | None, objective: SilcObjective, world: World
) -> tuple[Gradients, Optimizer, str]:
    """A run's beginning: what the loop calls, its optimizer, and what was taken over, in words."""
    said = "" if origin is None else origins.take_over(objective, origin, config.model.image.size, config.init_weights)
    if config.train.optim.lora:
        learning = _adapt(objective, config.train.optim.lora)
        said = said and f"{said}; {learning}"
    gradients = _gradients(config, objective, world)
    return gradients, Optimizer(config.train.optim, objective), said


def _resume(
    config: Config, path: Path, objective: SilcObjective, loader: Loader[Batch], world: World
) -> tuple[Gradients, Optimizer, Progress]:
    """Everything as it was when the checkpoint was written, in whatever layout the ranks have now."""
    saved = checkpoint.read(path)
    loader.check(saved.state["loader"])
    if config.train.optim.lora:
        _adapt(objective, config.train.optim.lora)
    student = lora.unmerged(objective.student, saved.parts["model"], saved.parts.get("lora", {}))
    checkpoint.load_into(objective.student, student, saved.path / "model.safetensors")
    for name, module in objective.heads.items():
        saved.load_into(module, name)
    # Weights are loaded whole and moments are not: an optimizer's state is of the parameters it was made for.
    gradients = _gradients(config, objective, world)
    optimizer = Optimizer(config.train.optim, objective)
    optimizer.load(dict(saved.parts["optimizer"]))
    rng = saved.parts["rng"]
    # Ranks draw alike, so one more takes the first one's state. Copied: torch reads a state as aligned memory, and a
    # row of a file may lie anywhere.
    row = world.rank if world.rank < len(rng["cpu"]) else 0
    torch.set_rng_state(rng["cpu"][row].clone())
    if "cuda" in rng and world.device.type == "cuda":
        torch.cuda.set_rng_state(rng["cuda"][row].clone(), world.device)
    state = saved.state["progress"]
    # The counts are sums over the ranks; one rank takes them all, so that later sums are right.
    bad: Counter[str] = Counter(state["bad"]) if world.is_main else Counter()
    return gradients, optimizer, Progress(step=state["step"], skipped=state["skipped"], bad=bad)


def _evaluation(
    config: Config,
    flops: float,
    objective: SilcObjective,
    tokenizer: BPETokenizer,
    evaluators: list[Evaluator],
    log: Log | None,
    world: Interruptible,
    failed: suite.Failed,
) -> Callable[[Progress], None]:
    def run_evaluators(progress: Progress) -> None:
        model = _in_one_piece(config, objective, tokenizer)
        model.eval()
        models = encoders(model.student, model.teacher, tokenizer, model.preprocess, weights=config.eval.weights)
        results = suite.run(models, evaluators, world=world, failed=failed)
        world.collect(None)  # the one to come for whoever heeds in the last batch
        model.train()
        if log is not None:
            examples = progress.step * config.train.batch_size
            cost = {"step": progress.step, "examples_seen": examples, "train_flops": examples * flops}
            log.record(cost | suite.scalars(results))

    return run_evaluators
