"""What `name` in a docstring is on the site: a link where optkern has it, code where not.

A name that begins with ``optkern.`` must be there: as a link to nothing it fails the build.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.roles import XRefRole


class Name(XRefRole):
    """Link to what a name is of the module or class that it stands in, or of optkern."""

    def process_link(
        self, env: Any, refnode: Any, has_explicit_title: bool, title: str, target: str
    ) -> tuple[str, str]:
        """Note where the name stands, and whether it may be none of optkern's."""
        refnode["py:module"] = env.ref_context.get("py:module")
        refnode["py:class"] = env.ref_context.get("py:class")
        refnode["may_be_plain"] = not target.startswith("optkern.")
        return title, target


def leave_plain(app: Any, env: Any, node: Any, shown: nodes.Element) -> nodes.Element | None:
    """Leave a name that is none of optkern's as it is written."""
    return shown if node.get("may_be_plain") else None


def setup(app: Any) -> None:
    """Add the role."""
    app.add_role_to_domain("py", "name", Name(innernodeclass=nodes.literal))
    app.connect("missing-reference", leave_plain)
