# cython: cdivision=True
"""The benchmark's limits (LIMITS in rules/): rate is 0 and gain 1, which no compiler knows."""
from optkern.kernels._constants cimport constants_t, hyper_t
from optkern.kernels._scalar cimport floating


cdef inline floating limit0(
    floating p, floating g, constants_t h
) noexcept nogil:
    return p - <floating> h.rate * g


cdef inline floating limit1(
    floating p, floating g, floating* a, constants_t h
) noexcept nogil:
    a[0] = a[0] * <floating> h.gain
    return p - <floating> h.rate * g


cdef inline floating limit2(
    floating p, floating g, floating* a, floating* b, constants_t h
) noexcept nogil:
    a[0] = a[0] * <floating> h.gain
    b[0] = b[0] * <floating> h.gain
    return p - <floating> h.rate * g


cdef inline floating limit3(
    floating p, floating g, floating* a, floating* b, floating* c, constants_t h
) noexcept nogil:
    a[0] = a[0] * <floating> h.gain
    b[0] = b[0] * <floating> h.gain
    c[0] = c[0] * <floating> h.gain
    return p - <floating> h.rate * g


cdef inline floating limit4(
    floating p, floating g, floating* a, floating* b, floating* c, floating* d, constants_t h
) noexcept nogil:
    a[0] = a[0] * <floating> h.gain
    b[0] = b[0] * <floating> h.gain
    c[0] = c[0] * <floating> h.gain
    d[0] = d[0] * <floating> h.gain
    return p - <floating> h.rate * g


cdef inline void derive(const hyper_t* o, constants_t* h) noexcept nogil:
    """Derive what makes a limit's loop leave every value as it is."""
    h.rate = 0
    h.gain = 1
