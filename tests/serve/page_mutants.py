"""Whether the page's tests miss a part of the page: each is taken out on the way to the browser, and the tests are run.

    python -m pytest tests/serve/page_mutants.py            (minutes; needs chromium)

Parts: every handler of a control, and every line that draws a class, heat, components, likeness, boxes or a legend.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from silc.serve.app import PAGE
from tests.serve import test_page as tests
from tests.serve.test_page import address, browser, file  # noqa: F401

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext

DRAWN = {
    "overlay": ("drawing.js", r"return overlay\(.*?\);", "return image;"),
    "components": ("drawing.js", r"return mixed\(.*?\);", "return image;"),
    "like a patch": ("drawing.js", r'"similar"\) return heat\(.*?\);', '"similar") return image;'),
    "heat": ("drawing.js", r"return heat\(image, pixelsOf\(map.*?\);", "return image;"),
    "boxes": ("drawing.js", r'if \(view\(\) === "boxes"\).*?;', ""),
    "second picture": ("drawing.js", r"drawSecond\(shown\[0\]\);", ""),
    "mark": ("drawing.js", r"mark\(shown\[0\]\);\n", "\n"),
    "legend": ("drawing.js", r"legend\(shown\);\n\}", "}"),
    "right side": ("drawing.js", r"if \(right\) context\.putImageData\(.*?\);", ""),
}
"""Of the page's drawing: file, what is there, what stands there instead."""
HANDLER = r"^ +(?:for \(.*?\) )?on\(.*;$"


def parts() -> list[Any]:
    """(file, its text without the part)"""
    page, found = (PAGE / "page.js").read_text(), []
    for line in re.findall(HANDLER, page, flags=re.MULTILINE):
        name = " ".join(re.findall(r'"([\w-]+)"', line)[:4])
        found.append(pytest.param("page.js", page.replace(line + "\n", ""), id=name))
    for name, (place, there, instead) in DRAWN.items():
        text, times = re.subn(there, instead, (PAGE / place).read_text(), count=1, flags=re.DOTALL)
        assert times == 1, f"{name} is not where it was: {there}"
        found.append(pytest.param(place, text, id=name))
    return found


class Without:
    """A browser that is given one of the page's files in another form, and waits less."""

    def __init__(self, real: Browser, place: str, text: str) -> None:
        self.real, self.place, self.text = real, place, text

    def new_context(self, **how: Any) -> BrowserContext:
        """As of the browser."""
        context = self.real.new_context(**how)
        context.set_default_timeout(4000)
        context.route(f"**/{self.place}", lambda route: route.fulfill(body=self.text, content_type="text/javascript"))
        return context


def checks() -> list[Callable[..., None]]:
    """The page's tests, of one page and a few more."""
    found = [one for name, one in vars(tests).items() if name.startswith("test_") and "missed" not in name]
    return [one for one in found if not any("parametrize" in mark.name for mark in getattr(one, "pytestmark", ()))]


@pytest.mark.parametrize(("place", "text"), parts())
def test_a_part_would_be_missed(place: str, text: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """By a test of the page; the first that fails is told."""
    from playwright.sync_api import Error, expect

    expect.set_options(timeout=4000)
    without: Any = Without(request.getfixturevalue("browser"), place, text)
    for number, check in enumerate(checks()):
        own = tmp_path / str(number)
        own.mkdir()
        given = {"browser": without, "tmp_path": own}
        named = [name for name in inspect.signature(check).parameters if name not in given and name != "page"]
        given |= {name: request.getfixturevalue(name) for name in named}
        try:
            if "page" in inspect.signature(check).parameters:
                with without.new_context() as context:
                    page = context.new_page()
                    page.goto(request.getfixturevalue("address"))
                    page.wait_for_selector("body[data-ready]")
                    check(
                        **{name: given[name] for name in inspect.signature(check).parameters if name in given},
                        page=page,
                    )
            else:
                check(**{name: given[name] for name in inspect.signature(check).parameters})
        except (AssertionError, Error) as missed:
            print(f"{check.__name__}: {(str(missed) or repr(missed)).splitlines()[0]}")
            return
    pytest.fail("no test of the page fails without it")
