# cython: cdivision=True, cpow=True
from optkern.kernels._constants cimport CAUTIOUS, SHRINK, WARY, constants_t, hyper_t
from optkern.kernels._scalar cimport floating, flush, least_root, magnitude, square_root
from optkern.kernels.formulas._common cimport (
    ascended, common, make_room, moved, opposed, shrunk, whole,
)


cdef enum:   # in the order of the row's constants
    INVERSE   # 1 / lr
    LASSO
    RIDGE

cdef enum:   # in the order of the row's domains
    BETA
    LAMBDA_1
    LAMBDA_2


cdef inline floating formula(
    floating p, floating g, floating* z, floating* n, constants_t h
) noexcept nogil:
    cdef floating inverse = <floating> h.own[INVERSE], lasso = <floating> h.own[LASSO]
    cdef floating now, root, now_z, d, new
    g = whole(ascended(p, g, h), h)
    now = flush(n[0] + g * g)
    root = square_root(now)
    now_z = flush(z[0] + (g - (root - square_root(n[0])) * inverse * p))
    z[0], n[0] = now_z, now
    root = least_root(p) if root < least_root(p) else root
    d = (root + <floating> h.eps) * inverse + <floating> h.own[RIDGE]
    new = (lasso - now_z if now_z > 0 else -lasso - now_z) / d
    new = <floating> 0 if magnitude(now_z) <= lasso else new
    new = p if (now_z == 0) & (g == 0) else new   # no gradient yet
    if h.flags & CAUTIOUS:
        return moved(p, p - new, g, h)
    if h.flags & SHRINK and not (h.flags & WARY and opposed(p - new, p)):
        new = new - (p - shrunk(p, h))
    return new


cdef inline void derive(const hyper_t* o, constants_t* h) noexcept nogil:
    common(o, h)
    make_room(o, h)
    h.eps = o.own[BETA]
    h.own[INVERSE] = 1 / o.lr
    h.own[LASSO], h.own[RIDGE] = o.own[LAMBDA_1], o.own[LAMBDA_2]
