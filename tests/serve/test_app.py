"""The API: its answers are the models', and whatever is sent, the answer is one line of JSON."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastapi.testclient import TestClient
from PIL import Image

from scripts.fuzz_images import bombs, mutated
from silc.dense import component_pictures
from silc.predict import TOWER, Model
from silc.serve.answers import loaded
from silc.serve.app import PAGE, application
from silc.serve.config import Limits
from tests.serve.conftest import file_of, picture

NAMES = ["red", "<b>blue</b>", "green stripes"]


def sent(client: TestClient, image: Image.Image) -> str:
    response = client.post("/api/pictures", content=file_of(image), headers={"content-type": "image/png"})
    assert response.status_code == 200, response.text
    return str(response.json()["id"])


def opened(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def fault(response: Any, status: int) -> str:
    """The one line of a fault."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["detail"]
    detail = response.json()["detail"]
    assert isinstance(detail, str)
    assert "\n" not in detail
    return detail


@pytest.fixture(params=["student", "teacher"])
def which(request: pytest.FixtureRequest, models: dict[str, Model]) -> str:
    return next(name for name in models if name.endswith(request.param))


def test_what_there_is(client: TestClient, models: dict[str, Model]) -> None:
    info = client.get("/api/server").json()
    assert [one["id"] for one in info["models"]] == list(models)
    assert [one.rpartition(", ")[2] for one in models] == ["student", "teacher"]
    assert info["models"][0] | {"decoders": [], "description": ""} == {
        "id": next(iter(models)),
        "size": 16,
        "patch": 8,
        "description": "",
        "decoders": [],
        "detects": False,
        "captions": False,
        "answers": False,
    }
    assert "16 px in patches of 8" in info["models"][0]["description"]
    decoders = info["models"][0]["decoders"]
    assert decoders[0] == "cosine"
    assert "proxyclip" not in decoders
    assert "tcl" in info["windows"]
    assert "clip7" in info["templates"]
    assert len({tuple(colour) for colour in info["colours"]}) == info["most_names"] == 100
    for example in info["examples"]:
        shown = Image.open(io.BytesIO(client.get(f"/api/pictures/{example['id']}").content))
        assert shown.size == (example["width"], example["height"])


def test_a_picture_comes_back_as_the_models_see_it(client: TestClient) -> None:
    image = picture(size=(41, 23))
    exif = Image.Exif()
    exif[0x0112] = 6
    data = file_of(image, exif=exif)
    answer = client.post("/api/pictures", content=data).json()
    assert (answer["width"], answer["height"]) == (23, 41)
    response = client.get(f"/api/pictures/{answer['id']}")
    assert response.headers["content-type"] == "image/png"
    shown = np.asarray(Image.open(io.BytesIO(response.content)))
    assert (shown == np.asarray(image.transpose(Image.Transpose.ROTATE_270))).all()
    assert client.post("/api/pictures", content=data).json() == answer


@pytest.mark.parametrize("decoder", ["cosine", "sclip"])
def test_segmentations_are_the_models(client: TestClient, models: dict[str, Model], which: str, decoder: str) -> None:
    mask = pytest.importorskip("faster_coco_eval.core.mask")
    images = [picture(), picture(1, (24, 40))]
    asked = {"model": which, "names": NAMES, "decoder": decoder, "heat": True}
    asked["pictures"] = [sent(client, image) for image in images]
    answer = client.post("/api/segment", json=asked).json()
    for image, found in zip(images, answer["results"], strict=True):
        expected = models[which].segment(image, NAMES, decoder=decoder)
        labels = opened(found["labels"])
        assert (np.asarray(labels) == expected.labels.numpy()).all()
        assert labels.mode == "P"
        for index, one in enumerate(found["masks"]):
            own = expected.labels.numpy() == index
            assert one["name"] == NAMES[index]
            assert one["share"] == pytest.approx(own.mean())
            assert (mask.decode({**one["rle"], "counts": one["rle"]["counts"].encode()}) == own).all()
        low, high = found["heat"]["low"], found["heat"]["high"]
        assert (low, high) == pytest.approx((expected.scores.min().item(), expected.scores.max().item()))
        for scores, shades in zip(expected.scores, found["heat"]["maps"], strict=True):
            back = np.asarray(opened(shades)) / 255 * (high - low) + low
            assert np.abs(back - scores.numpy()).max() <= (high - low) / 255 * 0.51


