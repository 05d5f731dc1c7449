# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Changes that are made as a whole: what is below is before or after for all who can look.

1. An interrupt (Ctrl-C, any signal handler that raises), a tracer and another thread come between
   two lines of Python, never into a compiled call. So a change is prepared in Python, as new
   objects beside the old ones, and made here.
2. Whatever can fail comes first: addresses, layouts and room are taken and checked, then elements
   are copied and names bound, which can not.
"""
import numpy as np

cimport cython
cimport numpy as cnp
from cpython.dict cimport PyDict_Contains, PyDict_DelItem, PyDict_SetItem
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from optkern.kernels import buffers
from optkern.kernels._constants cimport encode, encode_option, hyper_t, options_t
from optkern.kernels.engine cimport Plan, note_options, reserve_norms, transfer
from optkern.kernels._plan cimport layout_t

cnp.import_array()

cdef enum:
    EXCHANGED = 256    # elements that are exchanged at a time, through the stack


@cython.final
cdef class Setting:
    """Hold a plan's hyperparameters and options as they are to be: encoded, not in force yet."""

    cdef Plan plan
    cdef hyper_t* hypers
    cdef options_t options

    def __cinit__(self, Plan plan, groups, options):
        """Take ``groups``, a dict of checked values for each, and ``options``, a dict of them."""
        cdef Py_ssize_t number
        self.plan = plan
        self.options = plan.core.options
        self.hypers = <hyper_t*> malloc(plan.core.groups * sizeof(hyper_t))
        if self.hypers == NULL:
            raise MemoryError
        memcpy(self.hypers, plan.core.hypers, plan.core.groups * sizeof(hyper_t))
        for number, group in enumerate(groups):
            if number >= plan.core.groups:
                raise IndexError(f"{plan.owner}: there is no group {number}")
            for name, value in group.items():
                encode(&self.hypers[number], plan.group_rules[number], name, value)
        for name, value in options.items():
            encode_option(&self.options, name, value)
        reserve_norms(&plan.core, &self.options)

    def __dealloc__(self):
        free(self.hypers)

    cdef void take_effect(self) noexcept:
        memcpy(self.plan.core.hypers, self.hypers, self.plan.core.groups * sizeof(hyper_t))
        self.plan.core.options = self.options
        note_options(&self.plan.core)


@cython.final
cdef class Place:
    """Note where an array's elements lie, in an order of axes; all that can fail is done here."""

    cdef object array
    cdef layout_t layout
    cdef char* data
    cdef Py_ssize_t size, itemsize
    cdef bint dense

    def __cinit__(self, cnp.ndarray array, order=None):
        cdef int k
        self.array = array
        order = range(array.ndim) if order is None else order
        ordered = array.transpose(order)
        self.size, self.itemsize = array.size, array.itemsize
        if self.itemsize not in (2, 4, 8):
            raise TypeError(f"expected elements of 2, 4 or 8 bytes, got {array.dtype}")
        self.data = <char*> cnp.PyArray_DATA(array)
        self.dense = ordered.flags.c_contiguous
        self.layout.ndim = array.ndim
        for k in range(self.layout.ndim):
            self.layout.shape[k] = ordered.shape[k]
            self.layout.strides[k] = ordered.strides[k]

    cdef void move(
        self, char* dense, Py_ssize_t first, Py_ssize_t n, bint store
    ) noexcept nogil:
        """Copy elements from dense memory into their places (`store`), or from there."""
        cdef Py_ssize_t bytes = n * self.itemsize
        if n == 0:
            return
        if not self.dense:
            transfer(&self.layout, self.data, dense, first, n, self.itemsize, store)
        elif store:
            memcpy(self.data + first * self.itemsize, dense, bytes)
        else:
            memcpy(dense, self.data + first * self.itemsize, bytes)


cdef Place writable(object array, order=None):
    if not array.flags.writeable:
        raise ValueError("expected an array that can be written")
    return Place(array, order)


cdef list copies_in_place(list copies):
    """Split pairs (to, values): where to write, and the values as a C array of its dtype."""
    places = []
    for to, values in copies:
        values = np.ascontiguousarray(values)
        if values.shape != to.shape and to.ndim or values.dtype != to.dtype:
            raise ValueError(f"expected {to.shape} {to.dtype}, got {values.shape} {values.dtype}")
        places.append((writable(to), values))
    return places


cdef void write_copies(list places) noexcept:
    cdef Place place
    for place, values in places:
        place.move(<char*> cnp.PyArray_DATA(<cnp.ndarray> values), 0, place.size, True)


def commit(Plan old, list entries, list copies=None, Setting setting=None, Plan new=None):
    """Make a prepared change.

    Parameters
    ----------
    old : Plan or None
        The plan in use; it is retired where there is a `new` one.
    entries : list of (dict, dict)
        Names to bind, and what to: attributes, entries of hyperparameter groups.
    copies : list of (ndarray, ndarray), optional
        Arrays to write, and their new values.
    setting : Setting, optional
        Of the old plan: what takes effect.
    new : Plan, optional
    """
    cdef bint outermost = False
    if old is not None:
        outermost = old.take_turn("a change of its hyperparameters or state")
    try:
        kept = make_change(old, entries, copies, setting, new)
    finally:
        if outermost:
            old._turn.end()
    del kept


