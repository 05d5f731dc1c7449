"""The options `centralize` and `adaptive_clip`: gradients by the units of a layer."""

import numpy as np
import pytest
from conftest import RULES, assert_same_bits, copies, ordinary
from fused_runs import assert_no_order_shows, run_of_every_order

import optkern
from optkern.optimizers import CLASSES

LAYOUTS = ("in_out", "out_in")


def axes_of(p, layout):
    """All axes but that of the units."""
    return tuple(range(p.ndim - 1)) if layout == "in_out" else tuple(range(1, p.ndim))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", ((5, 4), (3, 2, 4, 6)))
def test_units_are_as_the_papers_have_them(shape, layout):
    """Brock et al., 2021, equation 3; Yong et al., 2020, equation 1."""
    p, g = ordinary(np.float64, int(np.prod(shape)), 1).reshape(shape), None
    ours, clipped = p.copy(), 0
    opt = optkern.SGD(
        {"W": ours, "head": np.ones((2, 2))},
        lr=0.5, centralize=True, adaptive_clip=(0.9, 2.0), unit_layout=layout,
    )  # fmt: skip
    for t in range(4):
        g, axes = ordinary(np.float64, p.size, 10 + t).reshape(shape), axes_of(p, layout)
        norm = np.sqrt((g * g).sum(axes, keepdims=True))
        most = 0.9 * np.maximum(np.sqrt((p * p).sum(axes, keepdims=True)), 2.0)
        clipped += np.count_nonzero(norm > most)
        g = np.where(norm > most, most / norm, 1.0) * g
        p = p - 0.5 * (g - g.mean(axes, keepdims=True))
        opt.step(
            {"W": ordinary(np.float64, p.size, 10 + t).reshape(shape), "head": np.ones((2, 2))}
        )
        np.testing.assert_allclose(ours, p, rtol=1e-12)
    assert 0 < clipped < 4 * norm.size


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ("sgd", "adamw"))
def test_edges_orders_threads_and_instruction_sets(name, layout):
    """A unit's elements are summed in C order, whatever the order in memory, and accumulated."""
    options = {"accumulate": 2, "clip_norm": 9.0, "grad_scale": 0.25, "unit_layout": layout}
    options |= {"centralize": True, "adaptive_clip": 0.01}
    start, calls = run_of_every_order(((3,), (1025, 3), (4097,), (70, 80), (0, 3), (6, 9, 100)))
    start[5] = start[5].transpose(1, 0, 2)
    for grads in calls:
        grads[5] = grads[5].reshape(start[5].shape)
    assert_no_order_shows(RULES[name], start, calls, {"lr": 0.3}, **options)


def test_the_head_is_left_out_unless_it_is_asked_for():
    shapes = {"fc.W": (4, 5), "fc.b": (5,), "out.W": (5, 3), "out.b": (3,)}
    for head, kept in ((False, {"out.W", "out.b"}), (True, set())):
        params = {name: np.ones(shape) for name, shape in shapes.items()}
        grads = {name: np.full(shape, 100.0) for name, shape in shapes.items()}
        opt = optkern.SGD(params, lr=1.0, adaptive_clip=0.01, adaptive_clip_head=head)
        opt.step(grads)
        assert {name for name, p in params.items() if p.flat[0] == -99.0} == kept
        rest = [p for name, p in params.items() if name not in kept]
        np.testing.assert_allclose(np.concatenate([p.ravel() for p in rest]), 0.99)


def test_what_does_nothing_is_told():
    for words, p, options in (
        ("leaves out the last layer", {"head.W": np.ones((2, 2))}, {"adaptive_clip": 0.1}),
        ("two axes or more", np.ones(3), {"centralize": True}),
        ("adaptive_clip clips, which is off", np.ones((2, 2)), {"adaptive_clip_head": True}),
        ("which are off", np.ones((2, 2)), {"unit_layout": "in_out"}),
    ):
        with pytest.warns(UserWarning, match=f"SGD: .*{words}.* it does nothing"):
            optkern.SGD(p, **options)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_numbers_of_any_magnitude(dtype, layout):
    """Squares and sums that leave the range of a double are taken once more, smaller."""
    largest = np.finfo(dtype).max / 4
    for size in (largest, largest**0.5, 1.0, 1e-30):
        size = dtype(size)
        g = ordinary(dtype, 6 * 1001, 3).reshape(6, 1001) / dtype(8)
        p = [np.full(g.shape, size), np.ones((2, 2), dtype)]
        small = [np.ones(g.shape, dtype), np.ones((2, 2), dtype)]
        for params, factor in ((p, size), (small, dtype(1))):
            opt = optkern.SGD(
                params, lr=1.0, adaptive_clip=(0.01, 2.0**-99), centralize=True, unit_layout=layout
            )
            opt.step([g * factor, np.ones((2, 2), dtype)])
        np.testing.assert_allclose(p[0] / size, small[0], rtol=20 * np.finfo(dtype).eps)


