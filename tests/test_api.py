"""`import silc`: every public name is there and does what it says."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import silc
from silc import config as configs
from silc import recipes
from silc.config import Config
from silc.data.scenes import write_sets
from silc.errors import BadInput
from silc.eval.config import EvalConfig
from silc.predict import Model
from silc.records import Evaluation
from tests.data.conftest import sample, write_tar


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, small: Callable[..., Config]) -> Path:
    """A run of two steps, by the public name."""
    return silc.train(small("silc_c", duration="2 steps"), out=tmp_path_factory.mktemp("api") / "run")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    write_sets(root, size=24, seed=0)
    return root


def test_star_import_brings_every_public_name() -> None:
    space: dict[str, object] = {}
    exec("from silc import *", space)
    assert set(silc.__all__) <= set(space)
    assert dir(silc) == sorted(silc.__all__)
    with pytest.raises(AttributeError, match="recipee"):
        silc.recipee  # noqa: B018


def test_what_type_checkers_see_is_what_is_there() -> None:
    (block,) = [node for node in ast.parse(Path(silc.__file__).read_text()).body if isinstance(node, ast.If)]
    seen = {
        name.asname: f"{line.module}:{name.name}"
        for line in block.body
        if isinstance(line, ast.ImportFrom)
        for name in line.names
    }
    assert seen == silc._WHERE


def test_recipe() -> None:
    assert silc.recipe("silc_c-tiny") == recipes.get("silc_c-tiny")
    with pytest.raises(silc.BadInput, match="did you mean 'silc_c'"):
        silc.recipe("silk_c")


def test_train_takes_a_recipe_and_fields(
    tmp_path: Path, small: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fields are `silc.config.override`'s, over a recipe, a run's config.yaml or a Config."""
    begun: list[Config] = []
    monkeypatch.setattr("silc.pretraining.run.train", lambda config: begun.append(config) or Path(config.out))
    shard = write_tar(tmp_path / "0.tar", sample(0))
    assert silc.train("silc_c-tiny", data=shard, out=tmp_path / "a", lr=5e-4, batch_size=4) == tmp_path / "a"
    fields = {"data.train": str(shard), "out": str(tmp_path / "a"), "lr": 5e-4, "batch_size": 4}
    assert begun[-1] == configs.override(recipes.get("silc_c-tiny"), fields)
    assert begun[-1].data.source == "shards"
    configs.save(small("clip", "somewhere"), tmp_path / "config.yaml")
    silc.train(tmp_path / "config.yaml", resume="auto")
    assert begun[-1] == replace(small("clip", "somewhere"), resume="auto")
    silc.train(small("clip", "somewhere"))
    assert begun[-1] == small("clip", "somewhere")
    with pytest.raises(BadInput, match=r"unknown field 'learning_rate'; did you mean 'train.optim.lr'"):
        silc.train("silc_c-tiny", learning_rate=1e-3)
    with pytest.raises(BadInput, match="unknown recipe 'silk_c-tiny'"):
        silc.train("silk_c-tiny")


def scores(evaluations: list[Evaluation]) -> dict[tuple[str, str], object]:
    records = [evaluation.record for evaluation in evaluations]
    return {(record.dataset, f"{record.task} {record.weights}"): record.metrics for record in records}


def test_evaluate_takes_names_and_models_in_memory(trained: Path, data: Path) -> None:
    fields = {"root": data, "tasks": "*-zs,*-zs-seg", "templates": "plain"}
    by_name = silc.evaluate(trained, weights="teacher", device="cpu", **fields)
    config = EvalConfig(root=str(data), tasks="*-zs,*-zs-seg", templates="plain", weights="teacher")
    assert scores(silc.evaluate(str(trained), config, device="cpu")) == scores(by_name)
    model = silc.load(trained, device="cpu")
    in_memory = silc.evaluate(model, **fields)
    assert len(scores(in_memory)) >= 2
    assert scores(in_memory) == scores(by_name)
    half = silc.evaluate(model.to(dtype="bfloat16"), **fields)
    assert [evaluation.record.protocol["precision"] for evaluation in half] == ["bfloat16"] * len(half)
    assert all("precision" not in evaluation.record.protocol for evaluation in in_memory)
    model.to(dtype="float32")
    student = silc.load(trained, weights="student", device="cpu")
    both = scores(silc.evaluate([model, student, trained], root=data, tasks="*-zs", device="cpu"))
    assert {key[1].rpartition(" ")[2] for key in both} == {"teacher", "student"}


def test_what_evaluate_cannot_use_is_told(trained: Path, data: Path) -> None:
    model = silc.load(trained, device="cpu")
    for given, message in (
        ({"device": "cpu"}, r"model.to\(device\)"),
        ({"tokenizer": data}, "tokenizer is for models given by name"),
        ({"weights": "student"}, "weights is for models given by name"),
        ({"cache": data}, "cache is for models given by name"),
        ({"task": "*-zs"}, "unknown field 'eval.task'; did you mean 'eval.tasks'"),
        ({"batch_size": 0}, "eval.batch_size"),
    ):
        with pytest.raises(BadInput, match=message):
            silc.evaluate(model, root=data, **given)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="two models in memory are called 'run'"):
        silc.evaluate([model, silc.load(trained, device="cpu")], root=data)
    with pytest.raises(BadInput, match="is no model"):
        silc.evaluate("nowhere", root=data)
    with pytest.raises(BadInput, match="not int"):
        silc.evaluate(3, root=data)  # type: ignore[arg-type]


def test_the_others(trained: Path, tmp_path: Path) -> None:
    """Loading, exporting and going on, each by its public name."""
    assert isinstance(silc.load(trained, device="cpu"), Model)
    assert set(silc.load_run(trained).models) == {"student", "teacher"}
    with pytest.raises(BadInput, match="no format 'pickle'"):  # what it writes: tests/exports
        silc.export(trained, tmp_path / "exported", formats=("pickle",))
    shard = write_tar(tmp_path / "0.tar", [member for number in range(8) for member in sample(number)])
    fields = {"duration": "1 steps", "batch_size": 4, "workers": 0, "device": "cpu", "precision": "float32"}
    out = silc.finetune(trained, str(shard), tmp_path / "mine", **fields)
    assert (out / "config.yaml").is_file()
    assert silc.__version__
