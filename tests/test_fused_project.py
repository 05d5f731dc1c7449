"""The option `project`: parameters, and averages of them, stay where they may be."""

import numpy as np
import pytest
from compact_runs import dtype_of
from conftest import RULES, assert_same_bits, ordinary
from fused_runs import arrays
from test_fused_compact import Halved

import optkern


def test_least_squares_without_negative_numbers():
    """Projected gradient descent ends where the conditions of the solution hold."""
    a, b = ordinary(np.float64, 60, 1).reshape(12, 5), ordinary(np.float64, 12, 2)
    x = np.full(5, 0.3)
    opt = optkern.SGD(x, lr=0.02, momentum=0.5, project="nonnegative")
    for _ in range(3000):
        opt.step(a.T @ (a @ x - b))
    g = a.T @ (a @ x - b)
    assert (x >= 0).all() and 0 < np.count_nonzero(x == 0) < 5
    assert np.abs(g[x > 0]).max() < 1e-9 and (g[x == 0] > 0).all()


@pytest.mark.parametrize("dtype", ("float64", "float32", "float16", "bfloat16"))
@pytest.mark.parametrize("limits", ((0.1, 0.3), (-1e-3, 1e-3), (-np.inf, -0.7), (1e-40, 1e39)))
@pytest.mark.parametrize("master", (False, True))
def test_no_element_is_ever_outside(dtype, limits, master):
    """In whose numbers the limits are none: the rounding of a weight, at random, stays inside."""
    p = [ordinary(np.float32, 1500, k).astype(dtype_of(dtype)) for k in range(2)]
    opt = optkern.Adam(p, lr=0.05, project=limits, lookahead=(2, 0.7), master_weights=master)
    if p[0].itemsize > 2:
        opt.ema_decay = 0.3
    for seed in range(6):
        opt.step([ordinary(np.float32, 1500, 10 * seed + k) for k in range(2)])
        for entry, x in zip(opt.state.values(), p, strict=True):
            for values in (x, entry["slow"] if seed % 2 else x, entry.get("ema", x)):
                values = values.astype(np.float64)
                assert (values >= limits[0]).all() and (values <= limits[1]).all()


@pytest.mark.parametrize("dtype", ("float16", "bfloat16"))
@pytest.mark.parametrize("master", (False, True))
def test_half_precision_is_the_references(dtype, master):
    dtype = dtype_of(dtype)
    options = {"project": (-0.3, 0.2), "lookahead": (2, 0.4)}
    p = [x.astype(dtype) for x in arrays(0, np.float32)]
    twin = Halved(RULES["adam"], p, master, {"lr": 0.1}, options)
    opt = optkern.Adam(p, lr=0.1, master_weights=master, weight_rounding="nearest", **options)
    for seed in range(1, 5):
        grads = [g.astype(dtype) for g in arrays(seed, np.float32)]
        opt.step(grads)
        twin.step(grads)
        twin.assert_equals(opt)


def test_an_interval_without_numbers_is_its_first_one_above():
    p = np.ones(3, np.float16)
    optkern.SGD(p, project=(0.10001, 0.10002)).step(np.ones(3))
    assert (p == p[0]).all() and 0.10002 < float(p[0]) < 0.1001


def test_not_a_number_stays_and_zeros_keep_their_signs():
    p = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0])
    optkern.SGD(p, lr=0.0, project="nonnegative").step(np.ones(5))
    assert_same_bits(p, np.array([np.nan, np.inf, 0.0, -0.0, 0.0]))


def test_a_parameter_without_a_gradient_is_left_alone():
    p = [np.full(2, -1.0), np.full(2, -1.0)]
    optkern.SGD(p, lr=0.0, project="nonnegative").step([np.ones(2), None])
    assert_same_bits(p, [np.zeros(2), np.full(2, -1.0)])


@pytest.mark.parametrize("project", ("nonnegative", (-0.5, np.inf)))
def test_saved_and_loaded(project, tmp_path):
    p, q = np.ones(3), np.ones(3)
    opt, other = optkern.SGD(p, project=project), optkern.SGD(q, project=(-9.0, 9.0))
    opt.step(np.ones(3))
    optkern.save(tmp_path / "run.npz", opt)
    with pytest.warns(UserWarning, match="project=.-9.0, 9.0"):
        optkern.load(tmp_path / "run.npz", other)
    assert other.project == project and f"project={project!r}" in repr(other)


def test_torch_takes_it():
    torch = pytest.importorskip("torch", reason="trains its tensors")
    from optkern.integrations.torch import SGD

    p = torch.nn.Parameter(torch.tensor([0.5, -0.5]))
    opt = SGD([p], lr=1.0, project="nonnegative")
    p.grad = torch.ones(2)
    opt.step()
    assert p.tolist() == [0.0, 0.0] and opt.project == "nonnegative"


def test_thinc_says_that_it_does_not():
    pytest.importorskip("thinc", reason="trains its parameters")
    from optkern.integrations import thinc

    with pytest.raises(TypeError, match=r"unknown option 'project'; optkern's own classes have it"):
        thinc.Optimizer(0.1, project="nonnegative")


def test_a_diagnosis_says_what_is_held():
    """Where limits hold, curvature has no word: "a bounce, try a smaller lr" was said."""
    a, b = ordinary(np.float64, 60, 1).reshape(12, 5), ordinary(np.float64, 12, 2)
    x, monitor = np.full(5, 0.3), optkern.Monitor()
    opt = optkern.SGD(x, lr=0.02, momentum=0.5, project="nonnegative")
    for _ in range(600):
        g = a.T @ (a @ x - b)
        opt.step(g)
        monitor.record(float(np.sum((a @ x - b) ** 2)) / 2, g, opt)
    said = monitor.diagnose(x, grad=lambda x: a.T @ (a @ x - b))
    held = np.count_nonzero(x == 0)
    assert said.kind == "inconclusive"
    assert f"holds {held} of 5 elements at a limit, {held} of them against" in said.explanation
    opt.project = (-9.0, 9.0)
    assert "at a limit" not in monitor.diagnose(x, grad=lambda x: a.T @ (a @ x - b)).explanation
