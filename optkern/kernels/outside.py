"""What a user's function raises where an argument is outside of its domain."""

from __future__ import annotations

import sys


def is_outside(error: BaseException) -> bool:
    """Tell whether an exception may say that the function knows no value there.

    NumPy's LinAlgError, of a matrix that is not positive definite, is a ValueError; torch's is not.
    """
    torch = sys.modules.get("torch")
    own = getattr(getattr(torch, "linalg", None), "LinAlgError", ValueError)
    return isinstance(error, (ArithmeticError, ValueError, own))
