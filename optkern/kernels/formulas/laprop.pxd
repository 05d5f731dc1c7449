# cython: cdivision=True, cpow=True
from libc.math cimport sqrt

from optkern.kernels._constants cimport RELATIVE, SHRINK, constants_t, hyper_t
from optkern.kernels._scalar cimport floating, flush
from optkern.kernels.formulas._common cimport (
    ascended, averages, common, denominator, guard, make_room, moved, relative, spared, whole,
)

cdef enum:
    AFTER   # decay of the step itself


cdef inline floating formula(
    floating p, floating g, floating* m, floating* v, constants_t h
) noexcept nogil:
    cdef floating now_m, now_v
    g = ascended(p, g, h)
    now_v = flush(<floating> h.beta2 * v[0] + <floating> h.gain2 * g * g)
    v[0] = now_v
    if h.flags & RELATIVE:
        return relative(g, now_v, h)
    now_m = flush(
        <floating> h.beta1 * m[0] + <floating> h.gain1 * whole(g / denominator(now_v, h), h)
    )
    m[0] = now_m
    return moved(p, spared(<floating> h.rate * now_m, p, <floating> h.own[AFTER], h), g, h)


cdef inline void derive(const hyper_t* o, constants_t* h) noexcept nogil:
    cdef double root = sqrt(1 - o.beta2 ** o.step)
    common(o, h)
    make_room(o, h)
    averages(o, h)
    h.gain1 = (1 - o.beta1) * root   # of a quotient
    h.caution = root * h.full
    h.rate = o.lr / (1 - o.beta1 ** o.step)
    h.own[AFTER] = h.shrink if h.flags & SHRINK else 1
    guard(h, 0)
