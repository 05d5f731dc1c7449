"""Checks of fresh arrays through the NumPy C API, where a call takes less than a microsecond."""
cimport numpy as cnp


cdef inline Py_ssize_t common_size(cnp.ndarray a, cnp.ndarray b) noexcept:
    """Return how many elements both have that are of one dtype and shape; -1 where they are not."""
    cdef int k
    cdef Py_ssize_t elements = 1
    if cnp.PyArray_TYPE(a) != cnp.PyArray_TYPE(b) or cnp.PyArray_NDIM(a) != cnp.PyArray_NDIM(b):
        return -1
    for k in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_DIMS(a)[k] != cnp.PyArray_DIMS(b)[k]:
            return -1
        elements *= cnp.PyArray_DIMS(a)[k]
    return elements


cdef inline bint dense_like(cnp.ndarray a, cnp.ndarray b, bint written, Py_ssize_t size) noexcept:
    """Tell whether a loop can run over ``a`` as it stands, which is of b's dtype and this size."""
    if not (cnp.PyArray_ISCARRAY(a) if written else cnp.PyArray_ISCARRAY_RO(a)):
        return False
    return common_size(a, b) == size
