"""What torch's state dicts of another class, shape or kind say when they are loaded."""

from __future__ import annotations

import functools
import warnings

import pytest
from conftest import spread

torch = pytest.importorskip("torch", reason="extra `torch`")

from optkern.integrations import torch as ours  # noqa: E402
from optkern.optimizers import CLASSES  # noqa: E402

NAMES = [cls.__name__ for cls in CLASSES.values()]
# torch's classes whose state and hyperparameters are another's of ours: it goes on from them.
SAME = {("Adam", "AdamW"), ("AdamW", "Adam")}
# Its state fits and its groups are told apart: torch goes on without a word, here there is one.
NEARLY = {(a, "RAdam") for a in ("Adam", "AdamW")} | {("RAdam", b) for b in ("Adam", "AdamW")}
# Before a first step nothing tells them apart: they have the same hyperparameters.
UNTOLD = {
    cls.__name__ for cls in CLASSES.values()
    if set(cls.rule.hyperparameters) == set(CLASSES["radam"].rule.hyperparameters)
}  # fmt: skip
FOREIGN = ("Rprop", "ASGD", "Adafactor", "SparseAdam")


def trained(make, seed=0, steps=2, **options):
    torch.manual_seed(seed)
    params = [torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(2))]
    opt = make(params, lr=0.01, **options)
    for _ in range(steps):
        for p in params:
            p.grad = torch.ones_like(p)
            if make is getattr(torch.optim, "SparseAdam", None):
                p.grad = p.grad.to_sparse()
        opt.step()
    return params, opt


def picture(params, opt):
    state = {i: dict(opt.state.get(p, {})) for i, p in enumerate(params)}
    held = [{k: v for k, v in group.items() if k != "params"} for group in opt.param_groups]
    return repr((params, state, held, opt.optimizer.steps))


def refused(target, saved, said, **options):
    """Load, see it refused and nothing changed; the next step is as if nothing had been tried."""
    params, opt = trained(getattr(ours, target), **options)
    before = picture(params, opt)
    with pytest.raises((TypeError, ValueError), match=rf"{target}.*{said}"):
        opt.load_state_dict(saved)
    assert picture(params, opt) == before
    opt.step()
    others, twin = trained(getattr(ours, target), steps=3, **options)
    assert picture(params, opt) == picture(others, twin)


@functools.cache
def every_dict(steps):
    makers = [(name, getattr(ours, name)) for name in NAMES]
    theirs = [name for name in (*NAMES, *FOREIGN) if hasattr(torch.optim, name)]
    makers += [(name, getattr(torch.optim, name)) for name in theirs]
    return [(name, make, trained(make, steps=steps)[1].state_dict()) for name, make in makers]


@spread(3, target=NAMES, steps=(0, 2))
def test_the_state_of_another_class_is_refused_or_said(target, steps):
    """Also before a first step, when its groups alone say whose it is."""
    params, opt = trained(getattr(ours, target))
    before, kept = picture(params, opt), opt.state_dict()
    for name, make, saved in every_dict(steps):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                opt.load_state_dict(saved)
                error = None
            except (TypeError, ValueError) as refusal:
                error = str(refusal)
        if name == target or (name, target) in SAME:
            assert not error and not caught, (name, make, error, caught)
        elif not steps and {name, target} <= UNTOLD:  # said, or silent
            assert not error or picture(params, opt) == before
        elif (name, target) in NEARLY:
            assert not error, (name, make, error)
            assert "another class" in str(caught[0].message)
        elif error:
            assert error.startswith(f"{target}"), (name, error)
            assert picture(params, opt) == before
        else:
            assert caught and "another class" in str(caught[0].message), (name, make)
        opt.load_state_dict(kept)


@pytest.mark.parametrize("target", ("SGD", "LARS"))
def test_adams_state_is_none_of_a_velocity(target):
    saved = trained(torch.optim.Adam)[1].state_dict()
    refused(target, saved, "'exp_avg'", momentum=0.9)


@pytest.mark.parametrize(
    ("source", "target", "slot"),
    (
        ("Adam", "Lion", "exp_avg_sq"),
        ("Adadelta", "RMSprop", "acc_delta"),
        ("NAdam", "Adam", "mu_product"),
        ("Adamax", "Lion", "exp_inf"),
    ),
)
def test_what_fits_in_part_is_refused(source, target, slot):
    saved = trained(getattr(torch.optim, source))[1].state_dict()
    refused(target, saved, repr(slot))


def test_a_word_that_is_made_an_error_leaves_everything():
    saved = trained(torch.optim.Adam)[1].state_dict()
    params, opt = trained(ours.RAdam)
    before = picture(params, opt)
    with warnings.catch_warnings(), pytest.raises(UserWarning, match="amsgrad"):
        warnings.simplefilter("error")
        opt.load_state_dict(saved)
    assert picture(params, opt) == before


def test_what_users_hold_in_state_and_groups_goes_on():
    params, opt = trained(ours.Adam)
    opt.state[params[0]]["seen"] = torch.ones(5)
    opt.param_groups[0]["layer_id"] = 3
    saved = opt.state_dict()
    _, other = trained(ours.Adam, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.load_state_dict(saved)
    assert other.param_groups[0]["layer_id"] == 3
    assert other.state[other.param_groups[0]["params"][0]]["seen"].shape == (5,)


def altered(change, name="Adam", **options):
    saved = trained(getattr(torch.optim, name), **options)[1].state_dict()
    change(saved)
    return saved


def set_slot(value):
    return lambda saved: saved["state"][0].update(exp_avg=value)


ALTERED = {
    "another shape": (set_slot(torch.ones(2, 3)), r"exp_avg must have shape \(3, 2\)"),
    "one that broadcasts": (set_slot(torch.ones(1, 2)), r"exp_avg must have shape \(3, 2\)"),
    "complex": (set_slot(torch.ones(3, 2, dtype=torch.complex64)), "exp_avg must be real"),
    "a meta tensor": (set_slot(torch.ones(3, 2, device="meta")), "exp_avg .*meta"),
    "sparse": (set_slot(torch.ones(3, 2).to_sparse()), "exp_avg must be dense"),
    "a list": (set_slot([1.0] * 6), "exp_avg must be a tensor, got list"),
    "too large a number": (
        set_slot(torch.full((3, 2), 1e300, dtype=torch.float64)),
        "exp_avg has 6 numbers that are too large",
    ),
    "a parameter more": (
        lambda saved: saved["state"].update({7: saved["state"][0]}),
        "the state of parameter 7, which none of its groups has",
    ),
    "an entry that is none": (lambda saved: saved["state"].update({0: 3}), "must be a dict"),
    "a parameter less": (
        lambda saved: saved["param_groups"][0].update(params=[0]),
        "group 0 has 2 parameters, in the dict there are 1",
    ),
    "a group more": (
        lambda saved: saved["param_groups"].append(dict(saved["param_groups"][0], params=[2])),
        "the dict has 2 groups, the optimizer 1",
    ),
    "no rate": (lambda saved: saved["param_groups"][0].update(lr="fast"), "lr must be"),
    "no groups": (lambda saved: saved.pop("param_groups"), "'param_groups'"),
    "groups that are no list": (lambda saved: saved.update(param_groups=3), "param_groups"),
    "a state that is no dict": (lambda saved: saved.update(state=[1]), "state"),
    "a group that is no dict": (lambda saved: saved.update(param_groups=[3]), "param_groups"),
}


@pytest.mark.parametrize("case", ALTERED)
def test_a_state_dict_that_does_not_fit(case):
    change, said = ALTERED[case]
    refused("Adam", altered(change), said)
