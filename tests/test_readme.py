"""The code of README and of docs/ runs as it stands, their links lead somewhere, and what they show
is what comes."""

import re
from pathlib import Path

import numpy as np
import pytest

import optkern
from optkern.optimizers import CLASSES

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FOUND = (path for path in DOCS.rglob("*.md") if "generated" not in path.parts)
PAGES = [ROOT / "README.md", *sorted(FOUND)]
TEXT = {
    str(path.relative_to(DOCS) if path.is_relative_to(DOCS) else path.name): path.read_text()
    for path in PAGES
}
SITE = "index.md"  # the site's first page, of directives that GitHub does not know
BLOCKS = [
    (name, block)
    for name, text in TEXT.items()
    for block in re.findall(r"```python\n(.*?)```", text, re.S)
]


def host_of(block):
    """The trainer that a block needs, if any."""
    found = re.search(r"optkern\.integrations\.(\w+)", block)
    return found[1] if found else ""


def the_block(word):
    """The one block in which a word stands, and that needs no trainer."""
    (found,) = [block for _, block in BLOCKS if word in block and not host_of(block)]
    return found


def test_every_block_of_python_is_run():
    """A fragment that needs names from elsewhere ends in NameError in the reader's hands."""
    kinds = [
        kind
        for page, text in TEXT.items()
        for kind in re.findall(r"```([^\n]*)\n.*?```", text, re.S)
        if page != SITE
    ]
    assert kinds.count("python") == len(BLOCKS) and set(kinds) <= {"python", "sh", "c", "cython"}
    assert {host_of(block) for _, block in BLOCKS} >= {"", "sklearn", "torch", "thinc"}


def test_readme_is_short():
    assert len(TEXT["README.md"].splitlines()) < 130


ONE_SCRIPT = "tutorial.md"  # whose blocks are parts of one script


def pasted():
    """The blocks; those whose trainer takes seconds to import are run with the slow tests."""
    whole = "".join(block for page, block in BLOCKS if page == ONE_SCRIPT)
    others = [(page, block) for page, block in BLOCKS if page != ONE_SCRIPT]
    for number, (page, block) in enumerate([(ONE_SCRIPT, whole), *others]):
        host = host_of(block)
        name = f"{page}-{number}-{host}"
        yield pytest.param(block, id=name, marks=[pytest.mark.slow] if host else [])


@pytest.mark.parametrize("block", list(pasted()))
def test_code_runs_as_pasted(block, run_python, tmp_path, monkeypatch, recwarn):
    """With nothing before it; what imports a trainer in a fresh interpreter."""
    if host := host_of(block):
        pytest.importorskip(host, reason=f"needs {host}: make test EXTRAS={host}")
        done = run_python(block)
        assert (done.returncode, done.stderr) == (0, "")
    else:
        monkeypatch.chdir(tmp_path)
        exec(compile(block, "block", "exec"), {"__name__": "__main__"})
        assert not recwarn.list


def heading(text):
    """What a heading is called in an address."""
    return re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    for address in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        name, _, part = address.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.is_relative_to(ROOT.resolve()) and there.exists(), address
        if part:
            assert part in map(heading, re.findall(r"^#+ (.*)$", there.read_text(), re.M)), address


def test_readme_leads_to_every_page():
    """By links that GitHub shows, from page to page; the site's own first page is none of these."""
    led, seen = {PAGES[0]}, set()
    while led - seen:
        page = (led - seen).pop()
        seen.add(page)
        links = re.findall(r"\]\(([^)#:]+\.md)[)#]", page.read_text())
        led |= {(page.parent / link).resolve() for link in links}
    assert {str(page) for page in PAGES} - {str(page) for page in led} == {str(DOCS / SITE)}


def test_files_that_are_named_are_there():
    for page, text in TEXT.items():
        for name in re.findall(r"(?<![\w/.])(?:bench|tests|examples|docs)/[\w/.]+\w", text):
            assert (ROOT / name).exists(), f"{page}: {name}"


def test_the_first_code_takes_a_step():
    names = {}
    exec(the_block("optkern.Adam(params, lr=1e-3)"), names)
    assert names["opt"].steps == 1
    assert not np.array_equal(names["params"][0], np.ones((3, 2)))


def test_the_saddle_says_what_readme_shows(capsys):
    block = the_block("saddle: lambda_min")
    assert block in TEXT["README.md"]
    names = {}
    exec(block, names)
    shown = "".join(
        line.split("#")[1].strip() + " " for line in block.splitlines() if "  # " in line
    )
    said = capsys.readouterr().out
    assert names["verdict"].kind == "saddle" and said.splitlines()[0] in shown
    assert names["loss"](names["w"]) < 0.01


def test_the_monitor_says_what_its_page_shows(capsys):
    exec(the_block("lower it to 0.08"), {})
    cause, fit = capsys.readouterr().out.splitlines()
    assert cause.startswith("oscillating: ") and cause.endswith("; lower it to 0.08")
    assert fit.startswith("overfitting: ") and "; try: " in fit


@pytest.mark.parametrize("rule", optkern.RULES, ids=lambda rule: rule.name)
def test_table_has_the_rule(rule):
    name = CLASSES[rule.name].__name__
    (row,) = [
        line
        for line in TEXT["rules.md"].partition("<!-- end -->")[0].splitlines()
        if line.startswith("|") and f"`{name}`" in line
    ]
    assert f"`{rule.name}`" in row
    for slot in rule.state:
        assert f"`{slot}`" in row
