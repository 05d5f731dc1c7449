cdef enum work_t:
    DOT        # partial[block] = x'y
    PROJECT    # partial[j, block] = rows[j]'x
    SUBTRACT   # out = x - sum_j c[j] rows[j], partial[block] = out'y
    COMBINE    # out = -sum_j c[j] rows[j], in doubles
    SCALE      # out = a x


cdef struct vectors_t:
    # One pass over vectors of n elements, block by block.
    work_t work
    int dtype
    Py_ssize_t n
    Py_ssize_t k
    char* out
    const char* x
    const char* y
    const char* const* rows
    const double* c
    double a
    double* partial                    # a slot for each block, for PROJECT k times as many
    double* wide                       # for PROJECT: BLOCK doubles for each thread
    int rooms                          # and of how many threads


cdef int vector_threads(Py_ssize_t n, int wanted) noexcept nogil
cdef double run_vectors(const vectors_t* v, int threads) noexcept nogil
