# cython: cdivision=True, cpow=True
from libc.math cimport sqrt

from optkern.kernels._constants cimport RELATIVE, constants_t, hyper_t
from optkern.kernels._scalar cimport floating
from optkern.kernels.formulas._common cimport (
    ascended, averages, common, denominator, guard, make_room, move_moments, moved,
    relative,
)


cdef enum:
    GRADIENT_RATE   # the share of the gradient itself in the direction


cdef inline floating formula(
    floating p, floating g, floating* m, floating* v, constants_t h
) noexcept nogil:
    cdef floating d, now_m
    g = ascended(p, g, h)
    now_m = move_moments(g, m, v, h)
    if h.flags & RELATIVE:
        return relative(g, v[0], h)
    d = now_m * <floating> h.rate + g * <floating> h.own[GRADIENT_RATE]
    return moved(p, d / denominator(v[0], h), g, h)


cdef inline void derive(const hyper_t* o, constants_t* h) noexcept nogil:
    cdef double root = sqrt(1 - o.beta2 ** o.step)
    cdef double mu = o.beta1 * (1 - 0.5 * 0.96 ** (o.step * o.momentum_decay))
    cdef double mu_next = o.beta1 * (1 - 0.5 * 0.96 ** ((o.step + 1) * o.momentum_decay))
    cdef double product = o.carried[0] * mu
    common(o, h)
    make_room(o, h)
    averages(o, h)
    h.carried[0] = product
    h.own[GRADIENT_RATE] = o.lr * root * (1 - mu) / (1 - product) * h.full
    h.rate = o.lr * root * mu_next / (1 - product * mu_next)
    h.eps = o.eps * root
    h.caution = root * h.full
    guard(h, h.rate + h.own[GRADIENT_RATE])
    h.own[GRADIENT_RATE] *= h.down
