# cython: language_level=3, cdivision=True, cpow=True
"""The constants of a step, derived in double precision.

1. Both twins call this one place, so that a bias correction cannot differ in its last bit.
2. Each rule's derivation stands beside its formula, in `formulas/`. Whatever is known before the
   loop is folded there: Adam's two bias corrections end in `rate` and `eps`, which leaves one
   division per element.
3. A constant is cast to the parameter's dtype once, by whoever runs the formula.
"""
from libc.math cimport INFINITY, ceil, fabs, floor, frexp, isfinite, ldexp, logb, sqrt
from libc.string cimport memset

from optkern.kernels._wide cimport fits, narrowed, product, quotient, split, total, wide, wide_t
from optkern.kernels._derivations cimport stamped_derivation
from optkern.rules import COMPILED, FLAGS, OPTIONS

cdef enum:
    ACCUMULATE_MEAN

cdef enum:
    LOWEST_DIVISOR = 62   # powers of two that a divisor, 2**-63 at least, may be cut by


cdef list fields():
    """Return the names of the fields of `hyper_t`.

    The last two are arrays, all others are one double.
    """
    cdef hyper_t o
    memset(&o, 0, sizeof(o))
    return list(o)


cdef list FIELDS = fields()


cdef dict places(rule):
    """Return the position in `hyper_t` of the first double of each of a rule's hyperparameters."""
    cdef Py_ssize_t carried = FIELDS.index("carried"), own = carried + CARRIED
    found = {}
    for name, default in rule.hyperparameters.items():
        if name in rule.carried:
            found[name] = carried + rule.carried.index(name)
        elif name in rule.domains and name != "lr":   # which other code reads too
            found[name] = own
            own += len(rule.domains[name].encode(default))
        else:
            found[name] = FIELDS.index("beta1" if name == "betas" else name)
    if own > carried + CARRIED + OWN or len(rule.carried) > CARRIED:
        raise SystemError(f"optkern: OWN or CARRIED in _constants.pxd is too small for {rule.name}")
    return found


cdef dict PLACES = {rule.name: places(rule) for rule in COMPILED}

if [bit for _, bit in sorted(FLAGS.items())] != [
    AGREEMENT, AMSGRAD, APPLY, CAUTIOUS, CENTERED, CLAMP, DECAY, DIRECTION, GUARD, L2, MOMENTUM,
    NESTEROV, OWN1, OWN2, OWN3, OWN4, RECTIFIED, RELATIVE, SCALE, SHRINK, TRUST, TURN, WARY,
]:
    raise ImportError("optkern: rules/flags.py and kernels/_constants.pxd differ; build again")


cdef derive_t derivation(rule) except NULL:
    """Return the function that derives the constants of ``rule``."""
    cdef derive_t found = stamped_derivation(rule.formula)
    if found == NULL:
        raise ImportError(
            f"optkern: the rule {rule.name} has come after the build; build again: "
            "python setup.py build_ext --inplace, or pip install --force-reinstall"
        )
    return found


def position(rule, name):
    """Return where the first double of a rule's hyperparameter stands in `hyper_t`."""
    return PLACES[rule.name][name]


cdef int encode(hyper_t* o, rule, str name, object value) except -1:
    """Put one checked hyperparameter where the derivations read it."""
    cdef Py_ssize_t i = (<dict> PLACES[rule.name])[name]
    for number in rule.domain(name).encode(value):
        (<double*> o)[i] = number
        i += 1
    return 0


def derive(rule, dict hyperparameters, double share=1):
    """Return the constants of one step, for the NumPy reference: name -> float, and ``flags``.

    Parameters
    ----------
    rule : Rule
    hyperparameters : dict
        All of the rule's hyperparameters, checked.
    share : float
        How much of a gradient as it comes an update takes (`share_of`).
    """
    cdef hyper_t o
    cdef constants_t h
    memset(&o, 0, sizeof(o))
    o.share = share
    for name, value in hyperparameters.items():
        encode(&o, rule, name, value)
    make_constants(derivation(rule), &o, &h)
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
    """Return the scale that limits a norm, as torch.nn.utils.clip_grad_norm_ has it."""
    cdef double factor
    if limit == INFINITY:
        return scale
    factor = limit / (scale * norm + 1e-6)
    return scale * (1 if factor > 1 else factor)


cdef wide_t widely_clipped(double limit, wide_t scale, wide_t norm) noexcept nogil:
    """Return the same, where a double does not hold the norm, or a dtype the scale."""
    cdef wide_t factor
    if limit == INFINITY:
        return scale
    factor = quotient(wide(limit, 0), total(product(scale, norm), wide(1e-6, 0)))
    return scale if factor.exponent > 0 else product(scale, factor)


cdef double gradient_share(const options_t* o, double calls, double unit) noexcept nogil:
    """Return what unscales, and averages over the calls, gradients that came times `unit`."""
    return 1 / (o.grad_scale * unit * (calls if o.accumulate_form == ACCUMULATE_MEAN else 1))


