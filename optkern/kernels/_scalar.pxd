# cython: cdivision=True
"""Scalar helpers of the formulas, and the processor's floating-point mode."""
from libc.float cimport DBL_EPSILON, DBL_MAX, DBL_MIN, FLT_EPSILON, FLT_MAX, FLT_MIN
from libc.math cimport fabs, fabsf, sqrt, sqrtf

ctypedef fused floating:
    float
    double


cdef inline floating square_root(floating x) noexcept nogil:
    if floating is float:
        return sqrtf(x)
    else:
        return sqrt(x)


cdef inline floating magnitude(floating x) noexcept nogil:
    if floating is float:
        return fabsf(x)
    else:
        return fabs(x)


cdef inline floating flush(floating x) noexcept nogil:
    """Put zero in a denormal's place: a moment that decays into them stays slow for ever."""
    if floating is float:
        return 0 if fabsf(x) < FLT_MIN else x
    else:
        return 0 if fabs(x) < DBL_MIN else x


cdef inline floating product_below(floating x, floating a, floating limit) noexcept nogil:
    """Multiply two numbers, up to a limit."""
    cdef floating product = a * x
    return limit if product > limit else product


cdef inline floating epsilon(floating x) noexcept nogil:
    """Return the distance from 1 to the next number of the dtype of `x`."""
    if floating is float:
        return FLT_EPSILON
    else:
        return DBL_EPSILON


cdef inline floating least(floating x) noexcept nogil:
    """Give the smallest number that `flush` keeps, in the dtype of `x`."""
    if floating is float:
        return FLT_MIN
    else:
        return DBL_MIN


cdef inline floating finite(floating x) noexcept nogil:
    """Put the largest number in infinity's place."""
    if floating is float:
        return FLT_MAX if x > FLT_MAX else x
    else:
        return DBL_MAX if x > DBL_MAX else x


cdef inline floating least_root(floating x) noexcept nogil:
    """Give the root of the smallest number that `flush` keeps, in the dtype of `x`."""
    if floating is float:
        return <float> 1.0842021724855044e-19   # 2**-63
    else:
        return 1.4916681462400413e-154   # 2**-511


cdef extern from *:
    """
    #include <string.h>
    static inline unsigned int optkern_bits(float x) {
        unsigned int bits;
        memcpy(&bits, &x, 4);
        return bits;
    }
    static inline long long optkern_long_bits(double x) {
        long long bits;
        memcpy(&bits, &x, 8);
        return bits;
    }
    static inline float optkern_float_if(float x, int wanted) {
        unsigned int bits;
        memcpy(&bits, &x, 4);
        bits &= 0u - (unsigned int)wanted;
        memcpy(&x, &bits, 4);
        return x;
    }
    static inline double optkern_double_if(double x, int wanted) {
        unsigned long long bits;
        memcpy(&bits, &x, 8);
        bits &= 0ull - (unsigned long long)wanted;
        memcpy(&x, &bits, 8);
        return x;
    }
    static inline float optkern_float(unsigned int bits) {
        float x;
        memcpy(&x, &bits, 4);
        return x;
    }
    """
    unsigned int bits_of "optkern_bits"(float x) noexcept nogil
    long long long_bits_of "optkern_long_bits"(double x) noexcept nogil
    float float_of "optkern_float"(unsigned int bits) noexcept nogil
    float float_if "optkern_float_if"(float x, bint wanted) noexcept nogil
    double double_if "optkern_double_if"(double x, bint wanted) noexcept nogil


cdef inline floating if_wanted(floating x, bint wanted) noexcept nogil:
    """Give x, or 0; with a choice between them gcc computes x in a branch (30 ns for .4)."""
    if floating is float:
        return float_if(x, wanted)
    else:
        return double_if(x, wanted)


# Storages, one element at a time; codecs.py has the NumPy twins and the reasons. No branches: a
# comparison chooses between two results that are both computed. What it chooses between are
# variables: next to a literal, Cython would compute in 64 bits, at half the speed.


cdef inline float from_bfloat16(unsigned int code) noexcept nogil:
    return float_of(code << 16)


cdef inline unsigned int to_bfloat16(float x) noexcept nogil:
    """Round to nearest even; NaN stays quiet NaN."""
    cdef unsigned int u = bits_of(x), nan = (u >> 16) | 0x40
    cdef unsigned int rounded = (u + 0x7FFF + ((u >> 16) & 1)) >> 16
    return nan if x != x else rounded


cdef inline unsigned int to_bfloat16_at_random(float x, unsigned int random) noexcept nogil:
    """Round up where 16 random bits carry; NaN is cut, and all from the largest number on."""
    cdef unsigned int u = bits_of(x), none = 0
    return (u + (none if <int> (u & 0x7FFFFFFF) > 0x7F7EFFFF else random)) >> 16


cdef inline float from_float16(unsigned int code) noexcept nogil:
    cdef unsigned int u = (code & 0x7FFF) << 13, exponent = u & 0x0F800000
    cdef unsigned int sign = (code & 0x8000) << 16
    cdef unsigned int normal = u + 0x38000000, large = u + 0x70000000
    cdef unsigned int least = bits_of(float_of(u + 0x38800000) - float_of(0x38800000))
    u = least if exponent == 0 else (large if exponent == 0x0F800000 else normal)
    return float_of(u | sign)


cdef inline unsigned int to_float16(float x) noexcept nogil:
    """Round to nearest even, to denormals and infinity where it must."""
    cdef unsigned int u = bits_of(x), sign = (u >> 16) & 0x8000, size = u & 0x7FFFFFFF
    cdef unsigned int normal = (size - 0x38000000 + 0xFFF + ((size >> 13) & 1)) >> 13
    # Adding 1/2 leaves the denormal's digits, rounded, at the end.
    cdef unsigned int least = bits_of(float_of(size) + <float> 0.5) - 0x3F000000
    cdef unsigned int infinity = 0x7C00, nan = 0x7E00
    cdef unsigned int large = nan if size > 0x7F800000 else infinity
    return sign | (large if size >= 0x47800000 else (least if size < 0x38800000 else normal))


