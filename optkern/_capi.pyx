# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The C level: what `cimport optkern` and the header's capsule call.

1. The constants of a step come from the same derivations as everywhere (_constants.pyx), and the
   loops from the table of the instruction set in use: the bits are those of `optkern.kernels`.
2. The public structs are opaque and larger than what is in them, so that a new hyperparameter does
   not break what has been compiled; the version says when that could not be kept.
3. A call checks what it can see, takes the GIL to say what is wrong, and writes nothing then.
"""
from pathlib import Path

from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_New
from libc.math cimport isfinite, ldexp, sqrt
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset, strcmp

from optkern.kernels import rules
from optkern.kernels._constants import FLAGS, position
from optkern.kernels._constants cimport (
    APPLY, DIRECTION, TRUST, adjust, apply_trust, constants_t, derivation, derive_t, encode,
    hyper_t, options_t,
)
from optkern.kernels._engine cimport RESCUE, SPANS, add_blocks, count_blocks
from optkern.kernels._rows cimport find_rows, rows_t, run_rows
from optkern.kernels._scalar cimport (
    optkern_ieee_mode, optkern_mode_t, optkern_restore_mode,
)
from optkern.kernels._span cimport BLOCK, MAX_RULES, MAX_STREAMS


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

# What nogil code asks for, from the rule table.
cdef derive_t DERIVE[MAX_RULES]
cdef int STATES[MAX_RULES]                           # state arrays
cdef unsigned int FLAG[MAX_RULES][MAX_STREAMS]       # without which one is not touched; 0: always
cdef bint ROWWISE[MAX_RULES]
cdef Py_ssize_t NUMBERS = 0
cdef const char* NUMBER[MAX_NUMBERS]                 # the names of numbers
cdef Py_ssize_t PLACE[MAX_NUMBERS]                   # and their positions in hyper_t
cdef bint HAS[MAX_RULES][MAX_NUMBERS]

_names = [
    name.encode()
    for name, domain in rules.VOCABULARY.items()
    if isinstance(domain, (rules.Real, rules.Pair, rules.Count))
]


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
        PLACE[j] = position(name.decode())
    for k, rule in enumerate(rules.RULES):
        DERIVE[k] = derivation(rule.formula)
        STATES[k] = len(rule.slots)
        ROWWISE[k] = rule in rules.ROW_RULES
        for j, switch in enumerate(rule.slots.values()):
            FLAG[k][2 + j] = FLAGS[switch.upper()] if switch else 0
        for j, name in enumerate(_names):
            HAS[k][j] = name.decode() in rule.hyperparameters
    return 0


fill_tables()


def get_include():
    """The folder of ``optkern.h``, for the ``include_dirs`` of a C extension.

    What is written in Cython needs ``cimport optkern`` and no header.
    """
    return str(Path(__file__).parent / "include")


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
        encode(&own.hyper, key, value)
    return 0


cdef double* number(rule_t* rule, const char* name) except NULL nogil:
    cdef own_rule_t* own = <own_rule_t*> rule
    cdef Py_ssize_t k
    for k in range(NUMBERS):
        if HAS[own.index][k] and strcmp(NUMBER[k], name) == 0:
            return <double*> &own.hyper + PLACE[k]
    with gil:
        raise ValueError(
            f"{rules.RULES[own.index].name} has no number {name.decode('utf-8', 'replace')!r}; "
            f"it has {', '.join(x.decode() for j, x in enumerate(_names) if HAS[own.index][j])}"
        )


cdef void next_step(rule_t* rule, step_t* step) noexcept nogil:
    cdef own_rule_t* own = <own_rule_t*> rule
    cdef own_step_t* to = <own_step_t*> step
    cdef optkern_mode_t mode = optkern_ieee_mode()
    memset(to, 0, sizeof(own_step_t))
    to.index = own.index
    DERIVE[own.index](&own.hyper, &to.constants)
    own.hyper.step += 1
    own.hyper.mu_product = to.constants.mu_product
    optkern_restore_mode(mode)


cdef int take_streams(
    const own_step_t* step, void* const* streams, int count, char** to
) except -1 nogil:
    """Copy the pointers to a rule's streams; those that the options need must be there."""
    cdef int j
    for j in range(2 + STATES[step.index]):
        to[j] = <char*> streams[j] if j < count else NULL
        if to[j] == NULL and (
            not FLAG[step.index][j] or step.constants.flags & FLAG[step.index][j]
        ):
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
    if own.constants.flags & (TRUST | DIRECTION):
        return update_by_norms(own, is_double, at, n)
    mode = optkern_ieee_mode()
    SPANS.update[own.index][is_double](&own.constants, at, n, 0)
    optkern_restore_mode(mode)
    return 0