cdef void adjust(
    const options_t* o, constants_t* h, double calls, double unit, wide_t norm, wide_t tensor_norm,
    int is_double,
) noexcept nogil:
    """Put unscaling and clipping into a tensor's constants; norms of the gradients as they came."""
    cdef double share = gradient_share(o, calls, unit)
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
    if h.scale > 1 and h.full > 1:   # the power of two goes to the first factor
        h.scale, h.limit, h.turn = h.scale / h.full, h.limit / h.full, h.turn * h.full
    h.flags &= ~(<unsigned int> (SCALE | CLAMP))
    if h.scale != 1:
        h.flags |= SCALE
    if o.clip_value:
        h.flags |= CLAMP


cdef void apply_trust(constants_t* h, wide_t p_norm, wide_t norm, int is_double) noexcept nogil:
    """Put a tensor's trust ratio into its constants: ||p|| over the norm of g or the direction.

    Where the dtype does not hold it, a power of two goes from it to what it multiplies.
    """
    cdef double before = h.trust, decay = h.decay * h.full
    cdef double scale = h.scale * fabs(h.turn) * h.full   # `full` is in one of the two
    if not (p_norm.value > 0 and norm.value > 0):
        if h.flags & TRUST:
            h.trust = 1
        return
    if h.flags & TRUST:
        h.trust = before * p_norm.value / (scale * norm.value + decay * p_norm.value + h.eps)
    else:
        h.trust *= p_norm.value / norm.value
    if not (p_norm.exponent or norm.exponent or h.lift) and fits(h.trust, is_double):
        return
    if isfinite(p_norm.value) and isfinite(norm.value):
        apply_wide_trust(h, p_norm, norm, before, scale, decay, is_double)


cdef void apply_wide_trust(
    constants_t* h, wide_t p_norm, wide_t norm, double before, double scale, double decay,
    int is_double,
) noexcept nogil:
    """Do the same where a dtype, or a double, does not hold the ratio."""
    cdef wide_t ratio, scaled
    cdef int left, lower
    if h.flags & TRUST:
        scaled = product(norm, wide(scale, h.lift))
        ratio = total(scaled, total(product(p_norm, wide(decay, 0)), wide(h.eps, 0)))
        ratio = quotient(product(wide(before, 0), p_norm), ratio)
    else:
        ratio = product(wide(before, 0), quotient(p_norm, norm))
    left = split(ratio, is_double, &h.trust)
    h.decay = ldexp(h.decay, left)
    if h.flags & TRUST:
        h.limit = ldexp(h.limit, left)
        h.lift = split(wide(h.scale, h.lift + left), is_double, &h.scale)
        h.flags |= SCALE
        return
    if left > 0:   # to the divisor, or the dividend would overflow where both are large
        lower = min(left, LOWEST_DIVISOR + <int> logb(h.down))
        h.down = ldexp(h.down, -lower)
        left -= lower
        h.flags |= GUARD
    h.rate = ldexp(h.rate, left)


cdef double kept_of_unit(
    const options_t* o, const constants_t* h, double g_norm, double p_norm, int shift
) noexcept nogil:
    """Return what of a unit's gradient is kept: no more than a share of its weights' norm.

    The norms, times 2**shift, are of the gradient as it came and of the weights.
    """
    cdef double eps = ldexp(o.adaptive_clip_eps, shift), scale = h.scale * fabs(h.turn) * h.full
    cdef double most = o.adaptive_clip * (p_norm if p_norm > eps else eps)
    most = ldexp(most / scale, -h.lift)   # as gradients come
    return most / g_norm if g_norm > most and isfinite(g_norm) else 1


def unit_factor(dict options, dict constants, double g_norm, double p_norm, int shift):
    """Return `kept_of_unit` for the NumPy reference."""
    cdef options_t o = encoded(options)
    cdef constants_t h = constants
    return kept_of_unit(&o, &h, g_norm, p_norm, shift)


cdef void bound_direction(constants_t* h, wide_t norm) noexcept nogil:
    """Let a direction of this norm, over `full`, be applied: as it is, or of norm 1."""
    cdef double length = ldexp(norm.value * h.full, norm.exponent)
    h.trust = ldexp(1 / norm.value, -norm.exponent) if length > 1 else h.full
    h.flags &= ~(<unsigned int> DIRECTION)


cdef void adapt_rate(constants_t* h, wide_t p_norm, wide_t norm, double size) noexcept nogil:
    """Make a rate the share of a tensor's root mean square, along a direction that is limited."""
    cdef constants_t whole = resolved(h)
    cdef double own, along
    if size == 0:
        return
    own, along = narrowed(p_norm) / sqrt(size), narrowed(norm) / (sqrt(size) * whole.own[2])
    h.rate *= (own if own > whole.own[1] else whole.own[1]) / (along if along > 1 else 1)


