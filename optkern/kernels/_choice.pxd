cimport cython

cdef enum:
    PROBES = 4      # timings of one thread and of many in a trial


cdef class ThreadChoice:
    cdef readonly bint prefers_many
    cdef readonly double serial, parallel   # seconds of a step, by the last trial; 0: none yet
    cdef readonly double slowdown           # seconds that many threads add between two steps
    cdef readonly Py_ssize_t calls, trials
    cdef readonly Py_ssize_t review         # the call before which there is no trial
    cdef readonly double debt               # seconds lost by trying, not yet paid
    cdef public bint awake                  # workers wait awake for the next call
    cdef double _lead                       # seconds that many threads have gained, to a limit
    cdef Py_ssize_t _interval
    cdef int _phase                         # of a trial; RESTING: none
    cdef bint _many                         # of the call under way
    cdef double _seconds[2][PROBES]         # of one thread and of many
    cdef double _gaps[2][PROBES]            # from the end of such a step to the next one
    cdef double _now                        # when the last call began or ended

    cdef bint begin(self, double now) noexcept nogil
    cdef void end(self, double now, double part) noexcept nogil
    cdef void _try(self, double seconds) noexcept nogil
    cdef void _watch(self, double seconds) noexcept nogil
    cdef void _give_up(self, int last) noexcept nogil
    cdef void _conclude(self) noexcept nogil
    cdef double _typical(self, const double* probes) noexcept nogil
    cdef void _charge(self, const double* probes, int n, double usual) noexcept nogil
    cdef void _settle(self, bint prefers) noexcept nogil


@cython.final
cdef class Tuner:
    cdef readonly ThreadChoice choice
    cdef readonly int many          # threads that it is about
    cdef double _work               # elements of the call that it began with

    cdef int begin(self, int many, double work) except -1
    cdef void end(self, double work) noexcept nogil
