# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False
"""The runtime: the instruction set in use, threads, forks, and the one parallel region.

1. One thread never enters a region: threads do not survive a fork, and libgomp hangs in the child.
2. The number of threads never shows in the bits, so the engine may choose it by what it measured.
3. Work is handed out dynamically: fixed halves collapse when another process takes a core. On Linux
   workers of optkern's own take it (`_workers.pxd`); OpenMP's where these are another thread's, and
   elsewhere.
4. Whatever runs in a region computes in the IEEE mode: a thread's own may be another's doing.
"""
import os

from cpython.pycapsule cimport PyCapsule_GetPointer
from cython.parallel cimport prange, threadid
from libc.string cimport memcpy

from optkern.kernels import _isa
from optkern.kernels._constants cimport constants_t
from optkern.kernels._cpu cimport optkern_cpu_level
from optkern.kernels._scalar cimport (
    optkern_ieee_mode, optkern_mode_t, optkern_restore_mode,
)
from optkern.kernels._workers cimport (
    OPTKERN_WORKERS, optkern_is_near, optkern_note_begin, optkern_note_end, optkern_set_patient,
    optkern_share_out,
)
from optkern.kernels.span cimport rule_spans_t, spans_t
from optkern.rules import COMPILED, LIMITS, RULES, loops_hash, loops_part

cdef extern from *:
    """
    #if defined(_OPENMP)
    #include <omp.h>
    #define OPTKERN_OPENMP _OPENMP
    #else
    #define OPTKERN_OPENMP 0
    static int omp_get_max_threads(void) { return 1; }
    #endif

    #if defined(_WIN32)
    #ifndef WIN32_LEAN_AND_MEAN
    #define WIN32_LEAN_AND_MEAN
    #endif
    #ifndef NOMINMAX
    #define NOMINMAX
    #endif
    #include <windows.h>
    #undef near  /* of 16-bit days: names here */
    #undef far
    static double optkern_seconds(void) {
        LARGE_INTEGER ticks, each_second;   /* clock() there counts milliseconds */
        QueryPerformanceCounter(&ticks);
        QueryPerformanceFrequency(&each_second);
        return (double)ticks.QuadPart / (double)each_second.QuadPart;
    }
    #else
    #include <time.h>
    static double optkern_seconds(void) {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
    }
    #endif

    /* Said by several threads at once, where several optimizers step. */
    #if defined(__GNUC__) || defined(__clang__)
    static int optkern_region_entered = 0;
    #define optkern_enter_region() __atomic_store_n(&optkern_region_entered, 1, __ATOMIC_RELAXED)
    #else  /* MSVC, where a volatile number is written at once */
    static volatile int optkern_region_entered = 0;
    #define optkern_enter_region() (optkern_region_entered = 1)
    #endif

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
    const bint optkern_region_entered
    void optkern_enter_region() noexcept nogil

# --------------------------------------------------------------------------- instruction set

SPANS = NULL
cdef str ISA = ""
AVAILABLE_ISAS = _isa.available(optkern_cpu_level())


def use_isa(str name):
    """Run the spans of another instruction set from now on (for tests and benchmarks)."""
    global SPANS, ISA
    if name not in AVAILABLE_ISAS:
        raise ValueError(f"instruction set {name!r} is not one of {AVAILABLE_ISAS}")
    cdef spans_t* spans = <spans_t*> PyCapsule_GetPointer(_isa.loops(name).table, "optkern.spans")
    cdef rule_spans_t* loops
    cdef int k
    if spans.sizes != sizeof(spans_t) * 4096 + sizeof(constants_t):
        raise stale(f"_span_{name}")
    for k, rule in enumerate(COMPILED):
        if rule in LIMITS:
            continue
        loops = loops_of(name, rule)
        if loops.few[0] == NULL:
            memcpy(loops.few, loops_of("baseline", rule).few, sizeof(loops.few))
        memcpy(spans.update[k], loops.update, sizeof(loops.update))
        memcpy(spans.ask[k], loops.ask, sizeof(loops.ask))
        memcpy(spans.factored[k], loops.factored, sizeof(loops.factored))
        memcpy(spans.compact[k], loops.compact, sizeof(loops.compact))
        memcpy(spans.master[k], loops.master, sizeof(loops.master))
    memcpy(spans.update[<int> len(RULES)], spans.limit, sizeof(spans.limit))
    SPANS = spans
    ISA = name


cdef rule_spans_t* loops_of(str name, object rule) except NULL:
    """Import a rule's loops for an instruction set."""
    cdef str part = f"{name}_{loops_part(rule)}"
    cdef rule_spans_t* loops
    try:
        loops = <rule_spans_t*> PyCapsule_GetPointer(
            _isa.loops(part).tables[rule.formula], "optkern.rule_spans"
        )
    except (ModuleNotFoundError, KeyError):
        raise stale(f"_span_{part}") from None
    if loops.rows != <unsigned long long> loops_hash(rule) or (
        loops.sizes != sizeof(rule_spans_t) * 4096 + sizeof(constants_t)
    ):
        raise stale(f"_span_{part}")
    return loops


def stale(str module):
    """Say that loops are missing, or are of other rows than there are now."""
    return ImportError(
        f"optkern: the loops of kernels/{module} were built from other rows than rules/ has now, "
        "and would compute other rules; build again: python setup.py build_ext --inplace in its "
        "folder, or pip install --force-reinstall"
    )


