# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Vectors: what the Lanczos recurrence needs.

A vector is one dense array; every sum is taken block by block and the blocks' sums in a fixed tree,
so that its bits depend on neither threads nor instructions.
"""
from optkern.kernels.runtime cimport SPANS, run_jobs, threads_for
from optkern.kernels.sums cimport BLOCK, add_blocks, count_blocks


cdef int vector_threads(Py_ssize_t n, int wanted) noexcept nogil:
    """Return the number of threads for vectors of n elements; 0: the engine's own choice."""
    return threads_for(n, count_blocks(n), wanted)


cdef double run_vectors(const vectors_t* v, int threads) noexcept nogil:
    """Make one pass; the sum over the blocks (PROJECT leaves k sums in partial[j * blocks])."""
    cdef Py_ssize_t j, blocks = count_blocks(v.n)
    if v.work == PROJECT:
        threads = min(threads, v.rooms)
    run_jobs(run_block, <void*> v, blocks, threads)
    if v.work == PROJECT:
        for j in range(v.k):
            add_blocks(v.partial + j * blocks, blocks)
        return 0
    return 0 if v.work == SCALE or v.work == COMBINE else add_blocks(v.partial, blocks)


cdef void run_block(void* context, Py_ssize_t b, int thread) noexcept nogil:
    cdef const vectors_t* v = <const vectors_t*> context
    cdef Py_ssize_t first = b * BLOCK, blocks = count_blocks(v.n)
    cdef Py_ssize_t n = min(<Py_ssize_t> BLOCK, v.n - first), at = first * (8 if v.dtype else 4)
    if v.work == DOT:
        v.partial[b] = SPANS.dot[v.dtype](v.x + at, v.y + at, n)
    elif v.work == PROJECT:
        SPANS.project[v.dtype](
            v.x, v.rows, v.k, first, n, v.partial + b, blocks, v.wide + thread * BLOCK
        )
    elif v.work == SUBTRACT:
        v.partial[b] = SPANS.subtract[v.dtype](v.out, v.x, v.rows, v.c, v.k, v.y, first, n)
    elif v.work == COMBINE:
        SPANS.combine[v.dtype](<double*> v.out, v.rows, v.c, v.k, first, n)
    else:
        SPANS.scale[v.dtype](v.out + at, v.x + at, v.a, n)
