"""The optimizers that `optkern bench --peers` measures optkern against, a small class each.

1. A peer runs in a worker process with its library's peers alone: whoever loads an OpenMP runtime
   first sets its wait policy for all who share it, and optkern's is passive. In optkern's process
   torch and numba would wake sleeping threads where their own users' spin: up to 20 us a call.
2. So this folder is a program too, and imports optkern only where a peer needs nothing of OpenMP.
3. All workers map one file of memory: p, g and state are the same pages for every side. A library
   that cannot work on given arrays has copies, and `publish` brings them back for the comparison.
4. Each peer is written as a person who knows the library and wants speed would write it. Where its
   formula follows another convention, `rules` names the option of optkern that means the same, and
   parity is checked against the reference with that option.
"""

from __future__ import annotations

from .own import LimitAll, LimitOne, Optkern
from .peer import Peer
from .trainers import ScikitLearn, Thinc
from .with_jax import Optax
from .with_numba import Numba, NumbaSerial
from .with_numpy import Blocked, Natural
from .with_torch import TorchClass, TorchRaw

SIDES: dict[str, type[Peer]] = {
    cls.name: cls
    for cls in (
        Optkern, LimitOne, LimitAll, Natural, Blocked, Numba, NumbaSerial, TorchClass, TorchRaw,
        Thinc, ScikitLearn, Optax,
    )
}  # fmt: skip


OWN = ("optkern",)
LIMIT_SIDES = ("limit, 1 thread", "limit, all threads")