def isa():
    """Return the instruction set the kernels run: ``"v4"``, ``"v3"`` or ``"baseline"``."""
    return ISA


use_isa(_isa.chosen(AVAILABLE_ISAS))

# --------------------------------------------------------------------------- threads

OPENMP = OPTKERN_OPENMP
COMPILER = OPTKERN_COMPILER.decode()
cdef int initial_openmp_threads = omp_get_max_threads()   # also makes the runtime read its settings
cdef int thread_limit = 1
cdef bint limit_explicit = False
cdef bint forked = False           # serial until the user says otherwise
cdef bint hangs = False            # forked after a region: another one would never end
cdef int forks = 0                 # between this process and the one that loaded optkern


def set_thread_limit(int n, bint explicit):
    """Return the number of threads a call may use at the most.

    ``explicit``: the user's own word.
    """
    global thread_limit, limit_explicit, forked
    if hangs and n > 1 and explicit:
        raise RuntimeError(
            "num_threads: this process was forked after its parent had used threads, which do not "
            "survive that; only 1 is possible (start workers by 'spawn' instead)"
        )
    thread_limit = n
    limit_explicit = explicit
    if explicit and not hangs:
        forked = False


def get_thread_limit():
    """Return how many threads a step may use where its own ``num_threads`` is None."""
    return current_limit()


cdef int current_limit() noexcept nogil:
    """Return the default number of threads now.

    A limit lowered from outside (threadpoolctl) counts.
    """
    cdef int openmp = omp_get_max_threads()
    if forked or not OPTKERN_OPENMP:
        return 1
    if limit_explicit and openmp >= initial_openmp_threads:
        return thread_limit
    return min(thread_limit, openmp)


cdef int threads_for(Py_ssize_t elements, Py_ssize_t jobs, int wanted) noexcept nogil:
    """Return the threads for so many jobs, or, for 0, the most that the engine may choose."""
    if forked or not OPTKERN_OPENMP or jobs <= 1:
        return 1
    if wanted == 0:
        wanted = current_limit() if elements >= SERIAL else 1
    return min(wanted, <int> min(jobs, <Py_ssize_t> 1024))


def serial_reason(Py_ssize_t elements, Py_ssize_t jobs, Py_ssize_t share, int wanted):
    """Say why `threads_for` says one thread; an empty string where it may say more.

    ``share``: the elements of one job at the most.
    """
    if not OPTKERN_OPENMP:
        return "optkern was built without OpenMP"
    if forked:
        return "a forked child is serial until told otherwise, as threads do not survive a fork"
    if wanted == 0 and elements < SERIAL:
        return f"a second thread does not pay off for fewer than {SERIAL:,} elements"
    if jobs == 1:
        return f"the elements are not more than one thread's share of {share:,}"
    if wanted == 0 and threads_for(elements, jobs, 0) == 1:
        return "the limit is one thread (optkern.get_num_threads)"
    return ""


cdef void run_jobs(
    job_t job, void* context, Py_ssize_t jobs, int threads
) noexcept nogil:
    """Call ``job(context, k, thread)`` for every k below `jobs`, in the IEEE mode."""
    cdef Py_ssize_t k
    cdef optkern_mode_t mode
    if threads == 1:
        mode = optkern_ieee_mode()
        for k in range(jobs):
            job(context, k, 0)
        optkern_restore_mode(mode)
        return
    optkern_enter_region()
    if optkern_share_out(run_any, <void*> job, context, jobs, threads):
        return
    for k in prange(jobs, schedule="dynamic", chunksize=1, num_threads=threads):
        run_job(job, context, k, threadid())


cdef void run_any(void* job, void* context, Py_ssize_t k, int thread) noexcept nogil:
    run_job(<job_t> job, context, k, thread)


cdef void run_job(job_t job, void* context, Py_ssize_t k, int thread) noexcept nogil:
    cdef optkern_mode_t mode = optkern_ieee_mode()
    job(context, k, thread)
    optkern_restore_mode(mode)


cdef double begun() noexcept nogil:
    """Read the clock, in seconds, where a call begins whose threads are chosen, and note it."""
    cdef double time = optkern_seconds()
    optkern_note_begin(<long long> (1e9 * time))
    return time


cdef double ended() noexcept nogil:
    """Read the clock where such a call ends, and note it."""
    cdef double time = optkern_seconds()
    optkern_note_end(<long long> (1e9 * time))
    return time


cdef bint workers_spin() noexcept nogil:
    """Tell whether calls follow each other so soon that workers wait for the next one awake."""
    return optkern_is_near()


WORKERS = bool(OPTKERN_WORKERS)


def let_workers_sleep(bint always):
    """Choose whether workers go to sleep at once after each region."""
    optkern_set_patient(always)


def workers_wait():
    """Tell, for tests, whether workers would wait awake for the next region."""
    return optkern_is_near()

# --------------------------------------------------------------------------- forks


cdef int count_forks() noexcept nogil:
    """Return the forks between this process and the one that loaded optkern."""
    return forks


def _after_fork():
    global forked, hangs, forks
    forked = True
    forks += 1
    hangs = hangs or optkern_region_entered


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class ieee_mode:
    """Hold this thread to the IEEE defaults, whatever another library has set."""

    def __enter__(self):
        self.old = optkern_ieee_mode()

    def __exit__(self, *exception):
        optkern_restore_mode(self.old)
