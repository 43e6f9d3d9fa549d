"""The page in a real browser, headless Chromium, against a real `silc serve`: what a person does, and what is seen."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from silc.dense import component_pictures
from silc.eval.pictures import colour
from silc.heads.decoder.predictor import writing_model
from silc.heads.detect.predictor import detector_of
from silc.predict import TOWER, Model
from silc.serve.answers import loaded
from silc.serve.app import PAGE
from tests.browser import launched, shown, wait
from tests.serve import heads
from tests.serve.conftest import picture

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow
NAMES = ["plain red", "<img src=x onerror=document.title='lost'>", "green stripes"]
CONTROLS = {
    "button": ["Segment", "Classify", "Picture", "Masks, PNG", "Masks, COCO RLE", "Copy a link"],
    "radio": ["classes", "heat of a word", "components", "like a patch"],
    "slider": ["Left and right", "Opacity"],
    "combobox": ["Left", "Right", "Decoder", "Windows", "Prompts"],
    "textbox": ["Separated by commas, or one per line"],
    "application": ["The picture."],
}
"""What a person or a screen reader finds, by role and the beginning of its name."""
ALL_CONTROLS = "main :is(button, input, select, textarea, [tabindex])"


@contextmanager
def served(*args: str) -> Iterator[str]:
    """A server, and what it says that a browser opens."""
    command = [sys.executable, "-m", "silc", "serve", *args, "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = (re.search(r"open (http://\S+)", line) for line in process.stdout)
        try:
            yield next(match[1] for match in found if match)
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def address(finished: Callable[..., Path]) -> Iterator[str]:
    """Where a server of a run's student and teacher answers."""
    with served(str(finished("silc_c"))) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page, opened; whatever it complains of fails the test."""
    with browser.new_context() as context:
        page, complaints = context.new_page(), list[str]()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.on("request", lambda request: complaints.append(request.url) if not _own(request.url, address) else None)
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        yield page
        assert complaints == []


def _own(url: str, address: str) -> bool:
    return url.startswith((address, "data:", f"blob:{address}"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    picture().save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def segmented(page: Page, file: Path) -> None:
    """A picture is chosen, words are typed, and the answer is there."""
    page.set_input_files("#file", file)
    wait(page)
    page.fill("#names", "\n".join(NAMES))
    page.get_by_role("button", name="Segment", exact=True).click()
    page.wait_for_selector("#legend li")
    wait(page)


def split(page: Page, at: int) -> None:
    page.locator("#split").fill(str(at))


def of(models: dict[str, Model], which: str) -> Model:
    return next(model for name, model in models.items() if name.endswith(which))


def overlay(models: dict[str, Model], which: str, **more: Any) -> np.ndarray:
    return np.asarray(of(models, which).segment(picture(), NAMES).overlay(**more))


def test_student_and_teacher_on_one_picture(page: Page, file: Path, models: dict[str, Model]) -> None:
    segmented(page, file)
    student, teacher = overlay(models, "student"), overlay(models, "teacher")
    assert (shown(page)[:, :20] == student[:, :20]).all()
    assert (shown(page)[:, 20:] == teacher[:, 20:]).all()
    for at, expected in ((100, student), (0, teacher)):
        split(page, at)
        assert (shown(page) == expected).all()
    page.locator("#alpha").fill("30")
    assert (shown(page) == overlay(models, "teacher", alpha=0.3)).all()


def test_the_legend_names_every_class_and_hides_it(page: Page, file: Path, models: dict[str, Model]) -> None:
    """Words are text, whatever they look like."""
    segmented(page, file)
    split(page, 100)
    labels = of(models, "student").segment(picture(), NAMES).labels.numpy()
    entries = page.locator("#legend button")
    assert entries.count() == len(NAMES)
    assert page.locator("#legend img").count() == 0
    whole = shown(page)
    for index, name in enumerate(NAMES):
        entry = entries.nth(index)
        assert name in (entry.text_content() or "")
        assert f"{100 * (labels == index).mean():.1f} %" in (entry.text_content() or "")
        swatch = entry.locator(".swatch").evaluate("one => getComputedStyle(one).backgroundColor")
        assert swatch == f"rgb{colour(index)}"
        entry.click()
        assert entry.get_attribute("aria-pressed") == "false"
        changed = (shown(page) != whole).any(axis=-1)
        assert not changed[labels != index].any()
        assert changed[labels == index].all()
        entry.click()
        assert (shown(page) == whole).all()
    assert page.title() == "silc: words in, segmentation out"


def test_labels_are_read_where_a_browser_changes_colours_by_a_little(page: Page) -> None:
    colours = np.array([colour(index) for index in range(100)])
    shaken = (colours + np.random.default_rng(0).integers(-3, 4, colours.shape)).clip(0, 255)
    pixels = np.concatenate([shaken, np.full((100, 1), 255)], axis=1).ravel().tolist()
    found = page.evaluate(
        """([pixels, colours]) => import("./draw.js").then(({labelsOf}) =>
            [...labelsOf(new ImageData(new Uint8ClampedArray(pixels), 100, 1), colours)])""",
        [pixels, colours.tolist()],
    )
    assert found == list(range(100))


def test_two_decoders_side_by_side(page: Page, file: Path, models: dict[str, Model]) -> None:
    page.select_option("#model-b", page.input_value("#model-a"))
    page.select_option("#decoder-b", "sclip")
    segmented(page, file)
    split(page, 0)
    expected = of(models, "student").segment(picture(), NAMES, decoder="sclip").overlay()
    assert (shown(page) == np.asarray(expected)).all()


def test_heat_of_each_word(page: Page, file: Path) -> None:
    segmented(page, file)
    split(page, 100)
    page.check("input[value=heat]")
    wait(page)
    seen = []
    for index in range(len(NAMES)):
        page.select_option("#word", str(index))
        seen.append(shown(page))
    assert len({one.tobytes() for one in seen}) == len(NAMES)


def test_components_are_the_models(page: Page, file: Path, models: dict[str, Model]) -> None:
    page.set_input_files("#file", file)
    wait(page)
    split(page, 100)
    page.locator("#alpha").fill("100")
    page.check("input[value=components]")
    wait(page)
    maps = of(models, "student").dense(picture(), readout=TOWER)
    page.wait_for_timeout(100)
    assert (shown(page) == np.asarray(component_pictures(maps, [picture().size])[0])).all()


def test_a_clicked_patch_and_what_is_like_it_in_a_second_picture(
    page: Page, file: Path, tmp_path: Path, models: dict[str, Model]
) -> None:
    page.set_input_files("#file", file)
    wait(page)
    box = page.locator("#picture").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 0.9 * box["width"], box["y"] + 0.1 * box["height"])
    page.wait_for_selector("#mark:not([hidden])")
    columns = of(models, "student").dense(picture(), readout=TOWER)[0].shape[1]
    assert f"row 1, column {int(0.9 * columns) + 1}" in wait(page)
    picture(1, (24, 40)).save(tmp_path / "second.png")
    plain = np.asarray(picture(1, (24, 40)))
    page.set_input_files("#second", tmp_path / "second.png")
    page.wait_for_selector("#other:not([hidden])")
    wait(page, r"^Like .*\)$")
    assert shown(page, "#second-picture").shape == plain.shape
    assert (shown(page, "#second-picture") != plain).any()


def test_by_the_keyboard_alone(page: Page, file: Path) -> None:
    page.set_input_files("#file", file)
    wait(page)
    page.check("input[value=similar]")
    wait(page)
    page.focus("#picture")
    before = page.locator("#mark").bounding_box()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    assert page.locator("#mark").bounding_box() != before
    assert "column" in wait(page)
    page.focus("#names")
    reached = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    assert {"model-a", "model-b", "decoder-a", "go", "classify", "split", "alpha", "save-coco", "link"} <= reached


def test_probabilities_are_in_a_table(page: Page, file: Path, models: dict[str, Model]) -> None:
    page.set_input_files("#file", file)
    wait(page)
    page.fill("#names", "red, blue")
    page.get_by_role("button", name="Classify").click()
    page.wait_for_selector("#tables table")
    (expected,) = of(models, "student").classify(picture(), ["red", "blue"])
    rows = page.locator("#tables table").first.locator("tr").all_text_contents()
    assert rows == [f"{name}{100 * share:.1f} %" for name, share in expected.items()]


def test_a_link_keeps_the_state(page: Page, file: Path, browser: Browser) -> None:
    segmented(page, file)
    page.select_option("#decoder-a", "sclip")
    wait(page)
    split(page, 30)
    page.wait_for_timeout(300)
    page.get_by_role("button", name="Copy a link").click()
    wait(page, r"^The link is ")
    expected, link = shown(page), page.url
    with browser.new_context() as context:
        other = context.new_page()
        other.goto(link)
        other.wait_for_selector("body[data-ready]")
        other.wait_for_selector("#legend li")
        wait(other)
        assert (shown(other) == expected).all()
        assert other.input_value("#decoder-a") == "sclip"
        assert other.input_value("#names").splitlines() == NAMES


def test_what_is_taken_away(page: Page, file: Path, models: dict[str, Model]) -> None:
    from PIL import Image

    mask = pytest.importorskip("faster_coco_eval.core.mask")
    segmented(page, file)
    labels = of(models, "student").segment(picture(), NAMES).labels.numpy()
    with page.expect_download() as taken:
        page.click("#save-labels")
    assert (np.asarray(Image.open(taken.value.path())) == labels).all()
    with page.expect_download() as taken:
        page.click("#save-coco")
    coco = json.loads(Path(taken.value.path()).read_text())
    assert [one["name"] for one in coco["categories"]] == NAMES
    for one in coco["annotations"]:
        found = mask.decode({**one["segmentation"], "counts": one["segmentation"]["counts"].encode()})
        assert (found == (labels == one["category_id"] - 1)).all()
        assert one["area"] == found.sum()
    with page.expect_download() as taken:
        page.click("#save-overlay")
    assert (np.asarray(Image.open(taken.value.path()).convert("RGB")) == shown(page)).all()


def test_an_example_comes_with_its_words(page: Page) -> None:
    page.get_by_role("button", name="Example: generated scene 1").click()
    page.wait_for_selector("#legend li")
    wait(page)
    assert page.input_value("#names")


def test_a_picture_is_dropped(page: Page, file: Path) -> None:
    data = base64.b64encode(file.read_bytes()).decode()
    page.evaluate(
        """data => {
          const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([bytes], "dropped.png", {type: "image/png"}));
          document.dispatchEvent(new DragEvent("drop", {dataTransfer, cancelable: true}));
        }""",
        data,
    )
    wait(page, r"^40 . 24 pixels")
    assert (shown(page) == np.asarray(picture())).all()


def test_what_is_missing_is_told(page: Page) -> None:
    page.get_by_role("button", name="Segment", exact=True).click()
    assert "A picture is needed" in (page.text_content("#fault") or "")


def test_a_token_opens_the_page_and_is_not_in_links(
    browser: Browser, finished: Callable[..., Path], tmp_path: Path, file: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("sesame+sesame/sesame==")
    with served(str(finished("silc_c")), "--token-file", str(token)) as address:
        with browser.new_context() as context:
            page = context.new_page()
            assert "sesame" not in address  # what is printed stands in logs
            page.goto(address.removesuffix("TOKEN") + token.read_text())
            page.wait_for_selector("body[data-ready]")
            segmented(page, file)
            assert "sesame" not in page.url
            page.reload()
            page.wait_for_selector("#legend li")
        with browser.new_context() as context:
            page = context.new_page()
            page.goto(address.partition("#")[0])
            page.wait_for_selector("body[data-ready]")
            assert "a token is needed" in (page.text_content("#fault") or "")


def test_two_runs_are_side_by_side(browser: Browser, finished: Callable[..., Path], tmp_path: Path) -> None:
    """The second run is on the right at first, not the first one's teacher."""
    runs = [shutil.copytree(finished("silc_c"), tmp_path / name) for name in ("before", "after")]
    with served(*map(str, runs)) as address, browser.new_context() as context:
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        assert [page.input_value(f"#model-{side}") for side in "ab"] == ["before, student", "after, student"]


