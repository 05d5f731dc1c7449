"""A pytest plugin that notes which lines of some files each test executes, and how long it takes.

``EXECUTED_FILES`` names the files (joined by os.pathsep), ``EXECUTED_OUT`` where notes go: JSON,
test -> [seconds, {file: [lines]}]. Only frames of those files are traced, so that it costs little.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

FILES = {str(Path(name).resolve()) for name in os.environ["EXECUTED_FILES"].split(os.pathsep)}
notes: dict[str, tuple[float, dict[str, list[int]]]] = {}


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Any:
    lines: dict[str, set[int]] = {}

    def on_line(frame: FrameType, event: str, arg: Any) -> Any:
        lines[frame.f_code.co_filename].add(frame.f_lineno)
        return on_line

    def on_call(frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename not in FILES:
            return None
        lines.setdefault(frame.f_code.co_filename, set()).add(frame.f_lineno)
        return on_line

    begin = time.perf_counter()
    sys.settrace(on_call)
    yield
    sys.settrace(None)
    seconds = time.perf_counter() - begin
    notes[item.nodeid] = seconds, {name: sorted(found) for name, found in lines.items()}


def pytest_sessionfinish() -> None:
    Path(os.environ["EXECUTED_OUT"]).write_text(json.dumps(notes))
