"""What a span is, and the table of them that one instruction set's module hands over.

Only the struct types stand here: the runtime imports the modules that this CPU can run and takes
their tables from PyCapsules. A cimport would load code for another instruction set.
"""
from optkern.kernels._constants cimport constants_t

cdef enum:
    MAX_STREAMS = 10   # p, g, state arrays of one rule and of the options around it
    MAX_RULES = 64
    MAX_LIMITS = 5     # LIMITS in rules/
    DTYPES = 2         # float32, float64
    SCALED = 256       # elements that share an int8 scale
    SEGMENT = 1 << 20  # elements whose random bits share a key
    DRAW = 32          # and those that share a draw

# How a stream is stored (`STORAGE_KINDS` in codecs.py); all but PLAIN are float32 where it is
# computed.
cdef enum:
    PLAIN             # the dtype of the arithmetic
    BFLOAT16          # rounded to nearest even
    FLOAT16
    BFLOAT16_STATE    # rounded stochastically, like the two below
    INT8
    UINT8
    FLOAT16_RANDOM    # a float16 parameter, rounded stochastically; a bfloat16 one: BFLOAT16_STATE
    STORAGES


# Updates `n` elements. streams: p, g, then the state in the table's order; NULL where the options
# need none. offset: the flat index of the first element in its tensor.
ctypedef void (*span_t)(
    const constants_t* h, char* const* streams, Py_ssize_t n, Py_ssize_t offset
) noexcept nogil

# The same for what is shorter than a vector, one by one.
ctypedef void (*few_t)(const constants_t* h, char* const* streams, Py_ssize_t n) noexcept nogil

# lane += the squares of what a rule gives with these constants, whose flags are of those that
# `asks` in setup.py lists, and nothing is written; `n` elements of a block, the first one's to the
# first lane.
ctypedef void (*ask_t)(
    const constants_t* h, char* const* streams, Py_ssize_t n, double* lane
) noexcept nogil

# Updates `n` elements of a row, whose state is its root times those of columns, up to a limit.
# streams: p, g, columns.
ctypedef void (*factored_t)(
    const constants_t* h, char* const* streams, double root, double limit, Py_ssize_t n
) noexcept nogil

# Whether all of `n` elements are finite; or so small that any finite number can be added to them.
ctypedef bint (*finite_t)(const char* x, Py_ssize_t n) noexcept nogil

# Storages. scales: those of the stream from the first element's block on; random: 16 bits for each
# element. A call begins at a block's first element. codecs.py says the same in NumPy.
ctypedef void (*load_t)(
    float* x, const char* codes, const unsigned char* scales, Py_ssize_t n
) noexcept nogil
ctypedef void (*store_t)(
    const float* x, char* codes, unsigned char* scales, const unsigned short* random, Py_ssize_t n
) noexcept nogil

# Updates `n` elements of a segment, whose state is compact; the streams are dense. scales: of the
# state, each from the first element's block on. position: the low half of the first element's.
# key: of the segment's random bits. What is left over from blocks of SCALED (int8) or from pairs (p
# and g of 16 bits) stays as it is. Returns how many elements are done: up to a block that holds
# infinities, which goes by pieces; -1, and nothing is done, where there is no loop for these flags.
# ahead: the arrays are more than a core's caches hold, so memory is asked for what comes next.
ctypedef Py_ssize_t (*compact_t)(
    const constants_t* h, char* const* streams, unsigned char* const* scales, Py_ssize_t n,
    unsigned int position, unsigned long long key, bint ahead
) noexcept nogil

# 16 random bits for each of `n` elements of a segment, from the low half of the first one's
# position and the segment's key; in a room for 2 * DRAW more.
ctypedef const unsigned short* (*random_t)(
    unsigned short* room, unsigned int position, unsigned long long key, int n
) noexcept nogil

# Vectors. Each call is one block (n <= BLOCK); arithmetic and sums are float64, storage is rounded
# to once. reference.py of `curvature` says the same in NumPy.

# x'y, in LANES running sums and a fixed tree over them.
ctypedef double (*dot_t)(const char* x, const char* y, Py_ssize_t n) noexcept nogil

# lane += the squares of the elements of a block from its element `place` on
ctypedef void (*squares_t)(
    double* lane, const char* x, Py_ssize_t n, Py_ssize_t place
) noexcept nogil

