"""`optkern demo --report`: one page; its numbers are optkern's, and a browser can use it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rich")
pytest.importorskip("sklearn")
from browser import CHROMIUM, Page
from demo_runs import RULES, demo, refused, rows

import optkern
from optkern.demo import curves, surface

NAMES = ["sgd", "adagrad", "adam", "muon"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A report of a short run: its path, its text, and what the demo printed."""
    from contextlib import redirect_stdout
    from io import StringIO

    from optkern import cli

    path = tmp_path_factory.mktemp("report") / "out.html"
    options = ["--hidden", "8", "--epochs", "2", "--batch", "64", "--no-plot", "--rules", *NAMES]
    with redirect_stdout(StringIO()) as out:
        assert cli.main(["demo", *options, "--report", str(path)]) == 0
    assert f"report: {path}" in out.getvalue()
    return SimpleNamespace(path=path, text=path.read_text(), out=out.getvalue())


class Reader(HTMLParser):
    """Collects what the page's tags say, and refuses tags that are closed in another order."""

    EMPTY = {"meta", "link", "input", "rect"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, *tags: str) -> list[dict]:
        return [attrs for tag, attrs in self.found if tag in tags]


def test_the_page_holds_all_it_needs(made):
    reader = Reader(made.text)
    assert len(made.text) < 2_000_000
    linked = [a[key] for _, a in reader.found for key in ("src", "href", "action") if key in a]
    assert all(link.startswith(("#", "data:")) for link in linked)
    assert not re.search(
        r"@import|url\((?!#)|fetch\(|XMLHttp|https?://(?!www\.w3\.org/2000/svg)", made.text
    )
    assert "default-src 'none'" in made.text
    assert "prefers-color-scheme: dark" in made.text


def test_everything_has_a_name(made):
    """For whoever does not see it: pictures, tables, fields, and the order of headings."""
    reader = Reader(made.text)
    assert reader.all("html") == [{"lang": "en"}]
    assert all(len(a["aria-label"]) > 60 and a["role"] == "img" for a in reader.all("svg"))
    assert made.text.count("<caption>") == len(reader.all("table")) == 3
    assert all(a["scope"] in ("col", "row") for a in reader.all("th"))
    ids = [a["id"] for _, a in reader.found if "id" in a]
    assert len(ids) == len(set(ids))
    named = {a["for"] for a in reader.all("label") if "for" in a}
    assert {a["id"] for a in reader.all("input") if a["type"] == "range"} <= named
    assert len(reader.all("h1")) == 1 and len(reader.all("main")) == 1
    labelled = [a["aria-labelledby"] for a in reader.all("section")]
    assert len(labelled) == 4 and set(labelled) <= set(ids)


def luminance(colour: str) -> float:
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_contrast(made):
    """WCAG 2: 4.5 for text, 3 for what is drawn; in light and dark."""
    css = made.text.partition("</style>")[0]
    light, chosen, asked = (
        dict(re.findall(r"--(\w+): (#\w{6});", block)) for block in css.split(":root")[1:4]
    )
    assert chosen == asked and light.keys() == chosen.keys() and light != chosen
    for theme in (light, chosen):
        for text in ("ink", "soft", "link"):
            assert all(contrast(theme[text], theme[on]) >= 4.5 for on in ("paper", "card"))
        lines = [theme[f"c{k}"] for k in range(len(curves.COLOURS))]
        assert all(contrast(colour, theme["paper"]) >= 3 for colour in lines)
    assert [light[f"c{k}"] for k in range(6)] == [c.lower() for c in curves.COLOURS]
    assert all(contrast(colour, "#ffffff") >= 4.5 for colour in curves.COLOURS)  # names at ends


def test_the_tables_say_what_the_screen_says(made):
    for name, cells in rows(made.out).items():
        row = re.search(rf'<th scope="row" data-value="{name}">{name}</th>(.*?)</tr>', made.text)[1]
        shown = re.findall(r">([^<>]+)</td>", row)
        assert " ".join(shown[1:]) == " ".join(cells)
    assert "bit for bit" in made.text


