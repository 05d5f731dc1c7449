# cython: cdivision=True, cpow=True
from optkern.kernels._constants cimport constants_t, hyper_t
from optkern.kernels._scalar cimport floating, flush
from optkern.kernels.formulas._common cimport ascended, averages, common, make_room, moved


cdef inline floating formula(floating p, floating g, floating* m, constants_t h) noexcept nogil:
    cdef floating d
    g = ascended(p, g, h)
    d = <floating> h.beta1 * m[0] + <floating> h.gain1 * g
    d = <floating> 1 if d > 0 else (<floating> -1 if d < 0 else d)
    m[0] = flush(<floating> h.beta2 * m[0] + <floating> h.gain2 * g)
    return moved(p, <floating> h.rate * d, g, h)


cdef inline void derive(const hyper_t* o, constants_t* h) noexcept nogil:
    common(o, h)
    make_room(o, h)
    averages(o, h)
    h.gain2 = (1 - o.beta2) * h.full   # of the gradient as well
