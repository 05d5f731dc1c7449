"""The papers of the rules: read from their docstrings, which end with them, into BibTeX.

``Kingma, Ba, "Adam: a method for stochastic optimization", 2015, algorithm 1; amsgrad: Reddi, ...``
is how a docstring names papers. A rule without one fails the build.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from optkern.rules import MATRIX_RULES, RULES, Rule

from .writing import Folder

# Authors, the title in quotes, the year, and where in the paper.
PAPER = re.compile(
    r'(?P<authors>[A-Z][^".;]*?)(?P<others> et al\.)?, "(?P<title>[^"]+)", '
    r"(?P<year>\d{4})(?P<where>[^;\n]*(?:\n(?!\n)[^;\n]*)*)"
)
ALL_RULES: tuple[Rule, ...] = (*RULES, *MATRIX_RULES)


class Paper(NamedTuple):
    """Hold a paper as a docstring names it."""

    key: str
    authors: str
    title: str
    year: str
    where: str
    note: str


def split_document(rule: Rule) -> tuple[str, str]:
    """Return what a rule's docstring says, and its last paragraphs, which name the papers."""
    paragraphs = rule.document.split("\n\n")
    first = next((k for k, text in enumerate(paragraphs) if PAPER.search(text)), len(paragraphs))
    return "\n\n".join(paragraphs[:first]), "\n\n".join(paragraphs[first:])


def papers_of(rule: Rule) -> list[Paper]:
    """List the papers of a rule; ValueError where there is none."""
    found = []
    _, cited = split_document(rule)
    for match in PAPER.finditer(cited):
        flat = {name: " ".join((text or "").split()) for name, text in match.groupdict().items()}
        note, _, authors = flat["authors"].replace(" & ", ", ").rpartition(": ")
        first = re.sub(r"\W", "", authors.split(",")[0])
        word = re.search(r"\w+", flat["title"])[0]
        people = " and ".join(authors.split(", ")) + (" and others" if flat["others"] else "")
        key = f"{first}{flat['year']}{word}".lower()
        where = flat["where"].strip(" ,.").removeprefix("and ")
        found.append(Paper(key, people, flat["title"], flat["year"], where, note))
    if not found:
        raise ValueError(f"the docstring of the rule {rule.name} names no paper as PAPER reads it")
    return found


def entry(paper: Paper) -> str:
    """Write a paper as BibTeX."""
    return (
        f"@misc{{{paper.key},\n  author = {{{paper.authors}}},\n"
        f"  title = {{{{{paper.title}}}}},\n  year = {{{paper.year}}}\n}}\n"
    )


def write(folder: Folder) -> None:
    """Write the bibliography and its page."""
    entries = {paper.key: entry(paper) for rule in ALL_RULES for paper in papers_of(rule)}
    folder.write("papers.bib", "\n".join(entries[key] for key in sorted(entries)))
    folder.write("papers.rst", "Papers\n======\n\n.. bibliography::\n   :all:\n")
