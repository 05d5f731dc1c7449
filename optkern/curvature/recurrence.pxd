from optkern.kernels.vectors cimport vectors_t


cdef char* address(object array, int dtype, Py_ssize_t n) except NULL
cdef Pass passes(object x, int num_threads)


cdef class Pass:
    cdef vectors_t v
    cdef int wanted   # threads; how many there are is asked at each pass: a fork has one
    cdef Py_ssize_t room
    cdef const char** rows

    cdef int reserve(self, Py_ssize_t k) except -1
    cdef double dot(self, const char* x, const char* y) noexcept nogil
    cdef void project(self, const char* x, Py_ssize_t k, double* c) noexcept nogil
    cdef double subtract(
        self, char* out, const char* x, Py_ssize_t k, const double* c, const char* y
    ) noexcept nogil
    cdef void combine(self, double* out, Py_ssize_t k, const double* c) noexcept nogil
    cdef void scale(self, char* out, const char* x, double a) noexcept nogil
