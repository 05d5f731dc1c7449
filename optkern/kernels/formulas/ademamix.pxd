# cython: cdivision=True, cpow=True
from libc.math cimport exp, log, sqrt

from optkern.kernels._constants cimport RELATIVE, constants_t, hyper_t
from optkern.kernels._scalar cimport floating, flush
from optkern.kernels.formulas._common cimport (
    ascended, common, denominator, guard, make_room, move_moments, moved,
    relative,
)


cdef enum:   # in the order of the row's constants
    BETA3
    GAIN3
    SLOW_RATE

cdef enum:   # in the order of the row's domains
    BETA = 0
    ALPHA = 3
    UNTIL = 4


cdef inline floating formula(
    floating p, floating g, floating* m, floating* v, floating* slow, constants_t h
) noexcept nogil:
    cdef floating now_m, now_slow, d
    g = ascended(p, g, h)
    now_m = move_moments(g, m, v, h)
    now_slow = flush(<floating> h.own[BETA3] * slow[0] + <floating> h.own[GAIN3] * g)
    slow[0] = now_slow
    if h.flags & RELATIVE:
        return relative(g, v[0], h)
    d = now_m * <floating> h.rate + now_slow * <floating> h.own[SLOW_RATE]
    return moved(p, d / denominator(v[0], h), g, h)


cdef inline double grown(double fast, double slow, double share) noexcept nogil:
    """Let a rate grow from `fast` to `slow` so that its half-life grows evenly."""
    cdef double now
    if slow == 0:
        return 0
    now = exp(log(slow) / ((1 - share) * (log(slow) / log(fast)) + share))
    return now if now < slow else slow


cdef inline void derive(const hyper_t* o, constants_t* h) noexcept nogil:
    """Derive Adam's constants, and those of the slow average at this step."""
    cdef double beta1 = o.own[BETA], beta2 = o.own[BETA + 1], beta3 = o.own[BETA + 2]
    cdef double root = sqrt(1 - beta2 ** o.step), alpha = o.own[ALPHA]
    if o.step < o.own[UNTIL]:
        beta3 = grown(beta1, beta3, o.step / o.own[UNTIL])
        alpha = alpha * (o.step / o.own[UNTIL])
    common(o, h)
    make_room(o, h)
    h.beta1, h.gain1 = beta1, (1 - beta1) * h.full
    h.beta2, h.gain2 = beta2, (1 - beta2) * h.full * h.full
    h.own[BETA3], h.own[GAIN3] = beta3, (1 - beta3) * h.full
    h.rate = o.lr * root / (1 - beta1 ** o.step)
    h.own[SLOW_RATE] = o.lr * root * alpha
    h.eps = o.eps * root
    h.caution = root * h.full
    guard(h, h.rate + h.own[SLOW_RATE])
    h.own[SLOW_RATE] *= h.down
