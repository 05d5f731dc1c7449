# cython: cdivision=True, cpow=True
from optkern.kernels._constants cimport constants_t, hyper_t
from optkern.kernels._scalar cimport floating, flush
from optkern.kernels.formulas._common cimport ascended, common, make_room, moved


cdef enum:   # in the order of the row's constants
    SHORTER   # decay of p by lambd
    KEPT
    TAKEN

cdef enum:   # in the order of the row's domains
    LAMBD
    ALPHA
    T0


cdef inline floating formula(floating p, floating g, floating* ax, constants_t h) noexcept nogil:
    g = ascended(p, g, h)
    p = moved(p * <floating> h.own[SHORTER], <floating> h.rate * g, g, h)
    ax[0] = flush(<floating> h.own[KEPT] * ax[0] + <floating> h.own[TAKEN] * p)
    return p


cdef inline void derive(const hyper_t* o, constants_t* h) noexcept nogil:
    """Derive the rate that lr has come down to, and the average's weights, from the step."""
    cdef double past = o.step - 1
    cdef double eta = o.lr / (1 + o.own[LAMBD] * o.lr * past) ** o.own[ALPHA]
    common(o, h)
    make_room(o, h)
    h.rate = eta * h.full
    h.own[SHORTER] = 1 - o.own[LAMBD] * eta
    h.own[TAKEN] = 1 / (past - o.own[T0]) if past - o.own[T0] > 1 else 1
    h.own[KEPT] = 1 - h.own[TAKEN]
