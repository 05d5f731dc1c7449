# cython: language_level=3
"""One call at a time: a second one would write what the first one reads.

1. Compiled, so that no interrupt comes between taking the turn and the way to give it back.
2. A fork takes no threads along: a turn that was taken in another process has ended.
3. Where Python has no GIL, two threads may ask at the same moment: that they are one after the
   other is a lock's doing, which with a GIL is none.
4. Where memory runs out, NumPy's reductions and iterators fail without saying so, and Python's
   locks in a RuntimeError: a MemoryError says it.
"""
cimport cython
from cpython.pythread cimport PyThread_get_thread_ident

from optkern.kernels.runtime cimport count_forks

cdef extern from *:
    """
    #if defined(__GNUC__) || defined(__clang__)
    #define optkern_is_set(flag) __atomic_load_n(flag, __ATOMIC_ACQUIRE)
    #define optkern_set(flag, to) __atomic_store_n(flag, to, __ATOMIC_RELEASE)
    #else  /* MSVC, whose int is as long as its long */
    #include <intrin.h>
    #define optkern_is_set(flag) _InterlockedOr((volatile long*)(flag), 0)
    #define optkern_set(flag, to) ((void)_InterlockedExchange((volatile long*)(flag), to))
    #endif
    """
    bint optkern_is_set(bint* flag) noexcept nogil
    void optkern_set(bint* flag, bint to) noexcept nogil

cdef str STEP = "a step"


cpdef int refuse_unsaid(str owner, error) except -1:
    """Raise MemoryError for what is another error where an allocation has failed."""
    text = str(error)
    if type(error) is RuntimeError:
        if text not in ("can't allocate lock", "can't allocate read lock"):
            return 0
    elif type(error) is not SystemError or not text.endswith(("exception set", "an exception")):
        return 0
    elif not (text.startswith("<ufunc ") or "numpy" in text or is_in_numpy(error.__traceback__)):
        return 0
    raise MemoryError(f"{owner}: an allocation failed ({text})") from error


cdef bint is_in_numpy(traceback) except -1:
    """Return whether an exception was raised in NumPy's own Python code."""
    if traceback is None:
        return False
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return str(traceback.tb_frame.f_globals.get("__name__", "")).startswith("numpy.")


@cython.final
cdef class Turn:
    """Let one call at a time take steps.

    Parameters
    ----------
    owner : str
        Who speaks in error messages.
    """

    def __init__(self, str owner):
        self.owner = owner

    def __reduce__(self):
        return Turn, (self.owner,)

    def step(self, function, *args):
        """Call a function that takes a step: nothing else may come before it has ended."""
        return self.take(STEP, True, False, function, args, {})

    def alone(self, str what, function, *args):
        """Call a function that writes what steps write; it may come here again itself."""
        return self.take(what, False, False, function, args, {})

    def reading(self, str what, function, *args):
        """Call a function that only reads: a step's own callback may do that."""
        return self.take(what, False, True, function, args, {})

    def rest(self, function, *args):
        """Call a step's callback: parameters and memory belong together now."""
        self.at_rest = True
        try:
            return function(*args)
        finally:
            self.at_rest = False

    cdef object take(
        self, str what, bint stepping, bint reading, function, tuple args, dict kwargs
    ):
        cdef bint outermost = self.begin(what, stepping, reading)
        try:
            return function(*args, **kwargs)
        except (SystemError, RuntimeError) as error:
            refuse_unsaid(self.owner, error)
            raise
        finally:
            if outermost:
                self.end()

    cdef bint begin(self, str what, bint stepping, bint reading) except -1:
        """Take the turn; False where this is a part of the call that has it."""
        with cython.critical_section(self):
            if self.is_taken():
                self.refuse_others(what, stepping, reading)
                if self.thread == PyThread_get_thread_ident():
                    return False  # else another thread's call has ended just now
            self.stepping, self.at_rest = stepping, False
            self.thread, self.forks = PyThread_get_thread_ident(), count_forks()
            self.doing = what  # None: no name whose references all threads would count
            optkern_set(&self.busy, True)
            return True

    cdef void end(self) noexcept:
        """Give the turn back, without the lock: who sees that sees all that was written before."""
        optkern_set(&self.busy, False)

    cdef bint is_taken(self) noexcept:
        return optkern_is_set(&self.busy) and self.forks == count_forks()

    cdef int refuse_others(self, str what, bint stepping, bint reading) except -1:
        """Raise where a call is under way that this one is no part of."""
        cdef bint ours = self.thread == PyThread_get_thread_ident()  # else `at_rest` may change now
        cdef bint welcome = ours and (reading and self.at_rest or not (stepping or self.stepping))
        if welcome or not self.is_taken():
            return 0
        end = f"{STEP if what is None else what} has to wait for its end"
        if self.stepping and (stepping or what == STEP):  # or what comes before one: its schedules
            end = "an optimizer takes one step at a time"
        doing = STEP if self.doing is None else self.doing
        raise RuntimeError(
            f"{self.owner}: {doing} is under way already, in another thread or in a callback; {end}"
        )
