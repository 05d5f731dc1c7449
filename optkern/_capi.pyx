# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The C level: what `cimport optkern` and the header's capsule call.

1. The constants of a step come from the same derivations as everywhere (_constants.pyx), and the
   loops from the table of the instruction set in use: the bits are those of `optkern.kernels`.
2. The public structs are opaque and larger than what is in them, so that a new hyperparameter does
   not break what has been compiled; the version says when that could not be kept.
3. A call checks what it can see, takes the GIL to say what is wrong, and writes nothing then.
"""
import os

from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_New
from libc.stdlib cimport free
from libc.string cimport memcpy, memset, strcmp

from optkern.kernels import rules
from optkern.kernels._constants import position
from optkern.kernels._constants cimport CARRIED, constants_t, encode, hyper_t, make_constants
from optkern.kernels.engine cimport TRAITS, step_dense
from optkern.kernels._plan cimport missing_stream, rows_t
from optkern.kernels.rows cimport find_rows, run_rows
from optkern.kernels._scalar cimport (
    optkern_ieee_mode, optkern_mode_t, optkern_restore_mode,
)
from optkern.kernels.span cimport MAX_RULES, MAX_STREAMS


cdef extern from "optkern.h":
    const int OPTKERN_API_VERSION
    ctypedef struct optkern_rule:
        pass
    ctypedef struct optkern_step:
        pass
    ctypedef struct optkern_api:
        int version
        size_t size
        int (*rule)(optkern_rule*, const char*, PyObject*, int) except -1
        double* (*number)(optkern_rule*, const char*) except NULL nogil
        void (*next_step)(optkern_rule*, optkern_step*) noexcept nogil
        int (*update)(
            const optkern_step*, int, void* const*, int, Py_ssize_t
        ) except -1 nogil
        int (*update_rows)(
            const optkern_step*, int, void* const*, int, const Py_ssize_t*, Py_ssize_t, Py_ssize_t,
            Py_ssize_t
        ) except -1 nogil


cdef struct own_rule_t:
    # What is in a rule_t.
    int index
    hyper_t hyper


cdef struct own_step_t:
    # What is in a step_t.
    int index
    constants_t constants


cdef enum:
    MAX_NUMBERS = 64

# What nogil code asks for, from the rule table, beside TRAITS.
cdef bint ROWWISE[MAX_RULES]
cdef Py_ssize_t NUMBERS = 0
cdef const char* NUMBER[MAX_NUMBERS]                 # the names of numbers
cdef Py_ssize_t PLACE[MAX_RULES][MAX_NUMBERS]        # and their positions in hyper_t, or -1

_names = sorted({
    name.encode()
    for rule in rules.RULES
    for name in rule.hyperparameters
    if isinstance(rule.domain(name), (rules.Real, rules.Numbers, rules.Count))
})


cdef int fill_tables() except -1:
    global NUMBERS
    cdef int k, j
    if sizeof(own_rule_t) > sizeof(rule_t) or sizeof(own_step_t) > sizeof(step_t):
        raise SystemError("optkern: the structs of its C API have become too small")
    NUMBERS = len(_names)
    if NUMBERS > MAX_NUMBERS:
        raise SystemError("optkern: the tables of its C API have become too small")
    for j, name in enumerate(_names):
        NUMBER[j] = name
    for k, rule in enumerate(rules.RULES):
        ROWWISE[k] = rule in rules.ROW_RULES
        for j, name in enumerate(_names):
            word = name.decode()
            PLACE[k][j] = position(rule, word) if word in rule.hyperparameters else -1
    return 0


fill_tables()


def get_include():
    """Return the folder of ``optkern.h``, for the ``include_dirs`` of a C extension.

    What is written in Cython needs ``cimport optkern`` and no header.
    """
    return os.path.join(os.path.dirname(__file__), "include")


def check_version(int version):
    """Refuse an extension that was built for another version of the C API."""
    if version != API_VERSION:
        raise ImportError(
            f"built for version {version} of optkern's C API, the installed optkern has version "
            f"{API_VERSION}: build it again"
        )


cdef int make_rule(rule_t* to, const char* name, object options, int version) except -1:
    cdef own_rule_t* own = <own_rule_t*> to
    check_version(version)
    word = name.decode("utf-8", "replace")
    known = [rule.name for rule in rules.RULES]
    if word not in known:
        raise ValueError(f"optkern: there is no rule {word!r}; there are {', '.join(known)}")
    index = known.index(word)
    if options is not None and not isinstance(options, dict):
        raise TypeError(f"{word}: options must be a dict or None, got {type(options).__name__}")
    values = rules.RULES[index].check(word, options or {})
    memset(to, 0, sizeof(rule_t))
    own.index = index
    for key, value in values.items():
        encode(&own.hyper, rules.RULES[index], key, value)
    return 0


cdef double* number(rule_t* rule, const char* name) except NULL nogil:
    cdef own_rule_t* own = <own_rule_t*> rule
    cdef Py_ssize_t k
    for k in range(NUMBERS):
        if PLACE[own.index][k] >= 0 and strcmp(NUMBER[k], name) == 0:
            return <double*> &own.hyper + PLACE[own.index][k]
    refuse_number(own.index, name)
    return NULL


cdef int refuse_number(int index, const char* name) except -1 with gil:
    """Raise ValueError: a rule has no number of this name."""
    row = rules.RULES[index]
    known = [x for x in row.hyperparameters if x.encode() in _names]
    raise ValueError(
        f"{row.name} has no number {name.decode('utf-8', 'replace')!r}; it has {', '.join(known)}"
    )


cdef void next_step(rule_t* rule, step_t* step) noexcept nogil:
    cdef own_rule_t* own = <own_rule_t*> rule
    cdef own_step_t* to = <own_step_t*> step
    cdef optkern_mode_t mode = optkern_ieee_mode()
    to.index = own.index
    make_constants(TRAITS[own.index].derive, &own.hyper, &to.constants)
    own.hyper.step += 1
    memcpy(own.hyper.carried, to.constants.carried, CARRIED * sizeof(double))
    optkern_restore_mode(mode)


cdef int take_streams(
    const own_step_t* step, void* const* streams, int count, char** to
) except -1 nogil:
    """Copy the pointers to a rule's streams; those that the options need must be there."""
    cdef int j
    for j in range(TRAITS[step.index].streams):
        to[j] = <char*> streams[j] if j < count else NULL
    j = missing_stream(&TRAITS[step.index], step.constants.flags, to)
    if j >= 0:
        with gil:
            rule = rules.RULES[step.index]
            raise ValueError(f"{rule.name}: {('p', 'g', *rule.state)[j]} is needed, got NULL")
    return 0


