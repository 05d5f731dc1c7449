# cython: cdivision=True
"""Norms, and what is made of them, beyond the range of a double: a value times a power of two.

Squares are summed as they are, and once more of numbers times a power of two only where that sum
overflowed or what it lost to underflow might be seen. Products and quotients keep value and
exponent apart, and round as those of doubles do.
"""
from libc.float cimport DBL_MAX, DBL_MIN, FLT_MAX, FLT_MIN
from libc.math cimport frexp, ldexp, sqrt

cdef enum:
    RESCUE = 600   # squares that overflow are summed of numbers times 2**-600, lost ones 2**600


cdef struct wide_t:
    # value * 2**exponent; the exponent of what a double holds is 0, unless it is a step on the way
    double value
    int exponent


cdef inline int rescue(double squares, int is_double) noexcept nogil:
    """Return the power of two to sum the squares anew with.

    0: the sum is good. float32's always is.
    """
    if not is_double or squares != squares:
        return 0
    if squares > DBL_MAX:
        return -RESCUE
    return RESCUE if squares < 1.1830521861667747e-271 else 0   # 2**-900


cdef inline wide_t root(double squares, int shift) noexcept nogil:
    """Return the norm whose squares were summed of numbers times 2**shift."""
    cdef wide_t norm
    norm.value = sqrt(squares)
    norm.exponent = -shift if norm.value else 0
    return norm


cdef inline wide_t wide(double value, int exponent) noexcept nogil:
    """Hold value * 2**exponent, its value in [0.5, 1), or 0."""
    cdef wide_t to
    cdef int own = 0
    to.value = frexp(value, &own)
    to.exponent = exponent + own if to.value else 0
    return to


cdef inline wide_t product(wide_t a, wide_t b) noexcept nogil:
    a, b = wide(a.value, a.exponent), wide(b.value, b.exponent)
    return wide(a.value * b.value, a.exponent + b.exponent)


cdef inline wide_t quotient(wide_t a, wide_t b) noexcept nogil:
    a, b = wide(a.value, a.exponent), wide(b.value, b.exponent)
    return wide(a.value / b.value, a.exponent - b.exponent)


cdef inline wide_t total(wide_t a, wide_t b) noexcept nogil:
    a, b = wide(a.value, a.exponent), wide(b.value, b.exponent)
    if a.value == 0 or b.value and b.exponent > a.exponent:
        a, b = b, a
    return wide(a.value + ldexp(b.value, b.exponent - a.exponent), a.exponent)


cdef inline double narrowed(wide_t a) noexcept nogil:
    """Return the double nearest to it: infinite where it is too large."""
    return ldexp(a.value, a.exponent) if a.exponent else a.value


cdef inline bint fits(double x, int is_double) noexcept nogil:
    """Return whether a dtype holds a positive number with all its digits."""
    if is_double:
        return DBL_MIN <= x <= DBL_MAX
    return FLT_MIN <= x <= FLT_MAX


cdef inline int split(wide_t a, int is_double, double* to) noexcept nogil:
    """Put a number, or what a dtype holds of it, into `to`; the power of two that is left over."""
    cdef int low = -1021 if is_double else -125, high = 1023 if is_double else 127, left
    a = wide(a.value, a.exponent)
    left = min(a.exponent - low, 0) + max(a.exponent - high, 0) if a.value else 0
    to[0] = ldexp(a.value, a.exponent - left)
    return left
