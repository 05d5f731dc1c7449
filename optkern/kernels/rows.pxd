from optkern.kernels._plan cimport rows_t


cdef Py_ssize_t find_rows(
    rows_t* r, const Py_ssize_t* rows, Py_ssize_t count, Py_ssize_t limit
) noexcept nogil
cdef void run_rows(const rows_t* r, int threads) noexcept nogil
