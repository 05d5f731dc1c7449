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


@pytest.mark.parametrize("module", ["blocks", "diagonal", "null", "trace"])
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
    with pytest.raises(ValueError, match="method must be one of 'auto', 'hutchinson', 'hutch"):
        curvature.trace(h, method="lanczos")
    for rtol in (0, -1, np.nan, "a"):
        with pytest.raises(ValueError, match="rtol must be"):
            curvature.trace(h, rtol=rtol)
    with pytest.raises(ValueError, match="matvecs must be an integer >= 6"):
        curvature.trace(h, method="xtrace", matvecs=5)
    for method in ("auto", "hutchinson", "hutch++"):
        with pytest.raises(FloatingPointError, match="a product holds NaN or inf"):
            curvature.trace(lambda v: np.nan * v, 100, method=method)


# --------------------------------------------------------------------------- null modes


def springs(pairs, rest):
    """Energy, gradient and products of points on springs: no force at the rest lengths."""
    pairs = np.array(pairs)

    def parts(x):
        d = x[pairs[:, 0]] - x[pairs[:, 1]]
        return d, np.linalg.norm(d, axis=1)

    def loss(x):
        return 0.5 * float(np.sum((parts(x)[1] - rest) ** 2))

    def gradient(x):
        d, length = parts(x)
        force = (1 - rest / length)[:, None] * d
        g = np.zeros_like(x)
        np.add.at(g, pairs[:, 0], force)
        np.add.at(g, pairs[:, 1], -force)
        return g

    return loss, gradient


