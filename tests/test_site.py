"""The site: every rule names its papers, planted faults fail the build, a browser shows the pages.

What the build needs is the extra `docs`; `make docs` installs it, and CI runs the slow ones after.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
from functools import reduce
from pathlib import Path

import pytest

from optkern.rules import MATRIX_RULES, RULES

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))

from generators import differences, papers  # noqa: E402

HTML = ROOT / "build" / "docs" / "html"
EVERY = (*RULES, *MATRIX_RULES)


@pytest.mark.parametrize("rule", EVERY, ids=lambda rule: rule.name)
def test_a_rule_names_its_papers(rule):
    said, cited = papers.split_document(rule)
    assert said and cited
    for paper in papers.papers_of(rule):
        assert paper.title in " ".join(cited.split()) and 1900 < int(paper.year) < 2100
        assert paper.authors and '"' not in paper.authors


@pytest.mark.parametrize("library", ("optax", "keras"))
def test_recorded_defaults_are_the_librarys(library, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "numpy")
    module = pytest.importorskip(library, reason=f"compares with {library}")
    place = module if library == "optax" else module.optimizers
    for name, recorded in differences.RECORDED[library].items():
        parameters = inspect.signature(reduce(getattr, name.split("."), place)).parameters
        assert {key: parameters[key].default for key in recorded} == recorded, name


# --------------------------------------------------------------------------- planted faults

INDEX = """
# A site

