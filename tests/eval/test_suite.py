"""Tasks from folders to records: an encoder that knows scores 100 %, one that does not scores chance."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from silc.distributed import World
from silc.errors import BadInput
from silc.eval import suite
from silc.eval.asked import select
from silc.eval.classify import ZeroShotClassification
from silc.eval.config import EvalConfig
from silc.eval.datasets import ClassificationSet, RetrievalSet, SegmentationSet
from silc.eval.progress import Unscored
from silc.eval.retrieval import Retrieval
from silc.eval.segment import ZeroShotSegmentation
from tests.eval.conftest import FOUR


def test_an_encoder_that_reads_the_labels_is_always_right(root, oracle):
    evaluators = suite.tasks(EvalConfig(root=str(root), tasks=FOUR, batch_size=5))
    assert [task.name for task in evaluators] == ["shapes-zs", "shapes-fewshot", "pairs-retrieval", "stripes-zs-seg"]
    records = [evaluation.record for evaluation in suite.run({"pretrained": oracle}, evaluators)]
    assert [record.task for record in records] == [
        "zeroshot_classification",
        "fewshot_classification",
        "zeroshot_retrieval",
        "zeroshot_segmentation",
    ]
    for record in records:
        assert {score for name, score in record.metrics.items() if name != "1shot_std"} == {1.0}, record
        assert set(record.metrics) <= {*record.chance, "1shot_std"}
        assert (record.model, record.weights) == ("oracle", "pretrained")


def test_random_features_classify_at_chance(noise):
    num_classes, count = 8, 1200
    blank = [Image.new("RGB", (24, 24))] * count
    data = ClassificationSet(
        "blank", "test", [f"w{i}" for i in range(num_classes)], blank, [i % 8 for i in range(count)]
    )
    noise.encode_image = lambda images: torch.randn(len(images), 41, generator=noise.generator)
    record = ZeroShotClassification("blank-zs", data, EvalConfig(templates="plain"))(noise).record
    assert record.metrics == pytest.approx(record.chance, abs=0.05)  # the standard deviation is 0.01


def test_random_features_retrieve_at_chance(noise):
    blank = [Image.new("RGB", (24, 24))] * 400
    captions = [[f"w{i % 40}", f"w{(i + 7) % 40}"][: 1 + i % 2] for i in range(400)]
    noise.encode_image = lambda images: torch.randn(len(images), 41, generator=noise.generator)
    noise.encode_text = lambda ids, normalize: noise.encode_image(ids)
    record = Retrieval("blank-retrieval", RetrievalSet("blank", blank, captions), EvalConfig(num_pictures=0))(
        noise
    ).record
    assert record.metrics == pytest.approx(record.chance, abs=0.03)


def test_random_features_segment_at_chance(noise):
    generator = np.random.default_rng(0)
    labels = [generator.choice(5, size=(24, 24), p=[0.5, 0.2, 0.2, 0.05, 0.05]) for _ in range(40)]
    data = SegmentationSet(
        "blank", [f"w{i}" for i in range(5)], list(map(str, range(40))), [Image.new("RGB", (24, 24))] * 40, labels
    )
    record = ZeroShotSegmentation("blank-zs-seg", data, EvalConfig(num_pictures=0))(noise).record
    for name, score in record.metrics.items():
        assert score == pytest.approx(record.chance[name], abs=0.01)
    assert record.chance["best_constant_pixel_acc"] == pytest.approx(0.5, abs=0.02)


def test_evaluation_is_deterministic_and_leaves_the_generator_alone(root, oracle):
    evaluators = suite.tasks(EvalConfig(root=str(root)))
    before = torch.random.get_rng_state()
    first, second = (suite.run({"teacher": oracle}, evaluators) for _ in range(2))
    assert [e.record for e in first] == [e.record for e in second]
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("task", "method"),
    [
        *(("shapes-zs", "encode_image"), ("shapes-zs", "encode_text"), ("shapes-fewshot", "encode_pooled")),
        *(("pairs-retrieval", "encode_image"), ("pairs-retrieval", "encode_text")),
        *(("stripes-zs-seg", "encode_dense"), ("stripes-zs-seg", "encode_text")),
    ],
)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_features_that_are_not_finite_are_refused(root, oracle, task, method, value):
    """One number of one image or text is enough: it would be given some class, and counted."""
    plain = getattr(oracle, method)

    def broken(*given, **named):
        features = plain(*given, **named).clone()
        features.view(-1)[-1] = value
        return features

    setattr(oracle, method, broken)
    with pytest.raises(BadInput, match=r"^oracle gives features that are not finite; its weights cannot be scored$"):
        suite.run({"student": oracle}, suite.tasks(EvalConfig(root=str(root), tasks=task, shots=(1,))))


@pytest.mark.parametrize("task", ["shapes-zs", "shapes-fewshot", "pairs-retrieval", "stripes-zs-seg"])
def test_what_one_rank_finds_is_told_by_all(root, oracle, task):
    """The others do not wait for its share: each collective is entered by all, and ends alike."""
    shares = []

    class Two(World):
        def collect(self, value):
            if not isinstance(value, tuple):
                return [value]
            shares.append(value)
            return [value, (None, "found there")] if len(shares) == 2 else [value]

    with pytest.raises(BadInput, match="found there"):
        suite.run({"x": oracle}, suite.tasks(EvalConfig(root=str(root), tasks=task, shots=(1,)), world=Two()))
    assert len(shares) == 2


def spoil(root, how):
    """Make one data set unusable; the task that suffers."""
    if how == "no captions":
        (root / "retrieval" / "pairs" / "captions.json").unlink()
        return "pairs-retrieval"
    if how == "no class names":
        (root / "classification" / "shapes" / "classes.txt").unlink()
        return "shapes-zs"
    if how == "a label missing":
        (root / "segmentation" / "stripes" / "labels" / "1.png").unlink()
        return "stripes-zs-seg"
    if how == "a cut image":
        file = root / "retrieval" / "pairs" / "images" / "7.png"
        file.write_bytes(file.read_bytes()[:60])
        return "pairs-retrieval"
    Image.fromarray(np.full((24, 32), 77, np.uint8)).save(root / "segmentation" / "stripes" / "labels" / "2.png")
    return "stripes-zs-seg"


@pytest.mark.parametrize(
    "how", ["no captions", "no class names", "a label missing", "a cut image", "a label that is no class"]
)
def test_one_bad_set_does_not_stop_the_others(root, oracle, how):
    """It is told once, in one line, whether its lists or its pictures are at fault; the others' scores are the same."""
    config = EvalConfig(root=str(root), tasks=FOUR, shots=(1,))
    whole = {e.record.task: e.record for e in suite.run({"a": oracle}, suite.tasks(config))}
    bad, told = spoil(root, how), []
    unscored = Unscored(told.append)
    evaluators = suite.tasks(config, failed=unscored)
    found = suite.run({"student": oracle, "teacher": oracle}, evaluators, failed=unscored)
    assert bad in unscored.tasks
    assert len(told) == len(unscored.tasks)  # not again for the teacher
    assert told[unscored.tasks.index(bad)].startswith(f"{bad} is not scored: ")
    assert len(found) == 2 * (4 - len(unscored.tasks)) > 0
    for one in found:
        assert one.record.metrics == whole[one.record.task].metrics
    with pytest.raises(BadInput):
        suite.run({"student": oracle}, suite.tasks(config))


