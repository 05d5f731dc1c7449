# cython: cdivision=True, cpow=True
from optkern.kernels._constants cimport MOMENTUM, NESTEROV, TRUST, constants_t, hyper_t
from optkern.kernels._scalar cimport floating, flush
from optkern.kernels.formulas._common cimport FORM_AVERAGE, FORM_TORCH, ascended, common, shrunk


cdef inline floating formula(floating p, floating g, floating* buf, constants_t h) noexcept nogil:
    cdef floating momentum = <floating> h.momentum, gain = <floating> h.gain
    g = ascended(p, g, h)
    if h.flags & TRUST:
        g = g * <floating> h.trust
    if h.flags & MOMENTUM:
        buf[0] = flush(momentum * buf[0] + gain * g)
        g = gain * g + momentum * buf[0] if h.flags & NESTEROV else buf[0]
    return shrunk(p, h) - <floating> h.rate * g


cdef inline void derive(const hyper_t* o, constants_t* h) noexcept nogil:
    """buf = momentum * buf + gain * g and p -= rate * buf, in all three forms."""
    common(o, h)
    h.trust = 1
    if o.adapt:   # LARS
        h.flags |= TRUST
        h.trust = o.trust_coefficient
    if o.momentum == 0:
        return
    h.flags |= MOMENTUM
    h.momentum = o.momentum
    if o.nesterov:
        h.flags |= NESTEROV
    if o.momentum_form == FORM_TORCH:
        h.gain = 1.0 if o.step == 1 else 1 - o.dampening
    elif o.momentum_form == FORM_AVERAGE:
        h.gain = 1 - o.momentum
    else:
        h.gain = -o.lr
        h.rate = -1