def test_what_a_user_says_is_text(capsys, tmp_path):
    X = np.random.default_rng(0).standard_normal((40, 3))
    path = tmp_path / "<b>&'\".npz"
    np.savez(path, X=X, y=(X[:, 0] > 0).astype(int))
    out = tmp_path / "o.html"
    short = ["--no-plot", "--rules", "muon", "--no-verdict", "--report", str(out)]
    assert demo(capsys, "--data", str(path), *short)[0] == 0
    text = out.read_text()
    Reader(text)
    assert "<b>" not in text and "&lt;b&gt;&amp;" in text
    assert 'id="surface"' not in text and "Where training stopped" not in text


def test_targets_one_epoch_and_a_run_that_diverged(capsys, tmp_path):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 3))
    np.savez(tmp_path / "own.npz", X=X, y=X @ np.ones(3))
    out = tmp_path / "o.html"
    how = ["--rules", "sgd", "adam", "--batch", "4", "--lr", "sgd=1e38", "--no-plot"]
    how += ["--report", str(out)]
    assert demo(capsys, "--data", str(tmp_path / "own.npz"), *how)[0] == 0
    text = out.read_text()
    Reader(text)
    assert "test squared error" in text and "diverged (sgd)" in text
    panels = text.partition('id="curves"')[2].partition("</section>")[0]
    assert panels.count("<circle") == 1 and "nan" not in re.sub(r"aria-label=\".*?\"", "", panels)
    shown = json.loads(re.search(r'id="surface-data">(.*?)</script>', text)[1])
    assert [rule["name"] for rule in shown["rules"]] == ["sgd", "adam"]


def test_bad_places_for_a_report(capsys, tmp_path):
    for place, said in (
        ("a.pdf", "--report a.pdf: must end in .html"),
        ("no/a.html", "--report no/a.html: there is no folder no"),
        (f"{tmp_path}/", "must end in .html"),
    ):
        assert said in refused(demo(capsys, "--no-plot", "--report", place))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_report_that_fails_to_be_written(capsys, tmp_path):
    os.symlink("/dev/full", tmp_path / "full.html")
    options = ("--rules", "sgd", "--no-plot", "--no-verdict", "--report", f"{tmp_path}/full.html")
    code, out, err = demo(capsys, *options)
    assert code == 2 and "same bits" in out and "report:" not in out
    assert err.endswith("full.html: No space left on device\n") and err.count("\n") == 1


# --------------------------------------------------------------------------- the error surface

NODE = """
const fs = require("fs"), vm = require("vm");
const page = fs.readFileSync(process.argv[1], "utf8");
const held = /<script type="application.json" id="surface-data">(.*?)<.script>/s;
const data = JSON.parse(held.exec(page)[1]);
const code = [...page.matchAll(/<script>(.*?)<.script>/gs)].map((found) => found[1])
  .find((text) => text.includes("const surface"));
const box = { module: {}, atob, Uint8Array, Float32Array, DataView };
vm.runInNewContext(code, box);
const surface = box.module.exports, numbers = surface.numbers(data.paths), found = [];
for (const [name, start, rate, momentum, steps] of JSON.parse(process.argv[2])) {
  const points = surface.path(data, numbers, name, start, rate, momentum, steps);
  found.push({
    points, loss: surface.height(...points[points.length - 1]),
    place: surface.place(data, points, steps),
  });
}
console.log(JSON.stringify({ found, rules: data.rules.map((one) => one.name),
  apart: surface.apart([5, 5, 90, 99, 99], 10, 0, 100) }));
"""


