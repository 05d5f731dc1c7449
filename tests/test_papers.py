"""Every rule takes the steps that its paper says.

Each function below is a paper's textbook formula for one scalar, unfolded, in the paper's letters
and with no help from the package: a generator that gets gradients and gives what to add to theta.
Where the paper leaves something open (where eps goes, what weight decay multiplies) the docstring
of the class decides.
"""

from math import sqrt
from pathlib import Path

import numpy as np
import pytest
from conftest import RULES

import optkern
from optkern.optimizers import CLASSES

P = (0.7, -1.3, 0.02)
G = ((0.5, -0.2, 3.0), (-0.4, -0.1, 1.0), (0.9, 0.3, -2.0))
LR, WD = 0.05, 0.1


def sgd(lr, mu=0.0, dampening=0.0, nesterov=False):
    """Plain and heavy-ball descent as torch.optim writes them; its first velocity is g itself."""
    v, delta = None, 0.0
    while True:
        g = yield delta
        v = g if v is None else mu * v + (1 - dampening) * g
        delta = -lr * (g + mu * v if nesterov else v)


def classical_momentum(lr, mu):
    """Sutskever et al. 2013, equations 1 and 2."""
    v = delta = 0.0
    while True:
        g = yield delta
        v = mu * v - lr * g
        delta = v


def averaged_momentum(lr, mu, nesterov=False):
    v = delta = 0.0
    while True:
        g = yield delta
        v = mu * v + (1 - mu) * g
        delta = -lr * (mu * v + (1 - mu) * g if nesterov else v)


def adagrad(lr, eps, lr_decay=0.0):
    """Duchi et al. 2011, figure 1, diagonal: H = delta + sqrt(the sum of g**2)."""
    squares = delta = 0.0
    t = 0
    while True:
        g = yield delta
        t += 1
        squares = squares + g**2
        eta = lr / (1 + (t - 1) * lr_decay)
        delta = -eta * g / (eps + sqrt(squares))


def rmsprop(lr, alpha, eps, mu=0.0, centered=False):
    """Tieleman and Hinton 2012, slide 29; centered: Graves 2013, equations 38 to 41."""
    n = mean = velocity = delta = 0.0
    while True:
        g = yield delta
        n = alpha * n + (1 - alpha) * g**2
        mean = alpha * mean + (1 - alpha) * g
        variance = n - mean**2 if centered else n
        velocity = mu * velocity + g / (sqrt(variance) + eps)
        delta = -lr * velocity


def adadelta(lr, rho, eps):
    """Zeiler 2012, algorithm 1."""
    eg2 = edx2 = delta = 0.0
    while True:
        g = yield delta
        eg2 = rho * eg2 + (1 - rho) * g**2
        dx = -sqrt(edx2 + eps) / sqrt(eg2 + eps) * g
        edx2 = rho * edx2 + (1 - rho) * dx**2
        delta = lr * dx


def adam(lr, beta1, beta2, eps, amsgrad=False):
    """Kingma and Ba 2015, algorithm 1; amsgrad: Reddi et al. 2018, algorithm 2."""
    m = v = v_max = delta = 0.0
    t = 0
    while True:
        g = yield delta
        t += 1
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        v_max = max(v_max, v)
        m_hat = m / (1 - beta1**t)
        v_hat = (v_max if amsgrad else v) / (1 - beta2**t)
        delta = -lr * m_hat / (sqrt(v_hat) + eps)


def adam_raw(lr, beta1, beta2, eps, amsgrad=False):
    """Kingma and Ba 2015, the more efficient order at the end of section 2, with its eps hat."""
    m = v = v_max = delta = 0.0
    t = 0
    while True:
        g = yield delta
        t += 1
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        v_max = max(v_max, v)
        alpha_t = lr * sqrt(1 - beta2**t) / (1 - beta1**t)
        delta = -alpha_t * m / (sqrt(v_max if amsgrad else v) + eps)


