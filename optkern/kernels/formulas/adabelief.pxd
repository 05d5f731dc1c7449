# cython: cdivision=True, cpow=True
from libc.math cimport sqrt

from optkern.kernels._constants cimport RELATIVE, constants_t, hyper_t
from optkern.kernels._scalar cimport floating, flush
from optkern.kernels.formulas._common cimport (
    ascended, averages, common, denominator, guard, make_room, moved, relative,
)


cdef enum:   # in the order of the row's constants
    BACK    # the average over `full`, as the gradient is
    ADDED   # to the second moment, in each step


cdef inline floating formula(
    floating p, floating g, floating* m, floating* v, constants_t h
) noexcept nogil:
    cdef floating r, now_m
    g = ascended(p, g, h)
    now_m = flush(<floating> h.beta1 * m[0] + <floating> h.gain1 * g)
    m[0] = now_m
    r = g - <floating> h.own[BACK] * now_m
    v[0] = flush(<floating> h.beta2 * v[0] + <floating> h.gain2 * r * r + <floating> h.own[ADDED])
    if h.flags & RELATIVE:   # what its second moment is of
        return relative(r, v[0], h)
    return moved(p, now_m * <floating> h.rate / denominator(v[0], h), g, h)


cdef inline void derive(const hyper_t* o, constants_t* h) noexcept nogil:
    """Derive Adam's constants; eps is in both places."""
    cdef double root = sqrt(1 - o.beta2 ** o.step)
    common(o, h)
    make_room(o, h)
    averages(o, h)
    h.own[BACK], h.own[ADDED] = 1 / h.full, o.eps
    h.rate = o.lr * root / (1 - o.beta1 ** o.step)
    h.eps = o.eps * root
    h.caution = root * h.full
    guard(h, h.rate)
