# cython: language_level=3, boundscheck=False, wraparound=False
"""The part of a `Monitor` that runs at every step: append a number, see whether a look is due.

1. Between two steps, which drive it out of the caches, the same in Python costs a hundredth of a
   small network's step; compiled it costs little more than any call (bench/bench_monitor.py).
"""
cimport cython
cimport numpy as cnp
from cpython cimport PyObject
from cpython.dict cimport PyDict_GetItemWithError
from libc.string cimport memcmp

from array import array

from numpy import bool_, complexfloating

from optkern.kernels.names import check_keywords

cnp.import_array()

cdef enum:
    MAX_DIMS = 64  # NumPy's

cdef object append = array.append  # what a look-up of it at each loss would cost is a sixth
_NOT_REAL = (bool, bool_, complexfloating)  # which have a float() all the same


cpdef double real(str name, value) except? -1:
    """Convert a real number, of whatever type; refuse the rest."""
    if not isinstance(value, _NOT_REAL):
        try:
            return value
        except (TypeError, OverflowError):
            pass
    raise TypeError(f"Monitor.record: {name} must be a real number, got {value!r:.60}")


cdef class Shape:
    """Hold the dtype and shape of an array, compared without a Python object."""

    cdef int dtype, ndim
    cdef cnp.npy_intp dims[MAX_DIMS]

    def __init__(self, cnp.ndarray a):
        cdef int k
        self.dtype, self.ndim = cnp.PyArray_TYPE(a), cnp.PyArray_NDIM(a)
        for k in range(self.ndim):
            self.dims[k] = cnp.PyArray_DIMS(a)[k]

    cdef bint has(self, cnp.ndarray a) noexcept:
        return (
            cnp.PyArray_TYPE(a) == self.dtype
            and cnp.PyArray_NDIM(a) == self.ndim
            and memcmp(cnp.PyArray_DIMS(a), self.dims, self.ndim * sizeof(cnp.npy_intp)) == 0
        )


cdef object form(grads):
    """Remember how gradients look: dtypes and shapes, in lists and dicts as they came."""
    if isinstance(grads, cnp.ndarray):
        return Shape(grads)
    if type(grads) is dict:
        return {key: form(value) for key, value in (<dict> grads).items()}
    if type(grads) is list or type(grads) is tuple:
        return [form(value) for value in grads]
    return type(grads)  # what has no array, or one of another library


cdef bint alike(known, grads) except -1:
    """Return whether gradients look as those did whose form is known; some 10 ns for an array."""
    cdef PyObject* value
    if type(known) is Shape:
        return isinstance(grads, cnp.ndarray) and (<Shape> known).has(grads)
    if type(known) is dict:
        if type(grads) is not dict or len(<dict> known) != len(<dict> grads):
            return False
        for key, inner in (<dict> known).items():
            value = PyDict_GetItemWithError(<dict> grads, key)
            if value == NULL or not alike(inner, <object> value):
                return False
        return True
    if type(known) is list:
        if type(grads) is not list and type(grads) is not tuple or len(grads) != len(<list> known):
            return False
        for inner, one in zip(<list> known, grads):
            if not alike(inner, one):
                return False
        return True
    return type(grads) is known


cdef class Recorder:
    """Hold losses, and the count of them at which `_more` is called besides."""

    cdef public object _losses  # array('d'), grown by its own method: one binary of all versions
    cdef public Py_ssize_t _next
    cdef public object _given  # the opt that was checked last, and the form of its gradients
    cdef public object _known

    def record(self, loss=None, grads=None, opt=None, val_loss=None, **misspelt):
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
            ``step`` would refuse. What is refused is not recorded.
        """
        if misspelt:
            check_keywords("Monitor.record", misspelt, ("loss", "grads", "opt", "val_loss"))
        cdef Py_ssize_t count
        cdef double value = loss if isinstance(loss, float) else real("loss", loss)
        if opt is not None and (
            opt is not self._given or not (grads is None or alike(self._known, grads))
        ):
            self._check(grads, opt)
            self._given, self._known = opt, form(grads)
        with cython.critical_section(self):   # two threads, where Python has no GIL
            append(self._losses, loss if type(loss) is float else value)
            count = len(self._losses)
        if count >= self._next or val_loss is not None:
            self._more(grads, opt, val_loss)
