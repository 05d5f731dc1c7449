"""Where a decision turns: bisected, so that a threshold is tried from both sides at once."""

import math


def turn(decided, low, high, times=60):
    """The number between low and high beyond which a decision is another one.

    Bisected in the logarithm where both are positive. Fails where it is the same at both ends.
    """
    first = bool(decided(low))
    assert bool(decided(high)) != first, f"it is {first} at {low} as at {high}"
    logs = low > 0 and high > 0
    for _ in range(times):
        middle = math.sqrt(low * high) if logs else 0.5 * (low + high)
        if not min(low, high) < middle < max(low, high):
            break
        if bool(decided(middle)) == first:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)