@pytest.mark.slow
def test_the_pages_numbers_are_optkerns(made):
    """The page's own code, run by node: each point has the bits that the optimizer gives."""
    if shutil.which("node") is None:
        pytest.skip("no node: apt install nodejs")
    asked = [
        (name, start, rate, momentum, steps)
        for name in ("sgd", "adagrad", "adam")
        for start in range(len(surface.STARTING_POINTS))
        for rate in range(len(surface.RATES))
        for momentum in (0, 3, 4)
        for steps in (1, 60)
    ]
    done = subprocess.run(
        ["node", "-e", NODE, str(made.path), json.dumps(asked)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["rules"] == ["sgd", "adagrad", "adam"]
    assert answer["apart"] == pytest.approx([5, 15, 80, 90, 100])
    places = set()
    for (name, start, rate, momentum, steps), got in zip(asked, answer["found"]):
        expected = by_hand(name, start, rate, momentum, steps)
        assert np.array(got["points"]).astype(np.float32).tobytes() == expected.tobytes()
        x, y = map(float, expected[-1])
        assert got["loss"] == pytest.approx((x * x - 1) ** 2 / 2 - x / 4 + y * y, rel=1e-12)
        gone = len(expected) <= steps or abs(x) + abs(y) > 100
        at_rest = [k for k, at in surface.rests().items() if np.hypot(x - at, y) < 0.1]
        if gone or at_rest:
            assert got["place"] == ("diverged" if gone else f"at the {at_rest[0]}")
        places.add(got["place"])
    assert {"diverged", "at the shallow minimum", "at the deep minimum", "on its way"} <= places


def by_hand(name, start, rate, momentum, steps):
    """The points of an optimizer that steps as the page says it did."""
    p = np.array(list(surface.STARTING_POINTS.values())[start], np.float32)
    mu = surface.MOMENTA[momentum]
    own = {"sgd": {"momentum": mu}, "adam": {"betas": (mu, 0.999)}, "adagrad": {}}[name]
    opt = getattr(optkern, RULES[name].class_name)(p, lr=surface.RATES[rate], **own)
    points = [p.copy()]
    for _ in range(steps):
        x, y = map(float, p)
        with np.errstate(all="ignore"):
            g = np.array([2 * x * (x * x - 1) - 0.25, 2 * y]).astype(np.float32)
        opt.step(g)
        if not np.isfinite(p).all():
            break
        points.append(p.copy())
    return np.array(points)


def test_the_slope_is_that_of_the_height():
    for point in ((-1.75, 0.6), (0.3, -1.1), (1.06, 0.0)):
        p = np.array(point)
        for k in range(2):
            step = np.eye(2)[k] * 1e-6
            rise = surface.height(*(p + step)) - surface.height(*(p - step))
            assert surface.slope(p)[k] == pytest.approx(rise / 2e-6, abs=1e-7)
    low, ridge, deep = surface.rests().values()
    assert surface.height(deep, 0) < surface.height(low, 0) < surface.height(ridge, 0)
    assert all(abs(surface.slope(np.array([x, 0.0]))[0]) < 1e-12 for x in (low, ridge, deep))


# --------------------------------------------------------------------------- in a browser

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt install chromium")
KEYS = {"ArrowRight": 39, "Home": 36, "End": 35, "Enter": 13, " ": 32}


def rendered(made, folder, width: int = 1280, dark: bool = False, script: bool = True) -> Page:
    """Open the report in a browser."""
    view = Page(folder, width, 800, dark)
    view.call("Emulation.setScriptExecutionDisabled", value=not script)
    view.open(made.path.as_uri())
    return view


def click(view: Page, selector: str) -> None:
    """Click with the mouse, in the middle of what a selector finds."""
    found = f"document.querySelector({selector!r})"
    view.ask(f"{found}.scrollIntoView({{block: 'center', inline: 'center', behavior: 'instant'}})")
    x, y = view.ask(
        f"(r => [r.x + r.width / 2, r.y + r.height / 2])({found}.getBoundingClientRect())"
    )
    for kind in ("mousePressed", "mouseReleased"):
        place = {"x": x, "y": y, "button": "left", "clickCount": 1}
        view.call("Input.dispatchMouseEvent", type=kind, **place)


def press(view: Page, selector: str, key: str) -> None:
    """Press a key on what a selector finds."""
    view.ask(f"document.querySelector({selector!r}).focus()")
    text = {"Enter": "\r", " ": " "}.get(key, "")
    for kind in ("keyDown", "keyUp"):
        code = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key], "text": text}
        view.call("Input.dispatchKeyEvent", type=kind, **code)


def column(view: Page, k: int) -> list[str]:
    """Return what the training table shows in a column."""
    rows = f"[...document.querySelector('table.sortable').tBodies[0].rows].map(r => r.cells[{k}]"
    return view.ask(rows + ".textContent)")


