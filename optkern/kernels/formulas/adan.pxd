# cython: cdivision=True, cpow=True
from libc.math cimport sqrt

from optkern.kernels._constants cimport OWN1, RELATIVE, SHRINK, constants_t, hyper_t
from optkern.kernels._scalar cimport floating, flush
from optkern.kernels.formulas._common cimport (
    ascended, common, denominator, guard, make_room, moved, relative, spared, whole,
)


cdef enum:   # in the order of the row's constants
    BETA3
    GAIN3
    CHANGE_RATE
    AFTER   # decay of the step itself


cdef inline floating formula(
    floating p, floating g, floating* m, floating* q, floating* n, floating* past, constants_t h
) noexcept nogil:
    cdef floating d = 0, look, now_m, now_q
    g = whole(ascended(p, g, h), h)
    if h.flags & OWN1:
        d = g - past[0]
    look = g + <floating> h.beta2 * d
    now_m = flush(<floating> h.beta1 * m[0] + <floating> h.gain1 * g)
    now_q = flush(<floating> h.beta2 * q[0] + <floating> h.gain2 * d)
    m[0], q[0] = now_m, now_q
    n[0] = flush(<floating> h.own[BETA3] * n[0] + <floating> h.own[GAIN3] * look * look)
    past[0] = flush(g)
    if h.flags & RELATIVE:   # what its second moment is of
        return relative(look, n[0], h)
    d = now_m * <floating> h.rate + now_q * <floating> h.own[CHANGE_RATE]
    return moved(p, spared(d / denominator(n[0], h), p, <floating> h.own[AFTER], h), g, h)


cdef inline void derive(const hyper_t* o, constants_t* h) noexcept nogil:
    """Fold the corrections of m, q and n into the rates and eps: one division."""
    cdef double beta1 = o.own[0], beta2 = o.own[1], beta3 = o.own[2]
    cdef bint no_prox = o.own[3] != 0
    cdef double root = sqrt(1 - beta3 ** o.step)
    common(o, h)
    make_room(o, h)
    h.own[AFTER] = 1
    if h.flags & SHRINK and not no_prox:
        h.own[AFTER] = h.shrink = 1 / (2 - h.shrink)
    h.beta1, h.gain1 = beta1, 1 - beta1
    h.beta2, h.gain2 = beta2, 1 - beta2
    h.own[BETA3], h.own[GAIN3] = beta3, 1 - beta3
    h.rate = o.lr * root / (1 - beta1 ** o.step)
    h.own[CHANGE_RATE] = o.lr * root * beta2 / (1 - beta2 ** o.step)
    h.eps = o.eps * root
    h.caution = root
    guard(h, h.rate + h.own[CHANGE_RATE])
    h.own[CHANGE_RATE] *= h.down
    if o.step > 1:
        h.flags |= OWN1
