"""Shares in sentences: what is not all of it is never rounded to 100 %, nor what is some to 0 %."""

from __future__ import annotations

import math


def percentage(share: float, decimals: int = 0) -> str:
    """Say a share in percent, as rounded as may be without saying all or none of what is neither.

    Parameters
    ----------
    share : float
        1 is all.
    decimals : int
        More are taken next to 0 and next to 1.

    Examples
    --------
    >>> percentage(0.416), percentage(1536 / 1539), percentage(3e-5), percentage(1.0)
    ('42 %', '99.8 %', '0.003 %', '100 %')
    """
    value = 100 * share
    if not math.isfinite(share) or abs(share) >= 1e4:
        return f"{value:.2g} %"
    if share and abs(value) < 10 * 10.0**-decimals:
        return f"{value:.2g} %"
    said = f"{value:.{decimals}f}"
    while float(said) == 100 and share != 1 and decimals < 15:
        decimals += 1
        said = f"{value:.{decimals}f}"
    return f"{said} %"


def percent(confidence: float) -> str:
    """Say a confidence in percent, in all its digits."""
    said = f"{100 * confidence:.15g}"
    return f"{100 * confidence:.17g} %" if float(said) == 100 and confidence != 1 else f"{said} %"


def share_of(gain: float, f: float) -> str:
    """Say a gain as a share of the loss f."""
    if not f > 0:
        return "the loss is 0"
    return f"{percentage(gain / f)} of the loss"