def test_a_variant_that_a_set_has_not_leaves_the_others(root, monkeypatch):
    """Side by side gives no less than each alone; the set is read once, and what all variants lack is told once."""
    told, read, held = [], [], suite.held
    monkeypatch.setattr(suite, "held", lambda data, orientation: read.append(data.name) or held(data, orientation))

    def failed(task, weights, error):
        told.append((task, str(error)))

    config = EvalConfig(root=str(root), tasks="stripes-zs-seg", names="mmseg,synonyms,catseg", decoder="cosine,sclip")
    found = suite.tasks(config, failed=failed)
    assert [(one.config.names, one.config.decoder) for one in found] == [("mmseg", "cosine"), ("mmseg", "sclip")]
    assert [task for task, _ in told] == ["stripes-zs-seg"] * 2
    assert read == ["stripes"]
    assert {why.split("'")[1] for _, why in told} == {"synonyms", "catseg"}


def test_weights_whose_features_are_not_finite_do_not_stop_the_others(root, oracle, noise):
    noise.encode_text = lambda ids, normalize: torch.full((len(ids), 41), torch.nan)
    unscored = Unscored(lambda _: None)
    evaluators = suite.tasks(EvalConfig(root=str(root), tasks="shapes-zs,pairs-retrieval"))
    found = suite.run({"student": noise, "teacher": oracle}, evaluators, failed=unscored)
    assert [(one.record.dataset, one.record.weights) for one in found] == [("shapes", "teacher"), ("pairs", "teacher")]
    assert unscored.tasks == ["shapes-zs", "pairs-retrieval"]


def test_what_is_asked_for_wrongly_is_refused_at_once(root):
    unscored = Unscored(pytest.fail)
    for config in (EvalConfig(), EvalConfig(root=str(root), tasks="shape-zs"), EvalConfig(root=str(root / "no"))):
        with pytest.raises(BadInput):
            suite.tasks(config, failed=unscored)


def test_class_names_are_cut_at_the_comma_and_canonicalised(oracle, flat):
    data = ClassificationSet("names", "test", ["W1, something", "w2!"], [flat(1), flat(2)], [0, 1])
    record = ZeroShotClassification("names-zs", data, EvalConfig())(oracle).record
    assert record.metrics["acc1"] == 1
    assert record.protocol["templates"] == "clip80+1"


# --- choosing tasks

THERE = ["cifar10-zs", "tiny-zs", "coco-retrieval", "voc-zs-seg", "camvid-zs-seg"]


@pytest.mark.parametrize(
    ("asked", "want"),
    [
        ("all", THERE),
        ("voc-zs-seg", ["voc-zs-seg"]),
        ("voc-zs-seg, cifar10-zs", ["cifar10-zs", "voc-zs-seg"]),
        ("*-zs", ["cifar10-zs", "tiny-zs"]),
        ("*-zs-seg,c*", ["cifar10-zs", "coco-retrieval", "voc-zs-seg", "camvid-zs-seg"]),
    ],
)
def test_select(asked, want):
    assert select(asked, THERE) == want