def test_boxes_captions_and_answers(
    browser: Browser, finished: Callable[..., Path], tmp_path: Path, file: Path
) -> None:
    """A detector on the left, a model that writes on the right."""
    from playwright.sync_api import expect

    runs = [make(tmp_path / make.__name__, finished("silc_c")) for make in (heads.detector, heads.writer)]
    (_, detector), (name, writer) = loaded(map(str, runs), "both", "cpu").items()
    question = "what colour is it?"
    with served(*map(str, runs)) as address, browser.new_context() as context:
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        page.set_input_files("#file", file)
        wait(page)
        answer = f"{name}: {writing_model(writer).answer(picture(), question)}"
        page.fill("#question", question)
        page.press("#question", "Enter")
        expect(page.locator("#tables")).to_have_text(answer)
        page.get_by_role("button", name="Caption", exact=True).click()
        expect(page.locator("#tables")).to_have_text(f"{name}: {writing_model(writer).caption(picture())[0]}")
        page.get_by_role("button", name="Ask", exact=True).click()
        expect(page.locator("#tables")).to_have_text(answer)
        assert not page.get_by_role("button", name="Find boxes").is_visible()
        page.select_option("#model-b", "")
        assert not page.get_by_role("button", name="Caption").is_visible()
        page.fill("#names", "red, blue")
        before = shown(page)
        page.get_by_role("button", name="Find boxes").click()
        found = detector_of(detector).detect(picture(), ["red", "blue"], templates="clip7").found
        assert len(found) > 0
        wait(page, rf"^{len(found)} boxes")
        assert (shown(page) != before).any()


