"""The frame of every page, and what stands in it."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from typing import Any

from PIL import Image

from silc.page import INK, bare, data_uri, render, svg, webp


def test_what_a_template_is_given_is_escaped(tmp_path: Path) -> None:
    template = tmp_path / "own.html.j2"
    template.write_text('{% extends "page.html.j2" %}{% block main %}{{ words | loud }}{% endblock %}')
    page = render(template, filters={"loud": str.upper}, title="<b>", words="<script>&")
    assert "<title>&lt;b&gt;</title>" in page
    assert "&lt;SCRIPT&gt;&amp;" in page
    assert "<script" not in page


def test_drawings_have_the_pages_colours_and_ids_of_their_own() -> None:
    def draw(figure: Any) -> None:
        axes = figure.add_axes((0.1, 0.1, 0.8, 0.8))
        bare(axes, "$_a 漢", grid="y")
        axes.plot([0, 1], [0, 1])

    one, again, other = (svg(draw, (3, 2), salt=salt) for salt in ("a", "a", "b"))
    assert one == again
    assert one.startswith("<svg")
    assert "currentColor" in one
    assert INK not in one
    clips = [set(re.findall(r'clipPath id="(\w+)"', drawn)) for drawn in (one, other)]
    assert clips[0]
    assert not clips[0] & clips[1]


def test_a_picture_is_in_the_page() -> None:
    kind, _, content = data_uri(webp(Image.new("RGB", (9, 6), "red"), quality=80)).partition(",")
    assert kind == "data:image/webp;base64"
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (9, 6)
