# cython: cdivision=True, cpow=True
from optkern.kernels._constants cimport OWN1, RELATIVE, constants_t, hyper_t
from optkern.kernels._scalar cimport floating, flush, least_root, square_root
from optkern.kernels.formulas._common cimport (
    ascended, averages, common, make_room, moved, relative, whole,
)


cdef enum:
    MOST   # what quotients are clipped to


cdef inline floating formula(
    floating p, floating g, floating* m, floating* v, constants_t h
) noexcept nogil:
    cdef floating least = <floating> h.eps, most = <floating> h.own[MOST], d, now_m
    g = ascended(p, g, h)
    if not h.flags & OWN1:
        g = whole(g, h)
        v[0] = flush(g * g)
        return <floating> 0 if h.flags & RELATIVE else moved(p, <floating> 0, g, h)
    if h.flags & RELATIVE:
        return relative(g, v[0], h)
    least = least if least > least_root(p) else least_root(p)
    d = square_root(v[0])
    d = whole(g / (least if d < least else d), h)
    d = most if d > most else d   # one after the other: a minimum and a maximum
    d = -most if d < -most else d
    now_m = flush(<floating> h.beta1 * m[0] + <floating> h.gain1 * d)
    m[0] = now_m
    v[0] = flush(<floating> h.beta2 * v[0] + <floating> h.gain2 * g * g)
    return moved(p, <floating> h.rate * now_m, g, h)


cdef inline void derive(const hyper_t* o, constants_t* h) noexcept nogil:
    common(o, h)
    make_room(o, h)
    averages(o, h)
    h.gain1 = 1 - o.beta1   # of a quotient
    h.caution = h.full
    h.own[MOST] = o.step ** o.own[0]
    if o.step > 1:
        h.flags |= OWN1
