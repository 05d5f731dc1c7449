"""Types of the compiled module; its docstrings say the rest."""

from array import array
from typing import Any

def real(name: str, value: Any) -> float: ...

class Recorder:
    _losses: array[float]
    _next: int
    _given: Any
    _known: Any
    def record(
        self, loss: float, grads: Any = None, opt: Any = None, val_loss: float | None = None
    ) -> None: ...
