# cython: cdivision=True, cpow=True
from libc.math cimport sqrt

from optkern.kernels._constants cimport APPLY, DIRECTION, SHRINK, constants_t, hyper_t
from optkern.kernels._scalar cimport floating
from optkern.kernels.formulas._common cimport ascended, common, make_room, moved, spared, whole

cdef enum:
    WEIGHT      # of a gradient's products in the statistics
    FREQUENCY   # of the bases' renewal
    DONE        # steps with bases so far
    AFTER       # decay of the step itself


cdef inline floating formula(floating p, floating g, constants_t h) noexcept nogil:
    """Give the gradient to descend along, or step along g: all state is moved in between."""
    if h.flags & APPLY:   # g is what has been made of the gradient
        return moved(p, spared(<floating> h.rate * g, p, <floating> h.own[AFTER], h), g, h)
    if h.flags & DIRECTION:
        return whole(ascended(p, g, h), h)
    return p


cdef inline void derive(const hyper_t* o, constants_t* h) noexcept nogil:
    cdef double done = o.step - 1
    common(o, h)
    make_room(o, h)
    h.beta1, h.gain1, h.beta2, h.gain2 = o.beta1, 1 - o.beta1, o.beta2, 1 - o.beta2
    h.own[WEIGHT] = 1 - (o.beta2 if o.own[0] < 0 else o.own[0])
    h.own[FREQUENCY], h.own[DONE] = o.own[1], done
    if done == 0:   # there are no bases yet: the first step leaves p as it is
        h.flags &= ~(<unsigned int> SHRINK)
        h.rate = 0
    elif o.own[3]:
        h.rate = o.lr * sqrt(1 - o.beta2 ** done) / (1 - o.beta1 ** done)
    h.own[AFTER] = h.shrink if h.flags & SHRINK else 1
