"""Baselines compute what ours does: else their times say nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from benchmarks import evaluation, step
from benchmarks.baselines.windows import per_window
from benchmarks.suite import BenchConfig
from silc.config import Config
from silc.eval.config import EvalConfig
from silc.eval.metrics import segmentation_scores
from silc.eval.segment import ZeroShotSegmentation
from silc.models.silc import Encoder, TwoTower
from silc.preprocess import Preprocess

NO_CAST = partial(torch.autocast, "cpu", torch.bfloat16, enabled=False)


def small_encoder(config: Config) -> Encoder:
    model = TwoTower(config.model, vocab_size=1000, eos_id=1, scale_init=10.0, bias_init=0.0).eval()
    return Encoder(model, model.visual, evaluation.Words(context_length=12), Preprocess(16), "small")


def test_rows_of_the_evaluation(small: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "WIDTH", 40)
    monkeypatch.setattr(evaluation, "HEIGHT", 30)
    monkeypatch.setattr(evaluation, "random_model", lambda device: small_encoder(small("clip")))
    monkeypatch.setattr(evaluation, "extra_memory", lambda run, device: run() and 2.0)
    rows = evaluation.rows(BenchConfig(device="cpu"))
    assert [row.number for row in rows] == [14, 14]
    assert rows[0].value > 0
    assert rows[0].target is None
    assert rows[1].figures["memory MB"] == {"10 images": 2.0, "20 images": 2.0}
    assert rows[1].met


def test_the_loop_over_windows_gives_the_same_counts(
    small: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "WIDTH", 40)
    monkeypatch.setattr(evaluation, "HEIGHT", 30)
    encoder = small_encoder(small("clip"))
    data, settings = evaluation.scenes(3), EvalConfig(batch_size=4, templates="plain", num_pictures=0)
    theirs = segmentation_scores(per_window(encoder, data, settings), "mmseg")
    ours = ZeroShotSegmentation("scenes", data, settings)(encoder).record.metrics
    assert theirs == pytest.approx(ours)


@pytest.mark.parametrize("name", ["clip", "silc_c"])
def test_the_training_steps_start_from_the_same_loss(small: Callable[..., Config], name: str) -> None:
    """With our weights copied in, and the teacher the student's copy, the first step's loss is ours."""
    training = pytest.importorskip("benchmarks.baselines.training")
    config = small(name)
    ours, batch = step.OurStep(config, "cpu"), step.batch_of(config, 4, "cpu")
    made = training.clip_model(config, step.VOCABULARY, "cpu")
    mine, theirs = dict(ours.objective.student.named_parameters()), dict(made.named_parameters())
    shared = {n.replace("visual.trunk.", "visual."): p for n, p in mine.items()}
    del shared["logit_bias"]
    assert shared.keys() == theirs.keys()
    with torch.no_grad():
        for key, parameter in theirs.items():
            parameter.copy_(shared[key].reshape(parameter.shape))
    head = ours.objective.head
    if head is not None:
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.normal_(std=0.1)
            for averaged, parameter in zip(ours.objective.teacher.head.parameters(), head.parameters(), strict=True):
                averaged.copy_(parameter)
    normal = Preprocess(config.model.image.size).normalize
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "clip_model", lambda *_: made)
        if name == "clip":
            run = training.clip_step(config, step.VOCABULARY, "cpu", NO_CAST)
            loss = run(normal(batch.views.original), batch.text)
        else:
            copied = training.Head(32, 32, 16, 24)
            for new, old in zip(copied.parameters(), _ordered(head), strict=True):
                new.data.copy_(old)
            patch.setattr(training, "Head", lambda *_: copied)
            run = training.silc_step(config, step.VOCABULARY, "cpu", NO_CAST)
            loss = run(normal(batch.views.globals), normal(batch.views.locals), batch.text)
    assert loss == pytest.approx(ours(batch), rel=1e-4)


def _ordered(head: torch.nn.Module) -> list[torch.Tensor]:
    """The parameters of our head in the order of the baseline's."""
    named = dict(head.named_parameters())
    prototypes = named.pop("prototypes")
    return [prototypes, *named.values()]