def missing(page: Page) -> Iterator[str]:
    """Controls that a person does not find."""
    found = {
        name: page.get_by_role(role, name=re.compile(f"^{re.escape(name)}{'' if role == 'application' else '$'}"))  # type: ignore[arg-type]
        for role, names in CONTROLS.items()
        for name in names
    }
    found["file"] = page.get_by_label("Drop a picture here, or choose a file")
    for kind in ("scene", "objects"):
        titles = [f"Example: generated {kind} {number}" for number in (1, 2, 3)]
        found |= {title: page.get_by_role("button", name=title) for title in titles}
    found |= {f"legend {name}": page.locator("#legend button").filter(has_text=name) for name in NAMES}
    many = {"Decoder": 2}
    for name, one in found.items():
        if one.count() != many.get(name, 1) or not all(one.nth(at).is_visible() for at in range(one.count())):
            yield name


def test_each_control_would_be_missed(page: Page, file: Path) -> None:
    """Nothing that stands on the page can be taken away without this file failing."""
    segmented(page, file)
    controls = page.locator(ALL_CONTROLS)
    seen = [one for one in (controls.nth(at) for at in range(controls.count())) if one.is_visible()]
    assert len(seen) > 25
    for handle in [one.element_handle() for one in seen]:
        handle.evaluate("one => { one.placeholder_ = document.createComment(''); one.replaceWith(one.placeholder_); }")
        assert any(missing(page))
        handle.evaluate("one => one.placeholder_.replaceWith(one)")
    assert list(missing(page)) == []


