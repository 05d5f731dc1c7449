"""Exact products of a classifier that is sure of all its classes: p - p^2 is rounding there."""

import numpy as np
import pytest

from optkern import curvature


class Sure:
    """A tanh network of two classes that are apart, its last layer scaled up; products as R does.

    Written as in every textbook: p - 1 and p Ro - p (p'Ro) lose their digits where p is 1.
    """

    def __init__(self, scale, seed=0, hidden=5, rows=40):
        rng = np.random.default_rng(seed)
        self.t = np.arange(rows) % 2
        self.X = rng.standard_normal((rows, 3)) + 4 * self.t[:, None]
        self.shapes, self.cut = ((3, hidden), (hidden, 2)), 3 * hidden
        self.w = rng.standard_normal(5 * hidden)
        for _ in range(300):
            self.w -= 2.0 * self.grad(self.w)
        self.w[self.cut :] *= scale

    def split(self, w):
        return (w[: self.cut].reshape(self.shapes[0]), w[self.cut :].reshape(self.shapes[1]))

    def forward(self, w):
        W, V = self.split(w)
        h = np.tanh(self.X @ W)
        o = h @ V
        p = np.exp(o - o.max(1, keepdims=True))
        return V, h, o, p / p.sum(1, keepdims=True)

    def loss(self, w):
        o = self.forward(w)[2]
        m = o.max(1)
        picked = o[np.arange(len(o)), self.t]
        return float(np.mean(np.log(np.exp(o - m[:, None]).sum(1)) + m - picked))

    def output_gradient(self, p):
        d = p.copy()
        d[np.arange(len(p)), self.t] -= 1
        return d / len(p)

    def grad(self, w):
        V, h, _, p = self.forward(w)
        d = self.output_gradient(p)
        return np.r_[(self.X.T @ ((d @ V.T) * (1 - h * h))).ravel(), (h.T @ d).ravel()]

    def hvp(self, v, transposed=True):
        V, h, _, p = self.forward(self.w)
        d = self.output_gradient(p)
        A, B = self.split(v)
        Rh = (1 - h * h) * (self.X @ A)
        Ro = Rh @ V + h @ B
        Rd = (p * Ro - p * (p * Ro).sum(1, keepdims=True)) / len(p)
        back = Rd @ V.T + (d @ B.T if transposed else 0)
        RW = self.X.T @ (back * (1 - h * h) - (d @ V.T) * 2 * h * Rh)
        return np.r_[RW.ravel(), (Rh.T @ d + h.T @ Rd).ravel()].astype(v.dtype)


@pytest.mark.parametrize("dtype", (np.float64, np.float32))
@pytest.mark.parametrize("scale", (20, 60, 300))
def test_rounding_of_a_network_that_is_sure_is_no_asymmetry(scale, dtype):
    at = Sure(scale)
    x = at.w.astype(dtype)
    assert at.loss(at.w) < 1e-17
    for loss in (at.loss, None):
        verdict = curvature.classify(x, lambda w: at.grad(w).astype(w.dtype), at.hvp, loss)
        assert verdict.kind in ("degenerate", "minimum", "inconclusive"), str(verdict)
        # Whatever is said, it is said to the rounding of the products' terms, and is true there.
        assert verdict.eigenvalue_max < 1e-6
        assert verdict.bounds_min[0] <= 0 <= verdict.bounds_max[1]


def test_before_it_is_sure_the_products_are_what_they_were():
    at = Sure(1.0)
    exact = curvature.classify(at.w, at.grad, at.hvp, at.loss)
    measured = curvature.classify(at.w, at.grad, None, at.loss)
    assert exact.eigenvalue_max == pytest.approx(measured.eigenvalue_max, rel=1e-4)
    assert exact.kind == measured.kind


def test_a_product_that_leaves_a_term_out_is_refused_and_told_from_rounding():
    at = Sure(1.0, seed=3)
    said = "no rounding explains it; is hvp v -> H v of one function at x"
    with pytest.raises(curvature.NotSymmetricError, match=said):
        curvature.classify(at.w, at.grad, lambda v: at.hvp(v, transposed=False), at.loss)


def test_of_products_alone_it_says_who_can_tell():
    at = Sure(30.0)
    with pytest.raises(curvature.NotSymmetricError, match=r"may be rounding, which curvature\.cla"):
        curvature.lanczos(at.hvp, at.w.size, which="both", tol=1e-3)
    # which is so:
    assert curvature.classify(at.w, at.grad, at.hvp).kind != "saddle"


@pytest.mark.parametrize("share", (1e-8, 1e-4, 1.0))
def test_an_asymmetric_matrix_is_refused_however_small_its_fault(share):
    rng = np.random.default_rng(0)
    a = rng.standard_normal((60, 60))
    whole = a @ a.T / 60 + np.eye(60)  # of a minimum: what is not there is claimed
    h = whole + share * (a - a.T)
    with pytest.raises(curvature.NotSymmetricError, match="no rounding explains it"):
        curvature.classify(np.zeros(60), lambda x: whole @ x, lambda v: h @ v)
