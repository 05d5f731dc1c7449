# cython: cdivision=True, cpow=True
from optkern.kernels._constants cimport constants_t, hyper_t
from optkern.kernels._scalar cimport floating, flush
from optkern.kernels.formulas._common cimport (
    ascended, common, denominator, guard, make_room, moved, whole,
)


cdef inline floating formula(floating p, floating g, floating* s, constants_t h) noexcept nogil:
    cdef floating now
    g = ascended(p, g, h)
    now = whole(g, h)
    s[0] = flush(s[0] + now * now)
    return moved(p, g * <floating> h.rate / denominator(s[0], h), g, h)


cdef inline void derive(const hyper_t* o, constants_t* h) noexcept nogil:
    common(o, h)
    make_room(o, h)
    h.rate = o.lr / (1 + (o.step - 1) * o.lr_decay) * h.full
    guard(h, h.rate)
