"""Types of the compiled module; its docstrings say the rest."""

from typing import Any

import numpy as np

Vector = np.ndarray

REORTHOGONALIZE_BELOW: float
MOST_TURNS: int
SUM_BLOCK: int
SUM_LANES: int

def blocks(n: int) -> int: ...
def fresh_direction(basis: list[Vector], k: int, num_threads: int = 1) -> Vector: ...
def dot(x: Vector, y: Vector, num_threads: int = 1) -> float: ...
def project(rows: list[Vector], x: Vector, num_threads: int = 1) -> Vector: ...
def subtract(
    out: Vector,
    x: Vector,
    rows: list[Vector],
    c: Vector | list[float],
    y: Vector | None = None,
    num_threads: int = 1,
) -> float: ...
def combine(
    rows: list[Vector], weights: Vector | list[float], n: int, num_threads: int = 1
) -> Vector: ...
def scale(out: Vector, x: Vector, a: float, num_threads: int = 1) -> None: ...

class Recurrence:
    k: int
    noise_count: int
    noise_square: float
    removed_square: float
    alpha: list[float]
    beta: list[float]
    basis: Any
    vector: Vector
    def __init__(
        self,
        start: Vector,
        basis_limit: int,
        num_threads: int = 0,
        copy: bool = True,
        shares: Any = None,
    ) -> None: ...
    def advance(self, product: Vector) -> None: ...

class Tridiagonal:
    k: int
    sign: int
    def __init__(
        self, alpha: list[float] | Vector, beta: list[float] | Vector, sign: int = 1
    ) -> None: ...
    def norm(self) -> float: ...
    def lowest(self) -> float: ...
    def count_below(self, t: float) -> int: ...
    def lower_bound(self, gamma: float, floor: float, noise: float) -> float: ...
    def vector(self, theta: float) -> Vector: ...