@pytest.mark.parametrize("index", range(len(NAMES)))
def test_each_class_of_the_overlay_would_be_missed(
    browser: Browser, address: str, file: Path, models: dict[str, Model], index: int
) -> None:
    """A page that leaves one class grey does not pass for the models' answer."""
    labels = of(models, "student").segment(picture(), NAMES).labels
    assert (labels == index).any()
    drawing = (PAGE / "draw.js").read_text().replace("hidden.has(labels[at])", f"labels[at] === {index}")
    with browser.new_context() as context:
        page = context.new_page()
        page.route("**/draw.js", lambda route: route.fulfill(body=drawing, content_type="text/javascript"))
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        with pytest.raises(AssertionError):
            test_student_and_teacher_on_one_picture(page, file, models)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_every_control_is_there_at_any_width(
    browser: Browser, address: str, file: Path, width: int, scheme: Any
) -> None:
    with browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme) as context:
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        segmented(page, file)
        assert list(missing(page)) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", background))) < 384) == (scheme == "dark")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Browser, address: str, file: Path, scheme: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with browser.new_context(color_scheme=scheme) as context:
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        segmented(page, file)
        found = axe.run(page)
        assert found.violations_count == 0, found.generate_report()


def test_what_runs_can_be_cancelled(page: Page, file: Path) -> None:
    page.set_input_files("#file", file)
    wait(page)
    page.fill("#names", "red, blue")
    page.route("**/api/segment", lambda route: None)  # never answered
    page.get_by_role("button", name="Segment", exact=True).click()
    page.get_by_role("button", name="Cancel").click()
    wait(page, r"^Cancelled\.$")
    assert page.get_by_role("button", name="Cancel").count() == 0  # hidden again
    page.unroute("**/api/segment")
    page.get_by_role("button", name="Segment", exact=True).click()
    page.wait_for_selector("#legend li")