[a page](nowhere.md), [a heading](other.md#nowhere), [a file](../examples/nowhere.py)

```{toctree}
other
generated/rules/index
generated/api/index
generated/papers
examples/index
```
"""
# The site's own settings, but for a gallery of one script and a table that forgets a name.
SETTINGS = """
__file__ = {conf!r}
exec(compile(open({conf!r}).read(), {conf!r}, "exec"))
extensions.remove("sphinx_copybutton")
sphinx_gallery_conf |= {{"examples_dirs": "planted", "gallery_dirs": "examples"}}
html_theme, html_theme_options, html_static_path, html_css_files = "basic", {{}}, [], []
html_extra_path = []
suppress_warnings += ["toc.not_included"]

import optkern
from generators import api, curves, links, report, rules
optkern.flatten.__doc__ += "\\n\\nSee `optkern.nowhere`."
public = api.public
api.write = (lambda write: lambda folder: (setattr(api, "public", lambda module: [
    name for name in public(module) if name != "groups"]), write(folder),
    setattr(api, "public", public)))(api.write)
links.write = report.write = lambda folder: None
rules.curves.draw = lambda rule, path: path.write_bytes(bytes.fromhex({pixel!r}))
"""
PIXEL = (
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8ffff3f"
    "0005fe02fe0def46b80000000049454e44ae426082"
)
FAILING = '"""\nA script\n========\n\nThat fails.\n"""\n\nraise ValueError("planted")\n'


@pytest.mark.slow
def test_planted_faults_fail_the_build(tmp_path):
    """A link that leads nowhere, a name that is not there or has no page, a script that fails."""
    for module in ("myst_parser", "sphinx_gallery", "numpydoc"):
        pytest.importorskip(module, reason="extra `docs`")
    docs = tmp_path / "docs"
    (docs / "planted").mkdir(parents=True)
    (docs / "index.md").write_text(INDEX)
    (docs / "other.md").write_text("# Another\n")
    (docs / "planted" / "GALLERY_HEADER.rst").write_text("Examples\n========\n")
    (docs / "planted" / "plot_failing.py").write_text(FAILING)
    conf = SETTINGS.format(conf=str(DOCS / "conf.py"), pixel=PIXEL)
    (docs / "conf.py").write_text(conf)
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", docs, tmp_path / "html"],
        capture_output=True, text=True, timeout=600, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode != 0
    for fault in (
        "nowhere.md",
        "local id not found in doc 'other': 'nowhere'",
        "(../examples/nowhere.py) leads nowhere",
        "optkern.nowhere",
        "the public name optkern.groups has no page",
        "plot_failing.py",
    ):
        assert fault in done.stderr, done.stdout + done.stderr


# --------------------------------------------------------------------------- a browser

# Names in pictures that end beyond them, and labels that are wider than their place.
CUT_OFF = """[
  ...[...document.querySelectorAll("svg text")].filter((text) =>
    text.getBBox().x + text.getBBox().width > text.ownerSVGElement.viewBox.baseVal.width),
  ...[...document.querySelectorAll("label")].filter((label) =>
    label.scrollWidth > label.clientWidth + 1),
].map((found) => found.tagName + " " + found.textContent)"""
THERE = "document.readyState === 'complete'"


# Texts whose colour is too near to what is behind them: WCAG 2 asks for 4.5, for large letters 3.
PALE = """(() => {
  const channels = (colour) => (colour.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const luminance = (colour) => channels(colour).slice(0, 3)
    .map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, k) => sum + c * [0.2126, 0.7152, 0.0722][k], 0);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor;
      if ((channels(colour)[3] ?? 1) > 0.5) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const words = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  const found = new Set();
  let looked = 0;
  while (words.nextNode()) {
    const element = words.currentNode.parentElement, text = words.currentNode.data.trim();
    if (!text || !element.checkVisibility({ opacityProperty: true, visibilityProperty: true }))
      continue;
    if (element.closest("svg, script, style, noscript, .copybtn, .headerlink")) continue;
    const style = getComputedStyle(element), size = parseFloat(style.fontSize);
    const [low, high] = [luminance(style.color), luminance(behind(element))].sort((a, b) => a - b);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    looked += 1;
    if ((high + 0.05) / (low + 0.05) < (large ? 3 : 4.5))
      found.add(`${element.className || element.tagName} ${style.color}: ${text.slice(0, 30)}`);
  }
  return looked > 20 ? [...found] : ["too few texts"];
})()"""
# What ends beyond the window, though it is neither code nor a table, which scroll by themselves.
# (The window alone does not tell: the theme hides what its article cannot hold.)
TOO_WIDE = """[
  ...(document.documentElement.scrollWidth > window.innerWidth ? [document.documentElement] : []),
  ...[...document.querySelectorAll("main *")].filter((element) =>
    element.checkVisibility() && !element.parentElement.closest("pre, table, svg") &&
    element.getBoundingClientRect().right > document.documentElement.clientWidth + 1),
].map((found) => `${found.tagName} ${found.className}: ${found.textContent.slice(0, 30)}`)"""
SEEN = (
    *("index.html", "start/library.html", "diagnosis.html", "performance.html"),
    *("generated/rules/adam.html", "generated/api/optkern.Adam.html"),
    "generated/examples/lessons/plot_01_saddles_and_momentum.html",
)
WIDE = {1280: 900, 390: 844}  # a desktop's window and a phone's


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDE)
def test_pages_can_be_read(width, dark, tmp_path):
    """Nothing is wider than the window, pictures are there, letters stand out from their ground."""
    from browser import CHROMIUM, Page

    if CHROMIUM is None or not HTML.exists():
        pytest.skip("needs Chromium and the built site: make docs")
    with Page(tmp_path, width, WIDE[width], dark) as page:
        for place in SEEN:
            page.open((HTML / place).as_uri())
            assert page.ask(TOO_WIDE) == [], place
            assert page.ask("[...document.images].every(image => image.naturalWidth > 0)"), place
            assert page.ask(PALE) == [], place
        first_pages = sorted((HTML / "start").glob("*.html"))
        assert len(first_pages) == 5
        for first in first_pages:  # two screens each, of a phone's too
            page.open(first.as_uri())
            height = page.ask("document.querySelector('.bd-article').scrollHeight")
            assert 300 < height < 2 * WIDE[width], first.name
        assert page.errors() == []


@pytest.mark.slow
@pytest.mark.parametrize("width, dark", [(1280, False), (390, True)])
def test_a_browser_finds_its_way(width, dark, tmp_path):
    """From the landing page by a card, through the tree to its section, to a rule's picture."""
    from browser import CHROMIUM, Page

    if CHROMIUM is None or not HTML.exists():
        pytest.skip("needs Chromium and the built site: make docs")
    with Page(tmp_path, width, dark=dark) as page:
        page.open((HTML / "index.html").as_uri())
        assert page.ask("document.querySelectorAll('.sd-card').length") >= 5
        background = page.ask("getComputedStyle(document.body).backgroundColor")
        assert (background != "rgb(255, 255, 255)") == dark
        page.ask("document.querySelector('.sd-card a[href*=student]').click()")
        page.until(f"location.href.includes('start/student.html') && {THERE}")
        page.open((HTML / "diagnosis.html").as_uri())
        leaf = """document.querySelector('#the-tree a[href="#saddle"]')"""
        branch = f"{leaf}.closest('details')"
        assert not page.ask(f"{branch}.open || {leaf}.checkVisibility()")
        page.ask(f"{branch}.querySelector('summary').focus()")
        page.press("Enter")
        page.until(f"{branch}.open && {leaf}.checkVisibility()")
        assert page.ask("document.documentElement.scrollWidth <= window.innerWidth")
        page.ask(f"{leaf}.focus()")
        page.press("Enter")
        page.until("location.hash === '#saddle' && document.querySelector('#saddle') !== null")
        page.open((HTML / "generated/api/optkern.Adam.html").as_uri())
        assert page.ask("document.body.innerText.includes('Examples using Adam')")
        page.open((HTML / "report.html").as_uri())
        assert page.ask("document.querySelectorAll('table').length") >= 1
        assert page.ask("document.documentElement.scrollWidth <= window.innerWidth")
        assert page.ask(CUT_OFF) == []
        assert page.errors() == []
