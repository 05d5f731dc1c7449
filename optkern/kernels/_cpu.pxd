"""The loops that the processor can run: each compiler asks it, one pure function decides."""

cdef extern from *:
    """
    #define OPTKERN_BIT(k) (1u << (k))

    /* 0: baseline, 1: x86-64-v3, 2: x86-64-v4, of what CPUID says (ecx of leaf 1, ebx of leaf 7,
       ecx of leaf 0x80000001) and of the registers that the operating system saves (XCR0, which
       nobody may read where bit 27 of leaf 1 is not set: 0 there). */
    static int optkern_level_of(unsigned ecx1, unsigned ebx7, unsigned ecx81, unsigned xcr0) {
        const unsigned v3_1 = OPTKERN_BIT(12) | OPTKERN_BIT(22) | OPTKERN_BIT(27) | OPTKERN_BIT(28)
            | OPTKERN_BIT(29);                                  /* FMA MOVBE OSXSAVE AVX F16C */
        const unsigned v3_7 = OPTKERN_BIT(3) | OPTKERN_BIT(5) | OPTKERN_BIT(8);  /* BMI AVX2 BMI2 */
        const unsigned v3_81 = OPTKERN_BIT(5);                  /* LZCNT */
        const unsigned v4_7 = OPTKERN_BIT(16) | OPTKERN_BIT(17) | OPTKERN_BIT(28) | OPTKERN_BIT(30)
            | OPTKERN_BIT(31);                                  /* AVX512 F DQ CD BW VL */
        const unsigned ymm = 0x06, zmm = 0xe6;                  /* XMM YMM; opmask and ZMM, too */
        if ((ecx1 & v3_1) != v3_1 || (ebx7 & v3_7) != v3_7 || (ecx81 & v3_81) != v3_81
            || (xcr0 & ymm) != ymm)
            return 0;
        return (ebx7 & v4_7) == v4_7 && (xcr0 & zmm) == zmm ? 2 : 1;
    }

    /* MSVC before 2022 contracts to FMA under /fp:precise where it may use one: other bits. */
    #if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
    #define OPTKERN_ASKS_CPU 1
    static void optkern_cpuid(unsigned leaf, unsigned r[4]) {
        __asm__ __volatile__("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3])
                             : "0"(leaf), "2"(0));
    }
    static unsigned optkern_xcr0(void) {
        unsigned low, high;
        __asm__ __volatile__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        return low;
    }
    #elif defined(_MSC_VER) && _MSC_VER >= 1930 && defined(_M_X64) && !defined(_M_ARM64EC)
    #define OPTKERN_ASKS_CPU 1
    #include <intrin.h>
    #include <immintrin.h>
    static void optkern_cpuid(unsigned leaf, unsigned r[4]) { __cpuidex((int*)r, (int)leaf, 0); }
    static unsigned optkern_xcr0(void) { return (unsigned)_xgetbv(0); }
    #endif

    static int optkern_cpu_level(void) {
    #ifdef OPTKERN_ASKS_CPU
        unsigned last[4], last8[4], r1[4], r7[4], r81[4];
        optkern_cpuid(0, last);
        optkern_cpuid(0x80000000u, last8);
        if (last[0] < 7 || last8[0] < 0x80000001u)   /* leaves beyond say anything */
            return 0;
        optkern_cpuid(1, r1);
        optkern_cpuid(7, r7);
        optkern_cpuid(0x80000001u, r81);
        return optkern_level_of(r1[2], r7[1], r81[2],
                                r1[2] & OPTKERN_BIT(27) ? optkern_xcr0() : 0);
    #else
        return 0;
    #endif
    }
    """
    int optkern_cpu_level() noexcept nogil
