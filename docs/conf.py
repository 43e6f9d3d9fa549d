"""The documentation site: `make docs` builds it into out/site, where every warning is an error."""

from __future__ import annotations

import json
import re
from typing import Any

from sphinx import addnodes

import silc
from silc.settings import Settings

project = "silc"
author = "The maintainers of silc"
release = version = silc.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown", ".ipynb": "markdown"}
exclude_patterns = ["images", "performance", "evidence/*/*"]
suppress_warnings = ["ref.python"]  # a short name in a docstring may stand for several things; it is then no link

html_theme = "furo"
html_title = f"silc {release}"
html_show_copyright = html_show_sphinx = False
html_copy_source = False

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

default_role = "code"  # docstrings mark code with single backticks
toc_object_entries = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False


def notebook_as_markdown(app: Any, name: str, source: list[str]) -> None:
    """A notebook's cells as a page: text as it is, code in fences, and a link to the file itself."""
    if not str(app.env.doc2path(name)).endswith(".ipynb"):
        return
    parts = []
    for cell in json.loads(source[0])["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    title, _, rest = "\n\n".join(parts).partition("\n")
    file = name.rpartition("/")[2] + ".ipynb"
    source[0] = f"{title}\n\n{{download}}`The notebook <{file}>`, run by a test.\n{rest}\n"


def docstring_as_text(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text: backticks mark code, an indented block is shown as it is, no other mark-up counts."""
    # After a first line of nothing: else napoleon takes what stands before an attribute's first colon for its type.
    text, literal = (["\\"] if what in ("attribute", "data", "property") else []), -1
    for line in lines:
        depth = len(line) - len(line.lstrip())
        literal = -1 if line.strip() and depth < literal else literal
        if line.strip() and literal < 0 and text and not text[-1].strip() and depth > _depth(text):
            literal = depth
            text += [f"{' ' * _depth(text)}::", ""]
        text.append(line if literal >= 0 else MARKUP.sub(r"\\\g<0>", line))
    lines[:] = text


def without_ranges(app: Any, doctree: Any) -> None:
    """A setting's range is part of its type and said in its text: the page shows name and default."""
    for shown in [*doctree.findall(addnodes.desc_annotation)]:
        if any(mark in shown.astext() for mark in ("Range(", "most=", "least=")):
            shown.parent.remove(shown)


def without_fields(app: Any, what: str, name: str, obj: Any, options: Any, given: str, returns: str) -> Any:
    """A dataclass of settings has its fields below, each with its default; its signature would say them all twice."""
    return ("", returns) if what == "class" and issubclass(obj, Settings) else None


MARKUP = re.compile(r"[*|](?=[^`]*(?:`[^`]*`[^`]*)*$)")
"""Outside of backticks."""


def _depth(text: list[str]) -> int:
    """Of the last line that has words."""
    return next((len(line) - len(line.lstrip()) for line in reversed(text) if line.strip()), 0)


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", docstring_as_text, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", without_fields)
    app.connect("doctree-read", without_ranges)
    app.connect("source-read", notebook_as_markdown)
