# cython: cdivision=True
"""A byte's codes, whole vectors of them at a time; _scalar.pxd says the same of one element.

A code is widened by the load and four vectors of numbers are packed into one of codes: in C as the
compiler makes it of the loop over elements, that is half of the instructions.
"""

cdef extern from *:
    """
    #if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__GNUC__)
    #include <immintrin.h>
    #define OPTKERN_CODES(at) _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)(at)))
    /* 16 bits, four up, with the 8 that stands in the middle of the rest in `offset - 8`. */
    #define OPTKERN_CARRY(at) _mm512_slli_epi32( \\
        _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(at))), 4)
    static inline Py_ssize_t optkern_load_int8(
        float* x, const unsigned char* codes, unsigned int offset, Py_ssize_t n
    ) {
        const __m512i from = _mm512_set1_epi32((int)offset);
        const __m512i sign = _mm512_set1_epi32((int)0x80000000u);
        const __m512i digits = _mm512_set1_epi32(0x07F00000);
        Py_ssize_t i;
        for (i = 0; i + 16 <= n; i += 16) {
            __m512i code = OPTKERN_CODES(codes + i);
            __m512i u = _mm512_and_si512(_mm512_slli_epi32(code, 20), digits);
            u = _mm512_add_epi32(u, from);
            __m512 size = _mm512_sub_ps(_mm512_castsi512_ps(u), _mm512_castsi512_ps(from));
            _mm512_storeu_ps(x + i, _mm512_castsi512_ps(_mm512_ternarylogic_epi32(
                _mm512_castps_si512(size), _mm512_slli_epi32(code, 24), sign, 0xF8)));
        }
        return i;
    }
    static inline Py_ssize_t optkern_load_uint8(
        float* x, const unsigned char* codes, unsigned int offset, Py_ssize_t n
    ) {
        const __m512i from = _mm512_set1_epi32((int)offset);
        Py_ssize_t i;
        for (i = 0; i + 16 <= n; i += 16) {
            __m512i code = OPTKERN_CODES(codes + i);
            _mm512_storeu_ps(x + i, _mm512_castsi512_ps(_mm512_maskz_add_epi32(
                _mm512_test_epi32_mask(code, code), _mm512_slli_epi32(code, 20), from)));
        }
        return i;
    }
    /* Four vectors, of bytes each, to one; packing goes by quarters of registers. */
    static inline void optkern_pack(unsigned char* codes, const __m512i* t) {
        const __m512i order = _mm512_setr_epi32(
            0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        _mm512_storeu_si512(codes, _mm512_permutexvar_epi32(order, _mm512_packus_epi16(
            _mm512_packus_epi32(t[0], t[1]), _mm512_packus_epi32(t[2], t[3]))));
    }
    static inline Py_ssize_t optkern_store_int8(
        const float* x, unsigned char* codes, unsigned int offset, const unsigned short* random,
        Py_ssize_t n
    ) {
        const __m512 from = _mm512_castsi512_ps(_mm512_set1_epi32((int)offset));
        const __m512i less = _mm512_set1_epi32((int)offset - 8), least = _mm512_set1_epi32(0x10008);
        const __m512i sign = _mm512_set1_epi32(0x80);
        __m512i t[4];
        Py_ssize_t i;
        int k;
        for (i = 0; i + 64 <= n; i += 64) {
            for (k = 0; k < 4; k++) {
                __m512 v = _mm512_loadu_ps(x + i + 16 * k);
                __m512i size = _mm512_sub_epi32(
                    _mm512_castps_si512(_mm512_add_ps(_mm512_abs_ps(v), from)), less);
                t[k] = _mm512_maskz_add_epi32(
                    _mm512_cmpge_epu32_mask(size, least), size,
                    OPTKERN_CARRY(random + i + 16 * k));
                t[k] = _mm512_ternarylogic_epi32(
                    _mm512_srli_epi32(t[k], 20),
                    _mm512_srli_epi32(_mm512_castps_si512(v), 24), sign, 0xF8);
            }
            optkern_pack(codes + i, t);
        }
        return i;
    }
    static inline Py_ssize_t optkern_store_uint8(
        const float* x, unsigned char* codes, unsigned int offset, const unsigned short* random,
        Py_ssize_t n
    ) {
        const __m512i less = _mm512_set1_epi32((int)offset - 8), one = _mm512_set1_epi32(1);
        __m512i t[4];
        Py_ssize_t i;
        int k;
        for (i = 0; i + 64 <= n; i += 64) {
            for (k = 0; k < 4; k++) {
                __m512i size = _mm512_castps_si512(_mm512_abs_ps(_mm512_loadu_ps(x + i + 16 * k)));
                t[k] = _mm512_srai_epi32(_mm512_add_epi32(
                    _mm512_sub_epi32(size, less), OPTKERN_CARRY(random + i + 16 * k)), 20);
                t[k] = _mm512_maskz_max_epi32(_mm512_test_epi32_mask(size, size), t[k], one);
            }
            optkern_pack(codes + i, t);
        }
        return i;
    }
    #else
    #define optkern_load_int8(x, codes, offset, n) ((Py_ssize_t)0)
    #define optkern_load_uint8(x, codes, offset, n) ((Py_ssize_t)0)
    #define optkern_store_int8(x, codes, offset, random, n) ((Py_ssize_t)0)
    #define optkern_store_uint8(x, codes, offset, random, n) ((Py_ssize_t)0)
    #endif
    """
    Py_ssize_t load_int8_vectors "optkern_load_int8"(
        float* x, const unsigned char* codes, unsigned int offset, Py_ssize_t n) noexcept nogil
    Py_ssize_t load_uint8_vectors "optkern_load_uint8"(
        float* x, const unsigned char* codes, unsigned int offset, Py_ssize_t n) noexcept nogil
    Py_ssize_t store_int8_vectors "optkern_store_int8"(
        const float* x, unsigned char* codes, unsigned int offset, const unsigned short* random,
        Py_ssize_t n) noexcept nogil
    Py_ssize_t store_uint8_vectors "optkern_store_uint8"(
        const float* x, unsigned char* codes, unsigned int offset, const unsigned short* random,
        Py_ssize_t n) noexcept nogil
