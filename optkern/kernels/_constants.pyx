# cython: language_level=3, cdivision=True, cpow=True
"""The constants of a step, derived in double precision.

1. Both twins call this one place, so that a bias correction cannot differ in its last bit.
2. Whatever is known before the loop is folded here: Adam's two bias corrections end in `rate` and
   `eps`, which leaves one division per element.
3. A constant is cast to the parameter's dtype once, by whoever runs the formula.
"""
from libc.math cimport INFINITY, isfinite, ldexp, sqrt
from libc.string cimport memset

from optkern.kernels._wide cimport fits, product, quotient, split, total, wide, wide_t
from optkern.kernels.rules import OPTIONS, VOCABULARY

# The words of the `Choice`s in rules/vocabulary.py, in their order.
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

cdef enum:
    ACCUMULATE_MEAN


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
    h.trust = 1
    if o.adapt:   # LARS
        h.flags |= TRUST
        h.trust = o.trust_coefficient
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
        h.horizon = 1 / h.gain2 if h.gain2 > 0 else 0
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


cdef void lamb(const hyper_t* o, constants_t* h) noexcept nogil:
    """m^ / (sqrt(v^) + eps) as Adam has it, the learning rate left to the trust ratio."""
    cdef double root = sqrt(1 - o.beta2 ** o.step)
    common(o, h)
    averages(o, h)
    h.rate = root / (1 - o.beta1 ** o.step)
    h.eps = o.eps * root
    h.trust = o.lr
    if h.flags & SHRINK and o.decay_form == DECAY_DECOUPLED:   # a part of the direction
        h.flags ^= SHRINK | DECAY
        h.decay = o.weight_decay
    if o.adapt:
        h.flags |= DIRECTION


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
    if rule == "lamb":
        return lamb
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
    "CENTERED": CENTERED, "AMSGRAD": AMSGRAD, "RECTIFIED": RECTIFIED, "DIRECTION": DIRECTION,
    "APPLY": APPLY, "SCALE": SCALE, "CLAMP": CLAMP, "TRUST": TRUST, "DECAY": DECAY,
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


# --------------------------------------------------------------------------- around the rule


cdef int encode_option(options_t* o, str name, object value) except -1:
    """Put one checked option where the functions below read it."""
    cdef Py_ssize_t i = list(<dict> o[0]).index(name)
    _, domain = OPTIONS[name]
    for number in (0.0,) if value is None else domain.encode(value):
        (<double*> o)[i] = number
        i += 1
    return 0


cdef double clipped(double limit, double scale, double norm) noexcept nogil:
    """The scale that brings a norm under its limit, as torch.nn.utils.clip_grad_norm_ has it."""
    cdef double factor
    if limit == INFINITY:
        return scale
    factor = limit / (scale * norm + 1e-6)
    return scale * (1 if factor > 1 else factor)


cdef wide_t widely_clipped(double limit, wide_t scale, wide_t norm) noexcept nogil:
    """The same, where a double does not hold the norm, or a dtype the scale."""
    cdef wide_t factor
    if limit == INFINITY:
        return scale
    factor = quotient(wide(limit, 0), total(product(scale, norm), wide(1e-6, 0)))
    return scale if factor.exponent > 0 else product(scale, factor)


cdef double gradient_share(const options_t* o, double calls) noexcept nogil:
    """What unscales, and averages over the calls, the gradients as they came."""
    return 1 / (o.grad_scale * (calls if o.accumulate_form == ACCUMULATE_MEAN else 1))


cdef void adjust(
    const options_t* o, constants_t* h, double calls, wide_t norm, wide_t tensor_norm,
    int is_double,
) noexcept nogil:
    """Put unscaling and clipping into a tensor's constants; norms of the gradients as they came."""
    cdef double share = gradient_share(o, calls)
    cdef wide_t scale
    h.scale, h.lift = share, 0
    if o.clip_norm:
        h.scale = clipped(o.clip_norm, h.scale, norm.value)
    if o.clip_norm_per_tensor:
        h.scale = clipped(o.clip_norm_per_tensor, h.scale, tensor_norm.value)
    if norm.exponent or tensor_norm.exponent or not fits(h.scale, is_double):
        scale = wide(share, 0)
        if o.clip_norm and isfinite(norm.value):
            scale = widely_clipped(o.clip_norm, scale, norm)
        if o.clip_norm_per_tensor and isfinite(tensor_norm.value):
            scale = widely_clipped(o.clip_norm_per_tensor, scale, tensor_norm)
        if isfinite(norm.value) and isfinite(tensor_norm.value):   # else 0 or NaN, as above
            h.lift = split(scale, is_double, &h.scale)
    h.limit = o.clip_value if o.clip_value else INFINITY
    h.flags &= ~(<unsigned int> (SCALE | CLAMP))
    if h.scale != 1:
        h.flags |= SCALE
    if o.clip_value:
        h.flags |= CLAMP


cdef void apply_trust(constants_t* h, wide_t p_norm, wide_t norm, int is_double) noexcept nogil:
    """Put a tensor's trust ratio into its constants: ||p|| over the norm of g or the direction.

    Where the dtype does not hold it, a power of two goes from it to what it multiplies.
    """
    cdef double before = h.trust
    cdef bint plain = p_norm.exponent == 0 and norm.exponent == 0 and h.lift == 0
    cdef wide_t ratio = p_norm, scaled = product(norm, wide(h.scale, h.lift))
    cdef int left
    if not (p_norm.value > 0 and norm.value > 0):
        if h.flags & TRUST:
            h.trust = 1
        return
    if h.flags & TRUST:
        h.trust = before * p_norm.value / (
            h.scale * norm.value + h.decay * p_norm.value + h.eps
        )
    else:
        h.trust *= p_norm.value / norm.value
    if plain and fits(h.trust, is_double) or not isfinite(p_norm.value) or not isfinite(norm.value):
        return
    if h.flags & TRUST:
        ratio = total(scaled, total(product(p_norm, wide(h.decay, 0)), wide(h.eps, 0)))
        ratio = quotient(product(wide(before, 0), p_norm), ratio)
    else:
        ratio = product(wide(before, 0), quotient(p_norm, norm))
    left = split(ratio, is_double, &h.trust)
    h.decay = ldexp(h.decay, left)
    if h.flags & TRUST:
        h.limit = ldexp(h.limit, left)
        h.lift = split(wide(h.scale, h.lift + left), is_double, &h.scale)
        h.flags |= SCALE
    else:
        h.rate = ldexp(h.rate, left)


cdef wide_t as_wide(object norm):
    """A number, or one of rules/reductions.py's with the exponent it has."""
    cdef wide_t to
    to.value, to.exponent = getattr(norm, "parts", (norm, 0))
    return to


def adjusted(
    dict options, dict constants, double calls, norm, tensor_norm, bint is_double=True
):
    """`adjust` for the NumPy reference: derived constants with a tensor's scale and limit."""
    cdef options_t o
    cdef constants_t h = constants
    memset(&o, 0, sizeof(o))
    for name, (default, domain) in OPTIONS.items():
        encode_option(&o, name, options.get(name, default))
    adjust(&o, &h, calls, as_wide(norm), as_wide(tensor_norm), is_double)
    return h, gradient_share(&o, calls)


def trusted(dict constants, p_norm, norm, bint is_double):
    """`apply_trust` for the NumPy reference."""
    cdef constants_t h = constants
    apply_trust(&h, as_wide(p_norm), as_wide(norm), is_double)
    return h
