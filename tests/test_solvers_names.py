"""What a solver does not have says where it is: torch's habits, an optimizer's attributes."""

import copy
import pickle

import numpy as np
import pytest

import optkern


def sam():
    return optkern.SAM(optkern.SGD(np.ones(3), lr=0.5, momentum=0.9))


def write(opt, name):
    setattr(opt, name, 0.25)


SAID = {
    "param_groups": "opt.optimizer.param_groups",
    "lr": "opt.optimizer.param_groups[0]['lr']",
    "momentum": "opt.optimizer.param_groups[0]['momentum']",
    "state": "opt.optimizer.state",
    "zero_grad": "opt.optimizer.zero_grad",
    "clip_norm": "opt.optimizer.clip_norm",
    "add_param_group": "opt.optimizer.add_param_group",
    "rule": "opt.optimizer.rule",
}


@pytest.mark.parametrize("name", SAID)
def test_what_is_the_optimizers_inside_says_where(name):
    opt = sam()
    for act in (lambda: getattr(opt, name), lambda: write(opt, name)):
        with pytest.raises(AttributeError, match=rf"SAM has no attribute {name!r}") as caught:
            act()
        assert str(caught.value).endswith(f"; it is {SAID[name]}")
        eval(SAID[name], {"opt": opt})
    assert not hasattr(opt, name)


def test_a_rate_written_where_is_said_counts():
    opt = sam()
    opt.optimizer.param_groups[0]["lr"] = 0.0
    opt.step(lambda: (1.0, np.ones(3)))
    assert np.array_equal(opt.params[0], np.ones(3))


@pytest.mark.parametrize(
    ("make", "name", "words"),
    (
        (sam, "rhoo", "did you mean rho"),
        (sam, "nothing_like_it", "there are optimizer, rho, adaptive, gradients, params, steps"),
        (lambda: optkern.LBFGS(np.ones(3)), "learning_rate", "did you mean lr"),
        (lambda: optkern.LBFGS(np.ones(3)), "param_groups", "there are lr, max_iter"),
        (lambda: optkern.NewtonLanczos(np.ones(3)), "param_groups", "there are"),
    ),
)
def test_names_that_are_nowhere_say_which_there_are(make, name, words):
    with pytest.raises(AttributeError, match=f"no attribute {name!r}; {words}"):
        getattr(make(), name)


@pytest.mark.parametrize("make", (sam, lambda: optkern.LBFGS(np.ones(3))))
def test_copies_and_pickles_ask_for_names_too(make):
    opt = make()
    for other in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        assert np.array_equal(other.params[0], np.ones(3))
    for name in ("__array__", "_nothing"):
        with pytest.raises(AttributeError, match=f"no attribute {name!r}$"):
            getattr(opt, name)


def test_sam_around_what_updates_no_arrays():
    torch = pytest.importorskip("torch")
    from optkern.integrations import torch as ours

    weights = [torch.nn.Parameter(torch.ones(3))]
    for made in (ours.SGD(weights, lr=0.1), torch.optim.SGD(weights, lr=0.1)):
        words = r"got SGD of \S*torch\S*; optkern\.SGD\(params\) is one, of arrays"
        with pytest.raises(TypeError, match=words):
            optkern.SAM(made)
