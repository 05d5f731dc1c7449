# cython: language_level=3, boundscheck=False, wraparound=False
"""The part of a `Monitor` that runs at every step: append a number, see whether a look is due.

1. Between two steps, which drive it out of the caches, the same in Python costs a hundredth of a
   small network's step; compiled it costs little more than any call (bench/bench_monitor.py).
"""
from cpython cimport array

from numpy import bool_, complexfloating

_NOT_REAL = (bool, bool_, complexfloating)  # which have a float() all the same


cpdef double real(str name, value) except? -1:
    """A real number, of whatever type; refuses the rest."""
    if not isinstance(value, _NOT_REAL):
        try:
            return value
        except TypeError:
            pass
    raise TypeError(f"Monitor.record: {name} must be a real number, got {value!r:.60}")


cdef class Recorder:
    """Losses, and the count of them at which `_more` is called besides."""

    cdef public array.array _losses
    cdef public Py_ssize_t _next

    def record(self, loss, grads=None, opt=None, val_loss=None):
        """Note one step, after it was taken.

        Parameters
        ----------
        loss : float
            What is minimised: of the batch, before the step, as the gradients were taken.
        grads : as given to ``opt.step``, or None
        opt : Optimizer, SAM or None
            For learning rate and updates; without one the loss counts, and grads where given.
        val_loss : float or None
            Where there is one.

        Raises
        ------
        TypeError, ValueError
            For a loss that is no real number, an opt that is none of optkern's, and grads that its
            ``step`` would refuse. All but the loss is looked at, and refused, at the first record
            and then whenever a look is due. What is refused is not recorded.
        """
        cdef Py_ssize_t count = len(self._losses)
        cdef double value = loss if isinstance(loss, float) else real("loss", loss)
        array.resize_smart(self._losses, count + 1)
        self._losses.data.as_doubles[count] = value
        if count + 1 >= self._next or val_loss is not None:
            self._more(grads, opt, val_loss)
