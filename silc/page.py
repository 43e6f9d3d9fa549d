"""Shared parts of all HTML pages: the frame that their templates extend (page.html.j2), pictures and drawings.

A page loads nothing: pictures are data URIs and drawings inline SVG.
"""

from __future__ import annotations

import base64
import io
import itertools
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.figure import Figure
    from PIL import Image

K = TypeVar("K")
INK = "#0a0b0c"
"""Placeholder for the page's own text colour, dark or light."""
QUALITIES = ((85, 1.0), (70, 1.0), (60, 0.7), (50, 0.5))
"""WebP quality and scale, tried in turn until the pictures fit."""


def render(template: Path, *, filters: dict[str, Callable[..., Any]] | None = None, **values: Any) -> str:
    """Render a template with values, each escaped; `filters` are functions that it knows by name."""
    environment = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).parent]), autoescape=True, trim_blocks=True
    )
    environment.filters |= filters or {}
    return environment.get_template(template.name).render(values)


def webp(image: Image.Image, quality: int) -> bytes:
    """The bytes of an image's WebP file."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality)
    return buffer.getvalue()


def webps(images: Mapping[K, Sequence[Image.Image]], most: int) -> dict[K, list[bytes]]:
    """WebP files of all pictures, at the best quality at which they are `most` bytes together, or else at the
    lowest."""
    files: dict[K, list[bytes]] = {}
    for quality, scale in QUALITIES:
        files = {key: [webp(_scaled(image, scale), quality) for image in own] for key, own in images.items()}
        if sum(map(len, itertools.chain(*files.values()))) <= most:
            break
    return files


def _scaled(image: Image.Image, scale: float) -> Image.Image:
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image if scale == 1 else image.resize(size)


def data_uri(file: bytes) -> str:
    """A WebP file as a data URI."""
    return f"data:image/webp;base64,{base64.b64encode(file).decode()}"


def svg(draw: Callable[[Figure], None], size: tuple[float, float], *, salt: str, layout: Any = None) -> Markup:
    """An SVG element, in the page's own colours, of what `draw` puts on a figure.

    Args:
        size: width and height in inches.
        salt: makes the ids in a drawing differ from those of the page's other drawings.
        layout: matplotlib's `layout` of a figure.
    """
    # Imported here: it takes long, scores are made without it, and a borrowed machine may not have it.
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {"svg.fonttype": "none", "font.size": 9, "axes.linewidth": 0.6, "text.parse_math": False}
    style |= {f"{part}color": INK for part in ("axes.edge", "axes.label", "xtick.", "ytick.", "text.")}
    with rc_context(style | {"svg.hashsalt": salt}), warnings.catch_warnings():
        # The browser has the letters that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = Figure(figsize=size, layout=layout)
        figure.patch.set_alpha(0)
        draw(figure)
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    drawn = buffer.getvalue()
    return Markup(drawn[drawn.index("<svg") :].replace(INK, "currentColor"))


def bare(axes: Any, title: str, *, grid: str = "both") -> None:
    """Reduce a plot's frame to a title, two sides and a faint grid."""
    axes.set_title(title, fontsize=9, loc="left")
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color=INK, alpha=0.12, linewidth=0.5)
