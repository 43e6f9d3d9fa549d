"""An untrained model on real photographs knows nothing: every task at chance, within noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from silc.data.tokenizer import BPETokenizer
from silc.eval.classify import ZeroShotClassification
from silc.eval.config import EvalConfig
from silc.eval.datasets import Lazy, SegmentationSet
from silc.eval.fewshot import FewShot
from silc.eval.layouts.captions import read_retrieval
from silc.eval.layouts.classes import read_classification
from silc.eval.layouts.label_maps import read_segmentation
from silc.eval.retrieval import Retrieval
from silc.eval.segment import ZeroShotSegmentation
from silc.models.silc import Encoder, TwoTower
from silc.preprocess import Preprocess


@pytest.fixture
def untrained(small) -> Encoder:
    config = small("silc_c").model
    tokenizer = BPETokenizer.train(["a photo of a cat", "the dog and the boat"], 300, config.text.length)
    model = TwoTower(config, vocab_size=tokenizer.vocab_size, eos_id=tokenizer.eos_id, scale_init=10.0, bias_init=-10.0)
    return Encoder(model.eval(), model.visual, tokenizer, Preprocess(config.image.size))


def test_classification(untrained, silc_data):
    data = read_classification(silc_data / "classification/cifar10")
    record = ZeroShotClassification("x", data, EvalConfig(batch_size=256))(untrained).record
    # A random tower answers few classes, so its score is one of a balanced set's constant answers: 10 % each.
    assert record.metrics["acc1"] == pytest.approx(0.1, abs=0.05)


def test_retrieval(untrained, silc_data):
    data = read_retrieval(silc_data / "retrieval/coco_open")
    record = Retrieval("x", data, EvalConfig(batch_size=256, num_pictures=0))(untrained).record
    assert record.metrics == pytest.approx(record.chance, abs=0.12)  # 50 images: the deviation at k = 10 is 0.06


def test_segmentation(untrained, silc_data):
    whole = read_segmentation(silc_data / "segmentation/voc2012")
    kept = range(0, len(whole), 6)
    data = SegmentationSet(
        whole.name,
        whole.classes,
        [whole.ids[i] for i in kept],
        Lazy(kept, whole.images.__getitem__),
        Lazy(kept, whole.labels.__getitem__),
        whole.background_ignored,
    )
    record = ZeroShotSegmentation("x", data, EvalConfig(batch_size=256, num_pictures=0))(untrained).record
    ceiling = max(record.chance["miou"], record.chance["best_constant_miou"])
    assert record.metrics["miou"] < ceiling + 0.02


def test_few_shot_with_shuffled_labels(untrained, silc_data):
    folder = silc_data / "classification/cifar10"
    train, test = read_classification(folder, "train"), read_classification(folder)
    shuffled = np.random.default_rng(0).permutation(train.labels).tolist()
    record = FewShot("x", test, EvalConfig(batch_size=256), train=replace(train, labels=shuffled))(untrained).record
    for shots in (1, 5, 10):
        assert record.metrics[f"{shots}shot_acc1"] == pytest.approx(0.1, abs=0.05)
