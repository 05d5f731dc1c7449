# cython: language_level=3, boundscheck=False, wraparound=False
"""The containers that parameters came in, compared with what was in them, at every step.

1. An array that is put in a parameter's place would never be trained, in silence. To compare a
   thousand entries by identity takes .3 us in a list and 10 in a dict (25 in Python), and is done
   where gradients are taken out of theirs, which saves 50 us of a dict's.
2. A dict is walked in its own order, without a look-up; by name where that order is another.
3. The entries are kept, so that no address can come back as another object's.
4. Where Python has no GIL, another thread may change a list or dict meanwhile: each is locked
   while it is looked into, which with a GIL costs nothing.
"""
cimport cython

from collections.abc import Mapping

from cpython.dict cimport PyDict_GetItemWithError, PyDict_Next, PyDict_Size
from cpython.list cimport PyList_AsTuple, PyList_GET_SIZE
from cpython.ref cimport Py_INCREF, PyObject
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE, PyTuple_New, PyTuple_SET_ITEM


cdef extern from *:
    """
    #include <string.h>
    #ifdef Py_LIMITED_API  /* which does not say where entries lie */
    static int same_entries(PyObject* list, PyObject* tuple, Py_ssize_t count) {
        for (Py_ssize_t k = 0; k < count; k++)
            if (PyList_GetItem(list, k) != PyTuple_GetItem(tuple, k)) return 0;
        return 1;
    }
    #else
    #define same_entries(list, tuple, count) (0 == memcmp( \
        PySequence_Fast_ITEMS(list), PySequence_Fast_ITEMS(tuple), count * sizeof(PyObject*)))
    #endif
    """
    bint same_entries(object, object, Py_ssize_t) noexcept


cdef class Contents:
    """Hold what was in each container.

    Parameters
    ----------
    containers : tuple of (sequence, Mapping or object)
        Of an object the attributes count.
    keys : tuple of tuple
        Of a sequence an empty one.
    entries : tuple of tuple
        What is under the keys; of a sequence everything.
    like : None, int or tuple
        The form of gradients that are an ordinary list of that length, or dict of those names.
    """

    cdef readonly tuple containers
    cdef tuple keys
    cdef tuple entries
    cdef tuple sizes
    cdef object like
    cdef Py_ssize_t length
    cdef tuple names

    def __cinit__(self, tuple containers, tuple keys, tuple entries, like=None):
        self.containers, self.keys, self.entries, self.like = containers, keys, entries, like
        self.sizes = tuple([_size(container, named) for container, named in zip(containers, keys)])
        self.length = like if isinstance(like, int) else -1
        self.names = like if isinstance(like, tuple) else None

    def __reduce__(self):
        return Contents, (self.containers, self.keys, self.entries, self.like)

    def taking(self, like):
        """Return the same where gradients of another form go straight to a step."""
        return Contents(self.containers, self.keys, self.entries, like)

    cpdef bint same(self) except -1:
        """Return whether each container still holds the same objects."""
        cdef Py_ssize_t k
        for k in range(PyTuple_GET_SIZE(self.containers)):
            if not _holds(self.containers[k], self.keys[k], self.entries[k], self.sizes[k]):
                return False
        return True

    @cython.binding(False)   # as `Plan.step`
    def gather(self, values):
        """Take gradients of a flat list or dict as a tuple; None: it takes a closer look."""
        cdef Py_ssize_t i, count
        cdef PyObject* value
        cdef tuple flat
        if not self.same():
            return None
        if type(values) is list:
            return PyList_AsTuple(values) if PyList_GET_SIZE(values) == self.length else None
        if self.names is None or type(values) is not dict:
            return None
        count = PyTuple_GET_SIZE(self.names)
        if PyDict_Size(values) != count:
            return None
        flat = PyTuple_New(count)
        with cython.critical_section(values):
            for i in range(count):
                value = PyDict_GetItemWithError(values, self.names[i])
                if value == NULL:
                    return None
                Py_INCREF(<object> value)
                PyTuple_SET_ITEM(flat, i, <object> value)
        return flat


cdef Py_ssize_t _size(object container, tuple keys) except -2:
    """Return how many entries a container has, also beside the parameters.

    -1 where attributes count.
    """
    if isinstance(container, Mapping) or (not keys and hasattr(container, "__len__")):
        return len(container)
    return -1


cdef bint _list_holds(object container, tuple entries, Py_ssize_t count) noexcept:
    with cython.critical_section(container):
        if PyList_GET_SIZE(container) != count:
            return False
        return count == 0 or same_entries(container, entries, count)


cdef bint _dict_holds(
    object container, tuple keys, tuple entries, Py_ssize_t count, Py_ssize_t size
) except -1:
    cdef Py_ssize_t i, place = 0
    cdef PyObject* key
    cdef PyObject* value
    with cython.critical_section(container):
        if PyDict_Size(container) != size:
            return False
        for i in range(count):
            if not PyDict_Next(container, &place, &key, &value):
                break
            if value != <PyObject*> PyTuple_GET_ITEM(entries, i):
                break
        else:
            return True
        for i in range(count):
            value = PyDict_GetItemWithError(container, keys[i])
            if value != <PyObject*> PyTuple_GET_ITEM(entries, i):
                return False
        return True


cdef bint _holds(object container, tuple keys, tuple entries, Py_ssize_t size) except -1:
    cdef Py_ssize_t i, count = PyTuple_GET_SIZE(entries)
    if isinstance(container, list):
        return _list_holds(container, entries, count)
    if type(container) is dict:
        return _dict_holds(container, keys, entries, count, size)
    if size >= 0 and len(container) != size:
        return False
    if size >= 0 and not keys and count:
        return all([now is then for now, then in zip(container, entries)])
    named = isinstance(container, Mapping)
    for i in range(count):
        try:
            # Not by [], which would put a default into a defaultdict.
            now = container.get(keys[i]) if named else getattr(container, keys[i])
        except (AttributeError, LookupError):
            return False
        if now is not entries[i]:
            return False
    return True
