"""What a run's losses say by themselves: their level, scatter, fall and explosion."""

from __future__ import annotations

import math

import numpy as np

from .growth import growing

FEWEST = 20  # records; of fewer only a loss that is not finite says something
MANY = 50  # records: a first one as low as one in so many of the others is no chance


class Trend:
    """Read what the losses alone say.

    Two windows of a quarter of the run each, the last and the one before, are compared by their
    levels; the standard error is that of as many independent numbers.

    Attributes
    ----------
    falls, creeps, rises : bool
        Beyond chance and worth the name; creeps: far beyond chance, but by little.
    over : bool
        A fall from one window to the other has ended: the last one holds nothing of it.
    """

    def __init__(self, losses: np.ndarray, first: int = 0) -> None:
        self.first = first  # the record of the first loss
        self.remark = ""  # what is said before all else
        self.losses = losses = bridged(losses)
        self.count = n = len(losses)
        self.window = w = min(max(n // 4, FEWEST // 2), 500)
        self.loss = self.drop = self.noise = self.scatter = math.nan
        self.falls = self.creeps = self.rises = self.negated = self.over = False
        if n < FEWEST or not np.isfinite(losses).all():
            return
        before, last = losses[-2 * w : -w], losses[-w:]
        self.loss = level(last)
        self.drop = level(before) - self.loss
        self.scatter = max(scatter(before), scatter(last))
        self.noise = 3 * 1.25 * self.scatter * math.sqrt(2 / w)
        self.span = max(float(np.median(losses[: max(3, w // 4)])) - self.loss, 0.0)
        # A fall that was over after a few records is part of the whole too.
        self.whole = max(float(np.median(losses[:3])) - self.loss, self.span)
        lower = np.quantile(before, 0.2) - np.quantile(last, 0.2)
        self.falls = bool(lower > 0 and self.drop > max(self.noise, self.material))
        self.over = self.falls and self._drop_is_over(last)
        self.falls = self.falls and not self.over
        little = max(3 * self.noise, self.least)
        self.creeps = bool(lower > 0 and self.drop > little) and not (self.falls or self.over)
        self.rises = bool(lower < 0 and -self.drop > min(max(self.noise, self.material), little))

    def _drop_is_over(self, last: np.ndarray) -> bool:
        """Return whether the last window's own fall is nothing beside the drop to it."""
        half = len(last) // 2
        within = level(last[:half]) - level(last[half:])
        noise = 3 * 1.25 * scatter(last) * math.sqrt(2 / half)
        return within + noise < min(0.05 * self.drop, max(self.least, 0.01 * abs(self.loss)))

    @property
    def material(self) -> float:
        """Return the least drop worth the name: a thousandth of the whole, or 1e-4 of the level."""
        return max(1e-3 * self.span, self.least)

    @property
    def least(self) -> float:
        """Return a gain that is too small to be missed."""
        return max(1e-6 * self.whole, 1e-4 * abs(self.loss))

    @property
    def blurred(self) -> bool:
        """Return whether a fall of more than a tenth could hide in what chance does."""
        return max(self.drop, 0.0) + self.noise > 0.1 * abs(self.loss) and self.noise > 0.5 * abs(
            self.drop
        )

    def explosion(self) -> int | None:
        """Find the record where the loss began to leave for ever, or None."""
        finite = np.isfinite(self.losses)
        if not finite.all():
            first = int(np.argmin(finite))
            began = self._onset(self.losses[:first], 1) if first else None
            return first if began is None else began
        if self.count < FEWEST:
            return None
        # In its logarithm: through decades.
        if growing(self.losses, _scatter_before(self.losses)):
            return self._onset(self.losses, 1)
        rising = bool((np.diff(self.losses[-6:]) > 0).all())
        # Where it has stopped, it must lie far above what it scatters by: a run that began at 0
        # and has come to the floor that its noise allows has not exploded.
        floor = 0.0 if self.rises else self.scatter
        return self._onset(self.losses, 3 if rising else max(3, min(self.count // 10, 50)), floor)

    def climbs(self, onset: int) -> bool:
        """Return whether the loss goes up all the way since a record: by the medians of its fifths.

        One step onto a plateau, and the slow way down from there, is no climb. A climb of many
        steps is one though it ends: at a maximum, or where the loss is flat.
        """
        since = self.losses[onset:]
        since = since[np.isfinite(since)]
        if len(since) < FEWEST:
            return True  # too few to tell
        high = since.max() - since[0]
        top = int(np.argmax(since >= since.max() - 0.01 * high))
        if top >= FEWEST // 2 and since[top:].min() > since.max() - 0.1 * high:
            since = since[: top + 1]
        return bool((np.diff([np.median(part) for part in np.array_split(since, 5)]) > 0).all())

    def above_start(self) -> int | None:
        """Find the record since which the loss stands far above where it began, or None.

        Far: by more than what it scatters by, and more than it ever fell below its start. A loss
        that leaps over decades scatters by its own level; there hardly any record came near.
        """
        if not math.isfinite(self.loss):
            return None
        start = float(self.losses[0])
        best = float(self.losses.min())
        over = self.loss - start
        if not over > max(self.noise, 0.5 * abs(start), start - best):
            return None
        near = float(np.mean(self.losses[1:] - start <= 0.5 * abs(start)))
        leapt = self.count >= MANY and near <= 1 / MANY and over > 10 * abs(start) > 0
        if not (over > self.scatter or leapt):
            return None
        # By medians of nine: one lucky batch is no way back. The start is below by itself.
        nine = np.lib.stride_tricks.sliding_window_view(self.losses, 9)
        below = np.flatnonzero(np.median(nine, axis=1) <= start + 0.1 * over)
        return int(below[-1]) + 5 if len(below) else 1

    def settled(self, began: int | None) -> bool:
        """Return whether a rise lies before both windows, less than doubled between them."""
        if began is None or not np.isfinite(self.losses).all():
            return False
        over = -self.drop < 0.5 * (self.loss - float(self.losses.min()))
        return over and began <= self.count - 2 * self.window

    @staticmethod
    def _onset(losses: np.ndarray, w: int, floor: float = 0.0) -> int | None:
        """Find where the rise to a level far above the best, half of the first at least, began."""
        # The end too must be high: what spikes and comes down again has not left for ever.
        last = min(float(np.median(losses[-w:])), float(np.median(losses[-3:])))
        best = float(losses.min())
        noise = _scatter_before(losses)
        rise = last - best
        if not (rise > 5 * max(abs(best), noise, floor) and rise > 0.5 * (losses[0] - best)):
            return None
        calm = best + 3 * noise + 0.1 * abs(best)
        return int(np.flatnonzero(losses <= calm)[-1]) + 1

    def stalled(self) -> str:
        """Say what the loss has done."""
        change = f"{'fell' if self.drop >= 0 else 'rose'} by {abs(self.drop):.2g}"
        by_chance = f"chance alone: {self.noise:.2g}"
        if self.rises:
            lowest = self.first + int(self.losses.argmin())
            by_chance += f", the best was {self.losses.min():.4g} in record {lowest}"
        if self.over:
            return (
                f"the loss stands at {self.loss:.4g}: the fall to it (by {self.drop:.2g}) has ended"
                f", the last {self.window // 2} records show none of it"
            )
        if self.falls or self.creeps or self.rises:
            only = "only " if self.creeps else ""
            return (
                f"the loss {only}{change} to {self.loss:.4g} in the last {self.window} records "
                f"({by_chance})"
            )
        # A fall that may be half of it is hidden by chance, not absent.
        stays = "is" if self.blurred else "stays"
        return (
            f"the loss {stays} about {self.loss:.4g} ({change} in {self.window} records, "
            f"{by_chance})"
        )


def _scatter_before(losses: np.ndarray) -> float:
    """Measure the losses' scatter on the way to the lowest of them."""
    lowest = int(losses.argmin())
    before = losses[max(0, lowest - 50) : lowest + 1]
    return scatter(before) if len(before) > 4 else 0.0


def bridged(losses: np.ndarray) -> np.ndarray:
    """Bridge losses that were not finite for a while (a step skipped, say) take the one before."""
    finite = np.isfinite(losses)
    if finite.all() or not finite[-FEWEST // 2 :].all():
        return losses
    at = np.maximum.accumulate(np.where(finite, np.arange(len(losses)), -1))
    return losses[np.where(at < 0, np.argmax(finite), at)]


def level(values: np.ndarray) -> float:
    """Take the mean of the middle three fifths: a spike does not count.

    Of a loss that jumps between two values the median is one of them, by luck of the count.
    """
    cut = len(values) // 5
    return float(np.mean(np.sort(values)[cut : len(values) - cut]))


def scatter(values: np.ndarray) -> float:
    """Estimate the deviation about a straight line, from quartiles: a spike does not count."""
    half = len(values) // 2
    slope = (level(values[-half:]) - level(values[:half])) / max(len(values) - half, 1)
    low, high = np.quantile(values - slope * np.arange(len(values)), (0.25, 0.75))
    return 0.7413 * float(high - low)