cdef int update(
    const step_t* step, int is_double, void* const* streams, int count, Py_ssize_t n
) except -1 nogil:
    cdef const own_step_t* own = <const own_step_t*> step
    cdef char* at[MAX_STREAMS]
    cdef optkern_mode_t mode
    if n <= 0:
        return 0
    take_streams(own, streams, count, at)
    mode = optkern_ieee_mode()
    try:
        step_dense(own.index, is_double, &own.constants, at, n)
    finally:
        optkern_restore_mode(mode)
    return 0


cdef int update_rows(
    const step_t* step, int is_double, void* const* streams, int count,
    const Py_ssize_t* rows, Py_ssize_t row_count, Py_ssize_t limit, Py_ssize_t width
) except -1 nogil:
    cdef const own_step_t* own = <const own_step_t*> step
    cdef rows_t r
    cdef Py_ssize_t bad
    cdef int j
    memset(&r, 0, sizeof(r))
    if row_count <= 0:
        return 0
    if not ROWWISE[own.index] or width < 0:
        with gil:
            refuse_rows(own.index, width)
    take_streams(own, streams, count, r.data)
    r.width, r.index, r.dtype, r.streams = width, own.index, is_double, TRAITS[own.index].streams
    r.h = &own.constants
    for j in range(r.streams):
        r.stride[j] = width * (8 if is_double else 4)
    bad = find_rows(&r, rows, row_count, limit)
    if bad == -1:
        run_rows(&r, 1)
    free(r.row)
    if bad != -1:
        with gil:
            if bad == -2:
                raise MemoryError
            raise ValueError(
                f"{rules.RULES[own.index].name}: rows must be in [0, {limit}), "
                f"got {rows[bad]} at position {bad}"
            )
    return 0


cdef int refuse_rows(int index, Py_ssize_t width) except -1:
    if width < 0:
        raise ValueError(f"{rules.RULES[index].name}: width must be >= 0, got {width}")
    known = ", ".join(rule.name for rule in rules.ROW_RULES)
    raise TypeError(
        f"the rule {rules.RULES[index].name} has no row-wise form; {known} have one"
    )


# --------------------------------------------------------------------------- the capsule


cdef int c_rule(optkern_rule* to, const char* name, PyObject* options, int version) except -1:
    return make_rule(<rule_t*> to, name, None if options == NULL else <object> options, version)


cdef optkern_api API
API.version = API_VERSION
API.size = sizeof(API)
API.rule = c_rule
API.number = <double* (*)(optkern_rule*, const char*) except NULL nogil> number
API.next_step = <void (*)(optkern_rule*, optkern_step*) noexcept nogil> next_step
API.update = <int (*)(
    const optkern_step*, int, void* const*, int, Py_ssize_t
) except -1 nogil> update
API.update_rows = <int (*)(
    const optkern_step*, int, void* const*, int, const Py_ssize_t*, Py_ssize_t, Py_ssize_t,
    Py_ssize_t
) except -1 nogil> update_rows

if API_VERSION != OPTKERN_API_VERSION or (
    sizeof(rule_t) != sizeof(optkern_rule) or sizeof(step_t) != sizeof(optkern_step)
):
    raise SystemError("optkern: include/optkern.h and _capi.pxd differ")

api = PyCapsule_New(&API, "optkern._capi.api", NULL)
