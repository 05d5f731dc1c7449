cimport cython


cpdef int refuse_unsaid(str owner, error) except -1


@cython.final
cdef class Turn:
    cdef str owner
    cdef str doing          # what is under way; of a step None
    cdef bint busy
    cdef bint stepping      # it is a step
    cdef bint at_rest       # whose callback is being called
    cdef unsigned long thread
    cdef int forks          # and in which process: so many forks after the first

    cdef bint begin(self, str what, bint stepping, bint reading) except -1
    cdef void end(self) noexcept
    cdef bint is_taken(self) noexcept
    cdef int refuse_others(self, str what, bint stepping, bint reading) except -1
    cdef object take(self, str what, bint stepping, bint reading, function, tuple args, dict kwargs)
