"""Where libraries disagree, a named option gives each one's numbers."""

import numpy as np
import pytest
from conftest import ordinary

import optkern

STEPS = 20
SHAPES = ((4, 3), (3,))
EXACT = {"rtol": 1e-12, "atol": 1e-14}


def parameters():
    return [ordinary(np.float64, int(np.prod(s)), k).reshape(s) for k, s in enumerate(SHAPES)]


def gradients(step):
    return [
        ordinary(np.float64, int(np.prod(s)), 100 * step + k).reshape(s)
        for k, s in enumerate(SHAPES, start=10)
    ]


def run(opt, steps=STEPS):
    for step in range(steps):
        opt.step(gradients(step))


def assert_close(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, **EXACT)


# --------------------------------------------------------------------------- scikit-learn


@pytest.fixture
def sklearn_optimizers():
    return pytest.importorskip(
        "sklearn.neural_network._stochastic_optimizers",
        reason="parity of the conventions needs scikit-learn: make test EXTRAS=demo",
    )


@pytest.mark.parametrize("betas", ((0.9, 0.999), (0.5, 0.7)))
@pytest.mark.parametrize("eps", (1e-8, 1e-2))
def test_raw_eps_is_scikit_learns_adam(sklearn_optimizers, betas, eps):
    ours, theirs = parameters(), parameters()
    run(optkern.Adam(ours, lr=0.01, betas=betas, eps=eps, eps_form="raw"))
    peer = sklearn_optimizers.AdamOptimizer(theirs, 0.01, *betas, eps)
    for step in range(STEPS):
        peer.update_params(theirs, gradients(step))
    assert_close(ours, theirs)


def test_corrected_eps_is_not_scikit_learns_adam(sklearn_optimizers):
    """So that the test above could fail."""
    ours, theirs = parameters(), parameters()
    run(optkern.Adam(ours, lr=0.01, eps=1e-2), 1)
    sklearn_optimizers.AdamOptimizer(theirs, 0.01, epsilon=1e-2).update_params(theirs, gradients(0))
    assert np.abs(ours[0] - theirs[0]).max() > 1e-4


@pytest.mark.parametrize("nesterov", (False, True))
@pytest.mark.parametrize("momentum", (0.5, 0.9))
def test_classical_momentum_is_scikit_learns_sgd(sklearn_optimizers, nesterov, momentum):
    """The learning rate is inside the velocity: it shows where the rate changes."""
    ours, theirs = parameters(), parameters()
    opt = optkern.SGD(ours, lr=0.1, momentum=momentum, nesterov=nesterov, momentum_form="classical")
    peer = sklearn_optimizers.SGDOptimizer(
        theirs, 0.1, lr_schedule="adaptive", momentum=momentum, nesterov=nesterov
    )
    for step in range(STEPS):
        if step == STEPS // 2:
            peer.trigger_stopping("", verbose=False)
            opt.param_groups[0]["lr"] = peer.learning_rate
        opt.step(gradients(step))
        peer.update_params(theirs, gradients(step))
    assert peer.learning_rate == pytest.approx(0.02)
    assert_close(ours, theirs)


@pytest.mark.parametrize("nesterov", (False, True))
def test_classical_momentum_with_a_decaying_rate(sklearn_optimizers, nesterov):
    ours, theirs = parameters(), parameters()
    run(
        optkern.SGD(
            ours, lr=lambda step: 0.1 / (step + 1) ** 0.5, momentum=0.9, nesterov=nesterov,
            momentum_form="classical",
        )
    )  # fmt: skip
    peer = sklearn_optimizers.SGDOptimizer(
        theirs, 0.1, lr_schedule="invscaling", momentum=0.9, nesterov=nesterov
    )
    for step in range(STEPS):
        peer.update_params(theirs, gradients(step))
        peer.iteration_ends(step + 1)
    assert_close(ours, theirs)


# --------------------------------------------------------------------------- written out


@pytest.mark.parametrize("mass", (0.5, 0.9))
def test_averaged_momentum_is_autograds_sgd(mass):
    """autograd.misc.optimizers.sgd, written out."""
    ours, theirs = parameters(), parameters()
    run(optkern.SGD(ours, lr=0.1, momentum=mass, momentum_form="average"))
    velocity = [0.0] * len(theirs)
    for step in range(STEPS):
        for k, g in enumerate(gradients(step)):
            velocity[k] = mass * velocity[k] - (1.0 - mass) * g
            theirs[k] = theirs[k] + 0.1 * velocity[k]
    assert_close(ours, theirs)


@pytest.mark.parametrize("eps", (1e-8, 1e-2))
def test_corrected_eps_is_autograds_adam(eps):
    """autograd.misc.optimizers.adam, written out."""
    ours, theirs = parameters(), parameters()
    run(optkern.Adam(ours, lr=0.01, eps=eps))
    m, v = [0.0] * len(theirs), [0.0] * len(theirs)
    for step in range(STEPS):
        for k, g in enumerate(gradients(step)):
            m[k] = (1 - 0.9) * g + 0.9 * m[k]
            v[k] = (1 - 0.999) * (g**2) + 0.999 * v[k]
            mhat = m[k] / (1 - 0.9 ** (step + 1))
            vhat = v[k] / (1 - 0.999 ** (step + 1))
            theirs[k] = theirs[k] - 0.01 * mhat / (np.sqrt(vhat) + eps)
    assert_close(ours, theirs)


def test_classical_momentum_is_torchs_while_the_rate_stands_still():
    """The two forms are one up to the scale of the velocity, and differ once the rate changes."""
    torch_form, classical = parameters(), parameters()
    a = optkern.SGD(torch_form, lr=0.1, momentum=0.9)
    b = optkern.SGD(classical, lr=0.1, momentum=0.9, momentum_form="classical")
    run(a)
    run(b)
    assert_close(torch_form, classical)
    for opt in (a, b):
        opt.param_groups[0]["lr"] = 0.01
    run(a, 1)
    run(b, 1)
    assert np.abs(torch_form[0] - classical[0]).max() > 1e-3


@pytest.mark.parametrize("form", ("l2", "decoupled", "independent"))
@pytest.mark.parametrize("cls", (optkern.Adam, optkern.AdamW))
def test_forms_of_weight_decay(cls, form):
    """L2 goes through the moments; decoupled is times the rate; independent is not."""
    lr, decay = 0.05, 0.02
    ours, theirs = parameters(), parameters()
    run(cls(ours, lr=lr, weight_decay=decay, decay_form=form))
    adam = optkern.Adam(theirs, lr=lr)
    for step in range(STEPS):
        grads = gradients(step)
        if form == "l2":
            grads = [g + decay * p for p, g in zip(theirs, grads, strict=True)]
        for p in theirs:
            p *= {"l2": 1, "decoupled": 1 - lr * decay, "independent": 1 - decay}[form]
        adam.step(grads)
    assert_close(ours, theirs)


@pytest.mark.parametrize("name", ("Adam", "NAdam", "RAdam"))
def test_decoupled_weight_decay_is_the_decoupled_form(name):
    ours, theirs = parameters(), parameters()
    run(getattr(optkern, name)(ours, weight_decay=0.1, decoupled_weight_decay=True))
    run(getattr(optkern, name)(theirs, weight_decay=0.1, decay_form="decoupled"))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)
