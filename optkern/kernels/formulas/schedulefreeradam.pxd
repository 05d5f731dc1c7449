# cython: cdivision=True, cpow=True
from libc.math cimport sqrt

from optkern.kernels._constants cimport RECTIFIED, constants_t, hyper_t
from optkern.kernels._scalar cimport floating, flush
from optkern.kernels.formulas._common cimport (
    ascended, averages, common, denominator, guard, make_room,
)
from optkern.kernels.formulas._schedule_free cimport followed, interpolate


cdef enum:   # in the order of the row's domains
    R
    POWER
    SILENT


cdef inline floating formula(
    floating p, floating g, floating* z, floating* v, constants_t h
) noexcept nogil:
    cdef floating now, step
    g = ascended(p, g, h)
    now = flush(<floating> h.beta2 * v[0] + <floating> h.gain2 * g * g)
    v[0] = now
    step = <floating> h.rate * g
    if h.flags & RECTIFIED:
        step = step / denominator(now, h)
    return followed(p, step, z, h)


cdef inline void derive(const hyper_t* o, constants_t* h) noexcept nogil:
    cdef double power2 = o.beta2 ** o.step
    cdef double rho_inf = 2 / (1 - o.beta2) - 1
    cdef double rho = rho_inf - 2 * o.step * power2 / (1 - power2)
    cdef double root = sqrt(1 - power2), lr = 0 if o.own[SILENT] else o.lr
    common(o, h)
    make_room(o, h)
    averages(o, h)
    if rho > 4:
        lr = o.lr * sqrt(
            ((rho - 4) * (rho - 2) * rho_inf) / ((rho_inf - 4) * (rho_inf - 2) * rho)
        )
        h.flags |= RECTIFIED
        h.rate = lr * root * h.full
        h.eps = o.eps * root
        guard(h, h.rate)
    else:
        h.rate = lr * h.full
    interpolate(o, h, lr, o.beta1, o.own[R], o.own[POWER])
