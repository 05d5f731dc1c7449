"""More of the spectrum, against exact answers: blocks, traces, diagonals, null modes, balls."""

import doctest
import importlib
from types import SimpleNamespace

import numpy as np
import pytest
from curvature_cases import rotated

from optkern import curvature

WHOLE = rotated(np.r_[9.0, -4.0, np.linspace(0.5, 3, 18)])  # 20 rows: W 12, b 3, V 5
PARAMS = {
    "layer1": {"W": np.zeros((4, 3)), "b": np.zeros(3)},
    "layer10": {"V": np.zeros(5)},
}
ROWS = {
    "layer1.W": slice(0, 12),
    "layer1.b": slice(12, 15),
    "layer1": slice(0, 15),
    "layer10.V": slice(15, 20),
    "layer10": slice(15, 20),
}


def flat(v):
    return np.concatenate([v["layer1"]["W"].ravel(), v["layer1"]["b"], v["layer10"]["V"]])


def structured(w):
    return {
        "layer1": {"W": w[:12].reshape(4, 3), "b": w[12:15]},
        "layer10": {"V": w[15:]},
    }


def hvp(v):
    return structured(WHOLE @ flat(v))


def grad(x):
    return structured(WHOLE @ flat(x) + flat(x) ** 3)


@pytest.mark.parametrize("module", ["blocks"])
def test_examples(module):
    found = importlib.import_module(f"optkern.curvature.{module}")
    result = doctest.testmod(found)
    assert result.attempted and not result.failed


# --------------------------------------------------------------------------- blocks

