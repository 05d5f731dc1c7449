# cython: cdivision=True, cpow=True
from libc.math cimport sqrt

from optkern.kernels._constants cimport APPLY, DIRECTION, OWN1, constants_t, hyper_t
from optkern.kernels._scalar cimport epsilon, floating, flush, square_root
from optkern.kernels.formulas._common cimport ascended, common, moved


cdef inline floating formula(floating p, floating g, floating* v, constants_t h) noexcept nogil:
    """Give the ascended gradient, whose squares are summed; or a direction; or step along it.

    With OWN1 `v` is one over the root of what rows and columns say (_factors.pxi), else the second
    moment.
    """
    cdef floating d, least, u
    g = ascended(p, g, h)
    if not h.flags & (DIRECTION | APPLY):
        return g
    if h.flags & OWN1:
        u = g * v[0]
    else:
        if not h.flags & APPLY:
            v[0] = flush(<floating> h.beta2 * v[0] + <floating> h.gain2 * g * g)
        d = square_root(v[0])
        least = epsilon(p) if h.own[0] < 0 else <floating> h.own[0]
        u = g / (least if d < least else d)
    if h.flags & DIRECTION:
        return u
    return moved(p, <floating> h.rate * u, g, h)


cdef inline void derive(const hyper_t* o, constants_t* h) noexcept nogil:
    """Derive the weights of the means; what norms make of the rate is `adapt_rate`'s."""
    cdef double newest = 1 / sqrt(o.step)
    common(o, h)
    h.gain2 = o.step ** o.own[0]
    h.beta2 = 1 - h.gain2
    h.rate = newest if newest < o.lr else o.lr
    h.own[0], h.own[1], h.own[2] = o.own[1], o.own[2], o.own[3]
    h.flags |= DIRECTION
