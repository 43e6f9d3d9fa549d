"""Models with heads behind the API: boxes, captions and answers are the models' own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from silc.heads.decoder.predictor import writing_model
from silc.heads.detect.predictor import detector_of
from silc.predict import Model
from silc.serve.answers import loaded
from silc.serve.app import application
from tests.serve import heads
from tests.serve.conftest import picture
from tests.serve.test_app import fault, sent


@pytest.fixture(scope="module")
def trained(finished: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    """A detector and a writer."""
    towers = finished("silc_c")
    made = [make(tmp_path_factory.mktemp("head"), towers) for make in (heads.detector, heads.writer)]
    return loaded(map(str, made), "both", "cpu")


@pytest.fixture
def client(trained: dict[str, Model]) -> Iterator[TestClient]:
    with TestClient(application(trained), base_url="http://127.0.0.1:8000") as client:
        yield client


def test_what_each_can_do(client: TestClient) -> None:
    listed = client.get("/api/server").json()["models"]
    assert [(one["detects"], one["captions"], one["answers"]) for one in listed] == [
        (True, False, False),
        (False, True, True),
    ]


def test_boxes_are_the_models(client: TestClient, trained: dict[str, Model]) -> None:
    name = next(iter(trained))
    images = [picture(), picture(1, (24, 40))]
    asked = {"model": name, "pictures": [sent(client, one) for one in images], "names": ["red", "blue"], "score": 0}
    answer = client.post("/api/detect", json=asked | {"templates": "plain"}).json()["results"]
    for image, boxes in zip(images, answer, strict=True):
        found = detector_of(trained[name]).detect(image, ["red", "blue"], templates="plain", score=0).found
        assert len(found) > 0
        for box, expected in zip(boxes, found, strict=True):
            assert box["name"] == ["red", "blue"][expected.label]
            for key in ("score", "x", "y", "width", "height"):
                assert box[key] == pytest.approx(getattr(expected, key), abs=1e-4)


def test_prompts_are_a_set_by_name(client: TestClient, trained: dict[str, Model]) -> None:
    """What a stranger makes of them would be repeated for each name, without a bound."""
    asked = {"model": next(iter(trained)), "pictures": [sent(client, picture())], "names": ["red"], "templates": "a {}"}
    assert "no prompt set" in fault(client.post("/api/detect", json=asked), 422)


def test_captions_and_answers_are_the_models(client: TestClient, trained: dict[str, Model]) -> None:
    name = list(trained)[1]
    writer = writing_model(trained[name])
    images = [picture(), picture(1, (24, 40))]
    asked = {"model": name, "pictures": [sent(client, one) for one in images]}
    assert client.post("/api/caption", json=asked).json() == {"results": writer.caption(images)}
    question = "what colour is it?"
    answer = client.post("/api/answer", json={**asked, "question": question}).json()
    assert answer == {"results": [writer.answer(image, question) for image in images]}
    assert "question" in fault(client.post("/api/answer", json={**asked, "question": " "}), 422)


@pytest.mark.parametrize(("what", "more"), [("caption", {}), ("answer", {"question": "why?"})])
def test_a_model_that_writes_nothing_says_so(
    client: TestClient, trained: dict[str, Model], what: str, more: dict[str, str]
) -> None:
    asked = {"model": next(iter(trained)), "pictures": [sent(client, picture())], **more}
    assert "writes no text" in fault(client.post(f"/api/{what}", json=asked), 422)
