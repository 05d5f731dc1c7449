# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Matrix factorisation: ratings[u, i] ~ users[u] . items[i], trained row by row with AdaGrad.

1. A sweep over the users goes through all ratings of each, with the items as they stand, and takes
   one AdaGrad step on each user's row; a sweep over the items does the same the other way round. A
   row belongs to one thread, so that the factors do not depend on the number of threads.
2. Both the gradients and the steps run without the GIL.
"""
from cython.parallel cimport prange
from libc.stdlib cimport free, malloc

cimport optkern


cdef void gradient(
    float* to, const float* own, const float[:, ::1] others, const int[::1] columns,
    const float[::1] ratings, Py_ssize_t first, Py_ssize_t end, float decay
) noexcept nogil:
    """The gradient of half the squared errors of one row's ratings, and of the decay."""
    cdef Py_ssize_t width = others.shape[1], j, k
    cdef double error
    for k in range(width):
        to[k] = decay * own[k]
    for j in range(first, end):
        error = -<double> ratings[j]
        for k in range(width):
            error += <double> own[k] * <double> others[columns[j], k]
        for k in range(width):
            to[k] += <float> error * others[columns[j], k]


def sweep(
    float[:, ::1] factors, float[:, ::1] sums, const float[:, ::1] others, const int[::1] starts,
    const int[::1] columns, const float[::1] ratings, double lr, float decay, int num_threads,
):
    """One AdaGrad step on every row of `factors`; sums: AdaGrad's state.

    The ratings of row u are ``ratings[starts[u]:starts[u + 1]]``, of the rows of `others` that
    `columns` names (the CSR format).
    """
    cdef optkern.rule_t adagrad = optkern.rule("adagrad", {"lr": lr})
    cdef optkern.step_t step
    cdef Py_ssize_t u, rows = factors.shape[0], width = factors.shape[1]
    cdef float* all_gradients = <float*> malloc(rows * width * sizeof(float))
    cdef float* g
    if all_gradients == NULL:
        raise MemoryError
    optkern.next_step(&adagrad, &step)
    try:
        for u in prange(
            rows, nogil=True, schedule="dynamic", chunksize=64, num_threads=num_threads
        ):
            g = all_gradients + u * width
            gradient(g, &factors[u, 0], others, columns, ratings, starts[u], starts[u + 1], decay)
            optkern.update(&step, &factors[u, 0], g, width, &sums[u, 0])
    finally:
        free(all_gradients)


def touch(
    float[:, ::1] factors, float[:, ::1] sums, const Py_ssize_t[::1] rows,
    const float[:, ::1] gradients, double lr,
):
    """One AdaGrad step on some rows, which may come more than once."""
    cdef optkern.rule_t adagrad = optkern.rule("adagrad", {"lr": lr})
    cdef optkern.step_t step
    with nogil:
        optkern.next_step(&adagrad, &step)
        optkern.update_rows(
            &step, &factors[0, 0], &gradients[0, 0], &rows[0], rows.shape[0], factors.shape[0],
            factors.shape[1], &sums[0, 0],
        )
