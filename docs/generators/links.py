"""Links of the Markdown pages, which GitHub and the site have to find alike.

Within docs/ MyST follows them, and a page or heading that is not there is a warning. A link that
leads out of docs/ goes, on the site, to where the site has that file: README and its neighbours are
copied (`BESIDE`), scripts are pages of the gallery. Of all other files the site has none:
there the link's words alone are left. A file that does not exist is a warning too, and fails the
build.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from sphinx.util import logging

from .writing import Folder

LOG = logging.getLogger(__name__)
LINK = re.compile(r"(?<!!)\[([^\]\[]+)\]\(([^)\s#:]*)(#[^)\s]*)?\)")
PICTURE = re.compile(r"!\[([^\]\[]+)\]\(([^)\s:]+)\)")
COPIED = {
    f"{name}.md": name.lower() for name in ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY")
}
GALLERY = "generated/examples"
# The pages below each, which Sphinx wants to be told and GitHub would show as code.
BELOW = {
    "index": (
        "Begin <start>",
        "Tutorial <tutorial>",
        "How to <howto>",
        "Rules <rules>",
        "Curvature <curvature>",
        "Stalled? <diagnosis>",
        "Lessons <generated/examples/index>",
        "Reference <generated/api/index>",
        "more",
    ),
    "start": tuple(
        f"start/{name}" for name in ("student", "scikit_learn", "torch", "library", "curvature")
    ),
    "howto": (
        *(f"howto/{name}" for name in ("scikit_learn", "torch", "thinc", "autograd")),
        "using",
        "schedules",
        *(f"howto/{name}" for name in ("rows", "checkpoint", "distributed", "embedding")),
        "compact",
        "solvers",
    ),
    "rules": ("which_rule", "generated/rules/index"),
    "more": (
        "numerics",
        "performance",
        "scale",
        "range",
        "survives",
        "install",
        "versions",
        "generated/papers",
        "README <generated/readme>",
        "generated/contributing",
        "generated/changelog",
        "generated/security",
    ),
}


def place_on_the_site(path: Path, docs: Path) -> str | None:
    """Return a file's page, from the site's root; None: it has none."""
    root = docs.parent
    if path.is_relative_to(docs):
        return "/" + path.relative_to(docs).as_posix()
    name = path.relative_to(root).as_posix()
    if name in COPIED:
        return f"/generated/{COPIED[name]}.md"
    if name == "examples" or (path.is_dir() and (path / "GALLERY_HEADER.rst").exists()):
        return f"/{GALLERY}{name.removeprefix('examples')}/index.rst"
    if name.startswith("examples/") and path.suffix == ".py" and "_c" not in path.parent.name:
        return f"/{GALLERY}{name.removeprefix('examples').removesuffix('.py')}.rst"
    return None


def led(text: str, page: Path, docs: Path, moved: bool = False) -> str:
    """Turn the links of a page to where the site has what they name.

    Parameters
    ----------
    text : str
    page : Path
        Where it stands in the repository, which its links are relative to.
    docs : Path
        The site's sources.
    moved : bool
        Whether it is shown from another folder, so that links within docs/ change too.
    """

    def turned(match: re.Match[str]) -> str:
        words, name, part = match[1], match[2], match[3] or ""
        path = Path(os.path.normpath(page.parent / name)) if name else page
        if not name or (path.is_relative_to(docs) and not moved):
            return match[0]
        if not path.exists():
            LOG.warning("the link [%s](%s) leads nowhere", words, name, location=str(page))
            return words
        place = place_on_the_site(path, docs)
        return f"[{words}]({place}{part})" if place else words

    def shown(match: re.Match[str]) -> str:
        place = os.path.relpath(page.parent / match[2], docs / "generated")
        return f"![{match[1]}]({place})"

    text = LINK.sub(turned, text)
    return PICTURE.sub(shown, text) if moved else text


def write(folder: Folder) -> None:
    """Copy the pages beside docs/."""
    docs = folder.path.parent
    for name, page in COPIED.items():
        path = docs.parent / name
        folder.write(f"{page}.md", led(path.read_text(), path, docs, moved=True))


def lead_out(app: Any, name: str, source: list[str]) -> None:
    """Turn the links of a page as it is read."""
    path = Path(app.env.doc2path(name))
    if path.suffix == ".md" and "generated" not in path.parts:
        source[0] = led(source[0], path, Path(app.srcdir))
    if name in BELOW:
        pages = "\n".join(BELOW[name])
        source[0] += f"\n```{{toctree}}\n:hidden:\n\n{pages}\n```\n"
