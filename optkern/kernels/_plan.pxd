"""What a plan is to compiled code: its tensors, their streams, and what a step works in.

No Python object is in these structs, so that all that runs without the GIL gets a `plan_t` and
nothing else.
"""
from optkern.kernels._constants cimport constants_t, derive_t, hyper_t, options_t
from optkern.kernels.span cimport DRAW, MAX_STREAMS
from optkern.kernels.sums cimport BLOCK
from optkern.kernels._wide cimport wide_t

cdef enum:
    MAX_DIMS = 64   # NumPy's own limit
    ROUNDED = MAX_STREAMS - 1   # the stream of a parameter that has a master: written, never read
    PIECE = 1024    # elements staged at a time
    HELD_SHIFT = 32   # what is held is divided by, as a power of two, where it comes near the range
    WORK = 2048     # elements worked on at a time: they stay in cache between rule and options
    ALWAYS = 1 << 30   # beside the flags of constants_t: whatever they are
    CHUNK = 16384   # elements handed to a thread at a time
    EDGE = 256      # chunk edges within a tensor
    BEYOND = 1 << 18  # elements whose compact arrays are more than a core's caches hold
    KEEP_GIL = 32768  # elements below which releasing the GIL costs more than it gives
    UNIT_LANES = 4   # running sums of a unit: part of the definition of its norm and mean
    UNIT_RESCUE = 600   # a power of two
    LINE = 64       # bytes of a cache line and of the longest vector
    TILE_COLUMNS = 16   # turned into parts of rows at a time: a cache line of float32
    TILE_ROWS = 256     # at most: a column's share of a block's scratch
    AHEAD = 2           # columns by which prefetching is in front of a rule

# The streams of the options around the rule, after the rule's own, in the order of OPTION_SLOTS.
cdef enum:
    ACCUMULATOR
    SLOW
    EMA
    EXTRA

# The words of `unit_layout` in rules/options.py.
cdef enum:
    IN_OUT
    OUT_IN

# What a step does about NaN or inf in a gradient, in the order of ON_NONFINITE.
cdef enum:
    PROPAGATE
    SKIP
    RAISE


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
    unsigned short random[PIECE + 2 * DRAW]
    layout_t walk                 # of the stream in hand, in C order
    char* tile                    # TILE bytes, where norms of arrays in another order are taken


cdef struct whole_t:
    # State that a rule takes as a whole, and what a call under way puts in its place.
    char* data
    char* made
    Py_ssize_t bytes


cdef struct factors_t:
    # A second moment in rows and columns (_factors.pxi), of each matrix of the last two axes.
    Py_ssize_t matrices, rows, columns
    Py_ssize_t tiles, bands       # blocks of a row; parts of the rows
    double* row_sums              # of squares: of each block of each row,
    double* column_sums           # of each band's columns
    char* row_roots               # over which a step is taken: their inverses, in the dtype of the
    char* column_roots            # arithmetic; in one piece with the sums
    double limit                  # of a product of two


cdef struct rows_t:
    # The rows of one array that a call updates, each of them once.
    Py_ssize_t count                  # distinct rows
    Py_ssize_t* row                   # them, in the order in which they first came
    Py_ssize_t* first                 # which gradient came first for each
    Py_ssize_t* next                  # which gradient came next for the same row; -1: none
    Py_ssize_t width                  # elements of a row
    int index                         # of the rule
    int dtype                         # 0: float32, 1: float64
    int streams
    char* data[MAX_STREAMS]           # NULL where the options need none; [1]: one gradient a row
    Py_ssize_t stride[MAX_STREAMS]    # bytes from row to row
    bint packed[MAX_STREAMS]          # the distinct rows alone, one after the other
    const constants_t* h
    const double* box                 # between what parameters are put back; NULL: nothing
    Py_ssize_t given                  # gradients, the repeated rows' among them
    # For the engine, which cannot call into a module that is built upon it: the sum of the squares
    # of a block of what `finite` says whether it is finite, the rows' gradients times a factor.
    double (*square)(const rows_t* r, Py_ssize_t block, double factor) noexcept nogil
    bint (*finite)(const rows_t* r, double factor) noexcept nogil


cdef struct tensor_t:
    # What every step reads stands first: a thousand tensors have to stay in cache.
    Py_ssize_t size
    const constants_t* h
    char* seen_gradient                # where the last gradient known to overlap nothing began
    Py_ssize_t gap                     # between which intervals the last gradient lay
    unsigned int flags_without_state   # flags that touch state which is not there
    int index                          # of the rule
    int dtype                          # of the arithmetic; 0: float32, 1: float64
    int home_dtype                     # the parameter's own, by NumPy's number
    int group
    bint active                        # False: no gradient this time
    bint accumulator_filled            # its accumulator holds gradients
    bint staged                        # some stream is not dense, or not of the arithmetic's dtype
    char* data[MAX_STREAMS]
    unsigned char itemsize[MAX_STREAMS]   # in memory
    unsigned char storage[MAX_STREAMS]
    bint averages                      # Lookahead's turn
    bint dense                         # the parameter, in its own memory order
    bint compact                       # state is, and all else is dense and of one dtype
    char* matrix                       # what a matrix steps along in this call
    factors_t* factors                 # NULL: its second moment, if any, is its own
    whole_t* wholes                    # its state that is taken as a whole, in the row's order
    int home                           # the parameter's own stream: 0, or ROUNDED
    unsigned char* scales[MAX_STREAMS]
    unsigned long long name            # what of the tensor goes into its random bits,
    Py_ssize_t origin                  # and where in all of it, in C order, this slice begins
    unsigned long long key             # of this step's random bits
    layout_t* layout[MAX_STREAMS]      # NULL: dense
    order_t* c_order                   # NULL: the plan's order is C order
    double* units                      # of each unit of this call, means and factors; NULL: as is
    double* unit_room                  # these, and what they are made of
    Py_ssize_t units_of[2]             # by layout: their number,
    Py_ssize_t inner_of[2]             # the neighbours that are one's own, as sums are taken,
    Py_ssize_t inner_here[2]           # and in the plan's order
    int layout_here                    # that of this call
    bint in_c_order                    # sums are not taken in the plan's order
    bint is_vector
    bint is_head                       # whose units are clipped where that is asked for alone
    char* zeroable                     # where the last gradient known to be zeroable began
    const rows_t* rows                 # of which a gradient has come in this call, or NULL