def adamax(lr, beta1, beta2, eps):
    """Kingma and Ba 2015, algorithm 2; eps, which the paper has not, keeps u from zero."""
    m = u = delta = 0.0
    t = 0
    while True:
        g = yield delta
        t += 1
        m = beta1 * m + (1 - beta1) * g
        u = max(beta2 * u, abs(g) + eps)
        delta = -lr / (1 - beta1**t) * m / u


def nadam(lr, beta1, beta2, eps, psi):
    """Dozat 2016, algorithm 2 with the schedule of section 3 (psi: how fast mu warms up)."""
    m = n = delta = 0.0
    t, product = 0, 1.0
    while True:
        g = yield delta
        t += 1
        mu, mu_next = (beta1 * (1 - 0.5 * 0.96 ** (k * psi)) for k in (t, t + 1))
        product *= mu
        g_hat = g / (1 - product)
        m = beta1 * m + (1 - beta1) * g
        m_hat = m / (1 - product * mu_next)
        n = beta2 * n + (1 - beta2) * g**2
        n_hat = n / (1 - beta2**t)
        m_bar = (1 - mu) * g_hat + mu_next * m_hat
        delta = -lr * m_bar / (sqrt(n_hat) + eps)


def radam(lr, beta1, beta2, eps):
    """Liu et al. 2020, algorithm 2; rectified where rho > 5, as torch.optim does."""
    m = v = delta = 0.0
    t = 0
    rho_inf = 2 / (1 - beta2) - 1
    while True:
        g = yield delta
        t += 1
        v = beta2 * v + (1 - beta2) * g**2
        m = beta1 * m + (1 - beta1) * g
        m_hat = m / (1 - beta1**t)
        rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
        if rho > 5:
            adaptive = sqrt(1 - beta2**t) / (sqrt(v) + eps)
            r = sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
            delta = -lr * r * m_hat * adaptive
        else:
            delta = -lr * m_hat


def lion(lr, beta1, beta2):
    """Chen et al. 2023, algorithm 2."""
    m = delta = 0.0
    while True:
        g = yield delta
        c = beta1 * m + (1 - beta1) * g
        delta = -lr * ((c > 0) - (c < 0))
        m = beta2 * m + (1 - beta2) * g


def norm(x):
    return sqrt(sum(a * a for a in x))


def lars(theta, gradients, eta, beta, mu, gamma):
    """You et al. 2017, algorithm 1; the parameters after each step."""
    v = [0.0] * len(theta)
    for g in gradients:
        local = eta * norm(theta) / (norm(g) + beta * norm(theta))
        v = [mu * a + gamma * local * (b + beta * w) for a, b, w in zip(v, g, theta, strict=True)]
        theta = [w - a for w, a in zip(theta, v, strict=True)]
        yield theta


def lamb(theta, gradients, eta, lam, beta1, beta2, eps):
    """You et al. 2020, algorithm 2, phi the identity; the parameters after each step."""
    m = v = [0.0] * len(theta)
    for t, g in enumerate(gradients, start=1):
        m = [beta1 * a + (1 - beta1) * b for a, b in zip(m, g, strict=True)]
        v = [beta2 * a + (1 - beta2) * b * b for a, b in zip(v, g, strict=True)]
        r = [
            a / (1 - beta1**t) / (sqrt(b / (1 - beta2**t)) + eps) + lam * x
            for a, b, x in zip(m, v, theta, strict=True)
        ]
        theta = [x - eta * norm(theta) / norm(r) * d for x, d in zip(theta, r, strict=True)]
        yield theta


BETAS = {"betas": (0.8, 0.9)}
B = {"beta1": 0.8, "beta2": 0.9}

