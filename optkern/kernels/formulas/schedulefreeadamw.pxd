# cython: cdivision=True, cpow=True
from libc.math cimport sqrt

from optkern.kernels._constants cimport constants_t, hyper_t
from optkern.kernels._scalar cimport floating, flush
from optkern.kernels.formulas._common cimport (
    ascended, averages, common, denominator, guard, make_room,
)
from optkern.kernels.formulas._schedule_free cimport followed, interpolate, warmed


cdef enum:   # in the order of the row's domains
    WARMUP
    R
    POWER


cdef inline floating formula(
    floating p, floating g, floating* z, floating* v, constants_t h
) noexcept nogil:
    cdef floating now
    g = ascended(p, g, h)
    now = flush(<floating> h.beta2 * v[0] + <floating> h.gain2 * g * g)
    v[0] = now
    return followed(p, <floating> h.rate * g / denominator(now, h), z, h)


cdef inline void derive(const hyper_t* o, constants_t* h) noexcept nogil:
    cdef double root = sqrt(1 - o.beta2 ** o.step), lr = warmed(o.lr, o.step, o.own[WARMUP])
    common(o, h)
    make_room(o, h)
    averages(o, h)
    h.rate = lr * root * h.full
    h.eps = o.eps * root
    guard(h, h.rate)
    interpolate(o, h, lr, o.beta1, o.own[R], o.own[POWER])
