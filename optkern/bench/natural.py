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


def _radam(p, g, s, o):
    beta1, beta2 = o.betas
    m, v = _moments(g, s, o)
    m_hat = m / (1 - beta1**o.step)
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * o.step * beta2**o.step / (1 - beta2**o.step)
    if rho > 5:
        r = (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)
        p -= o.lr * m_hat * math.sqrt(r * (1 - beta2**o.step)) / (np.sqrt(v) + o.eps)
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
}
