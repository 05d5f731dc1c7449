# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False
"""The engine: binds arrays once, then runs a rule over all of them in one parallel region.

1. One call updates a whole list of tensors. The work is cut into chunks of elements, across tensors
   (edges are multiples of 256 within a tensor), and handed out dynamically: fixed halves collapse
   when another process takes a core.
2. Parameters and state are bound at construction through typed memoryviews; fresh gradients are
   checked through the NumPy C API, because a memoryview for each of a thousand costs more than the
   update.
3. A call checks everything it was given before it writes one element.
4. One thread never enters an OpenMP region: libgomp hangs in a forked child otherwise.
5. Arrays that are not dense, not aligned or stored in fewer bits (_storage.py) are staged piece by
   piece through scratch, unless the rule has a loop over compact state. A piece ends at a
   multiple of its size, so that it begins at a block of int8 and lies in one segment of the
   random bits.
6. The number of threads never shows in the bits, so the engine may choose it by what it measured.
7. What an optimizer does around its rule is done in the same pass: scaling and clipping in the
   formula's own arithmetic, the rest on each piece while it is in cache. Norms (of gradients, for
   clipping; of parameters and directions, for trust ratios) are taken before, block by block and
   in a fixed tree, and end in constants of the tensors.
"""
import os

import numpy as np

cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport PyObject
from cython.parallel cimport prange, threadid
from libc.math cimport INFINITY, isfinite, ldexp, sqrt
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from optkern.kernels import _arrays, _isa, _storage, _threads
from optkern.kernels._choice cimport Choice
from optkern.kernels._constants import FLAGS
from optkern.kernels._constants cimport (
    APPLY, DIRECTION, MOMENTUM, TRUST, adjust, apply_trust, derivation, encode, encode_option,
    gradient_share,
)
from optkern.kernels._scalar cimport (
    optkern_ieee_mode, optkern_mode_t, optkern_restore_mode,
)
from optkern.kernels._span cimport (
    BFLOAT16, BFLOAT16_STATE, BLOCK, FLOAT16, FLOAT16_RANDOM, LANES, PLAIN, SCALED, SEGMENT,
    compact_t, spans_t,
)
from optkern.kernels._sums cimport fold
from optkern.kernels.rules import LIMITS, OPTION_SLOTS, OPTIONS, RULES, rows_hash

cnp.import_array()

cdef extern from "Python.h":   # without the count of references that Cython's own declarations add
    PyObject* PyTuple_GET_ITEM(object, Py_ssize_t) noexcept
    PyObject* PyList_GET_ITEM(object, Py_ssize_t) noexcept

cdef extern from *:
    """
    #if defined(_OPENMP)
    #include <omp.h>
    #define OPTKERN_OPENMP _OPENMP
    #else
    #define OPTKERN_OPENMP 0
    static int omp_get_max_threads(void) { return 1; }
    #endif

    #include <time.h>
    static double optkern_seconds(void) {
    #if defined(_WIN32)
        return (double)clock() / CLOCKS_PER_SEC;
    #else
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    #endif
    }

    /* 0: baseline, 1: x86-64-v3, 2: x86-64-v4; asks the operating system's support too. */
    static int optkern_cpu_level(void) {
    #if (defined(__x86_64__)) && (defined(__GNUC__) || defined(__clang__))
        __builtin_cpu_init();
        if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
              && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2")))
            return 0;
        if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
              && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq")
              && __builtin_cpu_supports("avx512vl")))
            return 1;
        return 2;
    #else
        return 0;
    #endif
    }
    #if defined(__clang__)
    #define OPTKERN_COMPILER "clang " __clang_version__
    #elif defined(__GNUC__)
    #define OPTKERN_COMPILER "gcc " __VERSION__
    #elif defined(_MSC_VER)
    #define OPTKERN_COMPILER "msvc"
    #else
    #define OPTKERN_COMPILER "unknown compiler"
    #endif
    """
    const int OPTKERN_OPENMP
    const char* OPTKERN_COMPILER
    int omp_get_max_threads() noexcept nogil
    double optkern_seconds() noexcept nogil
    int optkern_cpu_level() noexcept nogil

cdef enum:
    CHUNK = 16384      # elements handed to a thread at a time
    EDGE = 256         # chunk edges within a tensor
    LINE = 64          # bytes of a cache line and of the longest vector
    LONG = 512         # elements above which the start of a cache line is worth a call more
    JOB = 16           # blocks whose squares a thread sums at a time
    LONG_ROWS = 64     # swept together, where a tile holds so many
    APART = 512        # bytes; rows of a tile whose length is a multiple of it get gaps
    TILE = 36 * BLOCK * 8   # bytes that a sweep brings into C order at a time

# --------------------------------------------------------------------------- instruction set

SPANS = NULL
cdef str ISA = ""
AVAILABLE_ISAS = _isa.available(optkern_cpu_level())


def use_isa(str name):
    """Run the spans of another instruction set from now on (for tests and benchmarks)."""
    global SPANS, ISA
    if name not in AVAILABLE_ISAS:
        raise ValueError(f"instruction set {name!r} is not one of {AVAILABLE_ISAS}")
    cdef spans_t* spans = <spans_t*> PyCapsule_GetPointer(_isa.table(name), "optkern.spans")
    if spans.rows != <unsigned long long> rows_hash() or (
        spans.sizes != sizeof(spans_t) * 4096 + sizeof(constants_t)
    ):
        raise ImportError(
            f"optkern: the loops of kernels/_span_{name} were built from another table of rules "
            "than kernels/rules.py has now, and would compute other rules; build again: "
            "python setup.py build_ext --inplace in its folder, or pip install --force-reinstall"
        )
    SPANS = spans
    ISA = name


def isa():
    """The instruction set the kernels run: ``"v4"``, ``"v3"`` or ``"baseline"``."""
    return ISA


use_isa(_isa.chosen(AVAILABLE_ISAS))

# --------------------------------------------------------------------------- threads

OPENMP = OPTKERN_OPENMP
COMPILER = OPTKERN_COMPILER.decode()
cdef int initial_openmp_threads = omp_get_max_threads()   # also makes the runtime read its settings
cdef int thread_limit = 1
cdef bint limit_explicit = False
cdef bint forked = False           # serial until the user says otherwise
cdef bint region_entered = False
cdef bint hangs = False            # forked after a region: another one would never end
cdef int forks = 0                 # between this process and the one that loaded optkern
cdef str STEP = "a step"


def set_thread_limit(int n, bint explicit):
    """The number of threads a call may use at the most; ``explicit``: the user's own word."""
    global thread_limit, limit_explicit, forked
    if hangs and n > 1 and explicit:
        raise RuntimeError(
            "num_threads: this process was forked after its parent had used threads, and the "
            "OpenMP runtime hangs there; only 1 is possible (start workers by 'spawn' instead)"
        )
    thread_limit = n
    limit_explicit = explicit
    if explicit and not hangs:
        forked = False