def test_thin_pictures_are_refused_or_answered(
    client: TestClient, models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a picture of some bytes asks of memory and time is bounded, whatever its shape."""
    monkeypatch.setattr("silc.serve.answers.LARGEST", 64)
    asked = {"model": next(iter(models)), "pictures": [sent(client, picture(size=(3000, 20)))]}
    response = client.post("/api/segment", json={**asked, "names": NAMES, "heat": True})
    found = response.json()["results"][0]
    assert opened(found["labels"]).size == (3000, 20)
    assert opened(found["heat"]["maps"][0]).width == 64
    asked["pictures"] = [sent(client, picture(size=(9000, 2)))]
    assert "too thin" in fault(client.post("/api/components", json=asked), 422)


def test_heat_is_sent_when_it_is_asked_for(client: TestClient, which: str) -> None:
    asked = {"model": which, "names": NAMES, "pictures": [sent(client, picture())]}
    assert client.post("/api/segment", json=asked).json()["results"][0]["heat"] is None


def test_probabilities_are_the_models(client: TestClient, models: dict[str, Model], which: str) -> None:
    images = [picture(), picture(1)]
    asked = {"model": which, "names": NAMES, "templates": "plain", "pictures": [sent(client, one) for one in images]}
    answer = client.post("/api/classify", json=asked).json()["results"]
    for row, expected in zip(answer, models[which].classify(images, NAMES, "plain"), strict=True):
        assert [one["name"] for one in row] == list(expected)
        assert [one["probability"] for one in row] == pytest.approx(list(expected.values()), rel=1e-5)


def test_components_are_those_of_all_pictures_together(
    client: TestClient, models: dict[str, Model], which: str
) -> None:
    images = [picture(), picture(1, (24, 40))]
    asked = {"model": which, "pictures": [sent(client, one) for one in images]}
    answer = client.post("/api/components", json=asked).json()["results"]
    maps = [models[which].dense(one, readout=TOWER)[0] for one in images]
    for found, expected in zip(answer, component_pictures(maps, [one.size for one in images]), strict=True):
        assert (np.asarray(opened(found)) == np.asarray(expected)).all()


def test_what_is_like_a_patch_of_the_first_picture(client: TestClient, models: dict[str, Model], which: str) -> None:
    images = [picture(), picture(1, (24, 40))]
    asked = {"model": which, "pictures": [sent(client, one) for one in images], "x": 0.99, "y": 0.0}
    answer = client.post("/api/similar", json=asked).json()
    first, second = (F.normalize(models[which].dense(one, readout=TOWER)[0], dim=-1) for one in images)
    rows, columns, _ = first.shape
    assert (answer["row"], answer["column"]) == (0, columns - 1)
    for found, own in zip(answer["results"], (first, second), strict=True):
        assert (found["rows"], found["columns"]) == own.shape[:2]
        values = torch.tensor(found["values"]).reshape(own.shape[:2])
        assert torch.allclose(values, own @ first[0, columns - 1], atol=1e-4)
    assert answer["results"][0]["values"][columns - 1] == pytest.approx(1, abs=1e-4)
    corner = client.post("/api/similar", json={**asked, "x": 1, "y": 1}).json()
    assert (corner["row"], corner["column"]) == (rows - 1, columns - 1)


@pytest.mark.parametrize(
    ("what", "changes", "status", "why"),
    [
        ("segment", {"names": ["a", "a"]}, 422, "'a' twice"),
        ("segment", {"names": []}, 422, "names"),
        ("segment", {"names": [" "]}, 422, "names.0"),
        ("segment", {"names": ["x" * 201]}, 422, "names.0"),
        ("segment", {"names": ["x"] * 101}, 422, "names"),
        ("segment", {"names": [7]}, 422, "names.0"),
        ("segment", {"decoder": "nonsense"}, 422, "decoder"),
        ("segment", {"decoder": "proxyclip"}, 422, "second"),
        ("segment", {"windows": "/etc/passwd"}, 422, "protocol"),
        ("segment", {"model": "nonsense"}, 422, "GET /api/server lists them"),
        ("segment", {"pictures": ["0" * 32]}, 404, "send it again"),
        ("segment", {"pictures": ["http://127.0.0.1/x.png"]}, 422, "pictures.0"),
        ("segment", {"pictures": ["../../etc/passwd"]}, 422, "pictures.0"),
        ("segment", {"pictures": []}, 422, "pictures"),
        ("segment", {"surprise": 1}, 422, "surprise"),
        ("classify", {"templates": "/etc/passwd"}, 422, "no prompt set"),
        ("classify", {"templates": "{} " * 60_000}, 422, "templates"),  # prompts of strangers have no bound
        ("classify", {"templates": "a {}"}, 422, "no prompt set"),
        ("segment", {"decoder": "x" * 1001}, 422, "decoder"),
        ("similar", {"x": 2, "y": 0}, 422, "x: "),
        ("detect", {}, 422, "box"),
    ],
)
def test_bad_questions_get_one_line(
    client: TestClient, models: dict[str, Model], what: str, changes: dict[str, Any], status: int, why: str
) -> None:
    asked = {"model": next(iter(models)), "pictures": [sent(client, picture())], "names": ["a", "b"], **changes}
    if what == "similar":
        del asked["names"]
    assert why in fault(client.post(f"/api/{what}", json=asked), status)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"nonsense", 422),
        (b"[" * 200_000, 400),
        (b"[]", 422),
        (b'{"model": "\\ud800", "pictures": ["\\ud800"], "names": ["\\ud800"]}', 422),
        (b'{"names": ["\xff"]}', 400),
        (b'{"names": NaN}', 422),
        (b" " * 300_000, 413),
        (b'{"x": ' + b"9" * 5000 + b"}", 422),
    ],
)
def test_strange_json(client: TestClient, body: bytes, status: int) -> None:
    response = client.post("/api/segment", content=body, headers={"content-type": "application/json"})
    assert response.status_code in (status, 400, 422)
    fault(response, response.status_code)


STRANGE = {
    "empty": (b"", 415),
    "html": (b"<html><body>", 415),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='http://127.0.0.1/'/></svg>", 415),
    "tiff": (b"II*\0" + bytes(100), 415),
    "cut": (file_of(picture())[:80], 422),
    "large": (file_of(Image.new("1", (9000, 9000))), 413),
}


@pytest.mark.parametrize("name", STRANGE)
def test_strangers_pictures(client: TestClient, name: str) -> None:
    data, status = STRANGE[name]
    fault(client.post("/api/pictures", content=data), status)
    sent(client, picture())  # nothing is lost by it


def test_bombs_and_damaged_pictures(client: TestClient) -> None:
    """Each is answered in a line, or has pixels that can be asked about; none ends the process that decodes."""
    for data in bombs().values():
        response = client.post("/api/pictures", content=data)
        assert response.status_code in (413, 415)
        fault(response, response.status_code)
    statuses = set()
    for number in range(80):
        response = client.post("/api/pictures", content=mutated(number))
        statuses.add(response.status_code)
        if response.status_code != 200:
            fault(response, response.status_code)
        elif number % 20 == 0:
            assert client.get(f"/api/pictures/{response.json()['id']}").status_code == 200
    assert {200, 422} <= statuses <= {200, 413, 415, 422}
    sent(client, picture())


def test_a_page_without_anybody_elses_files(client: TestClient) -> None:
    page = client.get("/").text
    assert "<h1>silc</h1>" in page
    for path in sorted(file.name for file in PAGE.iterdir() if file.suffix != ".html"):
        response = client.get(f"/{path}")
        assert response.status_code == 200
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "javascript" in response.headers["content-type"] or path == "page.css"
        page += response.text
    assert "://" not in page
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", " style="):
        assert word not in page
    for path in ("/docs", "/redoc", "/..%2fapp.py", "/%2e%2e/app.py"):
        assert client.get(path).status_code == 404


def test_openapi_knows_every_question(client: TestClient) -> None:
    paths = client.get("/api/openapi.json").json()["paths"]
    questions = ("segment", "classify", "components", "similar", "detect", "caption", "answer")
    assert set(paths) == {f"/api/{name}" for name in ("server", "pictures", "pictures/{name}", *questions)}


@pytest.fixture
def slow(models: dict[str, Model]) -> Iterator[tuple[TestClient, threading.Event, threading.Event]]:
    """A server for one who computes and none who waits, and events: it computes; it may go on."""
    app = application(models, replace(Limits(), waiting=0))
    began, go = threading.Event(), threading.Event()
    desk = app.app.state.desk  # type: ignore[attr-defined]
    inside = desk.answers.segment

    def held(asked: Any) -> Any:
        began.set()
        go.wait(20)
        return inside(asked)

    desk.answers.segment = held
    with TestClient(app, base_url="http://localhost") as client:
        yield client, began, go
        go.set()


def test_who_finds_no_place_is_told_when_to_come_back(
    slow: tuple[TestClient, threading.Event, threading.Event], models: dict[str, Model]
) -> None:
    client, began, go = slow
    asked = {"model": next(iter(models)), "names": NAMES, "pictures": [sent(client, picture())]}
    answers: list[Any] = []
    first = threading.Thread(target=lambda: answers.append(client.post("/api/segment", json=asked)))
    first.start()
    assert began.wait(20)
    busy = client.post("/api/segment", json=asked)
    assert "ask again in 1 s" in fault(busy, 503)
    assert busy.headers["retry-after"] == "1"
    assert client.get("/api/server").status_code == 200  # what needs no model needs no turn
    go.set()
    first.join(20)
    assert answers[0].status_code == 200


def test_who_closes_the_connection_is_not_computed_for(models: dict[str, Model]) -> None:
    """The question waits behind another; its connection is cut, and its turn never comes."""
    app = application(models)
    desk = app.app.state.desk  # type: ignore[attr-defined]
    seen: list[str] = []
    go = threading.Event()

    def held(asked: Any) -> Any:
        seen.append(asked.names[0])
        go.wait(20)
        raise ZeroDivisionError

    desk.answers.segment = held

    async def ask(name: str, cut: asyncio.Event) -> None:
        body = json.dumps({"model": next(iter(models)), "names": [name], "pictures": [example]}).encode()
        waiting = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            if waiting:
                return waiting.pop()
            await cut.wait()
            return {"type": "http.disconnect"}

        async def send(_: Any) -> None:
            pass

        headers = [(b"host", b"localhost"), (b"content-length", str(len(body)).encode())]
        headers.append((b"content-type", b"application/json"))
        scope = {"type": "http", "method": "POST", "path": "/api/segment", "headers": headers, "query_string": b""}
        scope |= {"root_path": "", "http_version": "1.1", "scheme": "http", "client": None, "server": ("localhost", 80)}
        with pytest.raises(ZeroDivisionError) if name == "first" else nullcontext():
            await app(scope, receive, send)

    async def main() -> None:
        never, cut = asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(ask("first", never))
        while not seen:
            await asyncio.sleep(0.01)
        second = asyncio.create_task(ask("second", cut))
        await asyncio.sleep(0.05)
        cut.set()
        await second
        go.set()
        await first
        await desk.close()

    desk.pictures.pin(example := "0" * 32, picture())
    asyncio.run(main())
    assert seen == ["first"]


def test_what_nobody_foresaw_is_one_line_too(models: dict[str, Model]) -> None:
    app = application(models)
    desk = app.app.state.desk  # type: ignore[attr-defined]
    desk.answers.components = lambda asked: 1 // 0
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        asked = {"model": next(iter(models)), "pictures": [sent(client, picture())]}
        response = client.post("/api/components", json=asked)
        assert "ZeroDivisionError" in fault(response, 500)
        assert response.headers["x-frame-options"] == "DENY"


def test_models_of_one_name_are_told_apart(finished: Callable[..., Path]) -> None:
    run = str(finished("silc_c"))
    names = list(loaded([run, run], "both", "cpu"))
    assert names == ["run, student", "run, teacher", "run, student #2", "run, teacher #2"]
    assert list(loaded([run], "teacher", "auto")) == ["run, teacher"]  # the command's own default
