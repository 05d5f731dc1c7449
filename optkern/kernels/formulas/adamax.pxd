# cython: cdivision=True, cpow=True
from optkern.kernels._constants cimport constants_t, hyper_t
from optkern.kernels._scalar cimport floating, flush, magnitude
from optkern.kernels.formulas._common cimport ascended, averages, common, shrunk


cdef inline floating formula(
    floating p, floating g, floating* m, floating* u, constants_t h
) noexcept nogil:
    cdef floating past = <floating> h.beta2 * u[0], now, now_m
    g = ascended(p, g, h)
    now_m = flush(<floating> h.beta1 * m[0] + <floating> h.gain1 * g)
    m[0] = now_m
    now = magnitude(g) + <floating> h.eps
    u[0] = flush(past if past > now else now)
    return shrunk(p, h) - now_m * <floating> h.rate / u[0]


cdef inline void derive(const hyper_t* o, constants_t* h) noexcept nogil:
    common(o, h)
    averages(o, h)
    h.rate = o.lr / (1 - o.beta1 ** o.step)