def test_an_unknown_task_is_named_with_the_nearest_and_the_list():
    with pytest.raises(BadInput) as raised:
        select("coco-retreival", THERE)
    assert str(raised.value) == (
        "no task 'coco-retreival'; did you mean 'coco-retrieval'? There are: "
        "cifar10-zs, tiny-zs, coco-retrieval, voc-zs-seg, camvid-zs-seg (or 'all')"
    )
    with pytest.raises(BadInput, match="no task ''"):
        select("", THERE)


def test_only_chosen_sets_are_read(root):
    (root / "retrieval" / "pairs" / "captions.json").unlink()
    assert len(suite.tasks(EvalConfig(root=str(root), tasks="shapes-zs"))) == 1
    with pytest.raises(BadInput, match=r"captions\.json cannot be read: No such file"):
        suite.tasks(EvalConfig(root=str(root)))


@pytest.mark.parametrize("values", [{"batch_size": 0}, {"num_pictures": -1}])
def test_bad_settings(values):
    with pytest.raises(BadInput, match=r"eval\.\w+ is -?\d; needed a whole number at least"):
        EvalConfig(**values)


def test_prompts_are_checked_before_a_model_runs(root):
    with pytest.raises(BadInput, match="no prompt set 'clip81'"):
        suite.tasks(EvalConfig(root=str(root), templates="clip81"))


# --- scores


def test_scores_have_the_fields_of_clip_benchmark_and_cost(root, oracle, noise, tmp_path):
    heard = []
    evaluations = suite.run(
        {"student": noise, "teacher": oracle},
        suite.tasks(EvalConfig(root=str(root), tasks=FOUR), lambda *what: heard.append(what)),
        lambda *what: heard.append(what),
        examples_seen=1000,
        train_flops=2e12,
    )
    suite.write_scores(tmp_path / "scores.json", [evaluation.record for evaluation in evaluations])
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert [(score["dataset"], score["weights"]) for score in scores] == [
        (name, weights) for name in ("shapes", "shapes", "pairs", "stripes") for weights in ("student", "teacher")
    ]
    for score in scores:
        assert set(score) == {
            *("dataset", "model", "pretrained", "task", "metrics", "language"),
            *("weights", "chance", "protocol", "examples_seen", "train_flops", "details", "intervals"),
        }
        assert (score["examples_seen"], score["train_flops"], score["language"]) == (1000, 2e12, "en")
    assert list(scores[0]["metrics"]) == ["acc1", "acc5", "mean_per_class_recall"]
    assert list(scores[2]["metrics"]) == ["1shot_acc1", "1shot_std"]
    assert list(scores[4]["metrics"]) == [
        f"{side}_retrieval_recall@{k}" for side in ("image", "text") for k in (1, 5, 10)
    ]
    assert list(scores[6]["metrics"]) == ["miou", "pixel_acc"]
    assert ("shapes-zs", 12, 12) in heard
    assert ("evaluated", 8, 8) in heard
    assert suite.scalars(evaluations)["eval/teacher/stripes-zs-seg/miou"] == 1


def test_without_photographs_no_picture_shows_one(root, oracle):
    """Label maps are drawn all the same; what a photograph's pixels are does not reach them."""
    config = EvalConfig(root=str(root), templates="plain", photographs=False)
    evaluations = {e.record.task: e for e in suite.run({"student": oracle}, suite.tasks(config))}
    assert not evaluations["zeroshot_retrieval"].pictures
    maps = evaluations["zeroshot_segmentation"].pictures
    shown = suite.run({"student": oracle}, suite.tasks(replace(config, photographs=True)))
    (with_photographs,) = (e.pictures for e in shown if e.record.task == "zeroshot_segmentation")
    assert len(maps) == len(with_photographs) > 0
    assert all(plain.image.width < full.image.width for plain, full in zip(maps, with_photographs, strict=True))


def test_photographs_are_turned_where_that_is_asked(tmp_path, oracle):
    """A label map drawn on the turned photograph fits it; as it is stored it is refused, and the setting named."""
    folder, exif = tmp_path / "segmentation" / "phone", Image.Exif()
    exif[0x0112] = 6
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    Image.new("RGB", (48, 24), (9, 9, 9)).save(folder / "images" / "1.png", exif=exif)
    Image.fromarray(np.zeros((48, 24), np.uint8)).save(folder / "labels" / "1.png")
    (folder / "classes.txt").write_text("w4\nw9\n")
    (task,) = suite.tasks(EvalConfig(root=str(tmp_path), exif_orientation="apply"))
    record = task(oracle).record
    assert record.protocol["exif_orientation"] == "apply"
    (task,) = suite.tasks(EvalConfig(root=str(tmp_path)))
    assert task.protocol(oracle)["exif_orientation"] == "ignore"
    with pytest.raises(BadInput, match=r"24 x 48|48 x 24.*exif-orientation ignore or apply"):
        task(oracle)
