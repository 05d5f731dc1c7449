"""What a span is, and the table of them that one instruction set's module hands over.

Only the struct types stand here: the engine imports the one module that this CPU can run and takes
its table from a PyCapsule. A cimport would load code for another instruction set.
"""
from optkern.kernels._constants cimport constants_t

cdef enum:
    MAX_STREAMS = 8   # p, g and state arrays of one rule
    MAX_RULES = 32
    DTYPES = 2        # float32, float64


# Updates `n` elements. streams: p, g, then the state in the table's order; NULL where the options
# need none. offset: the flat index of the first element in its tensor.
ctypedef void (*span_t)(
    const constants_t* h, char* const* streams, Py_ssize_t n, Py_ssize_t offset
) noexcept nogil

# Whether all of `n` elements are finite.
ctypedef bint (*finite_t)(const char* x, Py_ssize_t n) noexcept nogil


cdef struct spans_t:
    span_t update[MAX_RULES][DTYPES]   # by the rule's position in the table
    finite_t finite[DTYPES]
