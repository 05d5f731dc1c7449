# cython: cdivision=True, cpow=True
from optkern.kernels._constants cimport constants_t, hyper_t
from optkern.kernels._scalar cimport floating, flush, least_root, magnitude, square_root
from optkern.kernels.formulas._common cimport ascended, common, make_room, whole


cdef enum:   # in the order of the row's constants
    INVERSE   # 1 / lr
    LASSO
    RIDGE

cdef enum:   # in the order of the row's domains
    LR
    BETA
    LAMBDA_1
    LAMBDA_2


cdef inline floating formula(
    floating p, floating g, floating* z, floating* n, constants_t h
) noexcept nogil:
    cdef floating inverse = <floating> h.own[INVERSE], lasso = <floating> h.own[LASSO]
    cdef floating now, root, now_z, d, far
    g = whole(ascended(p, g, h), h)
    now = flush(n[0] + g * g)
    root = square_root(now)
    now_z = flush(z[0] + (g - (root - square_root(n[0])) * inverse * p))
    z[0], n[0] = now_z, now
    root = least_root(p) if root < least_root(p) else root
    d = (root + <floating> h.eps) * inverse + <floating> h.own[RIDGE]
    far = (lasso - now_z if now_z > 0 else -lasso - now_z) / d
    return <floating> 0 if magnitude(now_z) <= lasso else far


cdef inline void derive(const hyper_t* o, constants_t* h) noexcept nogil:
    common(o, h)
    make_room(o, h)
    h.eps = o.own[BETA]
    h.own[INVERSE] = 1 / o.own[LR]
    h.own[LASSO], h.own[RIDGE] = o.own[LAMBDA_1], o.own[LAMBDA_2]
