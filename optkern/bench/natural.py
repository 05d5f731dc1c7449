"""NumPy as people write it: the textbook formulas, with the temporaries that NumPy makes of them.

`s` holds the state, `o` the hyperparameters with the step count; an average is bound anew, as most
training loops do it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np


def _sgd(p, g, s, o):
    p -= o.lr * g


def _momentum(p, g, s, o):
    s["momentum_buffer"] = o.momentum * s["momentum_buffer"] + g
    p -= o.lr * s["momentum_buffer"]


def _adagrad(p, g, s, o):
    s["sum"] += g**2
    p -= o.lr * g / (np.sqrt(s["sum"]) + o.eps)


def _rmsprop(p, g, s, o):
    s["square_avg"] = o.alpha * s["square_avg"] + (1 - o.alpha) * g**2
    p -= o.lr * g / (np.sqrt(s["square_avg"]) + o.eps)


def _adadelta(p, g, s, o):
    s["square_avg"] = o.rho * s["square_avg"] + (1 - o.rho) * g**2
    delta = np.sqrt(s["acc_delta"] + o.eps) / np.sqrt(s["square_avg"] + o.eps) * g
    s["acc_delta"] = o.rho * s["acc_delta"] + (1 - o.rho) * delta**2
    p -= o.lr * delta


def _moments(g, s, o):
    beta1, beta2 = o.betas
    s["exp_avg"] = beta1 * s["exp_avg"] + (1 - beta1) * g
    s["exp_avg_sq"] = beta2 * s["exp_avg_sq"] + (1 - beta2) * g**2
    return s["exp_avg"], s["exp_avg_sq"]


def _adam(p, g, s, o):
    m, v = _moments(g, s, o)
    m_hat = m / (1 - o.betas[0] ** o.step)
    v_hat = v / (1 - o.betas[1] ** o.step)
    p -= o.lr * m_hat / (np.sqrt(v_hat) + o.eps)


def _adamw(p, g, s, o):
    m, v = _moments(g, s, o)
    m_hat = m / (1 - o.betas[0] ** o.step)
    v_hat = v / (1 - o.betas[1] ** o.step)
    p -= o.lr * (m_hat / (np.sqrt(v_hat) + o.eps) + o.weight_decay * p)


def _adamax(p, g, s, o):
    beta1, beta2 = o.betas
    s["exp_avg"] = beta1 * s["exp_avg"] + (1 - beta1) * g
    s["exp_inf"] = np.maximum(beta2 * s["exp_inf"], np.abs(g) + o.eps)
    p -= o.lr / (1 - beta1**o.step) * s["exp_avg"] / s["exp_inf"]


def _nadam(p, g, s, o):
    mu = o.betas[0] * (1 - 0.5 * 0.96 ** (o.step * o.momentum_decay))
    mu_next = o.betas[0] * (1 - 0.5 * 0.96 ** ((o.step + 1) * o.momentum_decay))
    product = o.mu_product * mu
    m, v = _moments(g, s, o)
    m_hat = mu_next * m / (1 - product * mu_next) + (1 - mu) * g / (1 - product)
    v_hat = v / (1 - o.betas[1] ** o.step)
    p -= o.lr * m_hat / (np.sqrt(v_hat) + o.eps)


def _rectification(o):
    """Return RAdam's degrees of freedom at this step, and what it multiplies the rate by."""
    beta2 = o.betas[1]
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * o.step * beta2**o.step / (1 - beta2**o.step)
    if rho <= 4:
        return rho, 0
    return rho, math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))


def _radam(p, g, s, o):
    m, v = _moments(g, s, o)
    m_hat = m / (1 - o.betas[0] ** o.step)
    rho, r = _rectification(o)
    if rho > 5:
        p -= o.lr * m_hat * r * math.sqrt(1 - o.betas[1] ** o.step) / (np.sqrt(v) + o.eps)
    else:
        p -= o.lr * m_hat


def _lion(p, g, s, o):
    beta1, beta2 = o.betas
    direction = np.sign(beta1 * s["exp_avg"] + (1 - beta1) * g)
    s["exp_avg"] = beta2 * s["exp_avg"] + (1 - beta2) * g
    p -= o.lr * direction


def _lars(p, g, s, o):
    p_norm, g_norm = np.linalg.norm(p), np.linalg.norm(g)
    trust = o.trust_coefficient * p_norm / (g_norm + o.weight_decay * p_norm + o.eps)
    s["momentum_buffer"] = o.momentum * s["momentum_buffer"] - o.lr * trust * g
    p += s["momentum_buffer"]