# What the squares are of.
cdef enum:
    GRADIENTS
    PARAMETERS
    DIRECTIONS
    REHEARSALS      # what a rule's loop gives that is run for its result alone


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


cdef struct memory_t:
    # The memory of parameters and state, sorted.
    interval_t* intervals
    Py_ssize_t count
    Py_ssize_t gap                # between which of them the last gradient searched for lay


cdef struct chunks_t:
    # All elements, across tensors, cut into a thread's shares. Each ends where the next one starts.
    Py_ssize_t* tensor
    Py_ssize_t* first
    Py_ssize_t count


cdef struct rooms_t:
    # The scratch of each thread.
    char* start
    char* tiles                   # and more of it, for sweeps
    int count


cdef struct norms_t:
    Py_ssize_t* blocks            # the first block of each tensor, and their number
    double* partial[2]            # sums of squares of each block: gradients, directions; parameters
    double* sums[2]               # the same of each tensor
    wide_t* each                  # the norm of each gradient, where it is asked for
    double* tree                  # room for a sum over the tensors
    wide_t total                  # the norm of all gradients together
    bint directing                # the pass under way takes norms of directions, not gradients
    bint rehearsing               # or sums of what a step would give


cdef struct traits_t:
    # What compiled code asks of a rule.
    derive_t derive
    int streams                        # p, g and its state
    bint has_velocity                  # which begins with the first gradient
    bint trusts                        # trust ratios take norms: of gradients,
    bint bounds                        # its own directions are no longer than 1
    bint matrices                      # it makes something of a whole matrix (_matrices.pxi)
    bint pools                         # or of all its tensors together
    int wholes                         # state arrays that it takes as a whole
    bint directs                       # or of the rule's own directions
    bint factors                       # its state taken as a whole is of rows and columns
    unsigned int needs[MAX_STREAMS]    # with which flags a stream is touched; ALWAYS: with any


cdef struct plan_t:
    # What a step reads and writes without the GIL.
    int streams                   # p, g and the state of the rule that has most of it
    Py_ssize_t count              # tensors
    Py_ssize_t total              # elements
    tensor_t* tensors
    constants_t* constants        # of each tensor
    hyper_t* hypers               # of each group
    Py_ssize_t groups
    options_t options
    long long* steps              # of each tensor, like the three below
    long long* started
    double* carried               # CARRIED numbers each (`Rule.carried`)
    unsigned char* accumulator_filled  # its accumulator holds gradients
    unsigned long long seed
    Py_ssize_t accumulated        # calls whose gradients wait in the accumulators
    Py_ssize_t held_shift         # these hold them times 2**-held_shift
    bint crowded                  # one more gradient may take one out of the range
    long long applied             # calls that have updated something
    long long skipped             # calls left out, as a gradient was not finite
    long long skips_in_row        # of these, those since the last call that was not
    double grad_norm
    bint norm_taken               # by the last step that was not an accumulation
    # What follows from the rules, the options and the arrays.
    bint trusts                   # some rule's trust ratios take norms,
    bint trusts_gradients         # of gradients,
    bint directs                  # or of its own directions, or a norm bounds these
    bint matrices                 # some rule makes something of whole matrices
    bint pools                    # or of all its tensors
    bint factors                  # some rule's second moments are of rows and columns
    bint keeps                    # there is state of options
    bint adjusts                  # constants depend on options or norms
    bint measures                 # norms are taken before the update
    bint by_units                 # gradients are centralised, or clipped by units
    bint measures_gradients       # those of gradients
    double box[4][2]              # limits of parameters, as each dtype has them (AS_FLOAT32 ...)
    bint pieces                   # something is done around the rule while a piece is in cache
    bint sweeping                 # a stream has been found that sweeps may take
    bint staging                  # a stream has been found that needs scratch
    # Of the call under way.
    bint ready                    # norms of gradients have been taken, constants are complete
    bint shaped                   # the matrices have been made: only steps are left
    bint adding                   # gradients are only accumulated
    bint check_finite
    bint state_missing            # the constants derived last touch state that is not there
    Py_ssize_t bad                # the tensor whose gradient is not finite, or -1
    memory_t memory
    chunks_t chunks
    rooms_t rooms
    double* unit_room             # of all tensors
    norms_t norms
    bint told                     # what is asked of all gradients is that of more than are here:
    wide_t told_norm              # their norm


cdef inline int missing_stream(
    const traits_t* traits, unsigned int flags, char* const* at
) noexcept nogil:
    """Return the first stream that a rule touches with these flags and that is not there, or -1."""
    cdef int j
    for j in range(traits.streams):
        if at[j] == NULL and traits.needs[j] & (flags | ALWAYS):
            return j
    return -1
