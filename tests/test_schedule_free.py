"""Schedule-free rules take the steps that their paper says, and give its average exactly back."""

import copy
import itertools

import numpy as np
import pytest
from conftest import bits

import optkern
from optkern import Mixed, schedules

NAMES = ("ScheduleFreeSGD", "ScheduleFreeAdamW", "ScheduleFreeRAdam")
every_one = pytest.mark.parametrize("name", NAMES)
GRADIENTS = (0.5, -0.2, 3.0, 1.0, -1.0, 0.3, 2.0)


def same_bits(a, b):
    return np.array_equal(bits(a), bits(b))


def made(name, params, **options):
    return getattr(optkern, name)(params, lr=0.05, **options)


def trained(opt, steps, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        grads = [rng.standard_normal(p.shape).astype(p.dtype) for p in opt.params]
        opt.step(grads[0] if opt.session.structure.single else grads)
    return opt


@pytest.mark.parametrize("warmup", (0, 3))
@pytest.mark.parametrize("name", NAMES[:2])
def test_steps_by_hand(name, warmup):
    """For one scalar, in the paper's letters: z is stepped, x averaged, y between them."""
    gamma, beta, beta2, lam, r, eps = 0.1, 0.8, 0.9, 0.2, 0.5, 1e-2
    momentum = {"momentum": beta} if "SGD" in name else {"betas": (beta, beta2), "eps": eps}
    y = np.array([0.7])
    opt = getattr(optkern, name)(
        y, lr=gamma, weight_decay=lam, warmup_steps=warmup, r=r, **momentum
    )
    x = z = 0.7
    total = v = 0.0
    for t, g in enumerate(GRADIENTS, 1):
        here = (1 - beta) * z + beta * x
        assert np.isclose(y[0], here, rtol=1e-13)
        rate = gamma * min(1.0, t / warmup) if warmup else gamma
        if "SGD" not in name:
            v = beta2 * v + (1 - beta2) * g * g
            g = g / (np.sqrt(v / (1 - beta2**t)) + eps)
        z = z - rate * (g + lam * here)
        weight = t**r * rate**2
        total += weight
        x = (1 - weight / total) * x + weight / total * z
        opt.step(np.array([GRADIENTS[t - 1]]))
        with opt.averaged():
            assert np.isclose(y[0], x, rtol=1e-13)
        assert np.isclose(opt.state[0]["z"][0], z, rtol=1e-13)


@pytest.mark.parametrize("silent", (True, False))
def test_radam_rests_or_descends_until_it_is_rectified(silent):
    p = np.array([0.7, -0.3])
    opt = made("ScheduleFreeRAdam", p, silent_sgd_phase=silent)
    start = p.copy()
    for t in range(1, 8):
        g = np.full(2, 2.0)
        opt.step(g)
        power = 0.999**t
        rho = 1999 - 2 * t * power / (1 - power)
        if rho <= 4:
            assert np.array_equal(p, start) == silent
            z = start - (0 if silent else 0.05 * 2.0 * t)
            np.testing.assert_allclose(opt.state[0]["z"], z, rtol=1e-13)
    assert (p < start).all()


@every_one
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_weights_come_back_bit_for_bit(name, dtype):
    rng = np.random.default_rng(1)
    params = [rng.standard_normal(s).astype(dtype) for s in ((7,), (5, 3))]
    params.append(np.asfortranarray(rng.standard_normal((4, 6)).astype(dtype)))
    params.append(rng.standard_normal(12).astype(dtype)[::2])
    opt = trained(made(name, params), 9)
    before, state = [p.copy() for p in params], opt.state_dict()
    with opt.averaged():
        b = opt.state[0]["interpolation"]
        for p, y, entry in zip(params, before, opt.state.values(), strict=True):
            x = y + dtype(1 - 1 / b) * (entry["z"] - y)
            assert same_bits(p, x) and not same_bits(p, y)
            assert same_bits(entry["ema"], y)  # where they are meanwhile
        with pytest.raises(RuntimeError, match="averages are in the parameters' place"):
            opt.step([np.zeros_like(p) for p in params])
        assert opt.averages_are_in
    assert all(itertools.starmap(same_bits, zip(params, before, strict=True)))
    after = opt.state_dict()
    assert repr(after) == repr(state) and not opt.averages_are_in and "ema" not in opt.state[0]


@every_one
def test_before_the_first_step_the_average_is_the_weights(name):
    p = np.ones(3)
    opt = made(name, p)
    p[...] = 2.0  # loaded before training begins
    with opt.averaged():
        assert (p == 2).all()
    opt.step(np.ones(3))
    assert abs(opt.state[0]["z"] - 2).max() < 0.2


@every_one
@pytest.mark.parametrize("within", (False, True))
@pytest.mark.parametrize("way", ("dict", "file", "copy"))
def test_goes_on_bit_for_bit(name, within, way, tmp_path):
    p, q = np.linspace(-1, 1, 11), np.linspace(-1, 1, 11)
    one = trained(made(name, p, warmup_steps=3) if "RAdam" not in name else made(name, p), 5)
    other = copy.deepcopy(one) if way == "copy" else getattr(optkern, name)(q)
    if way == "copy":
        q = other.params[0]
    if within:
        one.swap_in()
        if way == "copy":
            other = copy.deepcopy(one)
            q = other.params[0]
    if way == "dict":
        q[...] = p
        other.load_state_dict(one.state_dict())
    elif way == "file":
        optkern.save(tmp_path / "a.npz", one)
        optkern.load(tmp_path / "a.npz", other)
    assert same_bits(p, q) and other.averages_are_in == within
    if within:
        one.swap_out()
        other.swap_out()
    trained(one, 5, 1)
    trained(other, 5, 1)
    assert same_bits(p, q)
    with one.averaged(), other.averaged():
        assert same_bits(p, q)


@every_one
def test_decay_forms_are_of_the_step_of_z(name):
    """At the first step, where p and z are one: times lr, not times lr, and where it agrees."""
    p, g, lam = np.array([1.0, 1.0, -1.0, -1.0]), np.array([1.0, -1.0, 1.0, -1.0]), 0.5
    z = {}
    for form in ("none", "decoupled", "independent", "cautious"):
        options = {} if form == "none" else {"weight_decay": lam, "decay_form": form}
        options |= {"silent_sgd_phase": False} if "RAdam" in name else {}
        opt = made(name, p.copy(), **options)
        opt.step(g)
        z[form] = opt.state[0]["z"].copy()
    np.testing.assert_allclose(z["decoupled"], z["none"] - 0.05 * lam * p, rtol=1e-12)
    np.testing.assert_allclose(z["independent"], z["none"] - lam * p, rtol=1e-12)
    assert same_bits(z["cautious"], np.where(g * p < 0, z["none"], z["decoupled"]))


def test_another_momentum_leaves_the_average_where_it_is():
    """x moves by its own rule, whatever the interpolation becomes: y alone is another point."""
    p = np.array([1.0, -2.0])
    opt = optkern.ScheduleFreeSGD(p, lr=0.1, momentum=0.9)
    x = z = p.copy()
    for t, momentum in enumerate((0.9, 0.9, 0.5, 0.7, 0.98, 0.98), 1):
        opt.param_groups[0]["momentum"] = momentum
        g = np.array([0.3, -1.0]) * t
        opt.step(g)
        z = z - 0.1 * g
        x = x + (z - x) / t
        np.testing.assert_allclose(p, (1 - momentum) * z + momentum * x, rtol=1e-12)
        with opt.averaged():
            np.testing.assert_allclose(p, x, rtol=1e-12)


def test_a_schedule_weighs_the_average_by_the_largest_rate():
    p = np.zeros(1)
    opt = optkern.ScheduleFreeSGD(p, lr=schedules.Piecewise({0: 0.2, 2: 0.4, 6: 0.1}))
    x = z = np.zeros(1)
    total = largest = 0.0
    for step in range(8):
        lr = schedules.Piecewise({0: 0.2, 2: 0.4, 6: 0.1})(step)
        opt.step(np.ones(1))
        z = z - lr
        largest = max(largest, lr)
        total += largest**2
        x = x + largest**2 / total * (z - x)
    with opt.averaged():
        np.testing.assert_allclose(p, x, rtol=1e-13)


@every_one
@pytest.mark.parametrize("option", ({"ema_decay": 0.9}, {"lookahead": (5, 0.5)},
                                    {"project": "nonnegative"}, {"cautious": True}))  # fmt: skip
def test_options_that_would_change_the_average_are_refused(name, option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} is not possible with {name}"):
        made(name, np.ones(3), **option)
    opt = made(name, np.ones(3))
    with pytest.raises(ValueError, match="whose weights lie between its own average and z"):
        setattr(opt, *next(iter(option.items())))
    assert opt.step(np.ones(3))


@every_one
def test_what_has_no_average_is_refused(name):
    """At construction: not by the end of a training whose average nobody could have."""
    said = {"betas": (0.0, 0.9)} if "SGD" not in name else {"momentum": 0.0}
    for at in (said, {key: 1.0 if key == "momentum" else (1.0, 0.9) for key in said}):
        with pytest.raises(ValueError, match=r"must be .*in \(0, 1\)"):
            made(name, np.ones(3), **at)
    opt = made(name, np.ones(3))
    with pytest.raises(ValueError, match=r"must be .*in \(0, 1\)"):
        opt.param_groups[0].update(said)
    with pytest.raises(ValueError, match="z is weights"):
        made(name, np.ones(3, np.float32), state_dtype="bfloat16")
    with pytest.raises(ValueError, match=r"needs float32 or float64 parameters, parameter 1 is fl"):
        made(name, [np.ones(3), np.ones(3, np.float16)])
    with pytest.raises(ValueError, match="needs float32 or float64 parameters"):
        made(name, np.ones(3, np.float16), master_weights=True)
    with pytest.raises(ValueError, match="needs float32 or float64 parameters, parameter 1 is"):
        opt.add_param_group({"params": [np.ones(3, np.float16)]})
    assert opt.step(np.ones(3))


@every_one
def test_its_documentation_says_what_it_takes(name):
    said = getattr(optkern, name).__doc__
    assert "    float32 or float64 arrays of any shape" in said
    for option in ("cautious", "project", "lookahead", "ema_decay"):
        line = next(x for x in said.split(f"\n{option} : ")[1].splitlines()[1:])
        assert line.endswith("; not with this rule."), line
    assert "(0, 1)" in said.split("\nmomentum : " if "SGD" in name else "\nbetas : ")[1][:60]


@every_one
def test_the_modes_of_others_are_told_what_there_is_here(name):
    opt = made(name, np.ones(3))
    for mode in ("eval", "train"):
        with pytest.raises(AttributeError, match=rf"^{name}: {mode} has .*with opt.averaged\(\)"):
            getattr(opt, mode)()
        assert not hasattr(optkern.Adam(np.ones(3)), mode)


def test_in_a_mixed_optimizer_the_others_are_their_own_average():
    a, b = np.linspace(-1, 1, 5), np.linspace(-1, 1, 5)
    opt = Mixed(
        [
            {"params": [a], "rule": "ScheduleFreeSGD", "lr": 0.1},
            {"params": [b], "rule": "AdamW", "lr": 0.1},
        ]
    )
    for _ in range(4):
        opt.step([[np.ones(5)], [np.ones(5)]])
    before = a.copy(), b.copy()
    with opt.averaged():
        assert not same_bits(a, before[0]) and same_bits(b, before[1])
    assert same_bits(a, before[0]) and same_bits(b, before[1])


@every_one
def test_clipping_and_other_options_go_with_it_while_averages_are_in(name):
    opt = trained(made(name, np.ones(6)), 3)
    with opt.averaged():
        opt.clip_norm = 1.0
        opt.param_groups[0]["lr"] = 0.01
        with pytest.raises(RuntimeError, match="swap_out"):
            opt.accumulate = 2
    assert opt.clip_norm == 1.0 and opt.step(np.ones(6))


@every_one
def test_trains_to_a_better_average(name):
    """A noisy quadratic: the average lies nearer to its minimum than what is stepped."""
    rng = np.random.default_rng(0)
    p = np.full(20, 3.0)
    opt = getattr(optkern, name)(p, lr=0.5 if "SGD" in name else 0.1)
    for _ in range(600):
        opt.step(p + rng.standard_normal(20))
    z = np.linalg.norm(opt.state[0]["z"])
    with opt.averaged():
        assert np.linalg.norm(p) < 0.5 * z


@every_one
def test_torch_takes_it(name):
    torch = pytest.importorskip("torch")
    from optkern.integrations import torch as ours

    t = torch.nn.Parameter(torch.linspace(-1, 1, 7, dtype=torch.float64))
    p = t.detach().numpy().copy()
    opt, plain = getattr(ours, name)([t], lr=0.05), getattr(optkern, name)(p, lr=0.05)
    for k in range(5):
        t.grad = torch.full((7,), 0.1 * (k + 1), dtype=torch.float64)
        opt.step()
        plain.step(np.full(7, 0.1 * (k + 1)))
    assert same_bits(t.detach().numpy(), p)
    held = opt.state[t]
    assert float(held["weight_sum"]) == plain.state[0]["weight_sum"]
    z = held["z"]
    with opt.optimizer.averaged(), plain.averaged():
        assert same_bits(t.detach().numpy(), p)
    assert same_bits(t.detach().numpy(), p) and same_bits(opt.state[t]["z"].numpy(), z.numpy())
    with pytest.raises(AttributeError, match=r"with opt.optimizer.averaged\(\)"):
        opt.eval()
    again = getattr(ours, name)([t], lr=0.05)
    again.load_state_dict(opt.state_dict())
    t.grad = torch.ones(7, dtype=torch.float64)
    again.step()
    plain.step(np.ones(7))
    assert same_bits(t.detach().numpy(), p)


@every_one
def test_thinc_takes_it(name):
    pytest.importorskip("thinc")
    from optkern.integrations.thinc import Optimizer

    w, p = np.linspace(-1, 1, 6, dtype=np.float32), np.linspace(-1, 1, 6, dtype=np.float32)
    opt = Optimizer(0.05, rule=name.lower(), use_averages=True, grad_clip=0.0)
    plain = getattr(optkern, name)(p, lr=0.05)
    for k in range(4):
        g = np.full(6, 0.1 * (k + 1), np.float32)
        opt((0, "W"), w, g.copy())
        opt.step_schedules()
        plain.step(g)
    assert same_bits(w, p)
    with plain.averaged():
        assert same_bits(opt.averages[(0, "W")], p)
