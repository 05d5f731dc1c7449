# cython: cdivision=True, cpow=True
from libc.math cimport sqrt

from optkern.kernels._constants cimport AMSGRAD, RELATIVE, constants_t, hyper_t
from optkern.kernels._scalar cimport floating, flush
from optkern.kernels.formulas._common cimport (
    EPS_CORRECTED, ascended, averages, common, denominator, guard, make_room, move_moments,
    moved, relative,
)


cdef inline floating formula(
    floating p, floating g, floating* m, floating* v, floating* vmax, constants_t h
) noexcept nogil:
    cdef floating d, now_m
    g = ascended(p, g, h)
    now_m = move_moments(g, m, v, h)
    d = v[0]
    if h.flags & AMSGRAD:
        d = vmax[0] if vmax[0] > d else d
        vmax[0] = flush(d)
    if h.flags & RELATIVE:
        return relative(g, d, h)
    return moved(p, now_m * <floating> h.rate / denominator(d, h), g, h)


cdef inline void derive(const hyper_t* o, constants_t* h) noexcept nogil:
    """Compute lr m^ / (sqrt(v^) + eps) = rate m / (sqrt(v) + eps'): one division."""
    cdef double root = sqrt(1 - o.beta2 ** o.step)
    common(o, h)
    make_room(o, h)
    averages(o, h)
    h.rate = o.lr * root / (1 - o.beta1 ** o.step)
    if o.eps_form == EPS_CORRECTED:
        h.eps = o.eps * root
    h.caution = root * h.full
    guard(h, h.rate)
    if o.amsgrad:
        h.flags |= AMSGRAD
