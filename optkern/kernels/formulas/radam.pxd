# cython: cdivision=True, cpow=True
from libc.math cimport sqrt

from optkern.kernels._constants cimport RECTIFIED, RELATIVE, constants_t, hyper_t
from optkern.kernels._scalar cimport floating
from optkern.kernels.formulas._common cimport (
    ascended, averages, common, denominator, guard, make_room, move_moments, moved,
    relative,
)


cdef inline floating formula(
    floating p, floating g, floating* m, floating* v, constants_t h
) noexcept nogil:
    cdef floating d, now_m
    g = ascended(p, g, h)
    now_m = move_moments(g, m, v, h)
    if h.flags & RELATIVE:   # a step that divides by nothing has nothing to exceed
        return relative(g, v[0], h) if h.flags & RECTIFIED else <floating> 0
    d = now_m * <floating> h.rate
    if h.flags & RECTIFIED:
        d = d / denominator(v[0], h)
    return moved(p, d, g, h)


cdef inline void derive(const hyper_t* o, constants_t* h) noexcept nogil:
    cdef double power2 = o.beta2 ** o.step
    cdef double rho_inf = 2 / (1 - o.beta2) - 1
    cdef double rho = rho_inf - 2 * o.step * power2 / (1 - power2)
    cdef double rectification
    common(o, h)
    make_room(o, h)
    averages(o, h)
    h.rate = o.lr / (1 - o.beta1 ** o.step)
    h.caution = sqrt(1 - power2) * h.full
    if rho > 5:
        rectification = ((rho - 4) * (rho - 2) * rho_inf) / ((rho_inf - 4) * (rho_inf - 2) * rho)
        h.flags |= RECTIFIED
        h.rate *= sqrt(rectification) * sqrt(1 - power2)
        guard(h, h.rate)