def get_thread_limit():
    return current_limit()


cdef int current_limit() noexcept nogil:
    """The default number of threads now: a limit lowered from outside (threadpoolctl) counts."""
    cdef int openmp = omp_get_max_threads()
    if forked or not OPTKERN_OPENMP:
        return 1
    if limit_explicit and openmp >= initial_openmp_threads:
        return thread_limit
    return min(thread_limit, openmp)


def _after_fork():
    global forked, hangs, forks
    forked = True
    forks += 1
    hangs = hangs or region_entered


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class ieee_mode:
    """Context: this thread computes with the IEEE defaults, whatever another library has set."""

    def __enter__(self):
        self.old = optkern_ieee_mode()

    def __exit__(self, *exception):
        optkern_restore_mode(self.old)


include "_staging.pxi"
include "_tiles.pxi"

# --------------------------------------------------------------------------- the plan


cdef class Plan:
    """One rule bound to parameters and their state.

    Parameters
    ----------
    rule : Rule
    owner : str
        Who speaks in error messages.
    labels : sequence of int or str
        What each parameter is called in them.
    params : list of ndarray
        float32, float64, float16 or bfloat16, writable, not overlapping.
    state : dict of str to list of (ndarray, Compact or None)
        For each slot of the rule an array shaped like its parameter, or None where no option in
        use needs it; and, where such an option is in use, for each slot of OPTION_SLOTS. Under
        ``master``, if that is there, float32 arrays (or None) that are updated in the parameters'
        place; the parameters are written as their rounding.
    seed : int
        Of the random bits that round `Compact` state and parameters.
    weight_rounding : {"nearest", "stochastic"}
        Of float16 and bfloat16 parameters without masters.
    """

    def __cinit__(
        self, rule, str owner, labels, list params, dict state, seed=0, weight_rounding="nearest"
    ):
        cdef Py_ssize_t i
        self._seed = seed
        self._at_random = weight_rounding == "stochastic"
        self.rule = rule
        self.owner = owner
        self.labels = tuple(labels)
        self.params = params
        self.state = state
        self._index = [row.name for row in RULES + LIMITS].index(rule.name)
        self._derive = derivation(rule.formula)
        self._streams = 2 + len(rule.slots)
        self._count = len(params)
        self._choice = Choice()
        self._has_velocity = rule.formula == "sgd"
        self._trusts, self._directs = rule.trust is not None, rule.trust == "direction"
        self._keeps = any(state.get(slot) for slot in OPTION_SLOTS)
        for k, switch in enumerate(rule.slots.values()):
            self._flags[2 + k] = FLAGS[switch.upper()] if switch else 0
        self._check()
        # Of a subclass, the array itself: a matrix has operators and shapes of its own.
        self.params = [np.asarray(p) for p in params]
        self.state = {
            slot: [np.asarray(a) if isinstance(a, np.ndarray) else a for a in arrays]
            for slot, arrays in state.items()
        }
        self.steps = np.zeros(self._count, np.int64)
        self.started = np.zeros(self._count, np.int64)
        self.mu_products = np.ones(self._count, np.float64)
        self.held = np.zeros(self._count, np.uint8)
        self._held = self.held
        self._steps = self.steps
        self._started = self.started
        self._mu_products = self.mu_products
        self._tensors = <tensor_t*> calloc(self._count or 1, sizeof(tensor_t))
        self._constants = <constants_t*> calloc(self._count or 1, sizeof(constants_t))
        if not self._tensors or not self._constants:
            raise MemoryError
        self._views = []
        self._orders = []
        for i in range(self._count):
            self._bind_tensor(i)
            for k, slot in enumerate(OPTION_SLOTS):
                if self.state.get(slot):
                    self._bind(i, self._streams + k, self.state[slot][i])
        for name, (default, _) in OPTIONS.items():
            self.set_option(name, default)
        self._plan_chunks()
        self._map_memory()

    def __dealloc__(self):
        cdef Py_ssize_t i
        cdef int j
        if self._tensors:
            for i in range(self._count):
                for j in range(MAX_STREAMS):
                    free(self._tensors[i].layout[j])
                free(self._tensors[i].c_order)
        free(self._tensors)
        free(self._hypers)
        free(self._constants)
        free(self._blocks)
        free(self._partial[0])   # and with it sums, norms and tree
        free(self._rooms)
        free(self._tiles)
        free(self._chunk_tensor)
        free(self._chunk_first)
        free(self._occupied)

    def _check(self):
        for label, p in zip(self.labels, self.params):
            _arrays.check_parameter(self.owner, _arrays.named("parameter", label), p)
        for slot, arrays in self.state.items():
            for label, p, a in zip(self.labels, self.params, arrays):
                if a is not None:
                    what = f"{slot} of {_arrays.named('parameter', label)}"
                    _arrays.check_state(self.owner, what, a, p)
        _arrays.refuse_overlap(self.owner, self._named_arrays())

    def _named_arrays(self):
        for label, p in zip(self.labels, self.params):
            yield _arrays.named("parameter", label), p
        for slot, arrays in self.state.items():
            for label, a in zip(self.labels, arrays):
                for part in () if a is None else getattr(a, "arrays", (a,)):
                    yield f"{slot} of {_arrays.named('parameter', label)}", part

    cdef int _bind_tensor(self, Py_ssize_t i) except -1:
        """Point a tensor's streams at its parameter and state, checked before."""
        cdef tensor_t* t = &self._tensors[i]
        p = self.params[i]
        master = self.state["master"][i] if "master" in self.state else None
        arrays = [self.state[slot][i] for slot in self.rule.slots]
        t.dtype = p.dtype == np.float64
        t.name = _storage.tensor_key(self.labels[i])
        draws = self._at_random and master is None and _storage.kind_of(p.dtype)
        if draws or any(isinstance(a, _storage.Compact) for a in arrays):
            # Positions and blocks count in C order, whatever the parameter's own.
            order, dense = list(range(p.ndim)), p.flags.c_contiguous
        else:
            order, dense = _arrays.memory_order(p)
        self._orders.append(order)
        t.dense = dense
        if dense and not p.flags.c_contiguous:
            self._note_c_order(t, p, order)
        if master is not None:
            t.home = ROUNDED
            self._bind(i, 0, master)
        self._bind(i, t.home, p)
        if draws:
            t.storage[0] = BFLOAT16_STATE if t.storage[0] == BFLOAT16 else FLOAT16_RANDOM
        for k, a in enumerate(arrays):
            if a is not None:
                self._bind(i, 2 + k, a)
            else:
                t.lacks |= self._flags[2 + k] or UNFIT
        return 0

    cdef int _note_c_order(self, tensor_t* t, object p, list order) except -1:
        """How to walk a gapless array, that lies in another order, in C order: norms take that.

        Their bits would depend on the memory order otherwise, which a copy (a checkpoint, a pickle)
        need not keep.
        """
        cdef int k
        t.c_order = <order_t*> malloc(sizeof(order_t))
        if t.c_order == NULL:
            raise MemoryError
        self._sweeping = True
        t.c_order.ndim = p.ndim
        for k in range(p.ndim):
            t.c_order.shape[k] = p.shape[k]
            t.c_order.strides[k] = p.strides[k] // p.itemsize
            t.c_order.axis[k] = order.index(k)
        return 0

    cdef int _bind(self, Py_ssize_t i, int stream, object array) except -1:
        """Point one stream of a tensor at an array, checked before."""
        cdef tensor_t* t = &self._tensors[i]
        cdef cnp.ndarray a
        cdef list order = self._orders[i]
        cdef layout_t* layout = NULL
        cdef const unsigned char[::1] scales
        cdef int k
        cdef bint compact = isinstance(array, _storage.Compact)
        storage = array.kind if compact else _storage.kind_of(array.dtype)
        if compact:
            if array.scales is not None and array.scales.size:
                scales = array.scales
                self._views.append(scales)
                t.scales[stream] = <unsigned char*> &scales[0]
            array = array.codes
        elif storage:
            array = array.view(np.uint16)   # bfloat16 gives no buffer
        a = array
        flat = array.transpose(order)
        if flat.flags.c_contiguous and flat.flags.aligned:
            self._views.append(dense_view(flat.reshape(-1)))
        else:
            layout = <layout_t*> malloc(sizeof(layout_t))
            if layout == NULL:
                raise MemoryError
            layout.ndim = cnp.PyArray_NDIM(flat)
            for k in range(layout.ndim):
                layout.shape[k] = cnp.PyArray_DIMS(flat)[k]
                layout.strides[k] = cnp.PyArray_STRIDES(flat)[k]
        free(t.layout[stream])   # from here on nothing can fail
        t.layout[stream] = layout
        self._sweeping = self._sweeping or layout != NULL
        t.storage[stream] = <unsigned char> storage
        t.size = cnp.PyArray_SIZE(a)
        t.itemsize[stream] = <unsigned char> cnp.PyArray_ITEMSIZE(a)
        t.data[stream] = <char*> cnp.PyArray_DATA(a)
        self._restage(i)
        return 0

    cdef void _restage(self, Py_ssize_t i) noexcept:
        """Note whether some stream of a tensor needs scratch."""
        cdef tensor_t* t = &self._tensors[i]
        cdef int k
        t.staged = t.home != 0
        for k in range(self._streams + EXTRA):
            t.staged = t.staged or t.layout[k] != NULL or t.storage[k] != PLAIN
        self._staging = self._staging or t.staged
        t.compact = (
            t.home == 0 and t.layout[0] == NULL and t.layout[1] == NULL
            and t.storage[0] in (PLAIN, BFLOAT16_STATE) and t.storage[1] == nearest(t.storage[0])
            and t.storage[2] >= BFLOAT16_STATE
        )

    cdef int _plan_chunks(self) except -1:
        """Cut all elements into chunks; each ends where the next one starts."""
        cdef Py_ssize_t i, first, room, take, k = 0
        cdef Py_ssize_t bound
        self._total = 0
        for i in range(self._count):
            self._total += self._tensors[i].size
        bound = 2 * (self._total // CHUNK) + 2 + self._total // (CHUNK - EDGE)
        self._chunk_tensor = <Py_ssize_t*> malloc((bound + 1) * sizeof(Py_ssize_t))
        self._chunk_first = <Py_ssize_t*> malloc((bound + 1) * sizeof(Py_ssize_t))
        if not self._chunk_tensor or not self._chunk_first:
            raise MemoryError
        self._chunk_tensor[0] = self._chunk_first[0] = 0
        room = CHUNK
        for i in range(self._count):
            first = 0
            while self._tensors[i].size - first > room:
                take = room - room % EDGE
                first += take
                k += 1
                self._chunk_tensor[k] = i
                self._chunk_first[k] = first
                room = CHUNK
            room -= self._tensors[i].size - first
        self._chunks = k + 1
        self._chunk_tensor[k + 1] = self._count
        self._chunk_first[k + 1] = 0
        return 0

    cdef int _map_memory(self) except -1:
        """The memory of parameters and state, sorted, for the overlap test of gradients."""
        bounds = sorted(_arrays.byte_bounds(a) for _, a in self._named_arrays() if a.size)
        cdef Py_ssize_t i
        self._intervals = len(bounds)
        self._occupied = <interval_t*> malloc((len(bounds) or 1) * sizeof(interval_t))
        if not self._occupied:
            raise MemoryError
        high = 0
        for i in range(self._intervals):
            # Strided arrays may be interleaved: keep the ends sorted too.
            high = max(high, bounds[i][1])
            self._occupied[i].low = <char*> <size_t> bounds[i][0]
            self._occupied[i].high = <char*> <size_t> high
        return 0

    # ----------------------------------------------------------------- hyperparameters

    def set_groups(self, groups, Py_ssize_t count=1):
        """Give each parameter the number of its group, out of ``count``."""
        cdef Py_ssize_t i
        if len(groups) != self._count or not all(0 <= group < count for group in groups):
            raise ValueError(f"{self.owner}: groups must be {self._count} numbers below {count}")
        cdef hyper_t* hypers = <hyper_t*> calloc(count, sizeof(hyper_t))
        if not hypers:
            raise MemoryError
        free(self._hypers)
        self._hypers, self._groups = hypers, count
        for i in range(self._count):
            self._tensors[i].group = groups[i]

    def set_hyperparameter(self, Py_ssize_t group, str name, value):
        """Set one checked hyperparameter of a group."""
        if not 0 <= group < self._groups:
            raise IndexError(f"{self.owner}: there is no group {group}")
        self._refuse_others("a change of hyperparameters")
        encode(&self._hypers[group], name, value)

    def set_option(self, str name, value):
        """Set one checked option of those around the rule (OPTIONS in rules.py)."""
        cdef options_t options = self._options
        self._refuse_others("a change of options")
        encode_option(&options, name, value)
        self._reserve_norms(&options)
        self._options = options
        self._note_options()

    cdef bint _takes_gradient_norms(self, const options_t* o) noexcept nogil:
        return o.clip_norm != 0 or o.clip_norm_per_tensor != 0 or self._trusts and not self._directs

    cdef int _reserve_norms(self, const options_t* o) except -1:
        """Make room for the norms that these options take, before they are in force."""
        if (self._takes_gradient_norms(o) or self._trusts) and self._blocks == NULL:
            map_blocks(self)
        return 0

    cdef void _note_options(self) noexcept:
        """Keep what follows from the options in force."""
        cdef const options_t* o = &self._options
        self._measures_gradients = self._takes_gradient_norms(o)
        self._measures = self._measures_gradients or self._trusts
        self._adjusts = o.clip_value != 0 or o.grad_scale != 1 or o.lookahead != 0
        self._pieces = o.zero_grad != 0 or self._keeps

    cdef void _derive_constants(self) noexcept nogil:
        """The constants of this step, once for each run of tensors that share them."""
        cdef Py_ssize_t i, last = -1
        cdef constants_t* h = NULL
        cdef hyper_t o
        self._lacking = False
        for i in range(self._count):
            if not self._tensors[i].active:
                continue
            if self._tensors[i].staged:
                self._tensors[i].key = mixed(
                    mixed(mixed(self._seed) ^ (self._steps[i] + 1)) ^ self._tensors[i].name
                )
            if (
                last < 0
                or self._tensors[i].group != self._tensors[last].group
                or self._steps[i] - self._started[i] != self._steps[last] - self._started[last]
                or self._mu_products[i] != self._mu_products[last]
            ):
                o = self._hypers[self._tensors[i].group]
                o.step = <double> (self._steps[i] - self._started[i] + 1)
                o.mu_product = self._mu_products[i]
                h = &self._constants[i]
                memset(h, 0, sizeof(constants_t))
                self._derive(&o, h)
                last = i
            self._tensors[i].h = h
            if self._tensors[i].lacks & (h.flags | UNFIT):
                self._lacking = True

    cdef void _adjust_constants(self) noexcept nogil:
        """What norms and options make of each tensor's constants: its own from now on."""
        cdef Py_ssize_t i
        cdef constants_t* h
        cdef double k = self._options.lookahead, norm
        for i in range(self._count - 1, -1, -1):   # last the one whose constants others share
            if not self._tensors[i].active:
                continue
            self._tensors[i].averages = k != 0 and (self._steps[i] + 1) % <Py_ssize_t> k == 0
            h = &self._constants[i]
            if self._tensors[i].h != h:
                h[0] = self._tensors[i].h[0]
                self._tensors[i].h = h
            norm = self._norms[i] if self._measures_gradients else 0
            adjust(&self._options, h, <double> (self.accumulated + 1), self._norm, norm)
            if h.flags & TRUST:
                apply_trust(h, parameter_norm(self, i), h.scale * norm)

    cdef void _apply_directions(self) noexcept nogil:
        """Put the trust ratios of directions into the constants; the next pass applies these."""
        cdef Py_ssize_t i
        for i in range(self._count):
            if self._tensors[i].active and self._constants[i].flags & DIRECTION:
                apply_trust(
                    &self._constants[i], parameter_norm(self, i), direction_norm(self, i)
                )
                self._constants[i].flags ^= DIRECTION | APPLY

    cdef int _refuse_missing_state(self) except -1:
        """Refuse to run where the derived flags touch a state array that is not there."""
        cdef Py_ssize_t i
        cdef int j
        if not self._lacking:
            return 0
        for i in range(self._count):
            if not self._tensors[i].active:
                continue
            for j in range(2, self._streams):
                if self._tensors[i].data[j] == NULL and (
                    not self._flags[j] or self._tensors[i].h.flags & self._flags[j]
                ):
                    what = _arrays.named("parameter", self.labels[i])
                    raise ValueError(f"{self.owner}: {what} has no {self.rule.state[j - 2]}")
        return 0

    # ----------------------------------------------------------------- gradients

    cdef int _take_gradients(self, tuple gradients) except -1:
        cdef Py_ssize_t i
        if self._hypers == NULL:
            raise RuntimeError(f"{self.owner}: the plan has no groups yet (set_groups)")
        if len(gradients) != self._count:
            raise ValueError(
                f"{self.owner}: expected {self._count} gradients, got {len(gradients)}"
            )
        self._gradients = gradients
        for i in range(self._count):
            if not self._take_alike(
                i, PyTuple_GET_ITEM(gradients, i), PyList_GET_ITEM(self.params, i)
            ):
                self._take_gradient(i, gradients[i])
        if self._options.zero_grad:
            self._check_zeroable(gradients)
        return 0

    cdef int _check_zeroable(self, tuple gradients) except -1:
        """Refuse gradients that cannot be zeroed in place; the same ones are checked once."""
        cdef Py_ssize_t i
        cdef tensor_t* t
        cdef bint known = True
        for i in range(self._count):
            t = &self._tensors[i]
            if gradients[i] is not None and (
                self._gradients[i] is not gradients[i]
                or t.layout[1] != NULL
                or t.data[1] != t.zeroable
                or not cnp.PyArray_ISWRITEABLE(<cnp.ndarray> self._gradients[i])
            ):
                known = False
                break
        if known:
            return 0
        named = []
        for label, g, p in zip(self.labels, gradients, self.params):
            if g is not None:
                what = _arrays.named("gradient of parameter", label)
                g = _arrays.shared(self.owner, what, g)   # another library's, over the same memory
                _arrays.check_zeroable(self.owner, what, g, p)
                named.append((what, g))
        _arrays.refuse_overlap(self.owner, named)
        for i in range(self._count):
            self._tensors[i].zeroable = self._tensors[i].data[1]
        return 0

    cdef bint _take_alike(self, Py_ssize_t i, PyObject* gradient, PyObject* p) noexcept:
        """Point a stream at a gradient that lies in memory as its parameter does, in C order.

        The common case and nothing but: with `_take_gradient` alone a step over a thousand small
        tensors takes a quarter longer. False, and nothing done, where it is another case or wrong.
        """
        cdef tensor_t* t = &self._tensors[i]
        cdef char* data
        cdef char* end
        if t.staged or t.data[1] == NULL or self._held[i]:
            return False   # the first gradient goes the general way too
        if not cnp.PyArray_CheckExact(<object> gradient):
            return False
        if not alike(<cnp.ndarray> gradient, <cnp.ndarray> p, t.size):
            return False
        if <char*> cnp.PyArray_DATA(<cnp.ndarray> p) != t.data[0]:
            return False
        data = <char*> cnp.PyArray_DATA(<cnp.ndarray> gradient)
        if data != t.seen_gradient:
            end = data + t.size * cnp.PyArray_ITEMSIZE(<cnp.ndarray> gradient)
            if self._between(t.gap, data, end):
                self._gap = t.gap
            elif self._between(self._gap, data, end):   # beside the gradient before it
                t.gap = self._gap
            else:
                return False
            t.seen_gradient = data
        t.data[1] = data
        t.held = False
        t.active = True
        return True

    cdef int _take_gradient(self, Py_ssize_t i, object gradient) except -1:
        """Check one gradient and point its stream at it; the common case touches no Python."""
        cdef tensor_t* t = &self._tensors[i]
        cdef cnp.ndarray p = <cnp.ndarray> self.params[i]
        cdef cnp.ndarray g
        cdef char* data
        cdef int storage = nearest(t.storage[t.home])
        t.held = self._held[i]
        t.active = t.held or gradient is not None
        if gradient is None:
            t.data[1] = NULL
            t.seen_gradient = NULL
        if not t.active:
            return 0
        if not cnp.PyArray_ISWRITEABLE(p):   # it was when the plan was made
            _arrays.check_parameter(
                self.owner, _arrays.named("parameter", self.labels[i]), self.params[i]
            )
        if <char*> cnp.PyArray_DATA(p) != t.data[t.home] or cnp.PyArray_SIZE(p) != t.size:
            what = _arrays.named("parameter", self.labels[i])
            raise ValueError(f"{self.owner}: {what} was resized; bind it anew with rebind")
        if gradient is None:   # what it has accumulated is all there is
            return 0
        if not cnp.PyArray_CheckExact(gradient) or not plain(<cnp.ndarray> gradient, p):
            what = _arrays.named("gradient of parameter", self.labels[i])
            gradient = _arrays.as_gradient(self.owner, what, gradient, self.params[i])
            if type(self._gradients) is tuple:
                self._gradients = list(self._gradients)
            self._gradients[i] = gradient
            storage = _storage.kind_of(gradient.dtype)
        g = <cnp.ndarray> gradient
        data = <char*> cnp.PyArray_DATA(g)
        if storage != t.storage[1] or t.data[1] == NULL:
            t.storage[1] = storage
            t.itemsize[1] = cnp.PyArray_ITEMSIZE(g)
            t.seen_gradient = NULL
            self._restage(i)
        if not (t.dense and same_order(g, p)):
            self._bind_gradient(i, gradient)
            low, high = _arrays.byte_bounds(gradient)
            self._refuse_overlap(i, gradient, <char*> <size_t> low, <char*> <size_t> high)
            return 0
        t.data[1] = data
        if t.layout[1] != NULL:
            free(t.layout[1])
            t.layout[1] = NULL
            self._restage(i)
        if data != t.seen_gradient:
            t.seen_gradient = NULL
            self._refuse_overlap(i, gradient, data, data + t.size * t.itemsize[1])
            t.seen_gradient = data
        return 0

    cdef int _bind_gradient(self, Py_ssize_t i, object gradient) except -1:
        cdef Py_ssize_t views = len(self._views)
        self._tensors[i].seen_gradient = NULL
        self._bind(i, 1, gradient)
        del self._views[views:]   # a gradient is held for one call only
        return 0

    cdef bint _between(self, Py_ssize_t k, char* low, char* high) noexcept:
        """Whether some memory lies between two neighbours of the sorted intervals."""
        if k > 0 and self._occupied[k - 1].high > low:
            return False
        return k == self._intervals or self._occupied[k].low >= high

    cdef int _refuse_overlap(
        self, Py_ssize_t i, object gradient, char* low, char* high
    ) except -1:
        cdef Py_ssize_t left = 0, right = self._intervals, middle
        if self._tensors[i].size == 0 or self._between(self._tensors[i].gap, low, high):
            return 0
        while left < right:
            middle = (left + right) // 2
            if self._occupied[middle].high <= low:
                left = middle + 1
            else:
                right = middle
        self._tensors[i].gap = self._gap = left
        if self._between(left, low, high):
            return 0
        for what, array in self._named_arrays():
            if _arrays.share_memory(array, gradient):
                label = _arrays.named("gradient of parameter", self.labels[i])
                raise ValueError(f"{self.owner}: {label} overlaps {what} in memory")
        return 0

    cdef Py_ssize_t _first_nonfinite(self) noexcept nogil:
        """The first tensor whose gradient holds NaN or inf, or does once unscaled, or -1."""
        cdef Py_ssize_t i
        cdef double scale = self._unbounded_scale()
        for i in range(self._count):
            if self._tensors[i].active and not self._finite(&self._tensors[i], scale):
                return i
        return -1

    cdef double _unbounded_scale(self) noexcept nogil:
        """What unscaling multiplies the gradients by, where they may overflow by it; 1: not."""
        cdef options_t* o = &self._options
        cdef double scale = gradient_share(o, <double> (self.accumulated + 1))
        if self._adding or o.clip_value or scale <= 1:
            return 1
        if 0 < o.clip_norm < INFINITY or 0 < o.clip_norm_per_tensor < INFINITY:
            return 1
        return scale

    cdef bint _finite(self, const tensor_t* t, double scale) noexcept nogil:
        """Whether a gradient, its sum with what has been accumulated and that scaled is finite."""
        cdef scratch_t* s = self._room(0)
        cdef char* g
        cdef Py_ssize_t n, first = 0
        if t.dtype == 0:
            scale = <double> <float> scale   # a product of two floats is exact: rounded once
        if t.layout[1] == NULL and t.storage[1] == PLAIN and not t.held and scale == 1:
            return SPANS.finite[t.dtype](t.data[1], t.size)
        while first < t.size:
            n = min(<Py_ssize_t> BLOCK, t.size - first)
            g = self._gradient(t, first, n, s, False)
            if scale != 1:
                SPANS.scale[t.dtype](s.block[0], g, scale, n)
                g = s.block[0]
            if not SPANS.finite[t.dtype](g, n):
                return False
            first += n
        return True

    cdef char* _gradient(
        self, const tensor_t* t, Py_ssize_t first, Py_ssize_t n, scratch_t* s, bint in_c_order
    ) noexcept nogil:
        """A block of a gradient, what has been accumulated included: in place or in scratch."""
        cdef int to = self._streams + ACCUMULATOR
        cdef char* g = gather(t, 1, first, n, s.block[0], s, in_c_order)
        cdef char* held = gather(t, to, first, n, s.block[1], s, in_c_order)
        return self._with_held(t, g, held, n, s.block[1])

    cdef char* _with_held(
        self, const tensor_t* t, char* g, char* held, Py_ssize_t n, char* scratch
    ) noexcept nogil:
        """The sum of a piece of the gradient and of its accumulator."""
        if not t.held:
            return g
        if g == NULL:
            return held
        if held != scratch:
            memcpy(scratch, held, n * width(t))
        SPANS.add[t.dtype](scratch, g, n)
        return scratch

    # ----------------------------------------------------------------- the step

    def check(self, tuple gradients):
        """Check the gradients of a call; returns them, cast where that was needed."""
        self._enter()
        try:
            with ieee_mode():
                self._take_gradients(gradients)
            return list(self._gradients)
        finally:
            self._gradients = None
            self._busy = False

    def alone(self, str what, function, *args, **kwargs):
        """Call a function while no step, and nothing else that comes here, is under way.

        It may come here again itself. ``what`` it does is for the message of those refused; None:
        it is a part of a step, and nothing else may come here from it.

        Raises
        ------
        RuntimeError
            While a step or another such call is under way, in another thread or around this one.
        """
        cdef bint outermost = self._occupy(STEP if what is None else what)
        try:
            return function(*args, **kwargs)
        finally:
            if outermost:
                self._busy = False

    def step(self, tuple gradients, int num_threads=0, int on_nonfinite=PROPAGATE):
        """Apply the rule to every parameter that has a gradient.

        Parameters
        ----------
        gradients : tuple of (ndarray or None)
        num_threads : int
            0: the engine's own choice.
        on_nonfinite : int
            The position in ON_NONFINITE (rules.py) of what to do about NaN or inf in a gradient.

        Returns
        -------
        bool
            False if nothing was done because a gradient is not finite (`nonfinite` is then the
            label of its parameter), or if the gradients were accumulated (it is None). All that
            counts calls has counted this one by then: an interrupt comes before or after.
        """
        cdef optkern_mode_t mode
        self._enter()
        mode = optkern_ieee_mode()   # casts and constants count too
        try:
            return self._step(gradients, num_threads, on_nonfinite)
        finally:
            self._gradients = None
            self._busy = False
            optkern_restore_mode(mode)

    def flush(self, int num_threads, int on_nonfinite):
        """Take the step whose gradients wait in the accumulators, without waiting for more calls.

        Arguments and result are those of `step`; False too where nothing waits.
        """
        cdef optkern_mode_t mode
        cdef Py_ssize_t calls = self.accumulated
        cdef double every = self._options.accumulate
        cdef bint applied = False
        self._enter()
        mode = optkern_ieee_mode()
        try:
            self.nonfinite = None
            if calls:   # the last of as many calls, with no gradient of its own
                self.accumulated, self._options.accumulate = calls - 1, calls
                applied = self._step((None,) * self._count, num_threads, on_nonfinite)
            return applied
        finally:
            self._options.accumulate = every
            self.accumulated = 0 if applied else calls
            self._gradients = None
            self._busy = False
            optkern_restore_mode(mode)

    cdef int _enter(self) except -1:
        """One call at a time: the gradients of a second one would replace those of the first."""
        if self.refusal is not None:
            raise RuntimeError(f"{self.owner}: {self.refusal}")
        self._occupy(STEP)
        return 0

    cdef bint _occupy(self, str what) except -1:
        """Begin a call that is alone; False where it is a part of one already."""
        cdef bint outermost = not self._is_busy()
        self._refuse_others(what)
        self._busy, self._forks, self._holder = True, forks, PyThread_get_thread_ident()
        self._doing = what if outermost else self._doing
        return outermost

    cdef bint _is_busy(self) noexcept:
        """Whether a call is under way: in this process, that is; a fork takes no threads along."""
        return self._busy and self._forks == forks

    cdef int _refuse_others(self, str what) except -1:
        """Raise where a call is under way that this one is no part of, or this plan is retired."""
        cdef bint inner = what is not STEP and self._doing is not STEP
        if self._is_busy() and not (inner and self._holder == PyThread_get_thread_ident()):
            end = "an optimizer takes one step at a time"
            if inner or what is not self._doing:
                end = f"{what} has to wait for its end"
            raise RuntimeError(
                f"{self.owner}: {self._doing} is under way already, in another thread or in a "
                f"callback; {end}"
            )
        if self.retired:
            raise RuntimeError(
                f"{self.owner}: its parameters or state have been bound anew in another thread "
                f"just now; {what} has to be repeated"
            )
        return 0

    cdef bint _step(self, tuple gradients, int num_threads, int on_nonfinite) except -1:
        cdef bint check_finite = on_nonfinite != PROPAGATE
        self._take_gradients(gradients)
        self._reserve_scratch(self._thread_limit(num_threads))
        self._bad = -1
        self._check_finite = check_finite
        self._adding = self.accumulated + 1 < self._options.accumulate
        # Norms of the gradients find what is not finite on their own.
        if check_finite and (
            self._adding or not self._measures_gradients or self._unbounded_scale() != 1
        ):
            self._bad = self._first_nonfinite()
        if self._bad < 0:
            if not self._adding:
                self.norm_taken = self._measures_gradients
                self._derive_constants()
                self._refuse_missing_state()
            self._run_somehow(num_threads)
        self.nonfinite = self.labels[self._bad] if self._bad >= 0 else None
        if self._bad < 0:
            self._count_call()
        elif on_nonfinite == SKIP:
            self._skip()
        return self._bad < 0 and not self._adding

    cdef void _skip(self) noexcept nogil:
        """Count a call whose gradients are left out; with `zero_grad` they are zeroed still."""
        cdef Py_ssize_t i, first
        cdef tensor_t* t
        for i in range(self._count if self._options.zero_grad else 0):
            t = &self._tensors[i]
            first = 0
            while t.data[1] != NULL and first < t.size:
                zero(t, 1, first, min(<Py_ssize_t> PIECE, t.size - first), self._room(0))
                first += PIECE
        self.skipped += 1

    cdef int _run_somehow(self, int num_threads) except -1:
        """Run with the threads asked for, or with the engine's own choice."""
        cdef int threads = self._thread_limit(num_threads)
        if threads > 1 and num_threads == 0 and not self._adding:
            self._run_measured(threads)
        elif threads == 1 and self._total < KEEP_GIL:
            self._run(1)
        else:
            if num_threads == 0 and not self.prefers_threads:
                threads = 1
            with nogil:
                self._run(threads)
        return 0

    cdef void _count_call(self) noexcept nogil:
        """Count the call that has been done."""
        cdef Py_ssize_t i
        if self._adding:
            self.accumulated += 1
            for i in range(self._count):
                self._held[i] = self._held[i] or self._tensors[i].data[1] != NULL
            return
        self.accumulated = 0
        self.applied += 1
        for i in range(self._count):
            if self._tensors[i].active:
                self._held[i] = False
                if self._has_velocity and self._started[i] == self._steps[i]:
                    if not self._tensors[i].h.flags & MOMENTUM:
                        self._started[i] += 1   # its first velocity is still to come
                self._steps[i] += 1
                self._mu_products[i] = self._tensors[i].h.mu_product

    cdef int _thread_limit(self, int num_threads) noexcept:
        """The threads that a step is to use, or, for 0, the most that it may choose."""
        if forked or not OPTKERN_OPENMP or self._chunks == 1:
            return 1
        if num_threads == 0:
            num_threads = current_limit() if self._total >= SERIAL else 1
        return min(num_threads, <int> min(self._chunks, <Py_ssize_t> 1024))

    cdef int _run_measured(self, int limit) except -1:
        """Run with one thread or with `limit`, whichever has been faster here."""
        cdef Py_ssize_t i, active = 0
        for i in range(self._count):
            active += self._tensors[i].size if self._tensors[i].active else 0
        if active < SERIAL:
            with nogil:
                self._run(1)
            return 0
        if limit != self._tried:   # what was measured was measured with another number
            self._choice, self._tried = Choice(), limit
        with nogil:
            self._run(limit if self._choice.begin(optkern_seconds()) else 1)
            self._choice.end(optkern_seconds(), <double> active / self._total)
        return 0

    @property
    def prefers_threads(self):
        """What has been measured: one thread or many."""
        return self._choice.prefers_many

    def thread_report(self, int num_threads=0):
        """How many threads a step uses and why: a `ThreadReport`; ``num_threads`` as in `step`."""
        cdef int limit = self._thread_limit(num_threads)
        measured = limit > 1 and num_threads == 0
        if not OPTKERN_OPENMP:
            reason = "optkern was built without OpenMP"
        elif forked:
            reason = "a forked child is serial until told otherwise, as OpenMP may hang in it"
        elif num_threads == 0 and self._total < SERIAL:
            reason = f"a second thread does not pay off for fewer than {SERIAL:,} elements"
        elif self._chunks == 1:
            reason = f"the elements are not more than one thread's share of {CHUNK:,}"
        elif num_threads:
            reason = f"num_threads={num_threads} was given"
        elif limit == 1:
            reason = "the limit is one thread (optkern.get_num_threads)"
        else:
            reason = ""
        choice = self._choice if measured and limit == self._tried else Choice()
        return _threads.ThreadReport(reason, limit, measured, choice)

    cdef int _reserve_scratch(self, int threads) except -1:
        """Make room for what so many threads stage, where anything is staged."""
        cdef bint wanted
        cdef char* rooms
        cdef int k
        wanted = self._staging or self._pieces or self._measures or self._adjusts
        if wanted and threads > self._room_count:
            rooms = <char*> calloc(threads * ROOM + LINE, 1)
            if rooms == NULL:
                raise MemoryError
            free(self._rooms)
            free(self._tiles)   # the new rooms know of none
            self._tiles = NULL
            self._rooms, self._room_count = rooms, threads
        if self._measures and self._sweeping and self._tiles == NULL:
            self._tiles = <char*> malloc(self._room_count * TILE + LINE)
            if self._tiles == NULL:
                raise MemoryError
            for k in range(self._room_count):
                self._room(k).tile = self._tiles + (-<size_t> self._tiles % LINE) + k * TILE
        return 0

    cdef inline scratch_t* _room(self, int thread) noexcept nogil:
        """A thread's scratch; it begins with a cache line. NULL where none is reserved."""
        cdef size_t start = <size_t> self._rooms
        if start == 0:
            return NULL
        return <scratch_t*> (start + (-start % LINE) + <size_t> thread * ROOM)

    cdef void _run(self, int threads) noexcept nogil:
        global region_entered
        cdef scratch_t* s = self._room(0)
        cdef Py_ssize_t k
        if self._measures and not self._adding:
            measure(self, threads)
            if self._bad >= 0:
                return
        elif (self._adjusts or self.accumulated) and not self._adding:
            self._adjust_constants()
        if threads == 1:   # no chunks: their dispatch costs 2 % in cache
            for k in range(self._count):
                if self._tensors[k].active:
                    self._run_span(&self._tensors[k], 0, self._tensors[k].size, s)
            return
        region_entered = True
        for k in prange(self._chunks, schedule="dynamic", chunksize=1, num_threads=threads):
            self._run_chunk(k, self._room(threadid()))

    cdef void _run_chunk(self, Py_ssize_t k, scratch_t* s) noexcept nogil:
        cdef Py_ssize_t i = self._chunk_tensor[k], first = self._chunk_first[k], end
        cdef Py_ssize_t last = self._chunk_tensor[k + 1], stop = self._chunk_first[k + 1]
        cdef optkern_mode_t mode = optkern_ieee_mode()
        while i < last or (i == last and first < stop):
            end = stop if i == last else self._tensors[i].size
            if self._tensors[i].active and end > first:
                self._run_span(&self._tensors[i], first, end - first, s)
            i += 1
            first = 0
        optkern_restore_mode(mode)

    cdef void _run_span(
        self, tensor_t* t, Py_ssize_t first, Py_ssize_t n, scratch_t* s
    ) noexcept nogil:
        cdef char* at[MAX_STREAMS]
        cdef Py_ssize_t head
        cdef int j
        if self._adding:
            self._accumulate(t, first, n, s)
        elif not t.staged and not self._pieces:
            for j in range(self._streams):
                at[j] = t.data[j] + first * t.itemsize[j] if t.data[j] else NULL
            if n >= LONG:   # begin where a cache line does: zeros_beside in _arrays.py
                head = <Py_ssize_t> (-<size_t> at[0] % LINE) // t.itemsize[0]
                SPANS.update[self._index][t.dtype](t.h, at, head, first)
                for j in range(self._streams):
                    if at[j]:
                        at[j] += head * t.itemsize[j]
                n -= head
                first += head
            SPANS.update[self._index][t.dtype](t.h, at, n, first)
        elif self._pieces or not t.compact or not self._run_compact(t, first, n, s):
            self._run_pieces(t, first, n, NULL, s)

    cdef void _run_pieces(
        self, const tensor_t* t, Py_ssize_t first, Py_ssize_t n, char* direction, scratch_t* s
    ) noexcept nogil:
        """Run the rule and what is around it piece by piece.

        The direction, where it is asked for, is written instead of the parameter.
        """
        cdef char* at[MAX_STREAMS]
        cdef Py_ssize_t here = first, piece, end = first + n
        cdef int j
        while here < end:
            piece = min(PIECE - here % PIECE if t.staged else <Py_ssize_t> WORK, end - here)
            for j in range(self._streams + EXTRA):
                at[j] = fetch(t, j, here, piece, s.streams[j], s)
            at[1] = self._with_held(t, at[1], at[self._streams + ACCUMULATOR], piece, s.sum)
            if direction != NULL:
                memcpy(direction + (here - first) * width(t), at[0], piece * width(t))
                at[0] = direction + (here - first) * width(t)
            SPANS.update[self._index][t.dtype](t.h, at, piece, here)
            if direction == NULL:
                self._finish_piece(t, at, here, piece, s)
                if t.home != 0:
                    put(t, t.home, here, piece, at[0], NULL, s)
            self._put_state(t, at, here, piece, s, direction != NULL)
            here += piece

    cdef void _put_state(
        self, const tensor_t* t, char** at, Py_ssize_t first, Py_ssize_t n, scratch_t* s,
        bint directing,
    ) noexcept nogil:
        """Bring a piece of the parameter (not of a direction) and its state back."""
        cdef bint drawn = False
        cdef int j
        for j in range(self._streams + EXTRA):
            if at[j] == NULL or j == 1 or j == 0 and directing:
                continue
            if t.storage[j] >= BFLOAT16_STATE and not drawn:
                SPANS.random(s.random, <unsigned int> first, random_key(t, first), n)
                drawn = True
            put(t, j, first, n, at[j], s.random, s)

    cdef void _finish_piece(
        self, const tensor_t* t, char** at, Py_ssize_t first, Py_ssize_t n, scratch_t* s
    ) noexcept nogil:
        """What follows the rule: Lookahead, the average, zeros for the gradient."""
        cdef char* slow = at[self._streams + SLOW]
        cdef char* ema = at[self._streams + EMA]
        if t.averages:
            SPANS.approach[t.dtype](slow, at[0], self._options.lookahead_alpha, n)
            memcpy(at[0], slow, n * width(t))
        if ema != NULL:
            SPANS.approach[t.dtype](ema, at[0], 1 - self._options.ema_decay, n)
        if self._options.zero_grad:
            zero(t, 1, first, n, s)

    cdef void _accumulate(
        self, const tensor_t* t, Py_ssize_t first, Py_ssize_t n, scratch_t* s
    ) noexcept nogil:
        """Add the gradient to its accumulator, or begin with it."""
        cdef int to = self._streams + ACCUMULATOR
        cdef Py_ssize_t here = first, piece, end = first + n
        cdef char* g
        cdef char* held
        while here < end and t.data[1] != NULL:
            piece = min(PIECE - here % PIECE if t.staged else <Py_ssize_t> WORK, end - here)
            g = fetch(t, 1, here, piece, s.streams[1], s)
            held = fetch(t, to, here, piece, s.streams[to], s)
            if t.held:
                SPANS.add[t.dtype](held, g, piece)
            else:
                memcpy(held, g, piece * width(t))
            put(t, to, here, piece, held, NULL, s)
            if self._options.zero_grad:
                zero(t, 1, here, piece, s)
            here += piece

    cdef bint _run_compact(
        self, tensor_t* t, Py_ssize_t first, Py_ssize_t n, scratch_t* s
    ) noexcept nogil:
        """Run the rule's loop over compact state; False where it has none for these options."""
        cdef bint bytes = t.storage[2] != BFLOAT16_STATE
        cdef compact_t span = SPANS.compact[self._index][bytes][t.storage[0] != PLAIN]
        cdef unsigned char* scales[MAX_STREAMS]
        cdef char* at[MAX_STREAMS]
        cdef Py_ssize_t unit = SCALED if bytes else 4 // t.itemsize[0]   # a block, a pair, or one
        cdef Py_ssize_t run, head, done, rest = n % unit, end = first + n - rest
        cdef int j
        if span == NULL or rest == n:
            return False
        while first < end:
            run = min(SEGMENT - first % SEGMENT, end - first)
            for j in range(self._streams):
                at[j] = t.data[j] + first * t.itemsize[j] if t.data[j] else NULL
                scales[j] = t.scales[j] + first // SCALED if t.scales[j] else NULL
            if run >= LONG and not bytes:   # as for dense state, but whole units
                head = <Py_ssize_t> (-<size_t> at[0] % LINE) // t.itemsize[0] // unit * unit
                run = head if head else run
            done = span(t.h, at, scales, run, <unsigned int> first, random_key(t, first))
            if done < 0:
                return False
            first += done
            if done < run - run % unit:
                self._run_pieces(t, first, SCALED, NULL, s)
                first += SCALED
        if rest:
            self._run_pieces(t, first, rest, NULL, s)
        return True


cdef object dense_view(array):
    """A dense array as a typed memoryview, which refuses what the spans cannot read."""
    cdef const float[::1] f32
    cdef const double[::1] f64
    cdef const unsigned short[::1] u16
    cdef const unsigned char[::1] u8
    if array.itemsize == 8:
        f64 = array
        return f64
    if array.itemsize == 4:
        f32 = array
        return f32
    if array.itemsize == 2:
        u16 = array
        return u16
    u8 = array
    return u8


cdef void run_jobs(job_t job, void* context, Py_ssize_t jobs, int threads) noexcept nogil:
    """Call ``job(context, k)`` for every k below `jobs`; the threads are the engine's alone."""
    global region_entered
    cdef Py_ssize_t k
    if threads == 1:
        for k in range(jobs):
            job(context, k)
        return
    region_entered = True
    for k in prange(jobs, schedule="dynamic", chunksize=1, num_threads=threads):
        job(context, k)


cdef double now() noexcept nogil:
    """Seconds, of a clock that only goes forward."""
    return optkern_seconds()


cdef inline bint same_order(cnp.ndarray g, cnp.ndarray p) noexcept:
    """Whether a gradient lies in memory as its gapless parameter does, and is aligned."""
    cdef int k
    if not cnp.PyArray_ISALIGNED(g):
        return False
    if cnp.PyArray_IS_C_CONTIGUOUS(g) and cnp.PyArray_IS_C_CONTIGUOUS(p):
        return True
    if cnp.PyArray_ITEMSIZE(g) != cnp.PyArray_ITEMSIZE(p):
        return False
    for k in range(cnp.PyArray_NDIM(g)):
        if cnp.PyArray_STRIDES(g)[k] != cnp.PyArray_STRIDES(p)[k] and cnp.PyArray_DIMS(g)[k] != 1:
            return False
    return True


cdef inline bint alike(cnp.ndarray g, cnp.ndarray p, Py_ssize_t size) noexcept:
    """Whether both are C arrays of one dtype and shape, and of this size; p is writable."""
    cdef int k
    cdef Py_ssize_t elements = 1
    if not (cnp.PyArray_ISCARRAY_RO(g) and cnp.PyArray_ISCARRAY(p)):
        return False
    if cnp.PyArray_TYPE(g) != cnp.PyArray_TYPE(p) or cnp.PyArray_NDIM(g) != cnp.PyArray_NDIM(p):
        return False
    for k in range(cnp.PyArray_NDIM(g)):
        if cnp.PyArray_DIMS(g)[k] != cnp.PyArray_DIMS(p)[k]:
            return False
        elements *= cnp.PyArray_DIMS(g)[k]
    return elements == size


cdef inline bint plain(cnp.ndarray g, cnp.ndarray p) noexcept:
    """Whether a gradient has its parameter's dtype and shape, in native byte order."""
    cdef int k
    if cnp.PyArray_TYPE(g) != cnp.PyArray_TYPE(p) or cnp.PyArray_NDIM(g) != cnp.PyArray_NDIM(p):
        return False
    if not cnp.PyArray_ISNOTSWAPPED(g):
        return False
    for k in range(cnp.PyArray_NDIM(g)):
        if cnp.PyArray_DIMS(g)[k] != cnp.PyArray_DIMS(p)[k]:
            return False
    return True


include "_norms.pxi"
include "_sweep.pxi"
include "_vectors.pxi"
