"""Shares in sentences: all is said of all alone, and none of none."""

import re
from pathlib import Path

import numpy as np
import pytest

import optkern
from optkern.curvature.figures import percent, percentage, share_of

ROOT = Path(optkern.__file__).parent


@pytest.mark.parametrize("decimals", [0, 1])
@pytest.mark.parametrize("count", [3, 7, 200, 1539, 10**6, 2**40])
def test_all_and_none_are_said_of_nothing_else(count, decimals):
    for part in {0, 1, 2, count // 2, count - count // 500, count - 2, count - 1, count}:
        said = percentage(part / count, decimals)
        assert (float(said.removesuffix(" %")) == 100) == (part == count), said
        assert (float(said.removesuffix(" %")) == 0) == (part == 0), said
        assert float(said.removesuffix(" %")) == pytest.approx(100 * part / count, rel=0.08)


def test_what_was_said_as_all():
    assert percentage(1536 / 1539) == "99.8 %" and percentage(1539 / 1539) == "100 %"
    assert percentage(1.004) == "100.4 %" and percentage(np.nextafter(1, 2)) != "100 %"
    assert percentage(0.0) == "0 %" and percentage(4e-4) == "0.04 %" and percentage(0.52) == "52 %"
    assert percentage(-0.3) == "-30 %" and percentage(2.5) == "250 %" and "e+" in percentage(1e7)
    assert percentage(np.inf) == "inf %" and percentage(np.nan) == "nan %"
    assert percent(0.999) == "99.9 %" and percent(0.95) == "95 %"
    assert float(percent(np.nextafter(1, 0)).removesuffix(" %")) < 100
    assert share_of(0.5, 0.0) == "the loss is 0" and share_of(0.4, 0.5) == "80 % of the loss"


def test_sentences_take_their_shares_from_here():
    """A format of `%` in an f-string rounds on its own; the benchmark's tables are of timings."""
    own = re.compile(r":\.?\d*%\}")
    files = [p for p in ROOT.rglob("*.py") if not p.is_relative_to(ROOT / "bench")]
    found = {p.relative_to(ROOT).as_posix(): own.findall(p.read_text()) for p in files}
    found = {name: hits for name, hits in found.items() if hits}
    assert found == {"demo/screen.py": [":.0%}"] * 2}, found  # shares of time, never all of it
