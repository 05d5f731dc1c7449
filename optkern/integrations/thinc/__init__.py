"""thinc and spaCy: their optimizers with every rule of optkern, and an Ops whose Adam is optkern's.

``from optkern.integrations.thinc import Adam`` in the place of ``from thinc.api import Adam`` is
the whole change; in a configuration it is ``@optimizers = "optkern.Adam.v1"``.

spaCy asks for the class of an optimizer, so the one here derives from thinc's, and to import this
package is to import thinc. library (thinc's own parts) <- arguments, binding <- optimizer <- makers
(a function for each rule, registered) | ops | losses <- model_loss.
"""

from __future__ import annotations

from ...kernels.names import spell_names
from .._host import said_of_whole
from .arguments import call_schedule as _scheduled  # noqa: F401  (pickles of before name it)
from .library import MINIMUM as MINIMUM
from .makers import MAKERS
from .model_loss import objective as objective
from .ops import Ops as Ops
from .ops import accelerate as accelerate
from .optimizer import Key as Key
from .optimizer import Optimizer as Optimizer

__all__ = ["Ops", "Optimizer", "accelerate", "objective", *MAKERS]

# Pickles name the package, before it had modules and since.
Optimizer.__module__ = Ops.__module__ = __name__
globals().update(MAKERS)  # SGD, Adam, ...: one for each rule


def _elsewhere(name: str) -> str:
    if name != "Mixed":
        return said_of_whole(name)
    return (
        "thinc gives an optimizer one array at a time, of which it is told no group: optkern.Mixed "
        "steps arrays in a loop of your own"
    )


spell_names(__name__, elsewhere=_elsewhere)
