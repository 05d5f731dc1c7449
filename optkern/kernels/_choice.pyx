# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""One thread or many: decided by what a step has taken here, in the loop that calls it.

1. A trial is a few steps with one thread and a few with many. It is the step in its own place
   that is timed: beside matrix products, with the caches and the neighbours it really has. Medians
   decide, and many threads must be faster by a margin, as they take a core from others. Either has
   as many probes at odd calls as at even ones: there are loops whose every other step is longer.
2. Between trials many threads are watched: a worker that has lost its core to another process in
   the middle of a chunk can cost milliseconds, too rarely for a median to show it. What they gain
   on the serial time is summed up, to a limit; when losses have eaten it, the choice is tried
   again. So rare losses that the gains outweigh change nothing, and others are found at once.
3. Trying costs. What trials and threads on credit have lost is a debt that is paid off with a share
   of the time of all steps; beyond some patience no trial begins before. So however bad the threads
   are, a long run loses no more than that share against one thread.
4. A confirmed choice is tried again after twice as many calls, to a limit: machines change.
5. Threads that go on spinning after a step (an OpenMP runtime that another library has loaded waits
   actively) slow the matrix product behind it: 4.7 ms became 12. So the time between steps counts
   too, where after many threads it was longer every time than after one.
6. Where calls follow at once workers wait awake for the next one, but the first of each two calls
   with many in a trial finds them asleep. So there the quicker half of either's probes decides.