def _lamb(p, g, s, o):
    m, v = _moments(g, s, o)
    m_hat = m / (1 - o.betas[0] ** o.step)
    v_hat = v / (1 - o.betas[1] ** o.step)
    direction = m_hat / (np.sqrt(v_hat) + o.eps) + o.weight_decay * p
    p -= o.lr * np.linalg.norm(p) / np.linalg.norm(direction) * direction


def _rprop(p, g, s, o):
    if o.step == 1:
        s["step_size"] = np.full_like(p, o.lr)
    same = np.sign(g * s["prev"])
    factor = np.where(same > 0, o.etas[1], np.where(same < 0, o.etas[0], 1.0)).astype(p.dtype)
    s["step_size"] = np.clip(s["step_size"] * factor, *o.step_sizes)
    g = np.where(same < 0, 0, g)
    p -= np.sign(g) * s["step_size"]
    s["prev"] = g


def _asgd(p, g, s, o):
    eta = o.lr / (1 + o.lambd * o.lr * (o.step - 1)) ** o.alpha
    mu = 1 / max(1, o.step - 1 - o.t0)
    p *= 1 - o.lambd * eta
    p -= eta * g
    s["ax"] = p.copy() if mu == 1 else s["ax"] + mu * (p - s["ax"])


def _adan(p, g, s, o):
    beta1, beta2, beta3 = o.betas
    change = g - s["previous_grad"] if o.step > 1 else np.zeros_like(g)
    s["exp_avg"] = beta1 * s["exp_avg"] + (1 - beta1) * g
    s["exp_avg_diff"] = beta2 * s["exp_avg_diff"] + (1 - beta2) * change
    s["exp_avg_sq"] = beta3 * s["exp_avg_sq"] + (1 - beta3) * (g + beta2 * change) ** 2
    s["previous_grad"] = g.copy()
    m_hat = s["exp_avg"] / (1 - beta1**o.step)
    change_hat = s["exp_avg_diff"] / (1 - beta2**o.step)
    root = np.sqrt(s["exp_avg_sq"] / (1 - beta3**o.step)) + o.eps
    p -= o.lr * (m_hat + beta2 * change_hat) / root


def _adopt(p, g, s, o):
    beta1, beta2 = o.betas
    if o.step == 1:
        s["exp_avg_sq"] = g**2
        return
    most = o.step**o.clip_exponent
    quotient = np.clip(g / np.maximum(np.sqrt(s["exp_avg_sq"]), o.eps), -most, most)
    s["exp_avg"] = beta1 * s["exp_avg"] + (1 - beta1) * quotient
    s["exp_avg_sq"] = beta2 * s["exp_avg_sq"] + (1 - beta2) * g**2
    p -= o.lr * s["exp_avg"]


def _adabelief(p, g, s, o):
    beta1, beta2 = o.betas
    s["exp_avg"] = beta1 * s["exp_avg"] + (1 - beta1) * g
    left = g - s["exp_avg"]
    s["exp_avg_var"] = beta2 * s["exp_avg_var"] + (1 - beta2) * left**2 + o.eps
    m_hat = s["exp_avg"] / (1 - beta1**o.step)
    v_hat = s["exp_avg_var"] / (1 - beta2**o.step)
    p -= o.lr * m_hat / (np.sqrt(v_hat) + o.eps)


def _laprop(p, g, s, o):
    beta1, beta2 = o.betas
    s["exp_avg_sq"] = beta2 * s["exp_avg_sq"] + (1 - beta2) * g**2
    quotient = g / ((np.sqrt(s["exp_avg_sq"]) + o.eps) / math.sqrt(1 - beta2**o.step))
    s["exp_avg_ratio"] = beta1 * s["exp_avg_ratio"] + (1 - beta1) * quotient
    p -= o.lr * s["exp_avg_ratio"] / (1 - beta1**o.step)


def _ademamix(p, g, s, o):
    beta1, beta2, beta3 = o.betas
    s["exp_avg"] = beta1 * s["exp_avg"] + (1 - beta1) * g
    s["exp_avg_sq"] = beta2 * s["exp_avg_sq"] + (1 - beta2) * g**2
    s["exp_avg_slow"] = beta3 * s["exp_avg_slow"] + (1 - beta3) * g
    m_hat = s["exp_avg"] / (1 - beta1**o.step)
    v_hat = s["exp_avg_sq"] / (1 - beta2**o.step)
    p -= o.lr * (m_hat + o.alpha * s["exp_avg_slow"]) / (np.sqrt(v_hat) + o.eps)


