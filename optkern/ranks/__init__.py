"""Several processes as one: what joins them, and how they agree before they act.

protocol (five operations) <- mpi, gloo (who has them) <- joining; agreement (errors and ends that
all ranks know).
`optkern.mpi` and `optkern.curvature` use this; it knows neither optimizers nor operators.
"""

from ..kernels.names import spell_names
from .agreement import Agreement as Agreement
from .agreement import agreement_of as agreement_of
from .joining import as_communicator as as_communicator
from .protocol import TIMEOUT as TIMEOUT
from .protocol import Alone as Alone
from .protocol import Communicator as Communicator
from .protocol import Pending as Pending
from .protocol import RankError as RankError

spell_names(__name__)
