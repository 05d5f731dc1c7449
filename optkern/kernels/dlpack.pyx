# cython: language_level=3, boundscheck=False, wraparound=False
"""NumPy arrays over another library's tensors, many at a time, by DLPack's C functions.

1. A tensor's own `numpy()` takes 1.2 us; to ask it for address, strides and dtype takes .4. DLPack
   1.2 has a C function that fills in a struct: .1 us with the array made. Over a thousand small
   tensors the difference was half of a step.
2. An array keeps its tensor: what runs during a step, another thread too, may let the tensor go.
3. What does not lie in memory as its counterpart does is handed back, for the caller to look into.
"""
cimport numpy as cnp
from cpython.exc cimport PyErr_Clear
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.ref cimport Py_INCREF, PyObject
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cnp.import_array()

cdef extern from "numpy/arrayobject.h":
    object PyArray_NewFromDescr(
        type, cnp.dtype, int, cnp.npy_intp*, cnp.npy_intp*, void*, int, PyObject*
    )

# As in dlpack.h, whose version 1 keeps them.
cdef struct tensor_t:
    void* data
    int32_t device_type
    int32_t device_id
    int32_t ndim
    uint8_t code
    uint8_t bits
    uint16_t lanes
    int64_t* shape
    int64_t* strides
    uint64_t byte_offset

cdef struct exchange_t:
    uint32_t major
    uint32_t minor
    exchange_t* previous
    void* allocate
    void* give
    void* take
    int (*describe)(void*, tensor_t*) noexcept
    void* stream

cdef enum:
    CPU = 1
    FLOATING = 2
    BFLOAT = 4


cdef class Exchange:
    """Hold the C functions of one type of tensors.

    Parameters
    ----------
    capsule : capsule
        The type's ``__dlpack_c_exchange_api__``.

    Raises
    ------
    ValueError
        Where it is of a version that is not known, or does not describe tensors.
    """

    cdef int (*describe)(void*, tensor_t*) noexcept

    def __cinit__(self, capsule):
        cdef exchange_t* api = <exchange_t*> PyCapsule_GetPointer(capsule, "dlpack_exchange_api")
        while api != NULL and api.major != 1:
            api = api.previous
        if api == NULL or api.describe == NULL:
            raise ValueError("this DLPack exchange API does not describe tensors")
        self.describe = api.describe

    def over(self, list tensors, list likes):
        """Make arrays over tensors that lie in memory as others do.

        Parameters
        ----------
        tensors : list of (tensor or None)
            Of the type that this is for.
        likes : list of ndarray

        Returns
        -------
        list of (ndarray, tensor or None)
            The tensor itself where it is not of its counterpart's device, dtype, shape and strides,
            or has no memory.

        Raises
        ------
        ValueError
            Where there are more of the ones than of the others.
        """
        cdef Py_ssize_t i
        cdef list arrays = list(tensors)
        cdef tensor_t t
        if len(likes) != len(tensors):
            raise ValueError(f"{len(tensors)} tensors have {len(likes)} counterparts")
        for i in range(len(tensors)):
            if tensors[i] is not None and self._lies_as(tensors[i], likes[i], &t):
                arrays[i] = array_over(likes[i], <char*> t.data + t.byte_offset, tensors[i])
        return arrays

    def are(self, list tensors, list arrays):
        """Return whether each tensor's memory is its array's, in shape and strides as well."""
        cdef Py_ssize_t i
        cdef tensor_t t
        if len(arrays) != len(tensors):
            return False
        for i in range(len(tensors)):
            if not self._lies_as(tensors[i], arrays[i], &t):
                return False
            if cnp.PyArray_SIZE(arrays[i]) == 0:   # has no address to speak of
                continue
            if <char*> t.data + t.byte_offset != <char*> cnp.PyArray_DATA(arrays[i]):
                return False
        return True

    cdef bint _lies_as(self, object tensor, cnp.ndarray like, tensor_t* t):
        cdef Py_ssize_t itemsize
        cdef bint half
        cdef int k
        if tensor is None or like is None:
            return False
        itemsize = cnp.PyArray_ITEMSIZE(like)   # None, which would have been read, has none
        if self.describe(<void*> tensor, t) != 0:
            PyErr_Clear()
            return False
        if t.device_type != CPU or t.lanes != 1 or t.bits != 8 * itemsize:
            return False
        if t.data == NULL and cnp.PyArray_SIZE(like) != 0:   # zeros that are nowhere, freed memory
            return False
        half = itemsize == 2 and cnp.PyArray_TYPE(like) != cnp.NPY_FLOAT16
        if t.code != (BFLOAT if half else FLOATING):
            return False
        if t.ndim != cnp.PyArray_NDIM(like):
            return False
        for k in range(t.ndim):
            if t.shape[k] != cnp.PyArray_DIMS(like)[k]:
                return False
        for k in range(t.ndim):
            if t.shape[k] == 1 or cnp.PyArray_SIZE(like) == 0:   # a step that is never taken
                continue
            if t.strides[k] * itemsize != cnp.PyArray_STRIDES(like)[k]:
                return False
        return True


cdef object array_over(cnp.ndarray like, void* data, object owner):
    """Return an array like another, over the memory of its owner."""
    cdef cnp.dtype descr = like.dtype
    cdef cnp.ndarray array
    Py_INCREF(descr)   # the call below takes it
    array = PyArray_NewFromDescr(
        cnp.ndarray, descr, cnp.PyArray_NDIM(like), cnp.PyArray_DIMS(like),
        cnp.PyArray_STRIDES(like), data, cnp.NPY_ARRAY_WRITEABLE, NULL,
    )
    cnp.set_array_base(array, owner)
    return array
