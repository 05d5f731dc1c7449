# cython: cdivision=True, cpow=True
"""What the schedule-free rules share: p lies between z, which is stepped, and the average x.

``p = (1 - b) * z + b * x``: x is in no array, and is moved by moving p.
"""
from optkern.kernels._constants cimport DECAY, SHRINK, constants_t, hyper_t
from optkern.kernels._scalar cimport floating, flush
from optkern.kernels.formulas._common cimport DECAY_INDEPENDENT, spares

cdef enum:   # in the order of the rows' constants
    TAKEN   # how far p goes towards z
    SHARE   # how much of z's step it takes

cdef enum:   # of `carried`
    WEIGHT_SUM
    LR_MAX
    INTERPOLATION


cdef inline floating followed(floating p, floating step, floating* z, constants_t h) noexcept nogil:
    """Return the parameter after a step of z, whose decay is that of p."""
    cdef floating before = z[0], taken = <floating> h.own[TAKEN]
    if h.flags & DECAY:
        step = step if spares(step, p, h) else step + <floating> h.decay * p
    z[0] = flush(before - step)
    return (p + (taken * before - taken * p)) - <floating> h.own[SHARE] * step


cdef inline double warmed(double lr, double step, double warmup) noexcept nogil:
    """Return the learning rate during a linear warm-up."""
    return lr * (step / warmup) if step <= warmup else lr


cdef inline void interpolate(
    const hyper_t* o, constants_t* h, double lr, double b, double r, double power
) noexcept nogil:
    """Derive how p follows z, from the weight of this step in the average, and the decay at p.

    Where the interpolation is another one than the last step's, x stays what it was.
    """
    cdef double lr_max = lr if lr > o.carried[LR_MAX] else o.carried[LR_MAX]
    cdef double weight = o.step ** r * lr_max ** power
    cdef double total = o.carried[WEIGHT_SUM] + weight
    cdef double c = weight / total if total > 0 else 0
    cdef double before = o.carried[INTERPOLATION] if o.carried[INTERPOLATION] > 0 else b
    h.carried[WEIGHT_SUM], h.carried[LR_MAX], h.carried[INTERPOLATION] = total, lr_max, b
    h.own[TAKEN] = c if b == before else 1 - (1 - c) * b / before
    h.own[SHARE] = 1 - b * (1 - c)
    if h.flags & SHRINK:
        h.flags ^= SHRINK | DECAY
        h.decay = o.weight_decay * (1 if o.decay_form == DECAY_INDEPENDENT else lr)
