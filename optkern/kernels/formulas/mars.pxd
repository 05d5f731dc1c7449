# cython: cdivision=True, cpow=True
from libc.math cimport sqrt

from optkern.kernels._constants cimport DIRECTION, RELATIVE, constants_t, hyper_t
from optkern.kernels._scalar cimport floating, flush
from optkern.kernels.formulas._common cimport (
    ascended, averages, common, denominator, guard, make_room, moved, relative, whole,
)


cdef enum:   # in the order of the row's constants
    CORRECTION
    BACK   # the last gradient over `full`, as this one is


cdef inline floating formula(
    floating p, floating g, floating* m, floating* v, floating* last, constants_t h
) noexcept nogil:
    """Give the corrected gradient, with nothing written; or step by it, times `trust`."""
    cdef floating c, now_m, now_v
    g = ascended(p, g, h)
    c = g + <floating> h.own[CORRECTION] * (g - <floating> h.own[BACK] * last[0])
    if h.flags & DIRECTION:
        return c
    c = c * <floating> h.trust
    now_m = flush(<floating> h.beta1 * m[0] + <floating> h.gain1 * c)
    now_v = flush(<floating> h.beta2 * v[0] + <floating> h.gain2 * c * c)
    m[0], v[0] = now_m, now_v
    last[0] = flush(whole(g, h))
    if h.flags & RELATIVE:   # what its second moment is of
        return relative(c, now_v, h)
    return moved(p, now_m * <floating> h.rate / denominator(now_v, h), g, h)


cdef inline void derive(const hyper_t* o, constants_t* h) noexcept nogil:
    """Derive Adam's constants with eps beside the uncorrected root, for averages of c itself."""
    cdef double root = sqrt(1 - o.beta2 ** o.step)
    cdef double correction = o.own[0] * o.beta1 / (1 - o.beta1)
    cdef hyper_t own = o[0]
    common(o, h)
    own.share = ((o.share if o.share > 1 else 1) + h.decay) * (1 + 2 * correction)   # c, at most
    make_room(&own, h)
    averages(o, h)
    h.gain1, h.gain2 = 1 - o.beta1, 1 - o.beta2   # `trust` makes `full` good
    h.own[CORRECTION], h.own[BACK] = correction, 1 / h.full
    h.trust = h.full
    h.rate = o.lr * root / (1 - o.beta1 ** o.step)
    h.caution = root
    guard(h, h.rate)
    h.flags |= DIRECTION
