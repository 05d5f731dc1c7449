# --------------------------------------------------------------------------- vectors
#
# What the Lanczos recurrence needs. A vector is one dense array; every sum is taken block by block
# and the blocks' sums in a fixed tree, so that its bits depend on neither threads nor instructions.


cdef Py_ssize_t count_blocks(Py_ssize_t n) noexcept nogil:
    return (n + BLOCK - 1) // BLOCK


cdef int vector_threads(Py_ssize_t n, int wanted) noexcept nogil:
    """The number of threads for vectors of n elements; 0: the engine's own choice."""
    if forked or not OPTKERN_OPENMP or n <= BLOCK:
        return 1
    if wanted == 0:
        wanted = current_limit() if n >= SERIAL else 1
    return <int> min(<Py_ssize_t> wanted, count_blocks(n))


cdef double run_vectors(const vectors_t* v, int threads) noexcept nogil:
    """Make one pass; the sum over the blocks (PROJECT leaves k sums in partial[j * blocks])."""
    global region_entered
    cdef Py_ssize_t b, blocks = count_blocks(v.n)
    if v.work == PROJECT:
        threads = min(threads, v.rooms)
    if threads == 1:
        for b in range(blocks):
            run_block(v, b, 0)
    else:
        region_entered = True
        for b in prange(blocks, schedule="dynamic", chunksize=1, num_threads=threads):
            run_block(v, b, threadid())
    if v.work == PROJECT:
        for b in range(v.k):
            add_blocks(v.partial + b * blocks, blocks)
        return 0
    return 0 if v.work == SCALE else add_blocks(v.partial, blocks)


cdef void run_block(const vectors_t* v, Py_ssize_t b, int thread) noexcept nogil:
    cdef Py_ssize_t first = b * BLOCK, blocks = count_blocks(v.n)
    cdef Py_ssize_t n = min(<Py_ssize_t> BLOCK, v.n - first), at = first * (8 if v.dtype else 4)
    cdef optkern_mode_t mode = optkern_ieee_mode()
    if v.work == DOT:
        v.partial[b] = SPANS.dot[v.dtype](v.x + at, v.y + at, n)
    elif v.work == PROJECT:
        SPANS.project[v.dtype](
            v.x, v.rows, v.k, first, n, v.partial + b, blocks, v.wide + thread * BLOCK
        )
    elif v.work == SUBTRACT:
        v.partial[b] = SPANS.subtract[v.dtype](v.out, v.x, v.rows, v.c, v.k, v.y, first, n)
    else:
        SPANS.scale[v.dtype](v.out + at, v.x + at, v.a, n)
    optkern_restore_mode(mode)


cdef double add_blocks(double* partial, Py_ssize_t n) noexcept nogil:
    """The sum of n numbers, the upper half onto the lower until one is left."""
    cdef Py_ssize_t i, half
    if n == 0:
        return 0
    while n > 1:
        half = (n + 1) // 2
        for i in range(n - half):
            partial[i] += partial[half + i]
        n = half
    return partial[0]
