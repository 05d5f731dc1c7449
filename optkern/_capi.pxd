"""The C level of optkern, as `cimport optkern` and the capsule of include/optkern.h give it.

Nothing here follows the layout of optkern's own structs: both types are opaque and have room to
grow.
"""

cdef enum:
    API_VERSION = 1   # OPTKERN_API_VERSION in optkern.h; whatever is built on another is refused


cdef struct rule_t:
    # A rule with its hyperparameters and the number of the step to come.
    double opaque[64]


cdef struct step_t:
    # The constants of one step of a rule.
    double opaque[64]


cdef int make_rule(
    rule_t* rule, const char* name, object options, int version
) except -1
cdef double* number(rule_t* rule, const char* name) except NULL nogil
cdef void next_step(rule_t* rule, step_t* step) noexcept nogil
cdef int update(
    const step_t* step, int is_double, void* const* streams, int count, Py_ssize_t n
) except -1 nogil
cdef int update_rows(
    const step_t* step, int is_double, void* const* streams, int count,
    const Py_ssize_t* rows, Py_ssize_t row_count, Py_ssize_t limit, Py_ssize_t width
) except -1 nogil