def test_gradients_that_are_not_finite_are_as_without():
    for bad in (np.nan, np.inf):
        p, q = np.ones((3, 3)), np.ones((3, 3))
        g = np.eye(3)
        g[1, 1] = bad
        optkern.SGD([p, np.ones((2, 2))], lr=1.0, adaptive_clip=1e3).step([g, None])
        optkern.SGD([q, np.ones((2, 2))], lr=1.0).step([g, None])
        assert_same_bits(p, q)
        kept = p.copy()
        opt = optkern.SGD([p, q], adaptive_clip=0.1, centralize=True, on_nonfinite="skip")
        assert opt.step([g, g]) is False
        assert_same_bits(p, kept)


def test_matrices_are_centralised_before_they_are_made_orthogonal():
    p = [ordinary(np.float64, 12, k).reshape(3, 4) for k in range(2)]
    g = [ordinary(np.float64, 12, 9 + k).reshape(3, 4) for k in range(2)]
    q = copies(p)
    opt, plain = optkern.Muon(p, centralize=True), optkern.Muon(q)
    for _ in range(3):
        opt.step(g)
        plain.step([x - x.mean(0) for x in g])
    np.testing.assert_allclose(p, q, rtol=1e-9)


def test_trust_ratios_of_gradients_and_rows_refuse_them():
    for name in ("centralize", "adaptive_clip"):
        with pytest.raises(ValueError, match=f"LARS: {name} is not possible with LARS"):
            optkern.LARS(np.ones((2, 2)), **{name: 0.5 if name == "adaptive_clip" else True})
    opt = optkern.Adam([np.ones((2, 2))], centralize=True)
    with pytest.raises(ValueError, match="centralize=True has no row-wise form"):
        opt.step_rows([[0]], [np.ones((1, 2))])
    with pytest.raises(ValueError, match="no stability limit is known for centralize"):
        optkern.curvature.max_stable_lr(opt, np.eye(4))


def test_options_that_are_written():
    """Options that are written take effect at the next step, for state that is compact too."""
    for state_dtype in (None, "bfloat16", "int8"):
        p, q = (ordinary(np.float32, 600, 1).reshape(20, 30) for _ in range(2))
        opt = CLASSES["adam"]([p, np.ones((2, 2), np.float32)], state_dtype=state_dtype, seed=1)
        other = CLASSES["adam"]([q, np.ones((2, 2), np.float32)], state_dtype=state_dtype, seed=1)
        opt.centralize, opt.unit_layout = True, "out_in"
        for t in range(3):
            g = ordinary(np.float32, 600, 20 + t).reshape(20, 30)
            rows = g.astype(np.float64)
            lanes = np.add.accumulate(np.pad(rows, ((0, 0), (0, 2))).reshape(20, 8, 4), 1)[:, -1]
            total = (lanes[:, 0] + lanes[:, 2]) + (lanes[:, 1] + lanes[:, 3])
            opt.step([g, None])
            other.step([(rows - total[:, None] / 30).astype(np.float32), None])
        assert_same_bits(p, q)


def test_one_axis_of_outputs_for_options_and_rules_of_matrices():
    """A matrix has its outputs on one axis: Muon by rows and centralising by columns is refused."""
    on, w = {"centralize": True}, np.ones((2, 3))
    for option in (on, {"adaptive_clip": 0.1, "adaptive_clip_head": True}):
        with pytest.raises(ValueError, match="layout='out_in' and unit_layout='in_out', by which"):
            optkern.Muon(w, layout="out_in", **option)
        optkern.Muon(w, layout="out_in", unit_layout="out_in", **option).step(np.ones((2, 3)))
    groups = [
        {"params": [w], "rule": "NorMuon", "layout": "out_in"},
        {"params": [np.ones(2)], "rule": "SGD"},
    ]
    with pytest.raises(ValueError, match="Mixed: layout='out_in' and unit_layout='in_out'"):
        optkern.Mixed(groups, **on)
    opt = optkern.Muon(w, layout="out_in")
    with pytest.raises(ValueError, match="give both the same"):
        opt.centralize = True
    assert opt.centralize is False
    opt.unit_layout = "out_in"
    opt.centralize = True
    with pytest.raises(ValueError, match="give both the same"):
        opt.param_groups[0]["layout"] = "in_out"
    assert opt.param_groups[0]["layout"] == "out_in"
