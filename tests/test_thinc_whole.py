"""thinc's integration: rules that take arrays as a whole, whose biases are AdamW's."""

import pickle

import numpy as np
import pytest

import optkern

pytest.importorskip("thinc.api", reason="needs thinc: make test EXTRAS=thinc")

import thinc.api as api
from thinc_cases import arrays, tagger, train

from optkern.integrations import thinc as ours

MATRICES = ("Muon", "NorMuon", "SOAP")
EVERY = (*MATRICES, "Adafactor")


def made(name, **kw):
    own = {"layout": "out_in"} if name in ("Muon", "NorMuon") else {}
    return lambda p: getattr(optkern, name)(p, lr=0.02, weight_decay=0.1, **own, **kw)


def stepped(optimizer, shape, name="W", updates=7):
    w = arrays(shape)[0]
    for g in arrays(shape, count=updates, seed=1):
        back, zeros = optimizer((1, name), w, g)
        assert back is w and zeros is g and not g.any()
    return w


def expected(make, shape, as_shape=None, updates=7):
    w = arrays(shape)[0]
    opt = make(w.reshape(as_shape or shape))
    for g in arrays(shape, count=updates, seed=1):
        opt.step(g.reshape(as_shape or shape))
    return w, opt


@pytest.mark.parametrize("name", EVERY)
def test_a_matrix_is_stepped_as_by_the_class(name):
    optimizer = getattr(ours, name)(0.02, L2=0.1, grad_clip=0.0, use_averages=False)
    w, opt = expected(made(name), (10, 6))
    assert np.array_equal(stepped(optimizer, (10, 6)), w)
    for slot, kept in opt.state[0].items():
        if isinstance(kept, np.ndarray):
            assert np.array_equal(optimizer._where_kept(slot)[1, "W"], kept.ravel())
    assert optimizer.nr_update[1, "W"] == 7


@pytest.mark.parametrize("name", MATRICES)
def test_more_axes_are_the_outputs(name):
    """Maxout's weights (outputs, pieces, inputs) are one product."""
    optimizer = getattr(ours, name)(0.02, L2=0.1, grad_clip=0.0)
    w, _ = expected(made(name, ema_decay=0.5), (5, 3, 6), (15, 6))
    assert np.array_equal(stepped(optimizer, (5, 3, 6)), w)
    assert optimizer.averages[1, "W"].shape == (5, 3, 6)
    assert not np.array_equal(optimizer.averages[1, "W"], w)


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("key, shape", (("b", (6,)), ("E", (10, 6)), ("Q", ())))
def test_the_rest_is_adamws(name, key, shape):
    optimizer = getattr(ours, name)(0.02, L2=0.1, grad_clip=0.0, use_averages=False)
    w, _ = expected(lambda p: optkern.AdamW(p, lr=0.02, weight_decay=0.1), shape)
    assert np.array_equal(stepped(optimizer, shape, key), w)


@pytest.mark.parametrize("name", MATRICES)
def test_what_all_rules_have_is_the_rests_too(name):
    optimizer = getattr(ours, name)(0.02, grad_clip=0.0, maximize=True)
    other = getattr(ours, name)(0.02, grad_clip=0.0)
    assert (stepped(optimizer, (6,), "b", 1) > stepped(other, (6,), "b", 1)).any()
    assert np.array_equal(
        stepped(optimizer, (6,), "c"),
        expected(
            lambda p: optkern.AdamW(p, lr=0.02, weight_decay=optimizer.L2, maximize=True), (6,)
        )[0],
    )


def test_adafactor_takes_all_axes_itself():
    for shape in ((6,), (5, 3, 6)):
        optimizer = ours.Adafactor(0.02, L2=0.1, grad_clip=0.0, use_averages=False)
        assert np.array_equal(stepped(optimizer, shape), expected(made("Adafactor"), shape)[0])


def test_a_rules_own_options():
    kw = {"momentum": 0.5, "ns_steps": 3, "adjust_lr_fn": "match_rms_adamw"}
    optimizer = ours.Muon(0.02, L2=0.1, grad_clip=0.0, **kw, use_averages=False)
    assert np.array_equal(stepped(optimizer, (10, 6)), expected(made("Muon", **kw), (10, 6))[0])
    eps = {"eps": (1e-6, 1e-2)}
    optimizer = ours.Adafactor(0.02, L2=0.1, grad_clip=0.0, **eps, use_averages=False)
    assert np.array_equal(
        stepped(optimizer, (10, 6)), expected(made("Adafactor", **eps), (10, 6))[0]
    )
    beta2 = {"beta2": 0.5}
    optimizer = ours.NorMuon(0.02, L2=0.1, grad_clip=0.0, **beta2, use_averages=False)
    assert np.array_equal(
        stepped(optimizer, (10, 6)), expected(made("NorMuon", **beta2), (10, 6))[0]
    )
    scheduled = ours.Muon(0.02, momentum=lambda step: 0.5 + 0 * step, L2=0.1, grad_clip=0.0)
    scheduled.averages = None
    kw = {"momentum": 0.5}
    assert np.array_equal(stepped(scheduled, (10, 6)), expected(made("Muon", **kw), (10, 6))[0])
    assert np.array_equal(
        stepped(scheduled, (6,), "b"),
        expected(lambda p: optkern.AdamW(p, lr=0.02, weight_decay=0.1), (6,))[0],
    )
    with pytest.raises(TypeError, match="the rule muon has no beta1"):
        ours.Muon(0.02, beta1=0.5)
    with pytest.raises(ValueError, match=r"ns_steps must be .* got 0"):
        ours.Muon(0.02, ns_steps=0)
    with pytest.raises(ValueError, match="Prodigy steps by sums over all parameters"):
        ours.Optimizer(1.0, rule="prodigy")
    with pytest.raises(AttributeError, match="Prodigy steps by sums over all parameters"):
        ours.Prodigy(1.0)


@pytest.mark.parametrize("name", EVERY)
def test_a_model_trains_and_goes_on_from_a_pickle(name):
    """spaCy's kind of layers: embeddings, windows, Maxout, Softmax."""
    config = {"@optimizers": f"optkern.{name}.v1", "learn_rate": 0.01}
    optimizer = api.registry.resolve({"optimizer": config})["optimizer"]
    model = tagger()
    before = [w.copy() for w in train(model, ours.SGD(0.0), batches=0)]
    after = train(model, optimizer, batches=10)
    assert all((a != b).any() and np.isfinite(a).all() for a, b in zip(after, before))
    again, other = pickle.loads(pickle.dumps((optimizer, model)))
    assert all(map(np.array_equal, train(model, optimizer, 3), train(other, again, 3)))


@pytest.mark.parametrize("name", MATRICES)
def test_what_does_not_fit_changes_nothing(name):
    optimizer = getattr(ours, name)(0.02)
    w, g = arrays((5, 3, 6), count=2)
    for weights, gradient in ((w, g[:2]), (np.asfortranarray(w), g)):
        before = weights.copy()
        with pytest.raises(ValueError, match=r"of node 1.*(shape|C-contiguous)"):
            optimizer((1, "W"), weights, gradient)
        assert np.array_equal(weights, before) and not optimizer.nr_update[1, "W"]
    optimizer._where_kept("momentum_buffer")[1, "W"] = np.zeros(3, np.float32)
    optimizer._where_kept("exp_avg")[1, "W"] = np.zeros(3, np.float32)
    optimizer.nr_update[1, "W"] = 1
    with pytest.raises(ValueError, match="must have 90 elements"):
        optimizer((1, "W"), w, g)