def ends(view: Page) -> list[list[str]]:
    """Return the table below the error surface."""
    rows = "[...document.querySelectorAll('#surface tbody tr')]"
    return view.ask(f"{rows}.map(row => [...row.cells].map(cell => cell.textContent))")


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(made, tmp_path, width, dark):
    with rendered(made, tmp_path, width, dark) as view:
        root = "document.documentElement"
        assert view.ask(f"{root}.scrollWidth === {root}.clientWidth")  # tables scroll alone
        paper = "getComputedStyle(document.body).backgroundColor"
        before = view.ask(paper)
        assert before == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")
        click(view, "#theme")
        assert view.ask(paper) == ("rgb(255, 255, 255)" if dark else "rgb(20, 23, 27)")
        press(view, "#theme", "Enter")
        assert view.ask(paper) == before
        loss = "table.sortable th:nth-child(3) button"
        click(view, loss)
        first = [float(x) for x in column(view, 2)]
        press(view, loss, " ")
        second = [float(x) for x in column(view, 2)]
        assert first == sorted(first) == second[::-1] and len(first) == len(NAMES)
        assert view.ask("document.querySelectorAll('th[aria-sort=descending]').length") == 1
        click(view, "table.sortable th:first-child button")
        assert column(view, 0) == sorted(NAMES)
        assert view.errors() == []


@pytest.mark.slow
@needs_chromium
def test_the_surface_in_a_browser(made, tmp_path):
    """Sliders by keys and clicks, ticks by clicks: line and table are those of what was chosen."""
    with rendered(made, tmp_path, 390) as view:
        drawn = "document.querySelectorAll('#surface .paths polyline').length"
        assert view.ask(drawn) == 3
        before = ends(view)
        press(view, "#lr", "ArrowRight")
        assert view.ask("document.querySelector('#lr').getAttribute('aria-valuetext')") == "0.1"
        assert ends(view) != before
        press(view, "#momentum", "Home")
        rule, x, y, _, where = ends(view)[0]
        last = by_hand("sgd", 0, 3, 0, 60)[-1]
        assert (rule, float(x), float(y)) == ("sgd", *(round(float(v), 3) for v in last))
        assert where == "at the shallow minimum"
        click(view, "#steps")  # half way along the slider
        steps = int(view.ask("document.querySelector('#steps').value"))
        assert 25 < steps < 36
        assert float(ends(view)[0][1]) == round(float(by_hand("sgd", 0, 3, 0, steps)[-1][0]), 3)
        press(view, "#steps", "End")
        click(view, "[name=rule][value=adagrad]")
        assert (view.ask(drawn), [row[0] for row in ends(view)]) == (2, ["sgd", "adam"])
        click(view, "[name=start][value='1']")
        assert float(ends(view)[0][1]) == round(float(by_hand("sgd", 1, 3, 0, 60)[-1][0]), 3)
        assert view.errors() == []


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_without_javascript_the_picture_stands(made, tmp_path, width, dark):
    """All of it: the table of ends is the one that the page's own code writes."""
    with rendered(made, tmp_path / "with", width, dark) as view:
        expected = ends(view)
    with rendered(made, tmp_path / "without", width, dark, script=False) as view:
        assert view.ask("document.querySelectorAll('#surface .paths polyline').length") == 3
        seen = "getComputedStyle(document.querySelector('{}')).display !== 'none'"
        assert view.ask(seen.format("#surface .still"))
        assert not view.ask(seen.format("#surface form")) and not view.ask(seen.format("#theme"))
        assert [row[0] for row in expected] == ["sgd", "adagrad", "adam"]
        assert ends(view) == expected
        assert column(view, 0) == NAMES
        root = "document.documentElement"
        assert view.ask(f"{root}.scrollWidth === {root}.clientWidth")
        paper = view.ask("getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")


def test_a_path_ends_somewhere():
    points = np.zeros((surface.STEPS + 1, 2), np.float32)
    for end, said in (
        ((1.06, 0.0), "at the deep minimum"), ((0.0, 1.0), "on its way"),
        ((3.0, 0.0), "outside the picture"), ((90.0, -20.0), "diverged"),
        ((np.nan, np.nan), "diverged"),
    ):  # fmt: skip
        points[-1] = end
        assert surface.place_of(points) == said