# to[j * stride] = rows[j]'x from element `first` on; wide: room for BLOCK doubles
ctypedef void (*project_t)(
    const char* x, const char* const* rows, Py_ssize_t k, Py_ssize_t first, Py_ssize_t n,
    double* to, Py_ssize_t stride, double* wide
) noexcept nogil

# out = x - sum_j c[j] rows[j] from element `first` on, and out'y (0 without a y). `out` may be x,
# y or one of the rows.
ctypedef double (*subtract_t)(
    char* out, const char* x, const char* const* rows, const double* c, Py_ssize_t k,
    const char* y, Py_ssize_t first, Py_ssize_t n
) noexcept nogil
ctypedef void (*combine_t)(
    double* out, const char* const* rows, const double* c, Py_ssize_t k, Py_ssize_t first,
    Py_ssize_t n
) noexcept nogil

# out = a x
ctypedef void (*scale_t)(char* out, const char* x, double a, Py_ssize_t n) noexcept nogil

# to = x, or to + x; whether any finite number can be added to what it is now
ctypedef bint (*add_t)(char* to, const char* x, Py_ssize_t n) noexcept nogil

# sums += x * x of some rows, one after the other; totals[k * apart] = x'x of row k. stride: bytes
ctypedef void (*tally_t)(
    const char* x, Py_ssize_t stride, Py_ssize_t rows, double* sums, Py_ssize_t n,
    double* totals, Py_ssize_t apart
) noexcept nogil

# out = min(a * x, limit), in the dtype of the vector
ctypedef void (*spread_t)(
    char* out, const char* x, double a, double limit, Py_ssize_t n
) noexcept nogil

# lane += the squares of g times that, as `squares_t` has them
ctypedef void (*along_t)(
    double* lane, const char* g, const char* x, double a, double limit, Py_ssize_t n,
    Py_ssize_t place
) noexcept nogil

# out = x + y
ctypedef void (*sum_t)(char* out, const char* x, const char* y, Py_ssize_t n) noexcept nogil

# to = to + weight * (x - to), denormals flushed: a running average of x
ctypedef void (*approach_t)(char* to, const char* x, double weight, Py_ssize_t n) noexcept nogil

# x, where it is below `low` or above `high`, is that
ctypedef void (*confine_t)(char* x, double low, double high, Py_ssize_t n) noexcept nogil


cdef struct rule_spans_t:
    # What the loops were stamped from, to be compared at import: `loops_hash` of rules/, and the
    # sizes of the structs that they share with the engine.
    unsigned long long rows
    unsigned long long sizes
    span_t update[DTYPES]
    few_t few[DTYPES]   # NULL: as another instruction set has it (`use_isa`)
    ask_t ask[DTYPES]   # NULL: what it gives is written, and squared then
    factored_t factored[DTYPES]   # of rules of such state
    # [bfloat16 or int8 state][p and g are float32, or bfloat16 and p is rounded stochastically];
    # NULL: by pieces alone
    compact_t compact[2][2]
    # [float32 or bfloat16 state][bfloat16 or float16]: of a parameter of 16 bits, the last stream,
    # and its gradient beside a float32 master, the first one; NULL: by pieces alone
    compact_t master[2][2]


cdef struct spans_t:
    unsigned long long sizes
    span_t update[MAX_RULES][DTYPES]   # by the rule's position in the table, as `use_isa` finds it
    ask_t ask[MAX_RULES][DTYPES]
    factored_t factored[MAX_RULES][DTYPES]
    compact_t compact[MAX_RULES][2][2]
    compact_t master[MAX_RULES][2][2]
    span_t limit[MAX_LIMITS][DTYPES]
    finite_t finite[DTYPES]
    finite_t roomy[DTYPES]
    load_t load[STORAGES]
    store_t store[STORAGES]
    random_t random
    dot_t dot[DTYPES]
    squares_t squares[DTYPES]
    squares_t squares_of_codes[STORAGES]   # of bfloat16 and float16
    project_t project[DTYPES]
    subtract_t subtract[DTYPES]
    combine_t combine[DTYPES]
    scale_t scale[DTYPES]
    spread_t spread[DTYPES]
    along_t along[DTYPES]
    tally_t tally[DTYPES]
    add_t hold[DTYPES]
    add_t add[DTYPES]
    sum_t sum[DTYPES]
    approach_t approach[DTYPES]
    confine_t confine[DTYPES]
