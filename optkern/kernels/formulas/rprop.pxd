# cython: cdivision=True, cpow=True
from optkern.kernels._constants cimport constants_t, hyper_t
from optkern.kernels._scalar cimport floating, flush
from optkern.kernels.formulas._common cimport ascended, common, make_room, moved, whole


cdef enum:   # in the order of the row's constants
    CUT
    GROWTH
    LEAST
    MOST
    FIRST   # what the sizes begin with, in the first step


cdef inline floating sign(floating x) noexcept nogil:
    return <floating> 1 if x > 0 else (<floating> -1 if x < 0 else x)


cdef inline floating formula(
    floating p, floating g, floating* prev, floating* size, constants_t h
) noexcept nogil:
    cdef floating least = <floating> h.own[LEAST], most = <floating> h.own[MOST]
    cdef floating same, now
    g = ascended(p, g, h)
    same = sign(g) * sign(prev[0])
    now = size[0] * (
        <floating> h.own[GROWTH] if same > 0
        else (<floating> h.own[CUT] if same < 0 else <floating> 1 + same)
    ) + <floating> h.own[FIRST]
    now = flush(most if now > most else (least if now < least else now))
    size[0] = now
    g = <floating> 0 if same < 0 else g
    prev[0] = flush(whole(g, h))
    return moved(p, sign(g) * now, g, h)


cdef inline void derive(const hyper_t* o, constants_t* h) noexcept nogil:
    common(o, h)
    make_room(o, h)
    h.own[CUT], h.own[GROWTH] = o.own[0], o.own[1]
    h.own[LEAST], h.own[MOST] = o.own[2], o.own[3]
    if o.step == 1:
        h.own[FIRST] = o.lr
