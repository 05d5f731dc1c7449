"""Types of the compiled module; its docstrings say the rest."""

import numpy as np

Vector = np.ndarray

def two_loop(
    out: Vector,
    g: Vector,
    s: list[Vector],
    y: list[Vector],
    rho: list[float],
    gamma: float,
    num_threads: int = 0,
) -> float: ...