def test_a_busy_server_is_asked_again(browser: Browser, address: str, file: Path) -> None:
    answers = [{"status": 503, "headers": {"Retry-After": "0"}, "body": '{"detail": "busy"}'}] * 2
    with browser.new_context() as context:
        page = context.new_page()
        page.route("**/api/segment", lambda route: route.fulfill(**answers.pop()) if answers else route.continue_())  # type: ignore[arg-type]
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        segmented(page, file)
    assert answers == []


def test_a_file_that_is_refused_leaves_what_was_there(
    browser: Browser, address: str, file: Path, tmp_path: Path
) -> None:
    """Nothing is asked anew about the picture before it, by which the reason would go."""
    from playwright.sync_api import expect

    with browser.new_context() as context:
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        segmented(page, file)
        page.get_by_role("button", name="Classify").click()
        expect(page.locator("#tables table")).to_have_count(2)
        (tmp_path / "none.png").write_text("no picture")
        page.set_input_files("#file", tmp_path / "none.png")
        expect(page.locator("#fault")).to_contain_text("no JPEG/PNG")
        page.wait_for_timeout(300)
        assert "no JPEG/PNG" in (page.text_content("#fault") or "")
        assert page.locator("#tables table").count() == 2
        page.get_by_role("button", name="Example: generated scene 1").click()
        expect(page.locator("#tables table")).to_have_count(0)  # they were of the picture before
        context.set_offline(True)
        page.get_by_role("button", name="Classify").click()
        expect(page.locator("#fault")).to_contain_text("The server does not answer")


def test_words_are_read_when_a_view_is_chosen(page: Page, file: Path) -> None:
    segmented(page, file)
    page.locator("#legend button").first.click()  # hidden
    page.fill("#names", "red, blue, red")
    page.check("input[value=heat]")
    wait(page)
    assert page.locator("#word option").all_text_contents() == ["red", "blue"]
    assert page.locator('#legend [aria-pressed="true"]').count() == 2


def test_a_slider_that_moves_leaves_the_address_alone(page: Page, file: Path) -> None:
    """Safari ends a script that changes it more than 100 times in 30 s."""
    segmented(page, file)
    before = page.url
    page.evaluate("""() => {
        const slider = document.getElementById("split");
        for (let at = 0; at <= 33; at++) {
            slider.value = at;
            slider.dispatchEvent(new Event("input"));
        }
    }""")
    assert page.url == before
    assert page.eval_on_selector("#line", "one => one.style.left") == "33%"
    page.locator("#split").dispatch_event("change")
    assert "split=33" in page.url


def test_a_link_of_another_server_sets_what_there_is(browser: Browser, address: str, models: dict[str, Model]) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{address}#model-a=none&decoder-a=none&windows=none&templates=none&at=x&view=similar&alpha=20")
        page.wait_for_selector("body[data-ready]")
        assert page.input_value("#model-a") == next(iter(models))
        assert [page.input_value(id) for id in ("#decoder-a", "#windows", "#templates")] == ["cosine", "tcl", "clip7"]
        assert page.input_value("#alpha") == "20"
        assert page.evaluate("import('./state.js').then(({state}) => state.at)") == [0.5, 0.5]
