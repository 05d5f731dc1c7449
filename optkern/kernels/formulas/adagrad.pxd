# cython: cdivision=True, cpow=True
from optkern.kernels._constants cimport constants_t, hyper_t
from optkern.kernels._scalar cimport floating, flush, square_root
from optkern.kernels.formulas._common cimport ascended, common, shrunk


cdef inline floating formula(floating p, floating g, floating* s, constants_t h) noexcept nogil:
    g = ascended(p, g, h)
    s[0] = flush(s[0] + g * g)
    return shrunk(p, h) - g * <floating> h.rate / (square_root(s[0]) + <floating> h.eps)


cdef inline void derive(const hyper_t* o, constants_t* h) noexcept nogil:
    common(o, h)
    h.rate = o.lr / (1 + (o.step - 1) * o.lr_decay)