cdef inline unsigned int to_float16_at_random(float x, unsigned int random) noexcept nogil:
    """Round up where 13 of 16 random bits carry; what nearest takes to infinity goes there."""
    cdef unsigned int u = bits_of(x), sign = (u >> 16) & 0x8000, size = u & 0x7FFFFFFF
    cdef unsigned int carry = random >> 3, most = 0x7BFF
    cdef unsigned int normal = (size - 0x38000000 + carry) >> 13
    # Adding 2**-14 leaves a denormal's digits, and 13 more, at the end.
    cdef unsigned int least = bits_of(float_of(size) + float_of(0x38800000)) - 0x38800000
    cdef unsigned int infinity = 0x7C00, nan = 0x7E00
    cdef unsigned int large = nan if size > 0x7F800000 else infinity
    least = (least + carry) >> 13
    normal = most if normal > most else normal
    return sign | (large if size >= 0x477FF000 else (least if size < 0x38800000 else normal))


cdef inline unsigned int exponent_of(unsigned int scale) noexcept nogil:
    """Return the biased exponent that a block counts from.

    Scales below 31 mark one with infinities.
    """
    cdef unsigned int least = 31, most = 254, marked = min(most, 23 + 8 * scale)
    return marked if scale - 1 < 30 else max(least, scale)


cdef inline unsigned int int8_offset(unsigned int scale) noexcept nogil:
    """Return what the codes of a block with this scale count from; 255: all codes are NaN."""
    cdef unsigned int exponent = exponent_of(scale)
    return (exponent - 14) << 23 if exponent < 255 else 0x77D00000


cdef inline unsigned int uint8_offset(unsigned int scale) noexcept nogil:
    cdef unsigned int exponent = exponent_of(scale)
    return ((exponent - 30) << 23) - (1 << 20) if exponent < 255 else 0x6FD00000


cdef inline float from_int8(unsigned int code, unsigned int offset) noexcept nogil:
    cdef float size = float_of(((code & 0x7F) << 20) + offset) - float_of(offset)
    return float_of(bits_of(size) | ((code & 0x80) << 24))


# `random`: 16 bits; the 20 that are cut off begin with them and end in the middle of the rest. What
# rounds beyond the last code of a finite number has been brought to it (`keep_finite` in
# _span.pyx.tp).
cdef inline unsigned int to_int8(float x, unsigned int offset, unsigned int random) noexcept nogil:
    cdef unsigned int size = bits_of(magnitude(x) + float_of(offset)) - offset, none = 0
    size = none if size < 0x10000 else size
    return ((size + (random << 4 | 8)) >> 20) | ((bits_of(x) >> 24) & 0x80)


cdef inline float from_uint8(unsigned int code, unsigned int offset) noexcept nogil:
    cdef unsigned int none = 0, u = (code << 20) + offset
    return float_of(none if code == 0 else u)


cdef inline unsigned int to_uint8(float x, unsigned int offset, unsigned int random) noexcept nogil:
    cdef int size = <int> (bits_of(x) & 0x7FFFFFFF), one = 1
    cdef int code = (<int> (<unsigned int> size - offset + (random << 4 | 8))) >> 20
    cdef int least = size if size < one else one   # 0 for 0, else 1
    return <unsigned int> (least if code < least else code)


cdef extern from *:
    """
    /* Another library may have switched on flush-to-zero or another rounding for this thread;
       the spans run with the IEEE defaults and put the caller's mode back. */
    #if defined(__GNUC__)
    #define OPTKERN_MAYBE_UNUSED __attribute__((unused))
    #else
    #define OPTKERN_MAYBE_UNUSED
    #endif
    #if defined(__SSE2__) || defined(_M_X64)
    #include <xmmintrin.h>
    typedef unsigned int optkern_mode_t;
    OPTKERN_MAYBE_UNUSED static inline optkern_mode_t optkern_ieee_mode(void) {
        optkern_mode_t old = _mm_getcsr();
        if ((old & ~0x3Fu) != 0x1F80u) _mm_setcsr(0x1F80u);
        return old;
    }
    OPTKERN_MAYBE_UNUSED static inline void optkern_restore_mode(optkern_mode_t old) {
        if ((old & ~0x3Fu) != 0x1F80u) _mm_setcsr(old);
    }
    #elif defined(__aarch64__)
    typedef unsigned long long optkern_mode_t;
    OPTKERN_MAYBE_UNUSED static inline optkern_mode_t optkern_ieee_mode(void) {
        optkern_mode_t old;
        __asm__ __volatile__("mrs %0, fpcr" : "=r"(old));
        if (old) __asm__ __volatile__("msr fpcr, %0" : : "r"(0ULL));
        return old;
    }
    OPTKERN_MAYBE_UNUSED static inline void optkern_restore_mode(optkern_mode_t old) {
        if (old) __asm__ __volatile__("msr fpcr, %0" : : "r"(old));
    }
    #else
    typedef int optkern_mode_t;
    OPTKERN_MAYBE_UNUSED static inline optkern_mode_t optkern_ieee_mode(void) { return 0; }
    OPTKERN_MAYBE_UNUSED static inline void optkern_restore_mode(optkern_mode_t old) { (void)old; }
    #endif
    """
    ctypedef unsigned long long optkern_mode_t
    optkern_mode_t optkern_ieee_mode() noexcept nogil
    void optkern_restore_mode(optkern_mode_t old) noexcept nogil