cdef list make_change(Plan old, list entries, list copies, Setting setting, Plan new):
    """Make a change; return what it has replaced."""
    places = copies_in_place(copies or [])
    # What is replaced lives on to the end: nobody's destructor runs in between. A name that is
    # new to a dict may take memory: it is there before the first one is bound.
    kept = [dict(to) for to, _ in entries]
    new_names = [(to, name) for to, values in entries for name in values if name not in to]
    try:
        for to, name in new_names:
            PyDict_SetItem(to, name, None)
    except BaseException:
        for to, name in new_names:
            if PyDict_Contains(to, name):
                PyDict_DelItem(to, name)
        raise
    write_copies(places)
    for to, values in entries:
        for name, value in values.items():
            PyDict_SetItem(to, name, value)
    if setting is not None:
        setting.take_effect()
    if new is not None and old is not None and new is not old:
        old.retired = True
    return kept


def exchange(Plan plan, list pairs, refusal, change=None):
    """Exchange the elements of pairs of arrays, and let a plan refuse steps from now on, or not.

    Parameters
    ----------
    plan : Plan
    pairs : list of (ndarray, ndarray)
        Of one shape and dtype each.
    refusal : str or None
        Why no step may be taken from now on.
    change : Change, optional
        What is made with it; its plan takes over.
    """
    cdef bint outermost = plan.take_turn("an exchange of averages")
    try:
        exchange_alone(plan, pairs, refusal, change)
    finally:
        if outermost:
            plan._turn.end()


cdef int exchange_alone(Plan plan, list pairs, refusal, change) except -1:
    cdef Place a, b
    places = []
    for label, (one, other) in zip(plan.labels, pairs):
        what = buffers.named("parameter", label)
        buffers.check_writable(plan.owner, what, one)
        if one.shape != other.shape or one.dtype != other.dtype:
            raise ValueError(
                f"{plan.owner}: {what} has had its shape {other.shape} changed to {one.shape}; "
                "bind it anew with rebind"
            )
        order = buffers.memory_order(one)[0]
        places.append((writable(one, order), writable(other, order)))
    if change is not None:
        commit(plan, change.entries, [], None, change.plan)
        plan = change.plan
    for a, b in places:
        with nogil:
            exchange_two(a, b)
    plan.refusal = refusal
    return 0


def exchange_averages(session, refusal=None):
    """Exchange an optimizer's parameters and averages; it refuses steps then, or no longer."""
    cdef Plan plan = session.plan
    change = session.averages_aside(refusal)
    averages = (plan if change is None or refusal is None else change.plan).state["ema"]
    exchange(plan, list(zip(plan.params, averages)), refusal, change)


cdef void exchange_two(Place a, Place b) noexcept nogil:
    cdef char one[EXCHANGED * 8]
    cdef char other[EXCHANGED * 8]
    cdef Py_ssize_t first = 0, n
    while first < a.size:
        n = min(<Py_ssize_t> EXCHANGED, a.size - first)
        a.move(one, first, n, False)
        b.move(other, first, n, False)
        a.move(other, first, n, True)
        b.move(one, first, n, True)
        first += n


def restoring(list arrays, function, *args):
    """Call a function, then put the elements of some arrays back, also where it has raised."""
    cdef list places = copies_in_place([(array, array.copy(order="C")) for array in arrays])
    try:
        return function(*args)
    finally:
        write_copies(places)


def followed(after, function, *args):
    """Call a function, then `after`, also where the function has raised.

    ``after`` tells what the function has done and may be called twice: an interrupt in its midst
    waits until it has been called once more.
    """
    try:
        return function(*args)
    finally:
        try:
            after()
        except BaseException:
            after()
            raise


cdef class Averaged:
    """Hold an optimizer's averages in the parameters' place; back whatever happens.

    An exception in the middle of entering or leaving finds the parameters in their place too: what
    holds this object on its stack lets go of it.
    """

    cdef object optimizer
    cdef bint entered

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def __enter__(self):
        if self.plan().refusal is None:
            self.entered = True   # from here on it is for this object to bring them back
        try:
            self.optimizer.swap_in()
        except BaseException:
            self.leave()
            raise

    def __exit__(self, *exception):
        if self.plan().refusal is None:
            self.entered = False
            self.optimizer.swap_out()   # which says that they are not in
        self.leave()
        if exception == (None, None, None):
            self.optimizer.session.find_parameters()   # one that was replaced in the block is told

    def __del__(self):
        self.leave()

    cdef Plan plan(self):
        return self.optimizer.session.plan

    cdef int leave(self) except -1:
        """Bring the averages back; a second time where an interrupt came in the first."""
        if not self.entered:
            return 0
        self.entered = False
        try:
            if self.plan().refusal is not None:
                self.optimizer.session.exchange_averages(None)
        except BaseException:
            if self.plan().refusal is not None:
                self.optimizer.session.exchange_averages(None)
            raise
        return 0
