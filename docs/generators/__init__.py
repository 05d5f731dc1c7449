"""What the site is made from beside its own pages: an extension of Sphinx.

It imports its modules where they are used: the tests read some of them without Sphinx.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any


def generate(app: Any, config: Any) -> None:
    """Write what other extensions read; a page that has not changed is not written anew."""
    from . import api, links, papers, report, rules
    from .writing import Folder

    folder = Folder(Path(app.srcdir) / "generated")
    papers.write(folder)
    rules.write(folder)
    api.write(folder)
    links.write(folder)
    report.write(folder)
    folder.sweep("rules", "api")


def setup(app: Any) -> dict[str, Any]:
    """Set up the extension."""
    from . import api, links, names

    # Pages are read anew where what they are turned by has changed.
    sources = sorted(Path(__file__).parent.glob("*.py"))
    version = zlib.crc32(b"".join(path.read_bytes() for path in sources))
    app.add_config_value("generators_version", version, "env")
    app.connect("config-inited", generate)
    app.connect("env-check-consistency", api.refuse_missing)
    names.setup(app)
    app.connect("source-read", links.lead_out)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
