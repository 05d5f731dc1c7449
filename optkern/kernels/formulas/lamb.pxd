# cython: cdivision=True, cpow=True
from libc.math cimport sqrt

from optkern.kernels._constants cimport APPLY, DECAY, DIRECTION, SHRINK, constants_t, hyper_t
from optkern.kernels._scalar cimport floating
from optkern.kernels.formulas._common cimport (
    DECAY_DECOUPLED, ascended, averages, common, denominator, guard, make_room, move_moments,
    moved, spares,
)


cdef inline floating formula(
    floating p, floating g, floating* m, floating* v, constants_t h
) noexcept nogil:
    cdef floating d, now_m = m[0]
    if not h.flags & APPLY:
        g = ascended(p, g, h)
        now_m = move_moments(g, m, v, h)
    d = now_m * <floating> h.rate / denominator(v[0], h)
    if h.flags & DECAY:
        d = d if spares(d, p, h) else d + <floating> h.decay * p
    if h.flags & DIRECTION:
        return d
    return moved(p, <floating> h.trust * d, g, h)


cdef inline void derive(const hyper_t* o, constants_t* h) noexcept nogil:
    """Compute m^ / (sqrt(v^) + eps) as Adam has it, the rate left to the trust ratio."""
    cdef double root = sqrt(1 - o.beta2 ** o.step)
    common(o, h)
    make_room(o, h)
    averages(o, h)
    h.rate = root / (1 - o.beta1 ** o.step)
    h.eps = o.eps * root
    guard(h, h.rate)
    h.trust = o.lr
    if h.flags & SHRINK and o.decay_form == DECAY_DECOUPLED:   # a part of the direction
        h.flags ^= SHRINK | DECAY
        h.decay = o.weight_decay
    if o.adapt:
        h.flags |= DIRECTION
