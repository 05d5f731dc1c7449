# cython: cdivision=True, cpow=True
from optkern.kernels._constants cimport MOMENTUM, NESTEROV, TRUST, constants_t, hyper_t
from optkern.kernels._scalar cimport floating, flush
from optkern.kernels.formulas._common cimport (
    FORM_AVERAGE, FORM_TORCH, ascended, common, make_room, moved,
)


cdef enum:
    HALF_GAIN   # gradient and velocity are summed by halves, before the rate makes them small
    HALF_MOMENTUM


cdef inline floating formula(floating p, floating g, floating* buf, constants_t h) noexcept nogil:
    cdef floating momentum = <floating> h.momentum, gain = <floating> h.gain, half, d
    g = ascended(p, g, h)
    if h.flags & TRUST:
        g = g * <floating> h.trust
    d = g
    if h.flags & NESTEROV:
        half = <floating> h.own[HALF_GAIN] * g
        buf[0] = flush(momentum * buf[0] + (half + half))   # a product more is 9 % in cache
        d = half + <floating> h.own[HALF_MOMENTUM] * buf[0]
    elif h.flags & MOMENTUM:
        buf[0] = flush(momentum * buf[0] + gain * g)
        d = buf[0]
    return moved(p, <floating> h.rate * d, g, h)


cdef inline void derive(const hyper_t* o, constants_t* h) noexcept nogil:
    """Compute buf = momentum * buf + gain * g and p -= rate * buf, in all three forms."""
    common(o, h)
    # A velocity that takes whole gradients has to hold what a decayed one is: there is no result in
    # range to save, and a product an element less (9 % of momentum with L2 decay in cache).
    if o.adapt or not o.momentum or o.momentum_form != FORM_TORCH or o.dampening:
        make_room(o, h)
    h.trust = 1
    if o.adapt:   # LARS
        h.flags |= TRUST
        h.trust = o.trust_coefficient
    if o.momentum == 0:
        h.rate = o.lr * h.full
        return
    h.flags |= MOMENTUM
    h.momentum = o.momentum
    if o.momentum_form == FORM_TORCH:
        h.gain = 1.0 if o.step == 1 else 1 - o.dampening
    elif o.momentum_form == FORM_AVERAGE:
        h.gain = 1 - o.momentum
    else:
        h.gain = -o.lr
        h.rate = -1
    h.gain = h.gain * h.full
    if o.nesterov:
        h.flags |= NESTEROV
        h.own[HALF_GAIN] = h.gain / 2
        h.own[HALF_MOMENTUM] = h.momentum / 2
        h.rate = h.rate * 2