# The rule, its options, the paper's formula and what its letters are.
FORMS = [
    ("sgd", {}, sgd, {}),
    ("sgd", {"momentum": 0.9}, sgd, {"mu": 0.9}),
    ("sgd", {"momentum": 0.9, "dampening": 0.4}, sgd, {"mu": 0.9, "dampening": 0.4}),
    ("sgd", {"momentum": 0.9, "nesterov": True}, sgd, {"mu": 0.9, "nesterov": True}),
    ("sgd", {"momentum": 0.9, "momentum_form": "classical"}, classical_momentum, {"mu": 0.9}),
    ("sgd", {"momentum": 0.9, "momentum_form": "average"}, averaged_momentum, {"mu": 0.9}),
    (
        "sgd", {"momentum": 0.9, "momentum_form": "average", "nesterov": True},
        averaged_momentum, {"mu": 0.9, "nesterov": True},
    ),
    ("adagrad", {"eps": 1e-3}, adagrad, {"eps": 1e-3}),
    ("adagrad", {"eps": 1e-3, "lr_decay": 0.3}, adagrad, {"eps": 1e-3, "lr_decay": 0.3}),
    ("rmsprop", {"alpha": 0.9, "eps": 1e-3}, rmsprop, {"alpha": 0.9, "eps": 1e-3}),
    (
        "rmsprop", {"alpha": 0.9, "eps": 1e-3, "momentum": 0.8},
        rmsprop, {"alpha": 0.9, "eps": 1e-3, "mu": 0.8},
    ),
    (
        "rmsprop", {"alpha": 0.9, "eps": 1e-3, "centered": True},
        rmsprop, {"alpha": 0.9, "eps": 1e-3, "centered": True},
    ),
    (
        "rmsprop", {"alpha": 0.9, "eps": 1e-3, "centered": True, "momentum": 0.8},
        rmsprop, {"alpha": 0.9, "eps": 1e-3, "centered": True, "mu": 0.8},
    ),
    ("adadelta", {"rho": 0.8, "eps": 1e-3}, adadelta, {"rho": 0.8, "eps": 1e-3}),
    ("adam", {**BETAS, "eps": 1e-2}, adam, {**B, "eps": 1e-2}),
    ("adam", {**BETAS, "eps": 1e-2, "eps_form": "raw"}, adam_raw, {**B, "eps": 1e-2}),
    ("adam", {**BETAS, "eps": 1e-2, "amsgrad": True}, adam, {**B, "eps": 1e-2, "amsgrad": True}),
    (
        "adam", {**BETAS, "eps": 1e-2, "amsgrad": True, "eps_form": "raw"},
        adam_raw, {**B, "eps": 1e-2, "amsgrad": True},
    ),
    ("adamw", {**BETAS, "eps": 1e-2, "weight_decay": 0.0}, adam, {**B, "eps": 1e-2}),
    (
        "adamw", {**BETAS, "eps": 1e-2, "weight_decay": 0.0, "eps_form": "raw"},
        adam_raw, {**B, "eps": 1e-2},
    ),
    (
        "adamw", {**BETAS, "eps": 1e-2, "weight_decay": 0.0, "amsgrad": True},
        adam, {**B, "eps": 1e-2, "amsgrad": True},
    ),
    ("adamax", {**BETAS, "eps": 0.0}, adamax, {**B, "eps": 0.0}),
    ("adamax", {**BETAS, "eps": 1e-2}, adamax, {**B, "eps": 1e-2}),
    ("nadam", {**BETAS, "eps": 1e-2}, nadam, {**B, "eps": 1e-2, "psi": 4e-3}),
    (
        "nadam", {**BETAS, "eps": 1e-2, "momentum_decay": 0.5},
        nadam, {**B, "eps": 1e-2, "psi": 0.5},
    ),
    ("radam", {**BETAS, "eps": 1e-2}, radam, {**B, "eps": 1e-2}),
    ("lion", {"betas": (0.8, 0.9)}, lion, B),
    ("lars", {"momentum": 0.9, "adapt": False}, classical_momentum, {"mu": 0.9}),
    (
        "lars", {"momentum": 0.9, "adapt": False, "momentum_form": "torch"},
        sgd, {"mu": 0.9},
    ),
    ("lamb", {**BETAS, "eps": 1e-2, "adapt": False}, adam, {**B, "eps": 1e-2}),
]  # fmt: skip

