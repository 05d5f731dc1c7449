# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The short way of a functional call: plain arrays and plain numbers, straight to the span.

1. A plan and the checks in Python cost 40 us a call; an update of a thousand elements takes 0.2.
2. This way takes only what it can check completely in C, and writes nothing before: C-contiguous
   aligned arrays of one shape that do not overlap, hyperparameters that are floats, ints, bools in
   their range. Everything else, errors included, goes the general way, which words them.
3. One thread, as these functions have by default; a call that asks for more gets a plan.
"""
import numpy as np

cimport numpy as cnp
from cpython.float cimport PyFloat_AS_DOUBLE
from libc.math cimport NAN, isfinite
from libc.string cimport memset

from optkern.kernels import rules
from optkern.kernels._constants cimport (
    DECAY_CORRECTED, constants_t, encode, hyper_t, make_constants,
)
from optkern.kernels._constants import position
from optkern.kernels.engine cimport TRAITS, step_dense
from optkern.kernels._fresh cimport dense_like
from optkern.kernels._plan cimport KEEP_GIL, missing_stream, traits_t
from optkern.kernels._scalar cimport optkern_ieee_mode, optkern_mode_t, optkern_restore_mode
from optkern.kernels.span cimport MAX_STREAMS

cnp.import_array()

cdef enum:
    GENERAL = 0   # checked in Python alone
    REAL = 1
    PAIR = 2
    COUNT = 3
    SWITCH = 4
    CHOICE = 5


cdef class Keyword:
    """Say where a hyperparameter goes and which plain values are taken for it."""

    cdef int kind
    cdef Py_ssize_t at      # the position in hyper_t
    cdef double low, high
    cdef bint below_high    # whether `high` itself is excluded
    cdef tuple words

    def __init__(self, rule, name):
        domain = rule.domain(name)
        self.at = position(rule, name)
        self.kind = {
            rules.Real: REAL, rules.TwoNumbers: PAIR, rules.Count: COUNT, rules.Switch: SWITCH,
            rules.Choice: CHOICE,
        }.get(type(domain), GENERAL)
        if self.kind in (REAL, PAIR):
            domain = domain.each if self.kind == PAIR else domain
            self.low, self.high, self.below_high = domain.low, domain.high, domain.open_high
        self.words = domain.words if self.kind == CHOICE else ()

    cdef bint number(self, object value, double* slot) noexcept:
        """Take a plain float (or int) that is finite and in range."""
        cdef double x
        if type(value) is float or type(value) is np.float64:
            x = PyFloat_AS_DOUBLE(value)
        elif type(value) is int:
            x = <double> value if -2**53 <= value <= 2**53 else NAN
        else:
            return False
        if not (isfinite(x) and self.low <= x <= self.high):
            return False
        if self.below_high and x == self.high:
            return False
        slot[0] = x
        return True

    cdef bint take(self, object value, hyper_t* o) noexcept:
        """Take a value; False if it needs the general way."""
        cdef double* slot = <double*> o + self.at
        if self.kind == REAL:
            return self.number(value, slot)
        if self.kind == PAIR:
            return (
                type(value) is tuple
                and len(<tuple> value) == 2
                and self.number((<tuple> value)[0], slot)
                and self.number((<tuple> value)[1], slot + 1)
            )
        if self.kind == SWITCH:
            slot[0] = value is True
            return value is True or value is False
        if self.kind == CHOICE and type(value) is str and value in self.words:
            slot[0] = self.words.index(value)
            return True
        if self.kind == COUNT and type(value) is int and 1 <= value <= 2**53:
            slot[0] = <double> value
            return True
        return False


cdef class Kernel:
    # One rule's function; calls `general` with the same arguments where it cannot serve. (Its
    # docstring is that function's.) That one is made when it is asked for: many never are, and
    # thirty with their docstrings and signatures are a tenth of an import.
    cdef object make
    cdef object made
    cdef dict keywords
    cdef tuple counted
    cdef hyper_t defaults
    cdef int index
    cdef const traits_t* traits

    def __init__(self, rule, make):
        self.make = make
        if rule.is_whole:   # no span alone steps it
            return
        self.index = [row.name for row in rules.RULES].index(rule.name)
        self.traits = &TRAITS[self.index]
        self.counted = rule.counted
        memset(&self.defaults, 0, sizeof(hyper_t))
        for name, default in rule.hyperparameters.items():
            encode(&self.defaults, rule, name, default)
        # Options that may exclude each other are left to the general way.
        self.keywords = {
            name: Keyword(rule, name)
            for name in rule.hyperparameters
            if name not in rule.conflicting
        }

    cdef object general(self):
        if self.made is None:
            self.made = self.make()
        return self.made

    @property
    def __doc__(self):
        return self.general().__doc__

    def __getattr__(self, name):
        # Name, signature, module: this stands for the function it was made from.
        return getattr(self.general(), name)

    def __reduce__(self):
        return self.general().__name__

    def __repr__(self):
        general = self.general()
        return f"<kernel {general.__name__}{general.__signature__}>"

    def __call__(self, *args, **kwargs):
        if self.traits == NULL or not self.serve(args, kwargs):
            return self.general()(*args, **kwargs)

    cdef bint serve(self, tuple args, dict kwargs) except -1:
        """Do the call if that is plain; False if nothing has been done."""
        cdef optkern_mode_t mode
        # Validation too: a denormal hyperparameter is not zero, whatever another library has set.
        mode = optkern_ieee_mode()
        try:
            return self.serve_in_ieee_mode(args, kwargs)
        finally:
            optkern_restore_mode(mode)

    cdef bint serve_in_ieee_mode(self, tuple args, dict kwargs) except -1:
        cdef hyper_t o = self.defaults
        cdef constants_t h
        cdef char* at[MAX_STREAMS]
        cdef Keyword keyword
        cdef Py_ssize_t size
        cdef int dtype
        if "step" not in kwargs and self.lacks_step(kwargs):
            return False
        for name, value in kwargs.items():
            if name == "num_threads" and (value is None or type(value) is int and value == 1):
                continue
            keyword = self.keywords.get(name)
            if keyword is None or not keyword.take(value, &o):
                return False
        size = self.take_arrays(args, at)
        if size < 0 or o.decay_form == DECAY_CORRECTED and o.max_lr == 0:
            return False
        make_constants(self.traits.derive, &o, &h)
        if missing_stream(self.traits, h.flags, at) >= 0:
            return False
        dtype = cnp.PyArray_TYPE(<cnp.ndarray> args[0]) == cnp.NPY_DOUBLE
        if size < KEEP_GIL:
            step_dense(self.index, dtype, &h, at, size)
        else:
            with nogil:
                step_dense(self.index, dtype, &h, at, size)
        return True

    cdef bint lacks_step(self, dict kwargs) except -1:
        """Return whether the step's number may matter in a call that does not say it."""
        for name in self.counted:
            if name == "step" or name in kwargs:
                return True
        return False

    cdef Py_ssize_t take_arrays(self, tuple args, char** at) noexcept:
        """Point the streams at plain arrays that do not overlap; return their size, or -1."""
        cdef cnp.ndarray p
        cdef Py_ssize_t size, bytes
        cdef int j, k, count = <int> len(args)
        if count < 2 or count > self.traits.streams or not cnp.PyArray_CheckExact(args[0]):
            return -1
        p = <cnp.ndarray> args[0]
        if cnp.PyArray_TYPE(p) != cnp.NPY_FLOAT and cnp.PyArray_TYPE(p) != cnp.NPY_DOUBLE:
            return -1
        size, bytes = cnp.PyArray_SIZE(p), cnp.PyArray_NBYTES(p)
        for j in range(self.traits.streams):
            at[j] = NULL
            if j < count and args[j] is not None:
                if not cnp.PyArray_CheckExact(args[j]):
                    return -1
                if not dense_like(<cnp.ndarray> args[j], p, j != 1, size):
                    return -1
                at[j] = <char*> cnp.PyArray_DATA(<cnp.ndarray> args[j])
        for j in range(count):
            for k in range(j):
                if at[j] and at[k] and at[j] < at[k] + bytes and at[k] < at[j] + bytes:
                    return -1
        return size
