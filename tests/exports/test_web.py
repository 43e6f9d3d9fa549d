"""A page without a server: its light graphs, what it is made with, and the page itself in a real browser."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch.nn.functional as F
from PIL import Image

import silc
from silc.dense import component_pictures
from silc.errors import BadInput
from silc.eval.embed import text_classifier
from silc.eval.prompts import templates
from silc.exports import runtime
from silc.exports.eight_bits import lighten, rounded
from silc.exports.verify import TEXTS
from silc.predict import Model
from silc.preprocess import Preprocess
from tests.browser import launched, shown, wait
from tests.serve.conftest import picture

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ["plain red", "green stripes", "blue"]
IDS = """async texts => {
  const [{Tokenizer}, {Towers}] = [await import("./runtime/tokenizers.min.mjs"), await import("./towers.js")];
  const [model, words, config] = await Promise.all(
    ["model.json", "tokenizer.json", "tokenizer_config.json"].map(async file => (await fetch(file)).json()));
  const reader = {model, words: new Tokenizer(words, config)};
  return texts.map(text => Towers.prototype.ids.call(reader, text));
}"""
SCALED = """async ([data, width, height, size, settings]) => {
  const {region, resized} = await import("./resize.js");
  const image = {width, height, data: Uint8Array.from(data)};
  const {width: across, height: down, left, top} = region(image, settings);
  return [...resized(image, across, down, settings.interpolation, {left, top, width: size, height: size}).data];
}"""


def test_weights_are_rounded_row_by_row() -> None:
    """At most half a step of each row's own scale away; a row of zeros stays."""
    weight = np.random.default_rng(0).normal(size=(6, 40)).astype(np.float32) * np.arange(6)[:, None]
    values, scales = rounded(weight, 0)
    assert np.abs(values * scales[:, None] - weight).max(axis=1) == pytest.approx(scales / 2, rel=0.3, abs=0.5)
    assert (np.abs(values * scales[:, None] - weight) <= scales[:, None] * 0.5001).all()
    assert (values[0] == 0).all()
    assert (np.abs(values[1:]).max(axis=1) == 127).all()


def test_a_light_graph_reads_the_same_names() -> None:
    """MatMul, Gemm either way, transposed weights that two nodes read, tables: a quarter or half of the bytes."""
    onnx = pytest.importorskip("onnx")
    ort = pytest.importorskip("onnxruntime")
    helper, numpy_helper, draws = onnx.helper, onnx.numpy_helper, np.random.default_rng(0)
    weights = {name: draws.normal(size=(64, 64)).astype(np.float32) for name in ("table", "turned", "plain", "gemm")}
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("Transpose", ["turned"], ["t1"], perm=[1, 0]),
        helper.make_node("Transpose", ["turned"], ["t2"], perm=[1, 0]),
        helper.make_node("MatMul", ["rows", "t1"], ["a"]),
        helper.make_node("MatMul", ["a", "t2"], ["b"]),
        helper.make_node("MatMul", ["b", "plain"], ["c"]),
        helper.make_node("Gemm", ["c", "gemm"], ["out"], transB=1),
    ]
    values = [helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["n"])]
    given = [helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, ["n", 64])]
    kept = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "graph", values, given, kept)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    ids = {"ids": np.array([3, 1, 4], dtype=np.int64)}

    def answer() -> np.ndarray:
        found: np.ndarray = ort.InferenceSession(model.SerializeToString()).run(None, ids)[0]
        return found

    before, size = answer(), model.ByteSize()
    lighten(model)
    onnx.checker.check_model(model)
    assert model.ByteSize() < 0.4 * size
    error = np.linalg.norm(answer() - before) / np.linalg.norm(before)
    assert 0 < error < 0.03


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with packages of the right names, checksums and files, and nothing in them."""
    packages = []
    for package in runtime.PACKAGES:
        with tarfile.open(tmp_path / package.file, "w:gz") as archive:
            for name in package.files:
                member = tarfile.TarInfo(f"package/{name}")
                member.size = len(name)
                archive.addfile(member, io.BytesIO(name.encode()))
        digest = hashlib.sha512((tmp_path / package.file).read_bytes()).digest()
        packages.append(replace(package, sha512=base64.b64encode(digest).decode()))
    monkeypatch.setattr(runtime, "PACKAGES", tuple(packages))
    monkeypatch.setenv(runtime.FOLDER, str(tmp_path))
    return tmp_path


def test_packages_are_taken_from_a_folder(packed: Path, tmp_path: Path) -> None:
    runtime.write(tmp_path / "runtime")
    found = {file.name for file in (tmp_path / "runtime").iterdir()}
    assert found == {Path(name).name for package in runtime.PACKAGES for name in package.files}


def test_another_package_is_refused(packed: Path, tmp_path: Path) -> None:
    file = packed / runtime.PACKAGES[1].file
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(BadInput, match="its checksum differs"):
        runtime.write(tmp_path / "runtime")


def test_what_is_missing_is_one_line(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (packed / runtime.PACKAGES[0].file).unlink()
    with pytest.raises(BadInput, match=r"has no onnxruntime-web-.*`npm pack onnxruntime-web@"):
        runtime.write(tmp_path / "one")
    monkeypatch.delenv(runtime.FOLDER)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInput, match="install npm, or put onnxruntime-web"):
        runtime.write(tmp_path / "two")
    (tmp_path / "npm").write_text("#!/bin/sh\necho 'npm error: no network' >&2\nexit 1\n")
    (tmp_path / "npm").chmod(0o755)
    with pytest.raises(BadInput, match=r"npm could not fetch \(npm error: no network\)"):
        runtime.write(tmp_path / "three")


@pytest.fixture(scope="module")
def exported(finished: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's teacher as a page."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    out = tmp_path_factory.mktemp("web") / "out"
    try:
        silc.export(str(finished("silc_c")), out, ["web"])
    except BadInput as error:
        if "npm" not in str(error):
            raise
        pytest.skip(f"{error}")
    return out


@pytest.fixture(scope="module")
def model(exported: Path) -> Model:
    return silc.load(exported)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def page(browser: Browser, exported: Path) -> Iterator[Page]:
    """The page, with a picture and words segmented; whatever it complains of, or fetches from elsewhere, fails."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(exported / "web"))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address, complaints = f"http://127.0.0.1:{server.server_port}", list[str]()
        with browser.new_context() as context:
            page = context.new_page()
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
            page.on("request", lambda one: None if address in one.url[:40] else complaints.append(one.url[:200]))
            page.goto(address)
            page.wait_for_selector("body[data-ready]")
            file = exported / "picture.png"
            picture().save(file)
            page.set_input_files("#file", file)
            wait(page, r"pixels")
            page.fill("#names", "\n".join(NAMES))
            page.get_by_role("button", name="Segment", exact=True).click()
            page.wait_for_selector("#legend li")
            yield page
        server.shutdown()
        assert [one for one in complaints if not one.startswith(("data:", "blob:"))] == []


