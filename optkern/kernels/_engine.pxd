cimport cython
from cpython.ref cimport PyObject

from optkern.kernels._choice cimport Choice
from optkern.kernels._constants cimport constants_t, derive_t, hyper_t, options_t
from optkern.kernels._span cimport BLOCK, MAX_STREAMS, spans_t

cdef enum:
    MAX_DIMS = 64   # NumPy's own limit
    ROUNDED = MAX_STREAMS - 1   # the stream of a parameter that has a master: written, never read
    PIECE = 1024    # elements staged at a time
    WORK = 2048     # elements worked on at a time: they stay in cache between rule and options
    UNFIT = 1 << 30   # in `lacks`, beside the flags of constants_t: whatever they are
    KEEP_GIL = 32768  # elements below which releasing the GIL costs more than it gives
    RESCUE = 600    # squares that overflow are taken of numbers times 2**-RESCUE
    TILE_COLUMNS = 16   # turned into parts of rows at a time: a cache line of float32
    TILE_ROWS = 256     # at most: a column's share of a block's scratch
    AHEAD = 2           # columns by which prefetching is in front of a rule
    SERIAL = 65536  # elements below which a second thread never paid off beside a GEMM

# The streams of the options around the rule, after the rule's own, in the order of OPTION_SLOTS.
cdef enum:
    ACCUMULATOR
    SLOW
    EMA
    EXTRA

# What a step does about NaN or inf in a gradient, in the order of ON_NONFINITE.
cdef enum:
    PROPAGATE
    SKIP
    RAISE

cdef spans_t* SPANS   # of the instruction set in use


cdef struct layout_t:
    # How to walk an array that is not dense: axes from the slowest to the fastest.
    int ndim
    Py_ssize_t shape[MAX_DIMS]
    Py_ssize_t strides[MAX_DIMS]


cdef struct order_t:
    # How to walk a gapless array, that lies in another order, in C order. strides: in elements;
    # axis: each axis' position from the slowest to the fastest.
    int ndim
    Py_ssize_t shape[MAX_DIMS]
    Py_ssize_t strides[MAX_DIMS]
    int axis[MAX_DIMS]


cdef struct scratch_t:
    # What one thread works in, on the plan's heap: a thread's stack may be as small as 64 kB.
    char streams[MAX_STREAMS][PIECE * 8]
    char sum[WORK * 8]            # of a gradient and what has been accumulated
    char block[2][BLOCK * 8]      # what squares are summed of
    char raw[PIECE * 2]           # codes
    char zeros[PIECE * 8]         # never written
    unsigned int random[PIECE]
    layout_t walk                 # of the stream in hand, in C order
    char* tile                    # TILE bytes, where norms of arrays in another order are taken


cdef struct tensor_t:
    # What every step reads stands first: a thousand tensors have to stay in cache.
    Py_ssize_t size
    const constants_t* h
    char* seen_gradient                # where the last gradient known to overlap nothing began
    Py_ssize_t gap                     # between which intervals the last gradient lay
    unsigned int lacks                 # flags that touch state which is not there; UNFIT: always
    int dtype                          # of the arithmetic; 0: float32, 1: float64
    int group
    bint active                        # False: no gradient this time
    bint held                          # its accumulator holds gradients
    bint staged                        # some stream is not dense, or not of the arithmetic's dtype
    char* data[MAX_STREAMS]
    unsigned char itemsize[MAX_STREAMS]   # in memory
    unsigned char storage[MAX_STREAMS]
    bint averages                      # Lookahead's turn
    bint dense                         # the parameter, in its own memory order
    bint compact                       # state is, and all else is dense and of one dtype
    int home                           # the parameter's own stream: 0, or ROUNDED
    unsigned char* scales[MAX_STREAMS]
    unsigned long long name            # what of the tensor goes into its random bits
    unsigned long long key             # of this step's random bits
    layout_t* layout[MAX_STREAMS]      # NULL: dense
    order_t* c_order                   # NULL: the plan's order is C order
    char* zeroable                     # where the last gradient known to be zeroable began


# What the squares are of.
cdef enum:
    GRADIENTS
    PARAMETERS
    DIRECTIONS


cdef struct sweep_t:
    # A tensor as rows along the axis that lies closest in memory; C order takes row after row.
    const tensor_t* t
    int work
    int axis
    Py_ssize_t length             # of that axis
    Py_ssize_t inner              # elements of a row: of the axes after it
    Py_ssize_t first, stop        # the elements in hand, counted in C order
    bint as_is                    # columns are turned from where they lie
    int streams                   # how many are added up
    int stream[2]
    layout_t walk[2]              # in C order; of directions in elements of the plan's order


