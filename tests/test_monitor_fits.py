"""The final losses of fits: each limit bisected from both sides."""

import math

import numpy as np
import pytest
from turning import turn

from optkern import compare_fits
from optkern.monitor.fits import _fit


def kind(*args, **kwargs):
    return compare_fits(*args, **kwargs).kind


def test_a_smaller_model_that_is_better_by_a_tenth():
    assert turn(lambda t: kind(t, 9.0, 1.0) == "optimization", 1.01, 2.0) == pytest.approx(1.1)
    assert kind(1.5, 1.5, 1.0, target=2.0) == "good"
    tolerant = turn(lambda t: kind(t, 9.0, 1.0, tolerance=0.3) == "optimization", 1.01, 2.0)
    assert tolerant == pytest.approx(1.3)
    assert turn(lambda t: kind(t, 9.0, -1.0) == "optimization", -0.99, 1.0) == pytest.approx(-0.9)


def test_a_held_out_loss_far_below_compares_with_nothing():
    """Three tolerances."""

    def far(test):
        return "far below it" in str(compare_fits(1.0, test))

    assert turn(far, 0.99, 0.2) == pytest.approx(1 / 1.3)
    words = "are these accuracies?"
    assert words in str(compare_fits(1.0, 0.5)) and words in str(compare_fits(0.51, 0.1))
    assert words not in str(compare_fits(0.5, 0.1)) and words not in str(compare_fits(1.01, 0.5))
    assert words not in str(compare_fits(0.9, -0.01)) and words in str(compare_fits(0.9, 0.0))
    assert "the validation loss is far below it, 1:" in str(compare_fits(3.0, validation=1.0))


def test_overfitting_is_a_gap_above_a_low_loss():
    """Low: below half of a held-out loss, or what meets the target."""
    assert turn(lambda t: kind(t, 1.0) == "overfitting", 0.8, 0.1) == pytest.approx(0.5)
    assert turn(lambda t: kind(t, validation=1.0) == "overfitting", 0.8, 0.1) == pytest.approx(0.5)
    assert "a gap, but nothing says that the training loss is low" in str(compare_fits(0.6, 1.0))
    assert "no gap beyond 10 %" in str(compare_fits(1.0, 1.05))
    at = turn(lambda t: "no gap" in str(compare_fits(1.0, t)), 1.5, 1.01)
    assert at == pytest.approx(1.1)
    assert "validation= would tell" in str(compare_fits(0.1, 1.0))
    assert kind(0.1, 1.0, target=0.2) == "overfitting" and kind(0.1, 0.21, target=0.2) == "good"
    assert turn(lambda t: kind(0.1, t, target=0.2) == "good", 0.5, 0.15) == pytest.approx(0.22)
    assert "the differences are too small to tell" in str(compare_fits(1.05, 1.12, target=1.0))


def test_bias_is_a_loss_above_the_target_where_size_helps():
    assert turn(lambda s: kind(1.0, 1.0, s, target=0.5) == "bias", 1.01, 2) == pytest.approx(1.1)
    assert turn(lambda t: kind(t, t, 9.0, target=0.5) == "bias", 0.51, 1) == pytest.approx(0.55)
    assert "train a smaller model too" in str(compare_fits(1.0, 1.0, target=0.5))
    assert "it is not size that is missing" in str(compare_fits(1.0, 1.0, 1.0, target=0.5))
    assert "give test or validation" in str(compare_fits(1.0))


def test_a_test_set_of_another_kind():
    """Three times the gap to validation, and half of validation's own loss."""

    def mismatch(test, validation, train=0.1, **options):
        return kind(train, test, validation=validation, **options) == "mismatch"

    assert turn(lambda t: mismatch(t, 0.2), 0.3, 0.9) == pytest.approx(0.5)  # .2 + 3 * .1
    assert turn(lambda t: mismatch(t, 1.0, 0.9), 1.1, 2.5) == pytest.approx(1.5)  # half of 1
    assert turn(lambda t: mismatch(t, 0.2, target=0.25), 0.23, 0.9) == pytest.approx(0.275)
    assert "validation meets the target 0.25, the test set does not" in str(
        compare_fits(0.1, 0.4, validation=0.2, target=0.25)
    )
    # Where the training's own distance to the target is more, it is bias that is named.
    at = turn(lambda g: mismatch(2.0, 1.0, 1.0, target=g, smaller_model_train=5.0), -1.0, 0.9)
    assert at == pytest.approx(0.0)
    said = str(compare_fits(1.0, 3.0, validation=1.2, target=0.5))
    assert "validation and test differ by 1.8, training and validation by 0.2" in said
    assert "(overfitting is the lesser part); the training loss too is above the target 0.5" in said


@pytest.mark.parametrize(("count", "last"), [(9, 1), (19, 1), (20, 2), (50, 5)])
def test_of_a_curve_the_median_of_the_last_tenth_counts(count, last):
    curve = np.arange(count, 0.0, -1.0) ** 2
    found = _fit("f", "train", curve)
    assert found.loss == np.median(curve[-last:])
    assert (found.scatter > 0) == (last >= 5)


def test_chance_is_three_deviations_of_both_curves():
    rng = np.random.default_rng(0)
    a, b = 1 + 0.1 * rng.standard_normal(500), 1 + 0.2 * rng.standard_normal(500)
    one, two = _fit("f", "a", a), _fit("f", "b", b)
    assert one.scatter == pytest.approx(0.1 / math.sqrt(50), rel=0.35)

    def better(smaller_by):
        return kind(b, 9.0, a - smaller_by, tolerance=0.0) == "optimization"

    at = turn(better, 0.01, 0.9)
    apart = two.loss - one.loss + at
    assert apart == pytest.approx(3 * math.hypot(one.scatter, two.scatter), rel=1e-6)