def _ftrl(p, g, s, o):
    n = s["n"] + g**2
    sigma = (np.sqrt(n) - np.sqrt(s["n"])) / o.lr
    s["z"] = s["z"] + g - sigma * p
    s["n"] = n
    far = np.sign(s["z"]) * o.lambda_1 - s["z"]
    p[...] = np.where(
        np.abs(s["z"]) <= o.lambda_1, 0, far / ((o.beta + np.sqrt(n)) / o.lr + o.lambda_2)
    )


def _follow(p, step, s, o, lr, b):
    """Step z and let p follow it, between z and the average."""
    largest = max(o.lr_max, lr)
    weight = o.step**o.r * largest**o.weight_lr_power
    c = weight / (o.weight_sum + weight) if largest else 0
    p += c * (s["z"] - p)
    p -= (1 - b * (1 - c)) * step
    s["z"] = s["z"] - step


def _schedulefreesgd(p, g, s, o):
    lr = o.lr * min(1, o.step / o.warmup_steps) if o.warmup_steps else o.lr
    _follow(p, lr * g, s, o, lr, o.momentum)


def _schedulefreeadamw(p, g, s, o):
    beta1, beta2 = o.betas
    lr = o.lr * min(1, o.step / o.warmup_steps) if o.warmup_steps else o.lr
    s["exp_avg_sq"] = beta2 * s["exp_avg_sq"] + (1 - beta2) * g**2
    quotient = g / (np.sqrt(s["exp_avg_sq"] / (1 - beta2**o.step)) + o.eps)
    _follow(p, lr * (quotient + o.weight_decay * p), s, o, lr, beta1)


def _prodigy(p, g, s, o):
    """Estimate d by this array alone; of several, a loop of its own sums before any is stepped."""
    beta1, beta2 = o.betas
    beta3 = math.sqrt(beta2) if o.beta3 is None else o.beta3
    d = o.d_now or o.d0
    share = d / o.d0 * d * o.lr
    s["s"] = beta3 * s["s"] + share * g
    numerator = beta3 * o.d_numerator + share * (g * (s["p0"] - p)).sum()
    found = o.d_coef * numerator / np.abs(s["s"]).sum()
    now = max(d, found) if d == o.d0 else d
    now = min(max(o.d_max, found), now * o.growth_rate)
    s["exp_avg"] = beta1 * s["exp_avg"] + d * (1 - beta1) * g
    s["exp_avg_sq"] = beta2 * s["exp_avg_sq"] + d * d * (1 - beta2) * g**2
    p -= d * o.lr * s["exp_avg"] / (np.sqrt(s["exp_avg_sq"]) + now * o.eps)


def _schedulefreeradam(p, g, s, o):
    beta1, beta2 = o.betas
    rho, r = _rectification(o)
    s["exp_avg_sq"] = beta2 * s["exp_avg_sq"] + (1 - beta2) * g**2
    if rho > 4:
        lr, direction = o.lr * r, g / (np.sqrt(s["exp_avg_sq"] / (1 - beta2**o.step)) + o.eps)
    else:
        lr, direction = 0 if o.silent_sgd_phase else o.lr, g
    _follow(p, lr * (direction + o.weight_decay * p), s, o, lr, beta1)


def _mars(p, g, s, o):
    beta1, beta2 = o.betas
    c = g + o.gamma * beta1 / (1 - beta1) * (g - s["last_grad"])
    # Not np.linalg.norm: BLAS sums ten million squares in float32 to 2e-5 of their norm.
    c = c / max(1, np.sqrt((c**2).sum()))
    s["exp_avg"] = beta1 * s["exp_avg"] + (1 - beta1) * c
    s["exp_avg_sq"] = beta2 * s["exp_avg_sq"] + (1 - beta2) * c**2
    s["last_grad"] = g.copy()
    m_hat = s["exp_avg"] / (1 - beta1**o.step)
    p -= o.lr * m_hat / ((np.sqrt(s["exp_avg_sq"]) + o.eps) / math.sqrt(1 - beta2**o.step))


def _adafactor(p, g, s, o):
    newest = o.step**o.beta2_decay
    least = np.finfo(p.dtype).eps if o.eps[0] is None else o.eps[0]
    if p.ndim > 1:
        s["row_var"] += newest * ((g**2).mean(axis=-1, keepdims=True) - s["row_var"])
        s["col_var"] += newest * ((g**2).mean(axis=-2, keepdims=True) - s["col_var"])
        v = s["row_var"] @ s["col_var"] / max(s["row_var"].mean(), least)
    else:
        s["variance"] += newest * (g**2 - s["variance"])
        v = s["variance"]
    u = g / np.sqrt(np.maximum(v, least**2))
    share = min(o.lr, 1 / math.sqrt(o.step)) * max(o.eps[1], np.sqrt((p**2).mean()))
    p -= share / max(1, np.sqrt((u**2).mean()) / o.d) * u


