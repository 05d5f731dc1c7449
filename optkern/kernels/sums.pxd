# cython: cdivision=True
"""The running sums of a block: LANES of them take products in turn, and a fixed tree adds them."""

cdef enum:   # both are part of the definition of every reduction
    BLOCK = 4096   # elements of one partial sum
    LANES = 16     # running sums within a block

ctypedef fused one:
    float
    double

ctypedef fused other:
    float
    double


cdef inline void add_products(
    double* lane, const one* x, const other* y, Py_ssize_t n
) noexcept nogil:
    """Add the products of n elements to the lanes, the first one's to the first lane."""
    cdef Py_ssize_t i = 0, whole = n - n % LANES
    cdef int j
    while i < whole:
        for j in range(LANES):
            lane[j] += <double> x[i + j] * <double> y[i + j]
        i += LANES
    for j in range(<int> (n - whole)):
        lane[j] += <double> x[whole + j] * <double> y[whole + j]


cdef inline void add_squares(
    double* lane, const one* x, Py_ssize_t n, Py_ssize_t place
) noexcept nogil:
    """Add the squares of n elements of a block, from its element `place` on, to its lanes."""
    cdef double sums[LANES]   # where no other pointer leads: they stay in registers
    cdef Py_ssize_t i, head = min(n, (LANES - place % LANES) % LANES)
    cdef int j
    for i in range(head):
        lane[(place + i) % LANES] += <double> x[i] * <double> x[i]
    for j in range(LANES):
        sums[j] = lane[j]
    add_products(sums, x + head, x + head, n - head)
    for j in range(LANES):
        lane[j] = sums[j]


cdef inline double fold(double* lane) noexcept nogil:
    """Return the sum of the lanes, the upper half onto the lower until one is left."""
    cdef int j, width = LANES // 2
    while width:
        for j in range(width):
            lane[j] += lane[j + width]
        width //= 2
    return lane[0]


cdef inline Py_ssize_t count_blocks(Py_ssize_t n) noexcept nogil:
    return (n + BLOCK - 1) // BLOCK


cdef inline double add_blocks(double* partial, Py_ssize_t n) noexcept nogil:
    """Return the sum of n numbers, the upper half onto the lower until one is left."""
    cdef Py_ssize_t i, half
    if n == 0:
        return 0
    while n > 1:
        half = (n + 1) // 2
        for i in range(n - half):
            partial[i] += partial[half + i]
        n = half
    return partial[0]
