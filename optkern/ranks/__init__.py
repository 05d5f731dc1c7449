"""Several processes as one: what joins them, and how they agree before they act.

protocol (five operations) <- mpi, gloo (who has them) <- joining; agreement (errors and ends that
all ranks know) <- averaging. `optkern.mpi` and `optkern.curvature` use this; it knows neither
optimizers nor operators.
"""

from ..kernels.names import spell_names
from .agreement import Agreement, agreement_of
from .averaging import agree_to_begin, agreeing, averaged
from .joining import as_communicator, joined
from .protocol import TIMEOUT, Alone, Communicator, Pending, RankError

__all__ = [
    "TIMEOUT",
    "Agreement",
    "Alone",
    "Communicator",
    "Pending",
    "RankError",
    "agree_to_begin",
    "agreeing",
    "agreement_of",
    "as_communicator",
    "averaged",
    "joined",
]

spell_names(__name__)
