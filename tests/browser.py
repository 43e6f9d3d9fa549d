"""A real browser for tests of pages: Debian's headless Chromium, driven by Playwright."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PIXELS = """canvas => {
  const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let text = "";
  for (let at = 0; at < data.length; at += 8192) text += String.fromCharCode(...data.subarray(at, at + 8192));
  return [canvas.width, canvas.height, btoa(text)];
}"""


@contextmanager
def launched() -> Iterator[Browser]:
    """The browser; Playwright's own is not needed. Without one the test is skipped."""
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium; `apt-get install chromium`")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


def wait(page: Page, said: str = r"\)$") -> str:
    """What the page says when it has its answer."""
    from playwright.sync_api import expect

    expect(page.locator("#status")).to_have_text(
        re.compile(said)
    )  # a function to wait for would break the page's rules
    assert page.text_content("#fault") == ""
    return page.text_content("#status") or ""


def shown(page: Page, canvas: str = "#picture") -> np.ndarray:
    """Pixels [H, W, 3] of a canvas."""
    width, height, data = page.eval_on_selector(canvas, PIXELS)
    pixels = np.frombuffer(base64.b64decode(data), dtype=np.uint8).reshape(height, width, 4)
    assert (pixels[..., 3] == 255).all()
    return pixels[..., :3]
