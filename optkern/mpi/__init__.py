"""Several processes train one set of parameters: each keeps a share of the optimizer's state.

>>> import numpy as np, optkern.mpi
>>> params = {"W": np.ones((3, 2)), "b": np.zeros(2)}
>>> opt = optkern.mpi.Sharded(optkern.AdamW, params, comm=optkern.mpi.Alone(), lr=0.1)

Without ``comm`` the ranks are those of ``mpiexec -n 4 python train.py``, by the extra ``mpi``.
sharded (sums: norms of all) <- memory (buffers, messages) <- layout (which elements are whose);
`optkern.ranks` joins and compares the processes.
"""

from ..kernels.names import spell_names
from ..ranks import Alone, Communicator, RankError, averaged
from .report import Report
from .sharded import Sharded

__all__ = ["Alone", "Communicator", "RankError", "Report", "Sharded", "averaged"]
for _name in __all__:
    globals()[_name].__module__ = __name__
del _name

spell_names(__name__)
