# cython: cdivision=True, cpow=True
from optkern.kernels._constants cimport constants_t, hyper_t
from optkern.kernels._scalar cimport floating, flush, square_root
from optkern.kernels.formulas._common cimport ascended, common, shrunk


cdef inline floating formula(
    floating p, floating g, floating* v, floating* u, constants_t h
) noexcept nogil:
    cdef floating rho = <floating> h.beta2, gain = <floating> h.gain2, eps = <floating> h.eps, d
    g = ascended(p, g, h)
    v[0] = flush(rho * v[0] + gain * g * g)
    d = square_root(u[0] + eps) * g / square_root(v[0] + eps)
    u[0] = flush(rho * u[0] + gain * d * d)
    return shrunk(p, h) - <floating> h.rate * d


cdef inline void derive(const hyper_t* o, constants_t* h) noexcept nogil:
    common(o, h)
    h.beta2 = o.rho
    h.gain2 = 1 - o.rho
