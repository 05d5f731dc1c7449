"""Masked arrays, SciPy's sparse ones and matrices: taken, or refused with a way out that works."""

import re

import numpy as np
import pytest

import optkern
from optkern import curvature

FORMATS = ("csr_array", "csr_matrix", "csc_array", "coo_array", "lil_matrix", "dok_array")


def dense():
    return np.arange(1.0, 10.0).reshape(3, 3)


def masked():
    return np.ma.masked_array(dense(), mask=np.eye(3))


def sparse(name):
    module = pytest.importorskip("scipy.sparse", reason="needs SciPy")
    return getattr(module, name)(np.diag([1.0, 0.0, 3.0]))


GRADIENTS = {
    "step": lambda g: optkern.SGD([dense()], lr=0.1).step([g]),
    "a lone array": lambda g: optkern.Adam(dense()).step(g),
    "a dict": lambda g: optkern.Lion({"w": dense()}).step({"w": g}),
    "kernels": lambda g: optkern.kernels.sgd(dense(), g, np.zeros((3, 3))),
    "a solver": lambda g: optkern.LBFGS(dense()).step(lambda: (1.0, g)),
    "SAM": lambda g: optkern.SAM(optkern.SGD(dense())).step(lambda: (1.0, g)),
    "classify": lambda g: curvature.classify(dense(), grad=lambda x: g),
    "a product": lambda g: curvature.classify(
        dense(), grad=lambda x: np.zeros_like(x), hvp=lambda v: g
    ),
}
PARAMETERS = {
    "optimizer": lambda p: optkern.SGD([p]),
    "a lone array": lambda p: optkern.Adam(p),
    "a dict": lambda p: optkern.Lion({"w": p}),
    "kernels": lambda p: optkern.kernels.sgd(p, dense(), dense()),
    "a solver": lambda p: optkern.LBFGS([p]),
    "classify": lambda p: curvature.classify(p, grad=lambda x: x),
    "flatten": lambda p: optkern.flatten([p]),
}


@pytest.mark.parametrize("where", [*PARAMETERS, *(f"gradient: {name}" for name in GRADIENTS)])
@pytest.mark.parametrize("kind", ("masked", *FORMATS[:2]))
def test_it_is_refused_with_a_way_out(where, kind):
    value = masked() if kind == "masked" else sparse(kind)
    act = PARAMETERS.get(where) or GRADIENTS[where.removeprefix("gradient: ")]
    way = r"x\.filled\(0\) is .* masked, x\.data the one" if kind == "masked" else r"x\.toarray\(\)"
    with pytest.raises(TypeError, match=rf"got {type(value).__name__}; {way}"):
        act(value)


@pytest.mark.parametrize("kind", ("masked", *FORMATS))
def test_the_way_out_works(kind):
    """By the very expressions that the message names."""
    x = masked() if kind == "masked" else sparse(kind)
    with pytest.raises(TypeError) as caught:
        optkern.SGD([dense()], lr=0.5).step([x])
    named = re.findall(r"x\.\w+(?:\(\w*\))?", str(caught.value))
    assert named == (["x.filled(0)", "x.data"] if kind == "masked" else ["x.toarray()"])
    for expression in named:
        g = eval(expression, {"x": x})
        p = dense()
        optkern.SGD([p], lr=0.5).step([g])
        assert np.array_equal(p, dense() - 0.5 * g)
    if kind == "masked":
        weights = np.ma.masked_array(dense(), mask=np.eye(3))
        optkern.SGD([weights.data], lr=0.5).step([dense()])
        assert np.array_equal(weights.data, 0.5 * dense())


def test_rows_of_a_sparse_gradient():
    g = sparse("csr_array")
    with pytest.raises(TypeError, match=r"opt\.step_rows takes some of its rows alone"):
        optkern.SGD([dense()], lr=0.5).step([g])
    rows = np.unique(g.nonzero()[0])
    p = dense()
    optkern.SGD(p, lr=0.5).step_rows(rows, g[rows].toarray())
    assert np.array_equal(p, dense() - 0.5 * g.toarray())


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
def test_a_matrix_is_an_array():
    p, w = np.matrix(dense()), dense()
    optkern.Adam(p).step(np.matrix(dense()))
    optkern.Adam(w).step(dense())
    assert np.array_equal(p, w)
    found = [curvature.classify(x, grad=lambda x: 2 * x) for x in (np.matrix(dense()), dense())]
    assert str(found[0]) == str(found[1])
