"""One optkern a process: compiled modules begin once, and go with the Python modules of that time.

Tools that drop a package from `sys.modules` to import it afresh would get old compiled modules
beside new classes, which know nothing of each other. So the first import's modules come back.
"""

from __future__ import annotations

import sys
from types import ModuleType

# A compiled module is the same object whenever it is imported: what it holds outlives sys.modules.
from ._kept import modules

for _name, _module in modules.items():
    sys.modules.setdefault(_name, _module)


def keep(package: ModuleType) -> None:
    """Keep the modules imported by now; all that lie in the package are its attributes."""
    own = f"{package.__name__}."
    kept = {name: module for name, module in sys.modules.items() if name.startswith(own)}
    for name, module in kept.items():
        if "." not in name.removeprefix(own):
            setattr(package, name.removeprefix(own), module)
    modules.update(kept)
