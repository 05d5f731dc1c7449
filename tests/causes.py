"""The causes that docs/diagnosis.md knows, and the words by which diagnose names each."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "diagnosis.md"
LEAF = re.compile(r"\[[^\]]+\]\(#([^)]+)\)")


def address(heading: str) -> str:
    """What a heading is called in an address, on GitHub and on the site."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@cache
def sections() -> dict[str, str]:
    """The page's sections by their addresses, the tree's left out."""
    found = re.split(r"^#{2,3} (.*)$", PAGE.read_text(), flags=re.M)
    parts = dict(zip(map(address, found[1::2]), found[2::2]))
    del parts["the-tree"]
    return parts


def leaves() -> list[str]:
    """The addresses that the tree's leaves lead to."""
    tree = PAGE.read_text().partition("\n## The tree\n")[2].partition("\n## ")[0]
    return LEAF.findall(tree)


def words(section: str) -> list[str]:
    """What a section quotes of diagnose's sentences: `Says` and code, ... where figures stand."""
    said = re.search(r"^Says (.*?)\n\n", section, re.M | re.S)
    return re.findall(r"`([^`]+)`", said[1]) if said else []


@cache
def patterns() -> list[tuple[str, re.Pattern[str]]]:
    """Causes, and what their words match."""
    return [
        (name, re.compile(".*".join(map(re.escape, w.split("…")))))
        for name, section in sections().items()
        for w in words(section)
    ]


def causes_of(sentence: str) -> list[str]:
    """The causes whose words stand in a sentence."""
    return [name for name, pattern in patterns() if pattern.search(sentence)]
