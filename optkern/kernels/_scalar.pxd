# cython: cdivision=True
"""Scalar helpers of the formulas, and the processor's floating-point mode."""
from libc.float cimport DBL_MIN, FLT_MIN
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
    """Zero in the place of a denormal: a moment that decays into them stays slow for ever."""
    if floating is float:
        return 0 if fabsf(x) < FLT_MIN else x
    else:
        return 0 if fabs(x) < DBL_MIN else x


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
