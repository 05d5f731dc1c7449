# cython: cdivision=True, cpow=True
from optkern.kernels._constants cimport GUARD, RELATIVE, constants_t, hyper_t
from optkern.kernels._scalar cimport floating, flush, least, least_root, magnitude, square_root
from optkern.kernels.formulas._common cimport (
    ascended, common, guard, make_room, moved, relative,
)


cdef inline floating formula(
    floating p, floating g, floating* v, floating* u, constants_t h
) noexcept nogil:
    cdef floating rho = <floating> h.beta2, gain = <floating> h.gain2, eps = <floating> h.eps
    cdef floating far = 1 / least_root(p), back = 1, d, past
    g = ascended(p, g, h)
    v[0] = flush(rho * v[0] + gain * g * g)
    past = v[0] + eps
    if h.flags & RELATIVE:
        return relative(g, past, h)
    if h.flags & GUARD:
        past = least(p) if past < least(p) else past
        if magnitude(g) > far:   # times a root it may leave the range, which the quotient does not
            g, back = g * least_root(p), far
    d = square_root(u[0] + eps) * g / square_root(past)
    if h.flags & GUARD:
        d = d * back
    u[0] = flush(rho * u[0] + gain * d * d)
    return moved(p, <floating> h.rate * d, g, h)


cdef inline void derive(const hyper_t* o, constants_t* h) noexcept nogil:
    common(o, h)
    make_room(o, h)
    h.beta2 = o.rho
    h.gain2 = (1 - o.rho) * h.full * h.full
    h.rate = o.lr * h.full
    h.caution = h.full
    guard(h, 1)
    if o.eps > 1e-3:   # else it takes long until the root of it and of past steps is above 1
        h.flags |= GUARD