@pytest.mark.slow
def test_the_same_token_ids(page: Page, model: Model) -> None:
    texts = [*TEXTS, "", "Ünïcode ½ ﬁ", "a_b  c\n", "3 cats! (two)"]
    assert page.evaluate(IDS, texts) == model.tokenizer(texts).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "tf_bilinear", "cv2_bilinear"])
@pytest.mark.parametrize("resize", ["squash", "squash_crop", "crop", "crop_floor"])
def test_the_same_pixels(page: Page, resize: Any, interpolation: Any) -> None:
    """One step of 255, where Pillow rounds between its passes. Of noise its cuts at 0 and 255 would move more."""
    coarse = np.random.default_rng(0).integers(40, 216, (6, 4, 3), dtype=np.uint8)
    noise = np.asarray(Image.fromarray(coarse).resize((31, 47), Image.Resampling.BICUBIC))
    settings = {"size": 24, "resize": resize, "interpolation": interpolation}
    seen = page.evaluate(SCALED, [noise.ravel().tolist(), 31, 47, 24, settings])
    expected = Preprocess(24, resize=resize, interpolation=interpolation)(Image.fromarray(noise)).permute(1, 2, 0)
    assert np.abs(np.array(seen) - expected.numpy().ravel().astype(int)).max() <= 1


@pytest.mark.slow
def test_segmentation_is_the_models(page: Page, model: Model) -> None:
    """Of the whole picture as one window, but for what 8 bits a weight move."""
    (dense,) = model.dense(picture())
    texts = text_classifier(model, NAMES, templates("tcl9"))
    maps = (dense @ texts.T).permute(2, 0, 1)
    labels = F.interpolate(maps[None], picture().size[::-1], mode="bilinear", align_corners=False)[0].argmax(dim=0)
    page.check("input[value=classes]")
    page.wait_for_selector("#legend li")
    with page.expect_download() as taken:
        page.click("#save-labels")
    found = np.asarray(Image.open(taken.value.path()))
    assert (found == labels.numpy()).mean() > 0.97
    assert len(np.unique(found)) > 1
    with page.expect_download() as taken:
        page.click("#save-coco")
    mask = pytest.importorskip("faster_coco_eval.core.mask")
    for one in json.loads(Path(taken.value.path()).read_text())["annotations"]:
        counts = {**one["segmentation"], "counts": one["segmentation"]["counts"].encode()}
        assert (mask.decode(counts) == (found == one["category_id"] - 1)).all()


@pytest.mark.slow
def test_probabilities_are_the_models(page: Page, model: Model) -> None:
    page.get_by_role("button", name="Classify").click()
    page.wait_for_selector("#tables table")
    rows = dict(re.findall(r"(.+?)(\d+\.\d) %", "\n".join(page.locator("#tables tr").all_text_contents())))
    (expected,) = model.classify(picture(), NAMES)
    assert {name: float(share) for name, share in rows.items()} == {
        name: pytest.approx(100 * share, abs=1.5) for name, share in expected.items()
    }


@pytest.mark.slow
def test_components_and_likeness_are_the_models(page: Page, model: Model) -> None:
    page.locator("#alpha").fill("100")
    page.check("input[value=components]")
    wait(page, r"^Components")
    (dense,) = model.dense(picture())
    expected = np.asarray(component_pictures([dense], [picture().size])[0]).astype(int)
    assert np.abs(shown(page).astype(int) - expected).mean() < 6
    page.check("input[value=similar]")
    wait(page, r"^Like the patch in row")
    assert (shown(page) != np.asarray(picture())).any()


@pytest.mark.slow
def test_size_and_time_are_shown(page: Page, exported: Path) -> None:
    graphs = sum((exported / "web" / name).stat().st_size for name in ("image.onnx", "text.onnx"))
    assert re.search(rf"{graphs / 2**20:.1f} MB, ready after \d+\.\d s", page.text_content("#known") or "")
