"""Questions in their authors' layouts, and what is told of those that cannot be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from silc.errors import BadInput
from silc.eval.answering import QuestionAnswering
from silc.eval.asked import asked_for
from silc.eval.config import EvalConfig
from silc.eval.layouts import discover
from silc.eval.layouts.questions import read_training
from silc.eval.question_only import question_only


def image(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(file)


def written(file: Path, values: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values))


def vqav2(root: Path, split: str) -> None:
    place, ids = root / "vqav2", (5, 5, 7)
    asked = [{"image_id": one, "question": f"what {n}?", "question_id": n} for n, one in enumerate(ids)]
    written(place / f"v2_OpenEnded_mscoco_{split}_questions.json", {"questions": asked})
    told = [
        {
            "question_id": n,
            "question_type": "what",
            "answer_type": ("other", "number")[n % 2],
            "answers": [{"answer": "a", "answer_id": k} for k in range(10)],
        }
        for n in reversed(range(3))
    ]
    written(place / f"v2_mscoco_{split}_annotations.json", {"annotations": told})
    for one in ids:
        image(root / "coco" / split / f"COCO_{split}_{one:012d}.jpg")


def test_official_layouts(tmp_path: Path) -> None:
    vqav2(tmp_path, "val2014")
    vqav2(tmp_path, "train2014")
    types = {"structural": "query", "semantic": "attr"}
    asked = {"1": {"imageId": "n5", "question": "what?", "answer": "red", "types": types}}
    written(tmp_path / "gqa" / "testdev_balanced_questions.json", asked)
    image(tmp_path / "gqa" / "images" / "n5.jpg")
    told = [{"image_id": "x", "question": "what brand?", "answers": ["a"] * 10}]
    written(tmp_path / "textvqa" / "TextVQA_0.5.1_val.json", {"data": told})
    image(tmp_path / "textvqa" / "train_images" / "x.jpg")
    sets = {source.name: source.read() for source in discover(tmp_path) if source.kind == "vqa"}
    assert sorted(sets) == ["gqa", "textvqa", "vqav2"]
    data = sets["vqav2"]
    assert (len(data.images), list(data.about), list(data.questions)) == (
        2,
        [0, 0, 1],
        ["what 0?", "what 1?", "what 2?"],
    )
    assert data.types == {"question_type": ["what"] * 3, "answer_type": ["other", "number", "other"]}
    assert [len(own) for own in data.answers] == [10, 10, 10]
    assert sets["gqa"].types == {"question_type": ["query"], "answer_type": ["attr"]}
    assert sets["textvqa"].types == {}
    assert len(read_training(tmp_path / "vqav2")) == 3


def test_a_set_with_one_task_stands_for_it(tmp_path: Path) -> None:
    """`vqav2` is asked for by its name alone, and no question is asked unless it is named."""
    vqav2(tmp_path, "val2014")
    assert [task.name for task in asked_for(EvalConfig(str(tmp_path), "vqav2"))] == ["vqav2-vqa"]
    with pytest.raises(BadInput, match="no task 'all'"):
        asked_for(EvalConfig(str(tmp_path)))
    with pytest.raises(BadInput, match=r"gqa-vqa: .*testdev_balanced_questions\.json is missing"):
        asked_for(EvalConfig(str(tmp_path), "gqa"))


def test_the_kit_is_read(silc_data: Path) -> None:
    sets = {source.name: source.read() for source in discover(silc_data) if source.kind == "vqa"}
    assert {name: (len(one.images), len(one)) for name, one in sets.items()} == {
        "easy_vqa": (300, 1000),
        "daquar": (200, 898),
        "vqav2_coco": (17, 27),
    }
    assert len(read_training(silc_data / "vqa" / "easy_vqa")) == 5000
    annotated = QuestionAnswering("x", sets["vqav2_coco"], EvalConfig())
    assert annotated.annotated
    assert not QuestionAnswering("x", sets["daquar"], EvalConfig()).annotated
    easy = QuestionAnswering("x", sets["easy_vqa"], EvalConfig())
    told = [sum(easy._scored(answers)["accuracy"]) / 1000 for answers in question_only(easy.data).values()]
    assert 0.62 < max(told) < 0.64  # the whole question, of other images of the test part; of training's it is 66.9 %


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([], "holds no question"),
        ([{"image": "1.png", "question": " ", "answer": "a"}], "question 1 is no text: ' '; remove it"),
        ([{"image": "1.png", "question": 5, "answer": "a"}], "question 1 is no text: 5; remove it"),
        ([{"image": "1.png", "question": "a?", "answers": ["", " "]}], "'a.', has no answer"),
        ([{"image": "1.png", "question": "a?", "answer": 2}], r"has no answer that is a text: \[2\]; .* in quotes"),
        ([{"image": "2.png", "question": "a?", "answer": "a"}], "2.png, which does not exist"),
        ([{"question": "a?", "answer": "a"}], "does not hold questions as its name says: KeyError"),
        ({"questions": []}, "does not hold questions"),
    ],
)
def test_broken_files_are_told(tmp_path: Path, values: Any, said: str) -> None:
    written(tmp_path / "own" / "train" / "questions.json", values)
    image(tmp_path / "own" / "train" / "1.png")
    with pytest.raises(BadInput, match=said):
        read_training(tmp_path / "own")


def test_types_that_only_some_questions_have_are_kept(tmp_path: Path) -> None:
    asked = [{"image": "1.png", "question": "a?", "answer": "a"}]
    written(tmp_path / "own" / "train" / "questions.json", [*asked, asked[0] | {"answer_type": "letter"}])
    image(tmp_path / "own" / "train" / "1.png")
    assert read_training(tmp_path / "own").types == {"answer_type": ["", "letter"]}


def test_answers_that_are_missing_are_told(tmp_path: Path) -> None:
    vqav2(tmp_path, "train2014")
    written(tmp_path / "vqav2" / "v2_mscoco_train2014_annotations.json", {"annotations": []})
    with pytest.raises(BadInput, match="has no answers to question 0; download both files again"):
        read_training(tmp_path / "vqav2")
    (tmp_path / "vqav2" / "v2_mscoco_train2014_annotations.json").unlink()
    with pytest.raises(BadInput, match=r"annotations\.json is missing"):
        read_training(tmp_path / "vqav2")
    with pytest.raises(BadInput, match="holds no questions; unpack"):
        read_training(tmp_path)
