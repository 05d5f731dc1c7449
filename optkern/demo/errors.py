"""What a user can put right."""

from __future__ import annotations


class DemoError(Exception):
    """Say that a demo cannot run as asked, in one line with the reason."""