cdef struct interval_t:
    char* low
    char* high


cdef enum work_t:
    DOT        # partial[block] = x'y
    PROJECT    # partial[j, block] = rows[j]'x
    SUBTRACT   # out = x - sum_j c[j] rows[j], partial[block] = out'y
    SCALE      # out = a x


cdef struct vectors_t:
    # One pass over vectors of n elements, block by block.
    work_t work
    int dtype
    Py_ssize_t n
    Py_ssize_t k
    char* out
    const char* x
    const char* y
    const char* const* rows
    const double* c
    double a
    double* partial                    # a slot for each block, for PROJECT k times as many
    double* wide                       # for PROJECT: BLOCK doubles for each thread
    int rooms                          # and of how many threads


cdef Py_ssize_t count_blocks(Py_ssize_t n) noexcept nogil
cdef int vector_threads(Py_ssize_t n, int wanted) noexcept nogil
cdef double add_blocks(double* partial, Py_ssize_t k) noexcept nogil
cdef double run_vectors(const vectors_t* v, int threads) noexcept nogil


cdef double now() noexcept nogil
cdef void transfer(
    const layout_t* a, char* base, char* scratch, Py_ssize_t first, Py_ssize_t n,
    Py_ssize_t itemsize, bint store,
) noexcept nogil

ctypedef void (*job_t)(void* context, Py_ssize_t k) noexcept nogil

cdef void run_jobs(job_t job, void* context, Py_ssize_t jobs, int threads) noexcept nogil


