# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""L-BFGS's two-loop recursion on the engine's vector passes.

1. Each update of the vector and the next pair's dot product with it are one pass: 2 k + 3 passes
   for k pairs, where dots and updates one by one take 4 k + 2.
2. Sums are float64, over fixed blocks in a fixed tree: the bits depend on neither threads nor
   instruction set. `reference.py` says the same in NumPy.
"""
from libc.stdlib cimport calloc, free

from optkern.curvature.recurrence cimport Pass, address, passes


def two_loop(out, g, list s, list y, list rho, double gamma, int num_threads=0):
    """Compute out = -H g, H the inverse Hessian that k pairs (s, y) make of gamma I, newest last.

    Parameters
    ----------
    out, g : ndarray
        Dense vectors of one length and dtype, float32 or float64; ``out`` is another array than g.
    s, y : list of ndarray
        Steps and what the gradient changed by.
    rho : list of float
        1 / y's.
    gamma : float

    Returns
    -------
    float
        out'g

    References
    ----------
    Nocedal, "Updating quasi-Newton matrices with limited storage", 1980, page 779.
    """
    cdef Pass p = passes(g, num_threads)
    cdef Py_ssize_t i, k = len(s)
    cdef char* to = address(out, p.v.dtype, p.v.n)
    cdef char* start = address(g, p.v.dtype, p.v.n)
    cdef const char** vectors   # s, then y
    cdef double* a              # alpha, then rho
    cdef double c, last
    if len(y) != k or len(rho) != k or not out.flags.writeable:
        raise ValueError(f"expected {k} y, {k} rho and a writable out")
    vectors = <const char**> calloc(2 * k + 1, sizeof(char*))
    a = <double*> calloc(2 * k + 1, sizeof(double))
    try:
        if not vectors or not a:
            raise MemoryError
        for i in range(k):
            vectors[i] = address(s[i], p.v.dtype, p.v.n)
            vectors[k + i] = address(y[i], p.v.dtype, p.v.n)
            a[k + i] = rho[i]
        with nogil:
            if k:
                last = p.dot(vectors[k - 1], start)
            for i in range(k - 1, -1, -1):   # q = g, then q -= alpha_i y_i from the newest
                a[i] = a[k + i] * last
                p.rows[0] = vectors[k + i]
                last = p.subtract(
                    to, start if i == k - 1 else to, 1, a + i, vectors[i - 1] if i else NULL
                )
            p.scale(to, to if k else start, -gamma)
            last = p.dot(vectors[k] if k else start, to)
            for i in range(k):   # r = -gamma q, then r -= (alpha_i + beta_i) s_i from the oldest
                c = a[i] + a[k + i] * last
                p.rows[0] = vectors[i]
                last = p.subtract(to, to, 1, &c, vectors[k + i + 1] if i < k - 1 else start)
        return last
    finally:
        free(vectors)
        free(a)