WAYS = {
    "hvp": lambda: (hvp, {"x": PARAMS}),
    "flat hvp": lambda: (lambda v: WHOLE @ v, {"n": 20, "x": PARAMS}),
    "matrix": lambda: (WHOLE, {"x": PARAMS}),
    "differences": lambda: (curvature.hvp_from_grad(grad, PARAMS), {}),
    "objective": lambda: (SimpleNamespace(x=PARAMS, hvp=hvp), {}),
    "objective's gradient": lambda: (SimpleNamespace(x=PARAMS, grad=grad), {}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("block", ROWS)
def test_a_block_is_the_diagonal_block_of_the_matrix(way, block):
    operator, options = WAYS[way]()
    part = WHOLE[ROWS[block], ROWS[block]]
    exact = np.linalg.eigvalsh(part)
    found = curvature.sharpness(operator, block=block, tol=1e-8, **options)
    assert found.eigenvalue_max == pytest.approx(exact[-1], rel=1e-6)
    assert len(found.eigenvector_max) == len(part)
    assert found.bounds_max[0] - 1e-5 <= exact[-1] <= found.bounds_max[1] + 1e-5
    total = curvature.trace(operator, block=block, **options)
    assert float(total) == pytest.approx(np.trace(part), rel=1e-6) and not total.standard_error
    density = curvature.spectral_density(operator, block=block, **options)
    seen = density.nodes[density.weights > 1e-12]
    assert seen.min() == pytest.approx(exact[0], rel=1e-5, abs=1e-5)
    assert density.mean(lambda t: t)[0] == pytest.approx(np.trace(part) / len(part), rel=0.5)


def test_x_without_a_block_gives_the_structure_alone():
    exact = np.linalg.eigvalsh(WHOLE)
    assert curvature.sharpness(hvp, x=PARAMS).eigenvalue_max == pytest.approx(exact[-1])
    assert float(curvature.trace(hvp, x=PARAMS)) == pytest.approx(exact.sum())
    assert curvature.spectral_density(hvp, x=PARAMS).nodes.max() == pytest.approx(exact[-1])


def test_blocks_of_lists_and_groups():
    """Positions name the arrays of a list; a group's layers are found in every group."""
    h = np.diag([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    arrays = [np.zeros(2), np.zeros((1, 1)), np.zeros(3)]
    for name in (2, "2"):
        assert float(curvature.trace(h, x=arrays, block=name)) == 15
    groups = [
        {"params": {"a": {"W": np.zeros(2)}, "b": np.zeros(1)}},
        {"params": {"a": {"V": np.zeros(3)}}},
    ]
    assert float(curvature.trace(h, x=groups, block="a")) == 18
    assert curvature.sharpness(h, x=groups, block="a.W").eigenvalue_max == pytest.approx(2)


def test_float32_blocks_keep_their_dtype():
    x = {"W": np.zeros(300, np.float32), "b": np.zeros(5, np.float32)}

    def product(v):
        assert v["W"].dtype == v["b"].dtype == np.float32
        return {"W": np.linspace(-1, 3, 300, dtype=np.float32) * v["W"], "b": v["b"]}

    found = curvature.sharpness(product, x=x, block="W")
    assert found.eigenvector_max.dtype == np.float32
    assert found.eigenvalue_max == pytest.approx(3, rel=1e-3)


def test_bad_blocks_are_named():
    with pytest.raises(ValueError, match=r"block 'layer1\.w' is not in x; did you mean layer1\.W"):
        curvature.sharpness(hvp, x=PARAMS, block="layer1.w")
    with pytest.raises(ValueError, match=r"is not in x; there are layer1, layer1\.W, layer1\.b, "):
        curvature.trace(hvp, x=PARAMS, block="embedding")
    with pytest.raises(TypeError, match=r"block must be the name of an array or a layer, got 1\.5"):
        curvature.spectral_density(hvp, x=PARAMS, block=1.5)
    with pytest.raises(TypeError, match=r"block='W' names parameters, .* pass x="):
        curvature.trace(WHOLE, block="W")
    with pytest.raises(ValueError, match="x has 20 elements, but the operator has 3 rows"):
        curvature.trace(np.eye(3), x=PARAMS, block="layer1")
    with pytest.raises(TypeError, match=r"array 'layer1\.W' of x must be float32 or float64"):
        bad = {"layer1": {"W": np.zeros(3, int)}}
        curvature.sharpness(hvp, x=bad, block="layer1")


@pytest.mark.parametrize("given", ["hvp", "grad", "objective"])
def test_the_table_of_blocks(given):
    x, options = PARAMS, {"hvp": hvp}
    if given == "grad":
        options = {"grad": grad}
    if given == "objective":
        x, options = SimpleNamespace(x=PARAMS, hvp=hvp), {}
    table = curvature.blocks(x, tol=1e-7, **options)
    assert [row.name for row in table] == ["layer1.W", "layer1.b", "layer10.V"]
    for row in table:
        part = WHOLE[ROWS[row.name], ROWS[row.name]]
        exact = np.linalg.eigvalsh(part)
        assert row.elements == len(part) and row.converged
        assert row.sharpness == pytest.approx(exact[-1], rel=1e-6)
        assert row.eigenvalue_min == pytest.approx(exact[0], rel=1e-5, abs=1e-6)
        assert float(row.trace) == pytest.approx(np.trace(part), rel=1e-6)
        assert row.bounds_min[0] - 1e-5 <= exact[0] and exact[-1] <= row.bounds_max[1] + 1e-5
    assert table.matvecs == sum(row.matvecs for row in table)
    lines = str(table).splitlines()
    assert len(lines) == 4 and len(set(map(len, lines))) == 1  # aligned
    assert lines[1].split()[:3] == ["layer1.W", "12", f"{table['layer1.W'].sharpness:.4g}"]
    layers = curvature.blocks(x, names=["layer1", "layer10.V"], **options)
    assert layers["layer1"].elements == 15 and len(layers) == 2


def test_the_table_says_what_has_not_converged():
    n = 400
    d = np.linspace(1e-3, 1, n)
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((n, n)))[0]
    table = curvature.blocks({"W": np.zeros(n)}, lambda v: {"W": q @ (d * (q.T @ v["W"]))},
                             max_matvecs=6)  # fmt: skip
    assert not table["W"].converged
    line = str(table).splitlines()[1]
    assert ">= " in line and "<= " in line
    assert table["W"].sharpness <= 1 and table["W"].eigenvalue_min >= 1e-3
    with pytest.raises(KeyError, match="no block 'V'; there are W"):
        table["V"]


def test_bad_arguments_of_the_table():
    with pytest.raises(TypeError, match="pass hvp, v -> H v, or grad"):
        curvature.blocks(PARAMS)
    with pytest.raises(TypeError, match="hvp must be callable, got ndarray"):
        curvature.blocks(PARAMS, hvp=WHOLE)
    with pytest.raises(TypeError, match="names must be a list of names, got 'layer1'"):
        curvature.blocks(PARAMS, hvp, names="layer1")
    with pytest.raises(ValueError, match="block 'layer2' is not in x; did you mean layer1"):
        curvature.blocks(PARAMS, hvp, names=["layer2"])
    with pytest.raises(TypeError, match="which is no argument here"):
        curvature.blocks(PARAMS, hvp, which="both")


# --------------------------------------------------------------------------- trace

SPECTRA = {
    "outliers": np.r_[np.linspace(10, 100, 10), np.random.default_rng(1).uniform(0, 0.5, 290)],
    "flat": np.random.default_rng(2).uniform(-1, 1.3, 300),
    "low rank": np.r_[np.arange(1.0, 6.0), np.zeros(295)],
}


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_trace_goes_on_with_what_the_spectrum_favours(spectrum):
    """Never far above the better of the two methods, and as far off as it says."""
    d = SPECTRA[spectrum]
    h = rotated(d)
    error, taken = {}, {}
    for method in ("auto", "hutchinson", "xtrace"):
        found = [curvature.trace(h, method=method, seed=s) for s in range(30)]
        assert all(t.matvecs == 60 and t.converged for t in found)
        error[method] = np.median([t.standard_error for t in found])
        taken[method] = {t.method for t in found}
        if spectrum != "low rank":  # whose error is rounding
            z = np.array([(t.value - d.sum()) / t.standard_error for t in found])
            assert np.mean(np.abs(z) < 2) >= 0.85 and 0.6 < np.std(z) < 1.5
        else:
            assert method == "hutchinson" or error[method] < 1e-12
    assert error["auto"] <= 1.3 * min(error["hutchinson"], error["xtrace"]) + 1e-12
    assert taken["auto"] >= ({"hutchinson"} if spectrum == "flat" else {"xtrace"})


@pytest.mark.parametrize("method", ["auto", "hutchinson", "hutch++", "xtrace"])
def test_trace_stops_by_its_standard_error(method):
    d = np.r_[np.linspace(10, 60, 6), np.random.default_rng(1).uniform(0, 0.5, 1994)]
    q = np.random.default_rng(0).standard_normal(2000)
    q /= np.linalg.norm(q)

    def product(v):
        w = v - 2 * q * (q @ v)
        w = d * w
        return w - 2 * q * (q @ w)

    found = [curvature.trace(product, 2000, method=method, rtol=0.02, seed=s) for s in range(20)]
    for t in found:
        assert t.converged and t.standard_error <= 0.02 * t.value and t.matvecs < 400
    off = np.array([abs(t.value / d.sum() - 1) for t in found])
    assert np.mean(off < 0.04) >= 0.8 and off.max() < 0.1


def test_trace_says_where_rtol_was_not_reached():
    d = np.random.default_rng(0).uniform(-1, 1, 500)
    h = rotated(d)
    found = curvature.trace(h, rtol=1e-6, matvecs=40)
    assert not found.converged and found.matvecs == 40 and "not within rtol" in str(found)
    whole = curvature.trace(h, rtol=1e-6, matvecs=2000)  # all rows are cheaper than more samples
    assert whole.method == "exact" and float(whole) == pytest.approx(d.sum())
    assert whole.matvecs <= 1100


def test_trace_of_float32_and_of_differences():
    d = SPECTRA["outliers"].astype(np.float32)
    found = curvature.trace(lambda v: d * v, 300, dtype=np.float32, rtol=0.01)
    assert abs(found.value / d.sum() - 1) < 0.03
    x = np.zeros(300)
    operator = curvature.hvp_from_grad(lambda z: d * np.sinh(z), x)
    assert float(curvature.trace(operator, rtol=0.01)) == pytest.approx(d.sum(), rel=0.03)


def test_bad_arguments_of_trace():
    h = np.eye(100)
    with pytest.raises(ValueError, match="method must be one of auto, hutchinson, hutch"):
        curvature.trace(h, method="lanczos")
    for rtol in (0, -1, np.nan, "a"):
        with pytest.raises(ValueError, match="rtol must be"):
            curvature.trace(h, rtol=rtol)
    with pytest.raises(ValueError, match="matvecs must be an integer >= 6"):
        curvature.trace(h, method="xtrace", matvecs=5)
    for method in ("auto", "hutchinson", "hutch++"):
        with pytest.raises(FloatingPointError, match="a product holds NaN or inf"):
            curvature.trace(lambda v: np.nan * v, 100, method=method)