# Weight decay and direction: what becomes of the gradient, and of the parameter before the step.
DECAYS = {
    "none": ({"weight_decay": 0.0}, lambda p, g: g, lambda p: p),
    "l2": ({"weight_decay": WD, "decay_form": "l2"}, lambda p, g: g + WD * p, lambda p: p),
    "decoupled": (
        {"weight_decay": WD, "decay_form": "decoupled"},
        lambda p, g: g, lambda p: p - LR * WD * p,
    ),
    "independent": (
        {"weight_decay": WD, "decay_form": "independent"},
        lambda p, g: g, lambda p: p - WD * p,
    ),
}  # fmt: skip


def named(form):
    rule, options, *_ = form
    words = [k if v is True else f"{k}={v}" for k, v in options.items() if k != "betas"]
    return "-".join([rule, *words])


def by_hand(form, decay, sign, gradients, start):
    """The parameters after each step, one scalar at a time."""
    _, _, formula, letters = form
    _, gradient_of, decayed = DECAYS[decay]
    rows = []
    for k, theta in enumerate(start):
        steps = formula(LR, **letters)
        next(steps)
        column = []
        for g in gradients:
            delta = steps.send(gradient_of(theta, sign * g[k]))
            theta = decayed(theta) + delta
            column.append(theta)
        rows.append(column)
    return np.transpose(rows)


def by_optimizer(form, decay, maximize, gradients, start, dtype):
    name, options, *_ = form
    p = np.array(start, dtype)
    opt = CLASSES[name](p, lr=LR, maximize=maximize, **{**options, **DECAYS[decay][0]})
    rows = []
    for g in gradients:
        opt.step(np.array(g, dtype))
        rows.append(p.copy())
    return np.array(rows)


every_form = pytest.mark.parametrize("form", FORMS, ids=named)


@every_form
@pytest.mark.parametrize("maximize", (False, True), ids=("minimize", "maximize"))
@pytest.mark.parametrize("decay", DECAYS)
def test_three_steps_by_hand(form, decay, maximize):
    expected = by_hand(form, decay, -1 if maximize else 1, G, P)
    actual = by_optimizer(form, decay, maximize, G, P, np.float64)
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-15)


@every_form
@pytest.mark.parametrize("decay", DECAYS)
def test_three_steps_in_float32(form, decay):
    """To a few units in the last place of a parameter near one."""
    start = np.float32(P).tolist()
    gradients = np.float32(G).tolist()
    expected = by_hand(form, decay, 1, gradients, start)
    actual = by_optimizer(form, decay, False, gradients, start, np.float32)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=4 * np.finfo(np.float32).eps)


def test_radam_before_and_after_its_rectification():
    """With beta2 = 0.9 the variance is tractable, rho > 5, from the sixth step on."""
    (form,) = [form for form in FORMS if form[0] == "radam"]
    rho = [19 - 2 * t * 0.9**t / (1 - 0.9**t) for t in range(1, 16)]
    assert max(rho[:5]) < 5 < min(rho[5:])
    expected = by_hand(form, "none", 1, G * 5, P)
    actual = by_optimizer(form, "none", False, G * 5, P, np.float64)
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_nesterov_is_the_gradient_at_the_point_looked_ahead_to():
    """Sutskever et al. 2013, equations 3 and 4, on a function: p stands for theta + mu * v."""
    mu, curvature = 0.9, np.array([1.0, 5.0, 0.3])
    theta, v = np.array(P), np.zeros(3)
    p = theta.copy()
    opt = optkern.SGD(p, lr=LR, momentum=mu, nesterov=True, momentum_form="classical")
    for _ in range(10):
        v = mu * v - LR * curvature * (theta + mu * v)
        theta = theta + v
        opt.step(curvature * p)
        np.testing.assert_allclose(p, theta + mu * v, rtol=1e-12)


