# cython: cdivision=True, cpow=True
from optkern.kernels._constants cimport APPLY, DIRECTION, constants_t, hyper_t
from optkern.kernels._scalar cimport floating, flush
from optkern.kernels.formulas._common cimport ascended, common, make_room, moved


cdef inline floating formula(floating p, floating g, floating* buf, constants_t h) noexcept nogil:
    """Give a direction, with nothing written; or move the momentum alone; or step along g.

    What may fail, the products, comes between the first and the second.
    """
    cdef floating now, u
    if h.flags & APPLY:   # g is what has been made of the direction
        u = <floating> h.rate * g
        return moved(p, u, g, h)
    g = ascended(p, g, h)
    now = flush(<floating> h.momentum * buf[0] + <floating> h.gain * g)
    if h.flags & DIRECTION:
        return <floating> h.gain1 * g + <floating> h.beta1 * now
    buf[0] = now
    return p


cdef inline void derive(const hyper_t* o, constants_t* h) noexcept nogil:
    cdef int k
    common(o, h)
    make_room(o, h)
    h.momentum, h.gain2 = o.momentum, 1 - o.beta2
    h.gain = (1 - o.momentum) * h.full
    h.gain1 = (1 - o.momentum) * h.full if o.nesterov else 0   # of the direction: the gradient's,
    h.beta1 = o.momentum if o.nesterov else 1   # and the momentum's share
    for k in range(7):   # coefficients, steps, adjustment, layout: as they are
        h.own[k] = o.own[k]