def _orthogonal(g, s, o, eps):
    """Move the momentum on; make of its Nesterov form the nearest orthogonal matrix."""
    s["momentum_buffer"] = o.momentum * s["momentum_buffer"] + (1 - o.momentum) * g
    x = (1 - o.momentum) * g + o.momentum * s["momentum_buffer"]
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    x = x / max(np.linalg.norm(x), eps)
    for _ in range(o.ns_steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x if wide else x.T


def _muon(p, g, s, o):
    x = _orthogonal(g, s, o, o.eps)
    p *= 1 - o.lr * o.weight_decay
    p -= o.lr * math.sqrt(max(1, p.shape[1] / p.shape[0])) * x


def _normuon(p, g, s, o):
    x = _orthogonal(g, s, o, 1e-7)
    v = s["second_momentum_buffer"]
    s["second_momentum_buffer"] = v + (1 - o.beta2) * ((x**2).mean(axis=0, keepdims=True) - v)
    u = x / (np.sqrt(s["second_momentum_buffer"]) + o.eps)
    u = u * np.linalg.norm(x) / (np.linalg.norm(u) + o.eps)
    p -= o.lr * math.sqrt(max(1, p.shape[1] / p.shape[0])) * u


def _turned(x, left, right):
    """Return x along the columns of the bases; an array of one axis has none."""
    x = x if left is None else left.T @ x
    return x if right is None else x @ right


def _soap(p, g, s, o):
    beta1, beta2 = o.betas
    weight = 1 - (beta2 if o.shampoo_beta is None else o.shampoo_beta)
    if "L" in s:
        s["L"] += weight * (g @ g.T - s["L"])
    if "R" in s:
        s["R"] += weight * (g.T @ g - s["R"])
    left, right, done = s.get("QL"), s.get("QR"), o.step - 1
    if done == 0:  # the first step has no bases yet: it only finds them
        s |= {f"Q{side}": np.linalg.eigh(s[side])[1][:, ::-1] for side in "LR" if side in s}
        return
    s["exp_avg"] = beta1 * s["exp_avg"] + (1 - beta1) * g
    s["exp_avg_sq"] = beta2 * s["exp_avg_sq"] + (1 - beta2) * _turned(g, left, right) ** 2
    u = _turned(s["exp_avg"], left, right) / (np.sqrt(s["exp_avg_sq"]) + o.eps)
    back = _turned(u, *(None if basis is None else basis.T for basis in (left, right)))
    p -= o.lr * math.sqrt(1 - beta2**done) / (1 - beta1**done) * back
    p *= 1 - o.lr * o.weight_decay
    if done % o.precondition_frequency == 0:
        for axis, side in enumerate("LR"):
            if side in s:
                product = s[side] @ s[f"Q{side}"]
                sizes = np.einsum("ij,ij->j", s[f"Q{side}"], product)
                largest_first = np.argsort(-sizes, kind="stable")
                s[f"Q{side}"] = np.linalg.qr(product[:, largest_first])[0]
                s["exp_avg_sq"] = s["exp_avg_sq"].take(largest_first, axis)


# By the name of the case. A rule without one has no natural column.
NATURAL: dict[str, Callable[..., None]] = {
    "sgd": _sgd,
    "momentum": _momentum,
    "adagrad": _adagrad,
    "rmsprop": _rmsprop,
    "adadelta": _adadelta,
    "adam": _adam,
    "adamw": _adamw,
    "adamax": _adamax,
    "nadam": _nadam,
    "radam": _radam,
    "lion": _lion,
    "lars": _lars,
    "lamb": _lamb,
    "rprop": _rprop,
    "asgd": _asgd,
    "adan": _adan,
    "adopt": _adopt,
    "adabelief": _adabelief,
    "laprop": _laprop,
    "ademamix": _ademamix,
    "ftrl": _ftrl,
    "prodigy": _prodigy,
    "mars": _mars,
    "adafactor": _adafactor,
    "schedulefreeadamw": _schedulefreeadamw,
    "schedulefreeradam": _schedulefreeradam,
    "schedulefreesgd": _schedulefreesgd,
    "soap": _soap,
    "muon": _muon,
    "normuon": _normuon,
}
