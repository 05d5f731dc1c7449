"""Where a decision turns: bisected, so that a threshold is tried from both sides at once."""

import math


def turn(decided, no, yes, times=60):
    """The number at which a decision turns, not made at one number and made at the other.

    Bisected in the logarithm where both are positive. Fails where it is otherwise at the ends.
    """
    assert not decided(no), f"it is decided at {no}"
    assert decided(yes), f"it is not decided at {yes}"
    logs = no > 0 and yes > 0
    for _ in range(times):
        middle = math.sqrt(no * yes) if logs else 0.5 * (no + yes)
        if not min(no, yes) < middle < max(no, yes):
            break
        if decided(middle):
            yes = middle
        else:
            no = middle
    return 0.5 * (no + yes)
