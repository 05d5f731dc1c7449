"""Import torch, of a version that serves."""

from __future__ import annotations

from typing import Any

from .._host import host

MINIMUM = "2.6"  # from its documentation; what the tests have run with is 2.13.0

torch: Any = host("torch", "torch", MINIMUM)