TETRAHEDRON = np.array([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(8)
EDGES = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


def test_a_molecule_without_translations_and_rotations():
    """Four atoms, unit springs of unit length: curvatures 4 (once), 2 (three times), 1 (twice)."""
    gradient = springs(EDGES, np.ones(6))[1]
    x = TETRAHEDRON
    exact = [1, 1, 2, 2, 2, 4]
    modes = curvature.null(x, ["translations", "rotations"])
    assert modes.k == 6 and np.allclose(modes.modes @ modes.modes.T, np.eye(6))
    op = modes.project(curvature.hvp_from_grad(gradient, x))
    assert op.n == 6 and op.leak < 1e-6
    matrix = np.stack([op(e) for e in np.eye(6)])
    assert np.allclose(np.linalg.eigvalsh(matrix), exact, atol=1e-6)
    found = curvature.lanczos(op, which="both", tol=1e-7)
    assert found.eigenvalue_min == pytest.approx(1, rel=1e-6) and found.bounds_min[0] > 0.99
    assert found.eigenvalue_max == pytest.approx(4, rel=1e-6)
    breathing = modes.lift(found.eigenvector_max)
    assert np.allclose(np.abs(np.sum(breathing * x)), np.linalg.norm(x), atol=1e-5)
    assert curvature.sharpness(op).eigenvalue_max == pytest.approx(4, rel=1e-3)
    assert curvature.spectral_density(op).nodes.min() == pytest.approx(1, rel=1e-5)
    assert float(curvature.trace(op)) == pytest.approx(12, rel=1e-6)


def test_classify_sees_a_strict_minimum_where_only_symmetries_are_flat():
    loss, gradient = springs(EDGES, np.ones(6))
    x = TETRAHEDRON
    plain = curvature.classify(x, gradient, loss=loss)
    assert plain.kind == "minimum" and not plain.strict and plain.flat_directions == 6
    op = curvature.null(x, ["translations", "rotations"]).project(
        curvature.hvp_from_grad(gradient, x)
    )
    verdict = curvature.classify(x, gradient, op, loss)
    assert verdict.kind == "minimum" and verdict.strict and verdict.flat_directions == 0
    assert verdict.eigenvalue_min == pytest.approx(1, rel=1e-5)
    assert verdict.eigenvalue_max == pytest.approx(4, rel=1e-5)


@pytest.mark.parametrize("sign, kind", [(1, "minimum"), (-1, "maximum")])
def test_the_modes_own_curvature_makes_no_sign(sign, kind):
    """At a maximum, and at a saddle, whose index stays what it is."""
    d = np.r_[np.zeros(3), np.linspace(1, 5, 17)]

    def product(v):
        return sign * d * v

    op = curvature.null(np.ones(20), np.eye(20)[:3]).project(product)
    verdict = curvature.classify(np.ones(20), lambda x: 0 * x, op)
    assert verdict.kind == kind and verdict.strict
    saddle = np.r_[np.zeros(3), -2, -1, np.linspace(1, 5, 15)]
    op = curvature.null(np.ones(20), np.eye(20)[:3]).project(lambda v: saddle * v)
    verdict = curvature.classify(np.ones(20), lambda x: 0 * x, op)
    assert verdict.kind == "saddle" and verdict.negative_directions == 2
    assert np.allclose(np.abs(verdict.escape_direction), np.eye(20)[3], atol=1e-4)
    assert verdict.eigenvalue_max == pytest.approx(5, rel=1e-3)


def test_atoms_in_a_line_have_one_rotation_fewer():
    line = np.array([[0.0, 0, 0], [1, 1, 1], [2.5, 2.5, 2.5]])
    assert curvature.null(line, "rotations").k == 2
    assert curvature.null(line, ["translations", "rotations"]).k == 5
    assert curvature.null(line.astype(np.float32), ["rotations", "translations"]).k == 5
    assert curvature.null({"a": line[:, :2], "b": line[:, 1:] + 0}, "rotations").k == 1
    assert curvature.null(np.arange(3.0)[:, None], "translations").k == 1


def test_scale_symmetries_of_a_network():
    """relu(x W1 + b1) W2: what W1 and b1 gain W2 may lose, for the whole layer."""
    rng = np.random.default_rng(0)
    features, target = rng.standard_normal((30, 2)), rng.standard_normal((30, 1))
    p = {
        "layer1": {"W": rng.standard_normal((2, 3)), "b": rng.standard_normal(3)},
        "layer2": {"W": rng.standard_normal((3, 1))},
    }

    def gradient(p):
        z = features @ p["layer1"]["W"] + p["layer1"]["b"]
        a = np.maximum(z, 0)
        r = (a @ p["layer2"]["W"] - target) / len(target)
        back = (r @ p["layer2"]["W"].T) * (z > 0)
        return {
            "layer1": {"W": features.T @ back, "b": back.sum(axis=0)},
            "layer2": {"W": a.T @ r},
        }

    modes = curvature.null(p, {"layer1": 1, "layer2.W": -1})
    grown = p["layer1"]["W"].ravel()
    q = modes.modes[0] * np.sign(modes.modes[0][0] * grown[0])
    assert np.allclose(q[:6] / q[6:9].repeat(2) * p["layer1"]["b"].repeat(2), grown)
    assert modes.k == 1 and abs(q @ np.concatenate(
        [g.ravel() for layer in gradient(p).values() for g in layer.values()])) < 1e-12  # fmt: skip
    operator = curvature.hvp_from_grad(gradient, p)
    with pytest.raises(ValueError, match=r"a mode q has curvature: \|\|H q\|\| is"):
        modes.project(operator)  # no stationary point: H q = -D g, not 0
    assert modes.project(operator, tol=None).n == 11


def test_directions_in_all_forms():
    x = [np.zeros(2), np.zeros((1, 2))]
    e = np.eye(4)
    one = [np.array([1.0, 0]), np.zeros((1, 2))]
    for directions in (one, [one], e[:1], [e[:1]]):
        modes = curvature.null(x, directions)
        assert np.allclose(np.abs(modes.modes), e[:1])
    both = curvature.null(x, [one, e[1:2], one])  # the same twice is one
    assert both.k == 2 and repr(both) == "Null(2 modes of 4 unknowns)"
    h = np.diag([0.0, 0.0, 3.0, 4.0])
    assert np.allclose(
        np.linalg.eigvalsh(np.stack([both.project(h)(v) for v in np.eye(2)])), [3, 4]
    )
    many = np.linalg.qr(np.random.default_rng(0).standard_normal((60, 60)))[0]
    d = np.r_[np.zeros(40), np.linspace(1, 2, 20)]
    op = curvature.null(np.zeros(60), many[:, :40].T).project((many * d) @ many.T)
    assert np.allclose(np.linalg.eigvalsh(np.stack([op(v) for v in np.eye(20)])), d[40:])
    with pytest.raises(ValueError, match="a mode q has curvature"):
        curvature.null(np.zeros(60), many[:, :41].T).project((many * d) @ many.T)


def test_bad_null_modes_are_named():
    x = np.arange(6.0).reshape(3, 2)
    for directions, said in (
        ("rotation", r"'rotation' is not known; did you mean rotations\?"),
        (np.zeros((3, 2)), "directions are all zero"),
        (np.full((3, 2), np.nan), "directions hold NaN or inf"),
        (np.eye(6), "6 independent directions leave nothing of x's 6 elements"),
        (np.zeros((2, 5)), "array 0 must have shape"),
        ({"W": 1}, "block 'W' is not in x"),
        ({0: np.inf}, "the exponent of 0 is inf"),
    ):
        with pytest.raises(ValueError, match=said):
            curvature.null(x, directions)
    with pytest.raises(ValueError, match=r"'translations' needs arrays of shape \(points, d\)"):
        curvature.null(np.zeros(6), "translations")
    modes = curvature.null(x, "translations")
    with pytest.raises(ValueError, match="a mode q has curvature"):
        modes.project(np.eye(6))
    with pytest.raises(ValueError, match="x has 6 elements, but the operator has 3 rows"):
        modes.project(np.eye(3))
    with pytest.raises(ValueError, match=r"lift: v must have shape \(4,\)"):
        modes.lift(np.zeros(6))
    with pytest.raises(ValueError, match="tol must be"):
        modes.project(np.zeros((6, 6)), tol=-1)


# --------------------------------------------------------------------------- diagonal


def test_diagonal_is_as_far_off_as_it_says():
    """Each entry's variance for signs is the squares beside it in its row, over the vectors."""
    rng = np.random.default_rng(0)
    h = rng.standard_normal((400, 400))
    h = h + h.T + np.diag(np.linspace(0, 40, 400))
    h[7] = h[:, 7] = 0.0  # an entry with nothing beside it is exact
    h[7, 7] = 5.0
    found = curvature.diagonal(h, vectors=200)
    assert found.matvecs == found.vectors == 200 and found.converged
    assert found.value[7] == 5 and found.standard_error[7] == 0
    beside = np.sqrt(np.sum(h**2, axis=1) - np.diag(h) ** 2)
    rest = np.arange(400) != 7
    ratio = found.standard_error[rest] / (beside[rest] / np.sqrt(200))
    assert ratio.min() > 0.8 and ratio.max() < 1.2 and ratio.mean() == pytest.approx(1, abs=0.02)
    z = (found.value - np.diag(h))[rest] / found.standard_error[rest]
    assert np.mean(np.abs(z) < 2) > 0.93 and 0.9 < z.std() < 1.1


def test_diagonal_of_few_rows_and_of_a_diagonal_matrix_is_exact():
    found = curvature.diagonal(WHOLE)
    assert np.array_equal(found.value, np.diag(WHOLE)) and not found.standard_error.any()
    assert found.matvecs == 20 and found.vectors == 0
    assert np.array_equal(np.asarray(found, np.float32), np.diag(WHOLE).astype(np.float32))
    d = np.arange(300.0)
    found = curvature.diagonal(lambda v: d * v, 300, rtol=1e-3)
    assert np.array_equal(found.value, d) and found.matvecs == 8
    assert str(found).startswith("diagonal of 300 entries in [0, 299], each +- 0 in")
    assert curvature.diagonal(np.zeros((0, 0))).value.shape == (0,)


def test_diagonal_stops_by_its_error():
    rng = np.random.default_rng(1)
    h = 0.02 * rng.standard_normal((600, 600))
    h = h + h.T + np.diag(np.linspace(1, 3, 600))
    found = curvature.diagonal(h, rtol=0.05)
    assert found.converged and found.matvecs < 100
    off = np.linalg.norm(found.value - np.diag(h)) / np.linalg.norm(np.diag(h))
    assert 0.03 < off < 0.06
    short = curvature.diagonal(h, rtol=1e-4, vectors=50)
    assert not short.converged and short.matvecs == 50 and "not within rtol" in str(short)
    whole = curvature.diagonal(h, rtol=1e-4, vectors=5000)
    assert np.allclose(whole.value, np.diag(h)) and whole.matvecs <= 1200
    assert np.isinf(curvature.diagonal(h, vectors=1).standard_error).all()


def test_diagonal_of_blocks_and_of_differences():
    for way in WAYS.values():
        operator, options = way()
        for block, rows in ROWS.items():
            found = curvature.diagonal(operator, block=block, **options)
            assert np.allclose(found.value, np.diag(WHOLE)[rows], atol=1e-6)


def test_bad_arguments_of_diagonal():
    for vectors in (0, -1, 1.5):
        with pytest.raises(ValueError, match="vectors must be an integer >= 1"):
            curvature.diagonal(np.eye(3), vectors=vectors)
    with pytest.raises(ValueError, match="rtol must be"):
        curvature.diagonal(np.eye(3), rtol=0)
    with pytest.raises(TypeError, match="n is needed"):
        curvature.diagonal(lambda v: v)
    with pytest.raises(FloatingPointError, match="diagonal: a product holds NaN or inf"):
        curvature.diagonal(lambda v: np.inf * v, 200)


# --------------------------------------------------------------------------- density


def reflected(d, dtype=np.float64):
    """Q diag(d) Q with one Householder reflection, as a function of flat vectors."""
    u = np.random.default_rng(5).standard_normal(len(d))
    u = (u / np.linalg.norm(u)).astype(dtype)
    d = np.asarray(d, dtype)

    def product(v):
        w = d * (v - 2 * u * (u @ v))
        return w - 2 * u * (u @ w)

    return product


def distance(result, d):
    """Between the drawn density and the eigenvalues: the earth mover's, on the grid."""
    steps = np.diff(result.grid)
    drawn = np.r_[0, np.cumsum(0.5 * (result.density[1:] + result.density[:-1]) * steps)]
    exact = np.searchsorted(np.sort(d), result.grid, "right") / len(d)
    return np.trapezoid(np.abs(drawn - exact), result.grid)


OUTLIERS = {50.0: 1, 20.0: 2, 8.0: 3, -5.0: 1}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_converged_outliers_have_their_multiplicity_over_n(dtype):
    bulk = np.random.default_rng(0).uniform(0, 1, 993)
    d = np.r_[bulk, np.repeat(list(OUTLIERS), list(OUTLIERS.values()))]
    result = curvature.spectral_density(
        reflected(d, dtype), 1000, steps=40, vectors=6, dtype=dtype, seed=3
    )
    assert np.allclose(result.weights.sum(axis=1), 1)
    for value, times in OUTLIERS.items():
        at = np.isclose(result.nodes, value, rtol=1e-4) & (result.weights > 1e-12)
        assert at.sum() == 6 and np.allclose(result.weights[at], times / 1000, rtol=1e-12)
    share, error = result.mean(lambda t: t > 1.5)
    assert share == pytest.approx(0.006) and error < 1e-12
    assert np.trapezoid(result.density, result.grid) == pytest.approx(1, abs=1e-6)


def test_a_pair_too_near_for_the_steps_is_two():
    d = np.r_[np.linspace(0, 1, 298), 5, 5 + 1e-7]
    result = curvature.spectral_density(reflected(d), 300, steps=8, vectors=5)
    at = np.isclose(result.nodes, 5, rtol=1e-4) & (result.weights > 1e-12)
    assert at.sum() == 5 and np.allclose(result.weights[at], 2 / 300)


def test_the_whole_spectrum_of_few_rows_is_exact():
    d = np.sort(np.random.default_rng(2).standard_normal(30))
    result = curvature.spectral_density(rotated(d), vectors=3)
    assert np.allclose(np.sort(result.nodes, axis=1), d) and np.allclose(result.weights, 1 / 30)
    value, error = result.mean(np.exp)
    assert value == pytest.approx(np.exp(d).mean()) and error < 1e-12
    one = curvature.spectral_density(rotated(d), vectors=1)  # what a space is no second start shows
    assert not np.allclose(one.weights, 1 / 30)


def test_weights_stay_random_where_nothing_has_converged():
    """No basis, or no eigenvalue apart: the bulk's samples are as they were, and unbiased."""
    d = np.r_[np.random.default_rng(1).uniform(0, 1, 498), 4, 9]
    h = reflected(d)
    bare = curvature.spectral_density(h, 500, memory=0, vectors=4)
    assert not np.allclose(bare.weights[np.isclose(bare.nodes, 9)], 1 / 500)
    z = []
    for seed in range(40):
        result = curvature.spectral_density(h, 500, steps=25, vectors=10, seed=seed)
        value, error = result.mean(lambda t: t**2)
        z.append((value - np.mean(d**2)) / error)
    assert np.mean(np.abs(z) < 2) > 0.85 and 0.7 < np.std(z) < 1.4


@pytest.mark.parametrize("steps, nearer", [(30, 10), (80, 5)])
def test_the_drawn_density_is_nearer_than_with_one_width(steps, nearer):
    """Beside Gaussians as wide as the spectrum over the steps, with the same products."""
    rng = np.random.default_rng(0)
    d = np.r_[rng.uniform(0, 1, 1990), np.linspace(2, 10, 10)]
    for seed in range(3):
        found = curvature.spectral_density(reflected(d), 2000, steps=steps, seed=seed)
        wide = curvature.spectral_density(
            reflected(d), 2000, steps=steps, seed=seed, width=10 / steps
        )
        assert found.matvecs == wide.matvecs and nearer * distance(found, d) < distance(wide, d)


@pytest.mark.parametrize("steps, points", [(1, 200), (2, 100), (5, 40), (300, 200), (80, 5000)])
def test_density_integrates_to_one_at_any_size(steps, points):
    d = np.r_[np.linspace(0, 1, 397), 30, 30, -7]
    found = curvature.spectral_density(reflected(d), 400, steps=steps, points=points, vectors=3)
    assert len(found.grid) == points
    assert np.trapezoid(found.density, found.grid) == pytest.approx(1, abs=1e-5)
