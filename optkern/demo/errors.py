"""What a user can put right."""

from __future__ import annotations


class DemoError(Exception):
    """A demo that cannot run as asked; the message is one line that says why."""
