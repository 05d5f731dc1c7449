# cython: cdivision=True, cpow=True
from optkern.kernels._constants cimport GUARD, constants_t, hyper_t
from optkern.kernels._scalar cimport floating, flush, least, magnitude
from optkern.kernels.formulas._common cimport (
    ascended, averages, common, guard, make_room, moved, whole,
)


cdef inline floating formula(
    floating p, floating g, floating* m, floating* u, constants_t h
) noexcept nogil:
    cdef floating past = <floating> h.beta2 * u[0], now, now_m
    g = ascended(p, g, h)
    now_m = flush(<floating> h.beta1 * m[0] + <floating> h.gain1 * g)
    m[0] = now_m
    now = magnitude(whole(g, h)) + <floating> h.eps
    now = past if past > now else now
    if h.flags & GUARD:   # else eps keeps it above all that is flushed
        now = flush(now)
    u[0] = now
    if h.flags & GUARD:
        now = now * <floating> h.down
        now = least(p) if now < least(p) else now
    return moved(p, now_m * <floating> h.rate / now, g, h)


cdef inline void derive(const hyper_t* o, constants_t* h) noexcept nogil:
    common(o, h)
    make_room(o, h)
    averages(o, h)
    h.rate = o.lr / (1 - o.beta1 ** o.step)
    guard(h, h.rate)
