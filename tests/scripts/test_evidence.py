"""The queue of runs: what it refuses, what it keeps, and the arithmetic of its tables."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from scipy import stats

from silc.errors import BadInput

SCRIPTS = Path(__file__).parents[2] / "scripts"
TINY = {
    "data.source": "objects",
    "data.objects.num": 16,
    "data.objects.size": 24,
    "data.crops.local_size": 8,
    "data.vocab_size": 270,
    "data.workers": 0,
    "model.image.size": 16,
    "model.image.width": 16,
    "model.image.depth": 1,
    "model.image.heads": 2,
    "model.text.width": 16,
    "model.text.depth": 1,
    "model.text.heads": 2,
    "model.embed_dim": 16,
    "train.batch_size": 4,
    "train.duration": "2 steps",
    "train.precision": "float32",
}


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[ModuleType, ModuleType, ModuleType]:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    queue, tables, evidence = (importlib.import_module(f"evidence{end}") for end in ("_queue", "_table", ""))
    monkeypatch.setattr(evidence, "QUEUE", tmp_path / "evidence/queue.yaml")
    monkeypatch.setattr(evidence, "OUT", tmp_path / "out")
    return queue, tables, evidence


def study(**changed: Any) -> dict[str, Any]:
    return {
        "name": "one",
        "question": "Is b better than a?",
        "prediction": "No.",
        "fields": TINY,
        "arms": {"a": {"recipe": "clip-tiny"}, "b": {"recipe": "silc_c-tiny", "fields": {"objective.weight": 0.5}}},
        "against": {"b": "a"},
        "seeds": [0, 1],
        "columns": {"objects-zs/acc1": "acc1"},
    } | changed


def written(path: Path, *of: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(list(of)))
    return path


def test_the_committed_queue_is_whole(scripts) -> None:
    queue, _, _ = scripts
    for run in queue.runs(queue.studies()):
        assert run.config().train.seed == run.seed
        assert run.study.prediction


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[: len(text) // 2] + "\n  - [", "is no YAML"),
        (lambda text: text.replace("prediction: No.", "predicted: No."), "prediction"),
        (lambda text: text.replace("b: a", "b: c"), "has no arm c"),
        (lambda text: text.replace("clip-tiny", "clipp-tiny"), "did you mean"),
        (lambda text: text.replace("objective.weight", "objective.wait"), "unknown field"),
        (lambda text: text.replace("objects-zs/acc1", "acc1"), "TASK/METRIC"),
        (lambda text: text + text, "two studies are called one"),
        (lambda text: "\x00\x01", "is no YAML"),
        (lambda text: "", "list"),
    ],
)
def test_a_damaged_queue_is_refused_in_one_line(scripts, tmp_path: Path, damage: Any, said: str) -> None:
    queue, _, _ = scripts
    file = written(tmp_path / "queue.yaml", study())
    file.write_text(damage(file.read_text()))
    with pytest.raises(BadInput) as refused:
        queue.studies(file)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_arm_at_equal_flops_trains_for_longer(scripts, tmp_path: Path) -> None:
    queue, _, _ = scripts
    arms = {"a": {"recipe": "clip-tiny", "flops_of": "b"}, "b": {"recipe": "silc_c-tiny"}}
    (one,) = queue.studies(written(tmp_path / "queue.yaml", study(arms=arms)))
    from silc.pretraining.build import flops_per_example

    a, b = (queue.Run(one, arm, 0).config() for arm in ("a", "b"))
    number, unit = a.train.duration.split()
    cost = [flops_per_example(config, vocab_size=270, eos_id=1) for config in (a, b)]
    assert unit == "examples"
    assert int(number) * cost[0] == pytest.approx(8 * cost[1], rel=0.1)
    assert int(number) > 8


def test_paired_differences_are_students(scripts) -> None:
    _, tables, _ = scripts
    new, old = [34.8, 21.0, 26.9], [28.2, 16.5, 25.4]
    found = {
        ("b", "student", "m"): dict(enumerate(new)),
        ("a", "student", "m"): {0: old[0], 1: old[1], 2: old[2], 9: 1.0},
    }
    pairs = tables.paired(found, "b", "a", "student", "m")
    expected = stats.ttest_rel(new, old).confidence_interval(0.95)
    assert pairs.interval == pytest.approx((expected.low, expected.high))
    assert pairs.mean == pytest.approx(4.2)
    assert pairs.up == 3
    assert tables.paired(found, "b", "a", "teacher", "m") is None
    assert tables.Paired([1.0]).interval is None


def test_the_section_says_what_is_known(scripts, tmp_path: Path) -> None:
    queue, tables, _ = scripts
    (one,) = queue.studies(written(tmp_path / "queue.yaml", study(seeds=[0, 1, 2])))
    for arm, scores in (("a", (0.1, 0.2)), ("b", (0.3, 0.5, 0.7))):
        for seed, score in enumerate(scores):
            file = tmp_path / f"{arm}-{seed}.json"
            record = {"dataset": "objects", "task": "zeroshot_classification", "weights": "student"}
            scored = [record | {"metrics": {"acc1": score}, "chance": {"acc1": 1 / 12}}]
            told = {"recipe": arm, "fields": {"train.seed": seed}, "cpu_seconds": 360}
            file.write_text(json.dumps(told | {"scores": scored}))
    found, chance = tables.collect(one, lambda run: tmp_path / f"{run.arm}-{run.seed}.json")
    text = "\n".join(tables.section(one, found, chance, "plot.svg"))
    assert "Predicted before: No." in text
    assert "| b | student | 3 | 50.0 ± 20.0 |" in text
    assert "| chance | | | 8.3 |" in text
    assert "| b | a | student | +25.0 [-38.5, +88.5], 2 of 2 up * |" in text
    missing = tables.not_run([one], lambda run: tmp_path / f"{run.arm}-{run.seed}.json")
    assert "5 of 6 runs are finished, in 0.5 CPU hours. Not run:" in missing
    assert missing[-2] == "* one: a, seeds 2"
    shared = {"recipe": "a", "fields": {"train.seed": 0}, "cpu_seconds": 360}
    assert tables.cpu_hours([shared, shared | {"study": "two"}, shared | {"fields": {"train.seed": 1}}]) == 0.2
    tables.draw(one, found, chance, tmp_path / "plot.svg")
    assert "seed 2" in (tmp_path / "plot.svg").read_text() or (tmp_path / "plot.svg").stat().st_size > 5000


@pytest.mark.slow
def test_a_queue_is_carried_out_stopped_and_gone_on_with(scripts, tmp_path: Path, capsys, monkeypatch) -> None:
    queue, _, evidence = scripts
    file = written(tmp_path / "evidence/queue.yaml", study(seeds=[0]))
    monkeypatch.setattr(evidence, "studies", lambda: queue.studies(file))
    sets = _small_sets(tmp_path / "sets")
    monkeypatch.setattr(evidence, "_sets", lambda config: sets)
    monkeypatch.setattr(queue, "OUT", tmp_path / "out")
    original = queue.Run.config
    monkeypatch.setattr(queue.Run, "config", lambda self: original(self, tmp_path / "out"))
    half = tmp_path / "out/one/a/seed-0"
    half.mkdir(parents=True)
    (half / "config.yaml").write_text("a run that was cut off\n")
    evidence.carry_out()
    kept = json.loads((tmp_path / "evidence/one/b/seed-0.json").read_text())
    assert kept["fields"]["objective.weight"] == 0.5
    assert kept["recipe"] == "silc_c-tiny"
    assert {record["weights"] for record in kept["scores"]} == {"student", "teacher"}
    assert kept["cpu_seconds"] > 0
    assert not list((tmp_path / "evidence").rglob("*.safetensors"))
    before = (tmp_path / "evidence/one/a/seed-0.json").stat().st_mtime_ns
    evidence.carry_out()
    assert (tmp_path / "evidence/one/a/seed-0.json").stat().st_mtime_ns == before
    again = study(name="two", seeds=[0], arms={"c": study()["arms"]["b"]}, against={})
    written(file, study(seeds=[0]), again)
    monkeypatch.setattr(evidence, "_train_and_score", lambda run: pytest.fail(f"{run.name} was trained twice"))
    evidence.carry_out()
    taken = json.loads((tmp_path / "evidence/two/c/seed-0.json").read_text())
    assert taken == kept | {"study": "two", "arm": "c"}
    evidence.status()
    assert "2 of   2 runs" in capsys.readouterr().out


def _small_sets(root: Path) -> Path:
    from silc.data.config import ObjectsConfig
    from silc.data.object_sets import write_sets

    write_sets(root, ObjectsConfig(size=24), seed=0, num=4, num_train=4, num_retrieval=4)
    return root


def test_a_run_that_takes_too_long_is_ended(scripts, tmp_path: Path) -> None:
    _, _, evidence = scripts
    with (tmp_path / "log").open("w") as log:
        assert evidence._child([sys.executable, "-c", "import time; time.sleep(60)"], log, until=0) == (None, 0.0)
        code, seconds = evidence._child(
            [sys.executable, "-c", "sum(range(10**6)); raise SystemExit(3)"], log, until=1e12
        )
    assert code == 3
    assert 0 < seconds < 10
