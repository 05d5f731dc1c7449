"""What the solvers refuse."""

import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Snapshot

import optkern
from optkern.solvers import LBFGS, SAM, NewtonLanczos

sys.path.insert(0, str(Path(__file__).parent.parent / "bench"))

BAD = [
    (lambda x: LBFGS(x, lr=-1), ValueError, "LBFGS: lr must be a finite number in"),
    (lambda x: LBFGS(x, max_iter=0), ValueError, "max_iter must be an integer >= 1, got 0"),
    (lambda x: LBFGS(x, max_eval="1"), TypeError, "max_eval must be an integer >= 1"),
    (lambda x: LBFGS(x, tolerance_grad=np.nan), ValueError, "tolerance_grad"),
    (lambda x: LBFGS(x, history_size=0), ValueError, "history_size"),
    (lambda x: LBFGS(x, line_search_fn="wolfe"), ValueError, "None or 'strong_wolfe', got 'wolfe'"),
    (lambda x: LBFGS(x, num_threads=0), ValueError, "num_threads"),
    (lambda x: LBFGS([]), ValueError, "params is empty"),
    (lambda x: LBFGS([x, x]), ValueError, "array 0 of params and array 1 of params overlap"),
    (lambda x: LBFGS(x.astype(int)), TypeError, "float32 or float64, got int64"),
    (lambda x: LBFGS([{"params": x, "lr": 1.0}]), ValueError, r"group 0 has \['lr'\]"),
    (lambda x: LBFGS(x * np.nan), ValueError, "holds NaN or inf"),
    (lambda x: NewtonLanczos(x, radius=0.0), ValueError, "radius must be a finite number in"),
    (lambda x: NewtonLanczos(x, max_matvecs=0), ValueError, "max_matvecs"),
    (lambda x: NewtonLanczos(x, check_matvecs=-1), ValueError, "check_matvecs"),
    (lambda x: NewtonLanczos(x, seed=-1), ValueError, "seed"),
    (lambda x: SAM(x), TypeError, "one of optkern's, got ndarray"),
    (lambda x: SAM(optkern.SGD(x), rho=-1), ValueError, "SAM: rho must be"),
    (lambda x: SAM(optkern.SGD(x), adaptive=2), ValueError, "adaptive must be True or False"),
    (
        lambda x: LBFGS(x, lr=b"1"),
        ValueError,
        r"lr must be a finite number in \[0, inf\), got b'1'",
    ),
    (lambda x: LBFGS(x, lr=np.True_), ValueError, "lr must be a finite number in .*got np.True_"),
    (lambda x: LBFGS(x, lr=10**400), ValueError, "lr must be a finite number in .*got 1000"),
    (lambda x: LBFGS(x, max_iter=-(10**400)), ValueError, "max_iter must be an integer >= 1, got"),
    (lambda x: LBFGS(x, max_iter=np.inf), ValueError, "max_iter must be an integer >= 1, got inf"),
    (lambda x: LBFGS(x, line_search_fn=np.array(["a", "b"])), ValueError, "None or 'strong_wolfe'"),
    (lambda x: SAM(optkern.SGD(x), rho=np.array([1.0])), ValueError, "SAM: rho must be"),
    (lambda x: SAM(SAM(optkern.SGD(x))), TypeError, "one of optkern's, got SAM"),
    (lambda x: SAM(optkern.SGD), TypeError, "one of optkern's, got type"),
]


# --------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("make, error, message", BAD, ids=range(len(BAD)))
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make(np.ones(3))


MISSPELT = [
    (LBFGS, "max_iters", "LBFGS has no attribute 'max_iters' to set; did you mean max_iter?"),
    (NewtonLanczos, "raduis", "did you mean radius?"),
    (NewtonLanczos, "lr", "there are max_iter, max_matvecs, radius"),
    (lambda x: SAM(optkern.SGD(x)), "roh", "SAM has no attribute 'roh' to set; did you mean rho?"),
    (lambda x: SAM(optkern.SGD(x)), "steps", "there are optimizer, rho, adaptive, gradients"),
]


@pytest.mark.parametrize("make, name, message", MISSPELT, ids=[row[1] for row in MISSPELT])
def test_an_attribute_is_not_set_in_vain(make, name, message):
    solver = make(np.ones(3))
    with pytest.raises(AttributeError, match=message):
        setattr(solver, name, 3)
    own = type("Own", (type(solver),), {"__module__": "mine"})(*[
        solver.optimizer if isinstance(solver, SAM) else np.ones(3)
    ])  # fmt: skip
    own.seen = 3
    assert own.seen == 3


def test_an_optimizer_that_is_taken_from_sam():
    x = np.ones(3)
    sam = SAM(optkern.SGD(x))
    sam.optimizer = None
    with pytest.raises(TypeError, match="SAM: optimizer must be one of optkern's, got NoneType"):
        sam.step(lambda: (1.0, x.copy()))
    assert (x == 1).all()


def test_a_read_only_parameter():
    x = np.ones(3)
    x.flags.writeable = False
    with pytest.raises(ValueError, match="parameter 0 is read-only"):
        LBFGS(x)


BAD_CLOSURES = [
    (3, TypeError, "closure must be callable, got int"),
    (lambda x: 1.0, TypeError, r"must return \(loss, grads\), got float"),
    (lambda x: ("a", x), TypeError, "loss must be a real number, got 'a'"),
    (lambda x: (1j, x), TypeError, "loss must be a real number"),
    (lambda x: (1.0, x[:2]), ValueError, r"shape \(3,\), got \(2,\)"),
    (lambda x: (1.0, [x]), TypeError, "must be a NumPy array or None, got list"),
    (lambda x: (1.0, x.astype(int)), TypeError, "real floating point, got int64"),
    (lambda x: (np.inf, x), ValueError, "at the start is not finite"),
    (lambda x: (1.0, x * np.nan), ValueError, "at the start is not finite"),
]


@pytest.mark.parametrize("solver", [LBFGS, NewtonLanczos])
@pytest.mark.parametrize("closure, error, message", BAD_CLOSURES, ids=range(len(BAD_CLOSURES)))
def test_bad_closures(solver, closure, error, message):
    x = np.ones(3)
    before = Snapshot(x)
    made = solver(x)
    with pytest.raises(error, match=message):
        made.step((lambda: closure(x)) if callable(closure) else closure)
    before.assert_untouched()
    assert made.step(lambda: (float(x @ x), 2 * x)).converged


def test_bad_callbacks_and_products():
    x = np.ones(3)

    def good():
        return float(x @ x), 2 * x

    with pytest.raises(TypeError, match="callback must be callable"):
        LBFGS(x).step(good, callback=1)
    with pytest.raises(TypeError, match="hvp must be callable"):
        NewtonLanczos(x).step(good, hvp=1)
    with pytest.raises(ValueError, match=r"what hvp returns: array 0 must have shape \(3,\)"):
        NewtonLanczos(x).step(good, hvp=lambda v: v[:2])
    with pytest.raises(TypeError, match=r"SAM: closure must return \(loss, grads\)"):
        SAM(optkern.SGD(x)).step(lambda: 1.0)
    assert np.array_equal(x, np.ones(3))
