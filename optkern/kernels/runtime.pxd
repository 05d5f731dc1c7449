from optkern.kernels.span cimport spans_t

cdef enum:
    SERIAL = 65536  # elements below which a second thread never paid off beside a GEMM

cdef spans_t* SPANS   # of the instruction set in use

ctypedef void (*job_t)(void* context, Py_ssize_t k, int thread) noexcept nogil

cdef int threads_for(Py_ssize_t elements, Py_ssize_t jobs, int wanted) noexcept nogil
cdef void run_jobs(job_t job, void* context, Py_ssize_t jobs, int threads) noexcept nogil
cdef double begun() noexcept nogil
cdef double ended() noexcept nogil
cdef bint workers_spin() noexcept nogil
cdef int count_forks() noexcept nogil