cdef void ask_relative(constants_t* h) noexcept nogil:
    """Let a tensor's constants give its gradients over what its step divides them by."""
    h.flags |= RELATIVE | GUARD


cdef double share_of_rate(double squares, double size, double limit) noexcept nogil:
    """Return what of its learning rate a tensor keeps, by the sum of the squares of these."""
    cdef double share = limit / sqrt(squares / size)
    return share if share < 1 and isfinite(squares) else 1


def relative(dict constants):
    """Do `ask_relative` for the NumPy reference."""
    cdef constants_t h = constants
    ask_relative(&h)
    return h


def kept_of_rate(double squares, double size, double limit):
    """Return `share_of_rate` for the NumPy reference."""
    return share_of_rate(squares, size, limit)


cdef void ask_agreement(constants_t* h) noexcept nogil:
    """Let a tensor's constants give which elements of its step go down along the gradient."""
    h.flags |= CAUTIOUS | AGREEMENT | GUARD


cdef void be_cautious(constants_t* h, double agreeing, double size) noexcept nogil:
    """Let its step be one of these elements alone, longer by as much as it loses of them."""
    h.flags &= ~(<unsigned int> AGREEMENT)
    h.caution = size / (agreeing + 1)


def cautious(dict constants, agreeing=None, double size=1):
    """Return `ask_agreement`, or with a count `be_cautious`, for the NumPy reference."""
    cdef constants_t h = constants
    ask_agreement(&h)
    if agreeing is not None:
        be_cautious(&h, agreeing, size)
    return h


cdef double number_beside(double x, int stored, bint above) noexcept nogil:
    """Return the first number, as parameters are stored, that is not below (or not above) x."""
    cdef int digits = 53, exponent, least = -1021
    cdef double unit, most = ldexp(1 - ldexp(1, -53), 1024)
    if stored != AS_FLOAT64:
        digits = 24 if stored == AS_FLOAT32 else 8 if stored == AS_BFLOAT16 else 11
        least = -13 if stored == AS_FLOAT16 else -125
        most = ldexp(1 - ldexp(1, -digits), 16 if stored == AS_FLOAT16 else 128)
    if not isfinite(x):
        return x
    if fabs(x) > most:   # between the largest number and infinity
        if above:
            return INFINITY if x > 0 else -most
        return most if x > 0 else -INFINITY
    frexp(x, &exponent)
    unit = ldexp(1, max(exponent, least) - digits)
    return (ceil(x / unit) if above else floor(x / unit)) * unit


cdef void confinement(const options_t* o, int stored, double* low, double* high) noexcept nogil:
    """Find the limits of `project` as parameters of a dtype have them: the numbers inside.

    Rounding a parameter, at random too, does not take it over such a limit. Where no number lies
    inside, both are the first one above the lower limit.
    """
    low[0] = number_beside(o.project_low, stored, True)
    high[0] = number_beside(o.project_high, stored, False)
    if high[0] < low[0]:
        high[0] = low[0]


def limits_of(dict options, str stored):
    """Return `confinement` for the NumPy reference; (-inf, inf) without a projection."""
    cdef options_t o = encoded(options)
    cdef double low = -INFINITY, high = INFINITY
    if o.project:
        confinement(&o, ("float32", "float64", "bfloat16", "float16").index(stored), &low, &high)
    return low, high


cdef wide_t as_wide(object norm):
    """Return a number, or one of rules/reductions.py's with the exponent it has."""
    cdef wide_t to
    to.value, to.exponent = getattr(norm, "parts", (norm, 0))
    return to


def adjusted(
    dict options, dict constants, double calls, norm, tensor_norm, bint is_double=True,
    double unit=1,
):
    """Do `adjust` for the NumPy reference: derived constants with a tensor's scale and limit."""
    cdef options_t o = encoded(options)
    cdef constants_t h = constants
    adjust(&o, &h, calls, unit, as_wide(norm), as_wide(tensor_norm), is_double)
    return h


cdef options_t encoded(dict options) except *:
    cdef options_t o
    memset(&o, 0, sizeof(o))
    for name, (default, domain) in OPTIONS.items():
        encode_option(&o, name, options.get(name, default))
    return o


def share_of(dict options, double calls, double unit=1):
    """Return `gradient_share` for the NumPy reference."""
    cdef options_t o = encoded(options)
    return gradient_share(&o, calls, unit)


def bounded(dict constants, norm):
    """Do `bound_direction` for the NumPy reference."""
    cdef constants_t h = constants
    bound_direction(&h, as_wide(norm))
    return h


def adapted(dict constants, p_norm, norm, double size):
    """Do `adapt_rate` for the NumPy reference."""
    cdef constants_t h = constants
    adapt_rate(&h, as_wide(p_norm), as_wide(norm), size)
    return h


def trusted(dict constants, p_norm, norm, bint is_double):
    """Do `apply_trust` for the NumPy reference."""
    cdef constants_t h = constants
    apply_trust(&h, as_wide(p_norm), as_wide(norm), is_double)
    return h