cdef int update_by_norms(
    const own_step_t* step, int is_double, char** at, Py_ssize_t n
) except -1 nogil:
    """LARS and LAMB: the streams are a whole tensor's, whose norms come first."""
    cdef constants_t h = step.constants
    cdef options_t none
    cdef double size, length
    # The blocks' sums, and a block: a thread's stack may be too small for it.
    cdef double* squares = <double*> malloc((count_blocks(n) + BLOCK) * sizeof(double))
    cdef optkern_mode_t mode
    if squares == NULL:
        with gil:
            raise MemoryError
    memset(&none, 0, sizeof(none))
    none.grad_scale = 1
    mode = optkern_ieee_mode()
    adjust(&none, &h, 1, 0, 0)   # no scaling, no clipping
    size = norm_of(at[0], is_double, n, squares)
    if h.flags & TRUST:
        apply_trust(&h, size, norm_of(at[1], is_double, n, squares))
    else:
        length = sqrt(move_averages(step.index, is_double, &h, at, n, 1, squares))
        if not isfinite(length):
            h.flags |= APPLY   # the state has moved on already
            length = move_averages(
                step.index, is_double, &h, at, n, ldexp(1, -RESCUE), squares
            )
            length = ldexp(sqrt(length), RESCUE)
            h.flags ^= APPLY
        apply_trust(&h, size, length)
        h.flags ^= DIRECTION | APPLY
    SPANS.update[step.index][is_double](&h, at, n, 0)
    optkern_restore_mode(mode)
    free(squares)
    return 0


cdef double norm_of(const char* x, int is_double, Py_ssize_t n, double* squares) noexcept nogil:
    """The norm of numbers; where squares overflow (beyond 1e154), of them times 2**-RESCUE."""
    cdef double total = sum_squares(x, is_double, n, 1, squares)
    if isfinite(total):
        return sqrt(total)
    return ldexp(sqrt(sum_squares(x, is_double, n, ldexp(1, -RESCUE), squares)), RESCUE)


cdef double sum_squares(
    const char* x, int is_double, Py_ssize_t n, double factor, double* squares
) noexcept nogil:
    """Of numbers times a factor, in the order of every reduction; squares: room for the sums."""
    cdef char* scaled = <char*> (squares + count_blocks(n))
    cdef const char* block
    cdef Py_ssize_t width = 8 if is_double else 4, first = 0, k = 0, size
    while first < n:
        size = min(<Py_ssize_t> BLOCK, n - first)
        block = x + first * width
        if factor != 1:
            SPANS.scale[is_double](scaled, block, factor, size)
            block = scaled
        squares[k] = SPANS.dot[is_double](block, block, size)
        first += size
        k += 1
    return add_blocks(squares, k)


cdef double move_averages(
    int index, int is_double, const constants_t* h, char* const* streams, Py_ssize_t n,
    double factor, double* squares,
) noexcept nogil:
    """LAMB's first half: the state moves on; the squares of the direction it gives, summed."""
    cdef char* direction = <char*> (squares + count_blocks(n))
    cdef char* at[MAX_STREAMS]
    cdef Py_ssize_t width = 8 if is_double else 4, first = 0, k = 0, size
    cdef int j
    while first < n:
        size = min(<Py_ssize_t> BLOCK, n - first)
        for j in range(2 + STATES[index]):
            at[j] = streams[j] + first * width if streams[j] else NULL
        memcpy(direction, at[0], size * width)
        at[0] = direction
        SPANS.update[index][is_double](h, at, size, first)
        if factor != 1:
            SPANS.scale[is_double](direction, direction, factor, size)
        squares[k] = SPANS.dot[is_double](direction, direction, size)
        first += size
        k += 1
    return add_blocks(squares, k)


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
    r.width, r.index, r.dtype, r.streams = width, own.index, is_double, 2 + STATES[own.index]
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