def test_adamw_independent_is_algorithm_2_with_a_schedule():
    """Loshchilov and Hutter 2019, algorithm 2, line 12; eta multiplies both terms."""
    alpha, lam, eps, (b1, b2) = 0.05, 0.02, 1e-8, (0.9, 0.999)
    eta = (1.0, 0.5, 0.25)
    theta, m, v = np.array(P), np.zeros(3), np.zeros(3)
    p = theta.copy()
    opt = optkern.AdamW(
        p, lr=lambda t: eta[t] * alpha, weight_decay=lambda t: eta[t] * lam,
        decay_form="independent",
    )  # fmt: skip
    for t in range(3):
        g = np.array(G[t])
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        m_hat, v_hat = m / (1 - b1 ** (t + 1)), v / (1 - b2 ** (t + 1))
        theta = theta - eta[t] * (alpha * m_hat / (np.sqrt(v_hat) + eps) + lam * theta)
        opt.step(g)
        np.testing.assert_allclose(p, theta, rtol=1e-12)


def test_state_is_what_the_papers_call_it():
    """Adam's moments after three steps, and AMSGrad's maximum, in the slots of their names."""
    p = np.array(P)
    opt = optkern.Adam(p, lr=LR, betas=(0.8, 0.9), amsgrad=True)
    m = v = v_max = np.zeros(3)
    for g in map(np.array, G):
        opt.step(g)
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        v_max = np.maximum(v_max, v)
    np.testing.assert_allclose(opt.state[0]["exp_avg"], m, rtol=1e-12)
    np.testing.assert_allclose(opt.state[0]["exp_avg_sq"], v, rtol=1e-12)
    np.testing.assert_allclose(opt.state[0]["max_exp_avg_sq"], v_max, rtol=1e-12)


def test_lars_by_hand():
    p = np.array(P)
    opt = optkern.LARS(p, lr=LR, weight_decay=WD, trust_coefficient=0.02, eps=0.0)
    for g, theta in zip(G, lars(P, G, 0.02, WD, 0.9, LR), strict=True):
        opt.step(np.array(g))
        np.testing.assert_allclose(p, theta, rtol=1e-12)


@pytest.mark.parametrize("decay", (0.0, WD))
def test_lamb_by_hand(decay):
    """Two tensors, each with a ratio of its own."""
    starts, p = (P, [3 * x for x in P]), [np.array(P), 3 * np.array(P)]
    opt = optkern.LAMB(p, lr=LR, betas=(0.8, 0.9), eps=1e-2, weight_decay=decay)
    rows = [lamb(x, G, LR, decay, 0.8, 0.9, 1e-2) for x in starts]
    for g, *thetas in zip(G, *rows, strict=True):
        opt.step([np.array(g), np.array(g)])
        for a, b in zip(p, thetas, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("cls", (optkern.LARS, optkern.LAMB), ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("start, g", (((0, 0, 0), P), (P, (0, 0, 0))), ids=("p", "g"))
def test_trust_ratio_is_one_where_a_norm_is_zero(cls, start, g):
    p, q = np.array(start, float), np.array(start, float)
    cls(p, lr=LR, weight_decay=0.0).step(np.array(g, float))
    cls(q, lr=LR, weight_decay=0.0, adapt=False).step(np.array(g, float))
    assert p.tobytes() == q.tobytes()


@pytest.mark.parametrize("adapt", (False, True))
def test_lamb_with_a_learning_rate_of_zero_stands_still(adapt):
    """A warm-up may begin there."""
    p, m, v = np.array(P), np.zeros(3), np.zeros(3)
    optkern.LAMB(p, lr=0.0, weight_decay=WD, adapt=adapt).step(np.array(G[0]))
    optkern.kernels.lamb(p, np.array(G[0]), m, v, lr=0.0, adapt=adapt, step=1)
    optkern.reference.lamb(p, np.array(G[0]), m, v, lr=0.0, adapt=adapt, step=1)
    assert p.tobytes() == np.array(P).tobytes() and m.any()


def test_every_rule_has_a_paper():
    """Above, or in a file of its own."""
    own = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    if "schedule_free" in own:  # three rules of one paper
        own |= {name for name in RULES if name.startswith("schedulefree")}
    assert {form[0] for form in FORMS} | own >= set(RULES)
