# cython: cdivision=True, cpow=True
from libc.math cimport sqrt

from optkern.kernels._constants cimport APPLY, DIRECTION, constants_t, hyper_t
from optkern.kernels._scalar cimport floating, flush
from optkern.kernels.formulas._common cimport (
    ascended, common, denominator, guard, make_room, move_moments, moved, whole,
)

cdef enum:
    BETA3
    TAKEN          # of a gradient in s
    SHARE          # of its product with p0 - p in the numerator of d
    D0
    COEFFICIENT
    GROWTH
    OWN_EPS        # times the new d: eps


cdef inline floating formula(
    floating p, floating g, floating* p0, floating* s, floating* m, floating* v, constants_t h
) noexcept nogil:
    """Give the gradient to descend along, or step by it: d is estimated in between."""
    cdef floating now_m
    if h.flags & APPLY:   # g is that gradient
        s[0] = flush(<floating> h.own[BETA3] * s[0] + <floating> h.own[TAKEN] * g)
        now_m = move_moments(g, m, v, h)
        return moved(p, now_m * <floating> h.rate / denominator(v[0], h), g, h)
    if h.flags & DIRECTION:
        return whole(ascended(p, g, h), h)
    return p


cdef inline void derive(const hyper_t* o, constants_t* h) noexcept nogil:
    """Derive Adam's constants by the old d; the new one is put in by `settle`."""
    cdef double d0 = o.own[1], d = o.carried[0], correction = 1
    cdef hyper_t own = o[0]
    if d == 0:
        d = d0
    if o.own[4]:
        correction = sqrt(1 - o.beta2 ** o.step) / (1 - o.beta1 ** o.step)
    own.lr = d * o.lr * correction
    common(&own, h)
    make_room(&own, h)
    h.carried[0], h.carried[2] = d, o.carried[2]
    h.carried[1] = o.carried[1] if o.carried[1] > 0 else d
    h.beta1, h.beta2, h.own[BETA3] = o.beta1, o.beta2, o.own[0]
    if o.own[0] < 0:
        h.own[BETA3] = sqrt(o.beta2)
    h.gain1, h.gain2 = d * (1 - o.beta1), d * d * (1 - o.beta2)
    h.own[SHARE] = d / d0 * own.lr
    h.own[TAKEN] = d / d0 * d if o.own[5] else h.own[SHARE]
    h.own[D0], h.own[COEFFICIENT], h.own[GROWTH] = d0, o.own[2], o.own[3]
    h.own[OWN_EPS], h.eps = o.eps, d * o.eps
    if own.lr == 0:   # nothing moves
        h.beta1 = h.beta2 = h.own[BETA3] = 1
        h.gain1 = h.gain2 = h.own[TAKEN] = 0
    guard(h, h.rate)
