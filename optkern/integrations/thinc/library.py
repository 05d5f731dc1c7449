"""The parts of thinc that the adapter takes, from a version that serves."""

from __future__ import annotations

from typing import Any

from .._host import host

MINIMUM = "8.3"

optimizers: Any = host("thinc.optimizers", "thinc", MINIMUM)
api: Any = host("thinc.api", "thinc", MINIMUM)
backends: Any = host("thinc.backends", "thinc", MINIMUM)
# The class of schedules since thinc 9; before, they are generators.
Schedule: Any = getattr(host("thinc.schedules", "thinc", MINIMUM), "Schedule", None)
