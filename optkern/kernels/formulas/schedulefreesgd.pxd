# cython: cdivision=True, cpow=True
from optkern.kernels._constants cimport constants_t, hyper_t
from optkern.kernels._scalar cimport floating
from optkern.kernels.formulas._common cimport ascended, common, make_room
from optkern.kernels.formulas._schedule_free cimport followed, interpolate, warmed


cdef enum:   # in the order of the row's domains
    WARMUP
    R
    POWER


cdef inline floating formula(floating p, floating g, floating* z, constants_t h) noexcept nogil:
    return followed(p, <floating> h.rate * ascended(p, g, h), z, h)


cdef inline void derive(const hyper_t* o, constants_t* h) noexcept nogil:
    cdef double lr = warmed(o.lr, o.step, o.own[WARMUP])
    common(o, h)
    make_room(o, h)
    h.rate = lr * h.full
    interpolate(o, h, lr, o.momentum, o.own[R], o.own[POWER])
