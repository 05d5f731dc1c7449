# cython: language_level=3, boundscheck=False, wraparound=False
"""Where arrays lie in memory.

NumPy's own ways to ask, `ctypes` and `__array_interface__`, take one to three microseconds an
array, and where no memory is left one says SystemError and the other crashes.
"""
cimport numpy as cnp

cnp.import_array()


def address(cnp.ndarray array not None):
    """Return where an array's first element lies."""
    return <size_t> cnp.PyArray_DATA(array)


def byte_bounds(cnp.ndarray array not None):
    """Return the addresses of an array's first byte and of the one after its last."""
    cdef Py_ssize_t low = <Py_ssize_t> cnp.PyArray_DATA(array), high = low, reach
    cdef int k
    for k in range(cnp.PyArray_NDIM(array)):
        reach = (cnp.PyArray_DIMS(array)[k] - 1) * cnp.PyArray_STRIDES(array)[k]
        if cnp.PyArray_STRIDES(array)[k] < 0:
            low += reach
        else:
            high += reach
    return low, high + cnp.PyArray_ITEMSIZE(array)
