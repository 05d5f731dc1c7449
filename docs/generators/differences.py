"""What a rule's name means in torch, optax and Keras, where that is not what it means here."""

from __future__ import annotations

from optkern.rules import Rule


def differences(rule: Rule, library: str) -> str:
    """Say in a line what differs."""
    return ""
