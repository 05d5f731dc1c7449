from optkern.kernels._constants cimport constants_t
from optkern.kernels.span cimport MAX_STREAMS


cdef struct rows_t:
    # The rows of one array that a call updates, each of them once.
    Py_ssize_t count                  # distinct rows
    Py_ssize_t* row                   # them, in the order in which they first came
    Py_ssize_t* first                 # which gradient came first for each
    Py_ssize_t* next                  # which gradient came next for the same row; -1: none
    Py_ssize_t width                  # elements of a row
    int index                         # of the rule
    int dtype                         # 0: float32, 1: float64
    int streams
    char* data[MAX_STREAMS]           # NULL where the options need none; [1]: one gradient a row
    Py_ssize_t stride[MAX_STREAMS]    # bytes from row to row
    bint packed[MAX_STREAMS]          # the distinct rows alone, one after the other
    const constants_t* h


cdef Py_ssize_t find_rows(
    rows_t* r, const Py_ssize_t* rows, Py_ssize_t count, Py_ssize_t limit
) noexcept nogil
cdef void run_rows(const rows_t* r, int threads) noexcept nogil