"""
cimport cython

from optkern.kernels.runtime cimport begun, ended, workers_spin

cdef enum:
    RESTING = -1       # no trial
    FIRST_REVIEW = 64  # calls after which a new choice is tried again
    LAST_REVIEW = 1024

cdef double MARGIN = .95     # many threads must take less than this part of the serial time
cdef double HOPELESS = 4.    # times the serial time: one such step ends a trial of newcomers
cdef double SHARE = .02      # of the time of steps, which pays for trials and lost credit
cdef double CREDIT = 4.      # serial times that many threads may lose after a trial
cdef double LEAD = 400.      # serial times that they may save up
cdef double PATIENCE = 16.   # serial times of debt with which a trial may still begin at once


cdef class ThreadChoice:
    """Choose for one plan. ``begin`` at a time, run the step as it says, ``end`` at a time.

    Attributes
    ----------
    prefers_many : bool
    serial, parallel : float
        Seconds of a step in the last trial: medians, or where workers wait awake the mean of
        the quicker half; 0 before the first.
    slowdown : float
        Seconds by which many threads have lengthened what lies between two steps.
    calls, trials : int
    review : int
        The number of calls before which nothing is tried again, unless the threads lose.
    debt : float
        Seconds that have still to be earned before a trial.
    awake : bool
        Whether workers wait awake for the next call; the caller says so.
    """

    def __cinit__(self):
        self._interval = FIRST_REVIEW

    def next(self, double now):
        """Call `begin`, for tests."""
        return self.begin(now)

    def observe(self, double now, double part=1):
        """Call `end`, for tests."""
        self.end(now, part)

    @property
    def trying(self):
        """Return whether a trial is under way."""
        return self._phase != RESTING

    cdef bint begin(self, double now) noexcept nogil:
        """Return whether the call that begins is to use many threads."""
        if self._phase > 1:
            self._gaps[self._many][(self._phase - 2) // 2] = now - self._now
        if self._phase > 2 * PROBES:
            self._conclude()
        if self._phase == RESTING and self.calls >= self.review and self.debt <= 0:
            self._phase = 1
        if self._phase == RESTING:
            self._many = self.prefers_many
        else:   # phase 0, the very first call, is cold and counts for nothing
            self._many = self._phase % 4 >= 2
        self._now = now
        return self._many

    cdef void end(self, double now, double part) noexcept nogil:
        """Note the time of the call that `begin` began, which has done this part of a step."""
        cdef double seconds = (now - self._now) / part
        self._now = now
        self.calls += 1
        self.debt = max(<double> 0, self.debt - SHARE * part * seconds)
        if self._phase != RESTING:
            self._try(seconds)
        elif self._many:
            self._watch(seconds)

    cdef void _try(self, double seconds) noexcept nogil:
        cdef int k = (self._phase - 1) // 2
        if self._phase > 0:
            self._seconds[self._many][k] = seconds
        self._phase += 1
        if self._many and not self.prefers_many and seconds > HOPELESS * self._seconds[0][0]:
            self._give_up(k)

    cdef void _give_up(self, int last) noexcept nogil:
        """End a trial at a hopeless probe of many threads."""
        self.serial, self.parallel = self._seconds[0][0], self._seconds[1][last]
        self.slowdown = 0
        self._charge(self._seconds[1], last + 1, self.serial)
        self._settle(False)

    cdef void _conclude(self) noexcept nogil:
        """End a trial when all its probes, and the gaps behind them, are known."""
        cdef double* one = self._seconds[0]
        cdef double* many = self._seconds[1]
        self.serial, self.parallel, self.slowdown = self._typical(one), self._typical(many), 0
        if least(self._gaps[1]) > most(self._gaps[0]):
            self.slowdown = median(self._gaps[1]) - median(self._gaps[0])
        if self.parallel + self.slowdown < MARGIN * self.serial:
            self._charge(one, PROBES, self.parallel)
            self._settle(True)
        else:
            self._charge(many, PROBES, self.serial - self.slowdown)
            self._settle(False)

    cdef double _typical(self, const double* probes) noexcept nogil:
        return quicker(probes) if self.awake else median(probes)

    cdef void _charge(self, const double* probes, int n, double usual) noexcept nogil:
        """Owe what probes have taken beyond a usual step."""
        cdef int k
        for k in range(n):
            self.debt += max(<double> 0, probes[k] - usual)

    cdef void _settle(self, bint prefers) noexcept nogil:
        if self.trials and prefers == self.prefers_many:
            self._interval = min(2 * self._interval, <Py_ssize_t> LAST_REVIEW)
        else:
            self._interval = FIRST_REVIEW
        self.trials += 1
        self.prefers_many = prefers
        self.review = self.calls + self._interval
        self._lead = max(self._lead, CREDIT * self.serial) if prefers else 0
        self._phase = RESTING

    cdef void _watch(self, double seconds) noexcept nogil:
        self._lead = min(self._lead + self.serial - seconds, LEAD * self.serial)
        if self._lead < 0:
            self.debt += CREDIT * self.serial - self._lead
            if self.debt <= PATIENCE * self.serial:
                self._phase = 1
            else:   # serial until the debt is paid
                self.prefers_many = False
                self._lead = 0
                self._interval = FIRST_REVIEW
                self.review = self.calls + self._interval


@cython.final
cdef class Tuner:
    """Hold the choices of a kind of call: begun anew where `many` is another number of threads."""

    def __cinit__(self):
        self.choice = ThreadChoice()

    cdef int begin(self, int many, double work) except -1:
        """Return the threads that a call over so many elements is to use; `end` has to follow."""
        if many != self.many:   # what was measured was measured with another number
            self.choice, self.many, self._work = ThreadChoice(), many, work
        cdef double now = begun()
        self.choice.awake = workers_spin()
        return many if self.choice.begin(now) else 1

    cdef void end(self, double work) noexcept nogil:
        self.choice.end(ended(), work / self._work)


cdef double least(const double* x) noexcept nogil:
    return min(x[0], x[1], x[2], x[3])


cdef double most(const double* x) noexcept nogil:
    return max(x[0], x[1], x[2], x[3])


cdef double median(const double* x) noexcept nogil:
    """Take the typical of PROBES = 4 numbers: one outlier, of a neighbour, does not decide."""
    return (x[0] + x[1] + x[2] + x[3] - most(x) - least(x)) / 2


cdef double quicker(const double* x) noexcept nogil:
    """Take the mean of the least two of PROBES = 4 numbers."""
    cdef double low = min(x[0], x[1]), other = min(x[2], x[3])
    return (least(x) + min(max(low, other), max(x[0], x[1]), max(x[2], x[3]))) / 2
