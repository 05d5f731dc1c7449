"""Rules that torch.optim has not, beside pytorch_optimizer's: random options, twelve steps."""

import inspect

import numpy as np
import pytest

import optkern

REASON = "parity with pytorch_optimizer needs it: make test EXTRAS=peers"
torch = pytest.importorskip("torch", reason=REASON)
theirs = pytest.importorskip("pytorch_optimizer", reason=REASON)

STEPS, SHAPES = 12, ((7,), (3, 4))
PAIRS = {"lr": (1e-3, 0.05), "weight_decay": (0.0, 0.1)}
TWO = {"betas": ((0.9, 0.999), (0.5, 0.8), (0.0, 0.0))}
THREE = {"betas": ((0.98, 0.92, 0.99), (0.5, 0.8, 0.3), (0.9, 0.999, 0.9999))}


def adopt(t, clip_exponent, decay_form, **options):
    options["clip_lambda"] = lambda step: step**clip_exponent
    return theirs.ADOPT(t, weight_decouple=decay_form == "decoupled", **options)


def decoupled_or_not(name):
    def make(t, decay_form, **options):
        return getattr(theirs, name)(t, weight_decouple=decay_form == "decoupled", **options)

    return make


# The axes of our options, and what makes theirs of the same.
CASES = {
    "Adan": (
        {**PAIRS, **THREE, "eps": (1e-8, 1e-2), "no_prox": (False, True)},
        lambda t, no_prox, **options: theirs.Adan(t, weight_decouple=no_prox, **options),
    ),
    "ADOPT": (
        {
            **PAIRS, **TWO, "eps": (1e-6, 0.1), "clip_exponent": (0.25, 0.333),
            "decay_form": ("decoupled", "l2"),
        },
        adopt,
    ),
    "AdaBelief": (
        {**PAIRS, **TWO, "eps": (1e-16, 1e-3), "decay_form": ("decoupled", "l2")},
        decoupled_or_not("AdaBelief"),
    ),
    "LaProp": (
        {**PAIRS, **TWO, "eps": (1e-3, 1e-2)},
        lambda t, **options: theirs.LaProp(t, **options),
    ),
    "AdEMAMix": (
        {
            **PAIRS, "betas": ((0.9, 0.999, 0.9999), (0.5, 0.8, 0.9)), "eps": (1e-8, 1e-2),
            "alpha": (5.0, 2.0), "t_alpha_beta3": (0, 5, 100), "decay_form": ("decoupled", "l2"),
        },
        lambda t, t_alpha_beta3, decay_form, **options: theirs.AdEMAMix(
            t, t_alpha_beta3=t_alpha_beta3 or None, weight_decouple=decay_form == "decoupled",
            **options,
        ),
    ),
    "MARS": (
        {**PAIRS, **TWO, "eps": (1e-8, 1e-2), "gamma": (0.025, 0.4)},
        lambda t, **options: theirs.MARS(t, optimize_1d=True, **options),
    ),
    "FTRL": (
        {
            "lr": (1e-3, 0.3), "beta": (0.0, 0.5), "lambda_1": (0.0, 0.3), "lambda_2": (0.0, 0.7),
        },
        lambda t, **options: theirs.FTRL(t, **options),
    ),
}  # fmt: skip
# LaProp adds 1e-15 below the root there, MARS too.
LOOSER = {"LaProp": 1e-9, "MARS": 1e-9}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", CASES)
def test_random_options(name, seed):
    axes, make = CASES[name]
    rng = np.random.default_rng(seed)
    options = {key: values[rng.integers(len(values))] for key, values in axes.items()}
    maximize = bool(rng.integers(2)) and name != "Adan"  # its first change is of both signs there
    ours = [rng.standard_normal(shape) for shape in SHAPES]
    tensors = [torch.tensor(p, requires_grad=True) for p in ours]
    opt = getattr(optkern, name)(ours, maximize=maximize, **options)
    peer = make(tensors, maximize=maximize, foreach=False, **options)
    for _ in range(STEPS):
        grads = [rng.standard_normal(shape) * rng.choice([0.1, 1.0, 30.0]) for shape in SHAPES]
        for t, g in zip(tensors, grads, strict=True):
            t.grad = torch.tensor(g)
        opt.step(grads)
        peer.step()
    for p, t in zip(ours, tensors, strict=True):
        expected = t.detach().numpy()
        np.testing.assert_allclose(
            p, expected, rtol=LOOSER.get(name, 1e-12), atol=1e-14, err_msg=str(options)
        )
    for i, t in enumerate(tensors):
        held, found = peer.state[t], opt.state[i]
        for slot in opt.rule.state if name not in ("LaProp", "Adan") else ():
            np.testing.assert_allclose(found[slot], held[slot].numpy(), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("name", CASES)
def test_defaults_are_theirs(name):
    ours = inspect.signature(getattr(optkern, name)).parameters
    peer = inspect.signature(getattr(theirs, name)).parameters
    for key in set(ours) & set(peer) - {"params", "foreach", "t_alpha_beta3"}:
        assert ours[key].default == peer[key].default, key
