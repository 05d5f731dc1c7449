"""The optimizers: one class per rule over any structure of parameters.

classes (one a rule) | mixed (several; routing makes its groups) -> optimizer (construction,
attributes) and stepping -> state (views of it) -> session (plan, state, counts and values, and each
change of them), whose parts are planning (the plan in use) | storage (arrays) | bound (where the
parameters are) | arguments. Other packages use the `Session` of an optimizer, and no more of it.
"""

from ..kernels.names import spell_names
from .bound import not_trained as not_trained
from .bound import renewed as renewed
from .change import Change as Change
from .change import Counts as Counts
from .classes import MADE
from .classes import MATRIX_CLASSES as MATRIX_CLASSES
from .groups import ParamGroup as ParamGroup
from .groups import name_of_mode as name_of_mode
from .groups import no_attribute as no_attribute
from .loading import refuse_impossible as refuse_impossible
from .mixed import MIXED as MIXED
from .mixed import Mixed as Mixed
from .optimizer import CLASSES as CLASSES
from .optimizer import Optimizer as Optimizer
from .optimizer import no_optimizer as no_optimizer
from .optimizer import unwrapped as unwrapped
from .session import Session as Session
from .words import OF_WEIGHTS as OF_WEIGHTS

__all__ = ["Mixed", "Optimizer", *MADE]
globals().update(MADE)  # SGD, Adam, ...: one for each file of optkern.rules

spell_names(__name__, lambda: [*MADE, "Mixed", "Optimizer"])
