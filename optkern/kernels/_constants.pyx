# cython: language_level=3, cdivision=True, cpow=True
"""The constants of a step, derived in double precision.

1. Both twins call this one place, so that a bias correction cannot differ in its last bit.
2. Whatever is known before the loop is folded here: Adam's two bias corrections end in `rate` and
   `eps`, which leaves one division per element.
3. A constant is cast to the parameter's dtype once, by whoever runs the formula.
"""
from libc.math cimport sqrt
from libc.string cimport memset

from optkern.kernels.rules import VOCABULARY

# The words of rules.py's `Choice`s, in their order.
cdef enum:
    DECAY_L2
    DECAY_DECOUPLED
    DECAY_INDEPENDENT

cdef enum:
    EPS_CORRECTED
    EPS_RAW

cdef enum:
    FORM_TORCH
    FORM_CLASSICAL
    FORM_AVERAGE


cdef void common(const hyper_t* o, constants_t* h) noexcept nogil:
    """What all rules share: the direction of the gradient and weight decay."""
    h.rate = o.lr
    h.eps = o.eps
    if o.maximize:
        h.flags |= MAXIMIZE
    if o.weight_decay == 0:
        return
    if o.decay_form == DECAY_L2:
        h.flags |= L2
        h.decay = o.weight_decay
    else:
        h.flags |= SHRINK
        h.shrink = 1 - o.weight_decay * (o.lr if o.decay_form == DECAY_DECOUPLED else 1.0)


cdef void averages(const hyper_t* o, constants_t* h) noexcept nogil:
    """The weights of the two running averages."""
    h.beta1 = o.beta1
    h.gain1 = 1 - o.beta1
    h.beta2 = o.beta2
    h.gain2 = 1 - o.beta2


cdef void general(const hyper_t* o, constants_t* h) noexcept nogil:
    """What a rule without constants of its own gets: learning rate, eps, decay, averages."""
    common(o, h)
    averages(o, h)


cdef void sgd(const hyper_t* o, constants_t* h) noexcept nogil:
    """buf = momentum * buf + gain * g and p -= rate * buf, in all three forms."""
    common(o, h)
    if o.momentum == 0:
        return
    h.flags |= MOMENTUM
    h.momentum = o.momentum
    if o.nesterov:
        h.flags |= NESTEROV
    if o.momentum_form == FORM_TORCH:
        h.gain = 1.0 if o.step == 1 else 1 - o.dampening
    elif o.momentum_form == FORM_AVERAGE:
        h.gain = 1 - o.momentum
    else:
        h.gain = -o.lr
        h.rate = -1


cdef void adagrad(const hyper_t* o, constants_t* h) noexcept nogil:
    common(o, h)
    h.rate = o.lr / (1 + (o.step - 1) * o.lr_decay)


cdef void rmsprop(const hyper_t* o, constants_t* h) noexcept nogil:
    common(o, h)
    h.beta2 = o.alpha
    h.gain2 = 1 - o.alpha
    if o.centered:
        h.flags |= CENTERED
    if o.momentum:
        h.flags |= MOMENTUM
        h.momentum = o.momentum


cdef void adadelta(const hyper_t* o, constants_t* h) noexcept nogil:
    common(o, h)
    h.beta2 = o.rho
    h.gain2 = 1 - o.rho


cdef void adam(const hyper_t* o, constants_t* h) noexcept nogil:
    """lr m^ / (sqrt(v^) + eps) = rate m / (sqrt(v) + eps'): one division."""
    cdef double root = sqrt(1 - o.beta2 ** o.step)
    common(o, h)
    averages(o, h)
    h.rate = o.lr * root / (1 - o.beta1 ** o.step)
    if o.eps_form == EPS_CORRECTED:
        h.eps = o.eps * root
    if o.amsgrad:
        h.flags |= AMSGRAD


cdef void adamax(const hyper_t* o, constants_t* h) noexcept nogil:
    common(o, h)
    averages(o, h)
    h.rate = o.lr / (1 - o.beta1 ** o.step)


cdef void nadam(const hyper_t* o, constants_t* h) noexcept nogil:
    cdef double root = sqrt(1 - o.beta2 ** o.step)
    cdef double mu = o.beta1 * (1 - 0.5 * 0.96 ** (o.step * o.momentum_decay))
    cdef double mu_next = o.beta1 * (1 - 0.5 * 0.96 ** ((o.step + 1) * o.momentum_decay))
    common(o, h)
    averages(o, h)
    h.mu_product = o.mu_product * mu
    h.gradient_rate = o.lr * root * (1 - mu) / (1 - h.mu_product)
    h.rate = o.lr * root * mu_next / (1 - h.mu_product * mu_next)
    h.eps = o.eps * root


cdef void radam(const hyper_t* o, constants_t* h) noexcept nogil:
    cdef double power2 = o.beta2 ** o.step
    cdef double rho_inf = 2 / (1 - o.beta2) - 1
    cdef double rho = rho_inf - 2 * o.step * power2 / (1 - power2)
    cdef double rectification
    common(o, h)
    averages(o, h)
    h.rate = o.lr / (1 - o.beta1 ** o.step)
    if rho > 5:
        rectification = ((rho - 4) * (rho - 2) * rho_inf) / ((rho_inf - 4) * (rho_inf - 2) * rho)
        h.flags |= RECTIFIED
        h.rate *= sqrt(rectification) * sqrt(1 - power2)


cdef void limit(const hyper_t* o, constants_t* h) noexcept nogil:
    """What makes a limit's loop leave every value as it is."""
    h.rate = 0
    h.gain = 1


cdef derive_t derivation(str rule):
    """The function that derives the constants of ``rule``, by the stem of its formula."""
    if rule == "sgd":
        return sgd
    if rule == "adagrad":
        return adagrad
    if rule == "rmsprop":
        return rmsprop
    if rule == "adadelta":
        return adadelta
    if rule == "adam":
        return adam
    if rule == "adamax":
        return adamax
    if rule == "nadam":
        return nadam
    if rule == "radam":
        return radam
    if rule.startswith("limit"):
        return limit
    return general


cdef dict _index():
    """The position of each hyperparameter's first double in `hyper_t`."""
    cdef hyper_t o
    memset(&o, 0, sizeof(o))
    fields = list(o)
    return {name: fields.index("beta1" if name == "betas" else name) for name in VOCABULARY}


cdef dict INDEX = _index()


def position(name):
    """Where a hyperparameter's first double stands in `hyper_t`."""
    return INDEX[name]


cdef int encode(hyper_t* o, str name, object value) except -1:
    """Put one checked hyperparameter where the derivations read it."""
    cdef Py_ssize_t i = INDEX[name]
    for number in VOCABULARY[name].encode(value):
        (<double*> o)[i] = number
        i += 1
    return 0


FLAGS = {
    "MAXIMIZE": MAXIMIZE, "L2": L2, "SHRINK": SHRINK, "MOMENTUM": MOMENTUM, "NESTEROV": NESTEROV,
    "CENTERED": CENTERED, "AMSGRAD": AMSGRAD, "RECTIFIED": RECTIFIED,
}


def derive(rule, dict hyperparameters):
    """The constants of one step, for the NumPy reference: name -> float, and ``flags``.

    Parameters
    ----------
    rule : Rule
    hyperparameters : dict
        All of the rule's hyperparameters, checked.
    """
    cdef hyper_t o
    cdef constants_t h
    memset(&o, 0, sizeof(o))
    memset(&h, 0, sizeof(h))
    for name, value in hyperparameters.items():
        encode(&o, name, value)
    derivation(rule.formula)(&o, &h)
    return h
