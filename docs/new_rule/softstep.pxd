# cython: cdivision=True, cpow=True
from optkern.kernels._constants cimport constants_t, hyper_t
from optkern.kernels._scalar cimport floating, flush, magnitude
from optkern.kernels.formulas._common cimport ascended, common, moved

cdef enum:   # in the order of the row's constants
    KEPT
    TAKEN
    SOFTNESS


cdef inline floating formula(floating p, floating g, floating* m, constants_t h) noexcept nogil:
    cdef floating now
    g = ascended(p, g, h)
    now = flush(<floating> h.own[KEPT] * m[0] + <floating> h.own[TAKEN] * g)
    m[0] = now
    return moved(p, now * <floating> h.rate / (magnitude(now) + <floating> h.own[SOFTNESS]), g, h)


cdef inline void derive(const hyper_t* o, constants_t* h) noexcept nogil:
    """Derive what is this rule's own: o.own is in the order of the row's domains."""
    common(o, h)
    h.own[KEPT], h.own[TAKEN] = o.own[0], 1 - o.own[0]
    h.own[SOFTNESS] = o.own[1]
