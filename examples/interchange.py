"""Parameters that live in other libraries' memory
===============================================

No copy, no import.

    python examples/interchange.py

Anything that exports a writable buffer, `__array_interface__` or DLPack on CPU is trained where it
is; gradients may be read-only.
"""

import array
import mmap

import numpy as np

import optkern

# The standard library's arrays.
weights = array.array("d", [1.0, 2.0, 3.0])
opt = optkern.Adam([weights], lr=0.1)
opt.step([array.array("d", [1.0, 1.0, -1.0])])
print("array.array:", [round(w, 3) for w in weights])

# Memory shared between processes, or a file: here without a name.
shared = memoryview(mmap.mmap(-1, 4 * 1000)).cast("f")
opt = optkern.SGD({"table": shared}, lr=0.5)
opt.step({"table": np.ones(1000, np.float32)})
print("mmap:", shared[0], shared[999])

# Immutable memory is refused, with the way round.
try:
    optkern.SGD([memoryview(bytes(16)).cast("d")])
except ValueError as error:
    print(error)
