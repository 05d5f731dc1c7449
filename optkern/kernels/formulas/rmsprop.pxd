# cython: cdivision=True, cpow=True
from optkern.kernels._constants cimport CENTERED, MOMENTUM, RELATIVE, constants_t, hyper_t
from optkern.kernels._scalar cimport epsilon, floating, flush
from optkern.kernels.formulas._common cimport (
    ascended, common, denominator, guard, make_room, moved, relative, whole,
)


cdef enum:
    HORIZON   # how many gradients the averages are of


cdef inline floating formula(
    floating p, floating g, floating* v, floating* m, floating* buf, constants_t h
) noexcept nogil:
    cdef floating alpha = <floating> h.beta2, d, least
    cdef floating share = epsilon(p) * <floating> h.own[HORIZON]
    g = ascended(p, g, h)
    v[0] = flush(alpha * v[0] + <floating> h.gain2 * g * g)
    d = v[0]
    if h.flags & CENTERED:
        m[0] = flush(alpha * m[0] + <floating> h.gain1 * g)
        share = <floating> 1 if share > 1 else share
        least = share * d   # the averages' rounding
        d = d - m[0] * m[0]
        d = d if d >= least else least   # beyond the range inf - inf, and inf as without centering
    if h.flags & RELATIVE:
        return relative(g, d, h)
    d = denominator(d, h)
    if h.flags & MOMENTUM:
        buf[0] = flush(<floating> h.momentum * buf[0] + whole(g / d, h))
        return moved(p, <floating> h.rate * buf[0], g, h)
    return moved(p, g * <floating> h.rate / d, g, h)


cdef inline void derive(const hyper_t* o, constants_t* h) noexcept nogil:
    common(o, h)
    make_room(o, h)
    h.beta2 = o.alpha
    h.caution = h.full
    h.gain1 = (1 - o.alpha) * h.full
    h.gain2 = (1 - o.alpha) * h.full * h.full
    if o.centered:
        h.flags |= CENTERED
        h.own[HORIZON] = 1 / (1 - o.alpha) if o.alpha < 1 else 0
    if o.momentum:
        h.flags |= MOMENTUM
        h.momentum = o.momentum
        guard(h, 1)
    else:
        h.rate = o.lr * h.full
        guard(h, h.rate)