@cython.final   # calls of its own methods are direct: 3 ns a tensor
cdef class Plan:
    cdef readonly object rule
    cdef readonly str owner
    cdef readonly tuple labels
    cdef readonly list params
    cdef readonly dict state
    cdef readonly object steps, started, mu_products, held, nonfinite
    cdef public object refusal           # why no step may be taken now, or None
    cdef public Py_ssize_t accumulated   # calls whose gradients wait in the accumulators
    cdef public long long applied        # calls that have updated something
    cdef public long long skipped        # calls left out, as a gradient was not finite
    cdef readonly double grad_norm
    cdef readonly bint norm_taken        # by the last step that was not an accumulation
    cdef list _orders, _views
    cdef object _gradients               # a call's; a tuple until one is cast
    cdef derive_t _derive
    cdef int _index, _streams
    cdef Py_ssize_t _count, _total, _chunks, _intervals
    cdef Py_ssize_t _gap                 # where the last gradient searched for lay
    cdef tensor_t* _tensors
    cdef hyper_t* _hypers
    cdef Py_ssize_t _groups
    cdef constants_t* _constants
    cdef long long[::1] _steps, _started
    cdef double[::1] _mu_products
    cdef unsigned char[::1] _held
    cdef options_t _options
    cdef bint _adjusts          # constants depend on options or norms
    cdef bint _measures         # norms are taken before the update
    cdef bint _measures_gradients, _trusts, _directs   # which norms
    cdef bint _pieces           # something is done around the rule while a piece is in cache
    cdef bint _adding           # this call's gradients are only accumulated
    cdef bint _check_finite
    cdef bint _lacking          # the constants derived last touch state that is not there
    cdef bint _directing        # the pass under way takes norms of directions, not gradients
    cdef Py_ssize_t _bad        # the tensor whose gradient is not finite, or -1
    cdef Py_ssize_t* _blocks    # the first block of each tensor, and their number
    cdef char* _rooms           # the scratch of each thread
    cdef char* _tiles           # and more of it, for sweeps
    cdef bint _sweeping         # a stream has been found that sweeps may take
    cdef int _room_count
    cdef bint _staging          # a stream has been found that needs scratch
    cdef double* _partial[2]    # sums of squares of each block: gradients, directions; parameters
    cdef double* _sums[2]       # the same of each tensor
    cdef double* _norms         # of each gradient
    cdef double* _tree          # room for a sum over the tensors
    cdef double _norm           # of all gradients together
    cdef Py_ssize_t* _chunk_tensor
    cdef Py_ssize_t* _chunk_first
    cdef interval_t* _occupied
    cdef Choice _choice                  # of one thread or many
    cdef int _tried                      # how many `many` are in it
    cdef Choice _row_choice              # the same of steps of rows
    cdef int _row_tried
    cdef Py_ssize_t _row_work            # elements of the call that it began with
    cdef public bint retired             # another plan has taken over
    cdef bint _busy                      # a call is under way
    cdef str _doing                      # which
    cdef unsigned long _holder           # in which thread
    cdef int _forks                      # and in which process: so many forks after the first
    cdef bint _has_velocity, _keeps
    cdef bint _at_random        # parameters of 16 bits are rounded stochastically
    cdef unsigned long long _seed
    cdef unsigned int _flags[MAX_STREAMS]   # without which a stream is not touched; 0: always

    cdef int _bind_tensor(self, Py_ssize_t i) except -1
    cdef int _note_c_order(self, tensor_t* t, object p, list order) except -1
    cdef int _bind(self, Py_ssize_t i, int stream, object array) except -1
    cdef int _plan_chunks(self) except -1
    cdef int _map_memory(self) except -1
    cdef int _take_gradients(self, tuple gradients) except -1
    cdef bint _take_alike(self, Py_ssize_t i, PyObject* gradient, PyObject* p) noexcept
    cdef int _take_gradient(self, Py_ssize_t i, object gradient) except -1
    cdef int _bind_gradient(self, Py_ssize_t i, object gradient) except -1
    cdef bint _between(self, Py_ssize_t k, char* low, char* high) noexcept
    cdef int _refuse_overlap(
        self, Py_ssize_t i, object gradient, char* low, char* high
    ) except -1
    cdef void _restage(self, Py_ssize_t i) noexcept
    cdef int _enter(self) except -1
    cdef bint _occupy(self, str what) except -1
    cdef bint _is_busy(self) noexcept
    cdef int _refuse_others(self, str what) except -1
    cdef bint _takes_gradient_norms(self, const options_t* o) noexcept nogil
    cdef int _reserve_norms(self, const options_t* o) except -1
    cdef void _note_options(self) noexcept
    cdef int _refuse_missing_state(self) except -1
    cdef bint _step(self, tuple gradients, int num_threads, int on_nonfinite) except -1
    cdef void _skip(self) noexcept nogil
    cdef Py_ssize_t _first_nonfinite(self) noexcept nogil
    cdef void _derive_constants(self) noexcept nogil
    cdef void _adjust_constants(self) noexcept nogil
    cdef void _apply_directions(self) noexcept nogil
    cdef int _check_zeroable(self, tuple gradients) except -1
    cdef bint _finite(self, const tensor_t* t, double scale) noexcept nogil
    cdef double _unbounded_scale(self) noexcept nogil
    cdef char* _gradient(
        self, const tensor_t* t, Py_ssize_t first, Py_ssize_t n, scratch_t* s, bint in_c_order
    ) noexcept nogil
    cdef char* _with_held(
        self, const tensor_t* t, char* g, char* held, Py_ssize_t n, char* scratch
    ) noexcept nogil
    cdef int _run_somehow(self, int num_threads) except -1
    cdef void _count_call(self) noexcept nogil
    cdef void _run_pieces(
        self, const tensor_t* t, Py_ssize_t first, Py_ssize_t n, char* direction, scratch_t* s
    ) noexcept nogil
    cdef void _put_state(
        self, const tensor_t* t, char** at, Py_ssize_t first, Py_ssize_t n, scratch_t* s,
        bint in_c_order,
    ) noexcept nogil
    cdef void _finish_piece(
        self, const tensor_t* t, char** at, Py_ssize_t first, Py_ssize_t n, scratch_t* s
    ) noexcept nogil
    cdef void _accumulate(
        self, const tensor_t* t, Py_ssize_t first, Py_ssize_t n, scratch_t* s
    ) noexcept nogil
    cdef int _reserve_scratch(self, int threads) except -1
    cdef scratch_t* _room(self, int thread) noexcept nogil
    cdef void _run(self, int threads) noexcept nogil
    cdef void _run_chunk(self, Py_ssize_t k, scratch_t* s) noexcept nogil
    cdef void _run_span(
        self, tensor_t* t, Py_ssize_t first, Py_ssize_t n, scratch_t* s
    ) noexcept nogil
    cdef bint _run_compact(
        self, tensor_t* t, Py_ssize_t first, Py_ssize_t n, scratch_t* s
    ) noexcept nogil
    cdef int _thread_limit(self, int num_threads) noexcept
    cdef int _run_measured(self, int limit) except -1
