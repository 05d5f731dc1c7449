# --------------------------------------------------------------------------- tiles
#
# Columns, each of which lies in one piece in memory, become rows: what sweeps (_sweep.pxi) are made
# of. A tile is 16 columns wide, as many as a cache line of a float32 row holds.

cdef extern from *:
    """
    #if defined(__GNUC__) || defined(__clang__)
    #define OPTKERN_VECTORS 1
    typedef float optkern_f32x4 __attribute__((vector_size(16)));
    typedef double optkern_f64x2 __attribute__((vector_size(16)));
    typedef int optkern_i32x4 __attribute__((vector_size(16)));
    typedef long long optkern_i64x2 __attribute__((vector_size(16)));
    #if defined(__clang__)
    #define OPTKERN_MIX4(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
    #define OPTKERN_MIX2(a, b, i, j) __builtin_shufflevector(a, b, i, j)
    #else
    #define OPTKERN_MIX4(a, b, i, j, k, l) __builtin_shuffle(a, b, (optkern_i32x4){i, j, k, l})
    #define OPTKERN_MIX2(a, b, i, j) __builtin_shuffle(a, b, (optkern_i64x2){i, j})
    #endif

    static inline void optkern_turn_4x4(
        char *to, ptrdiff_t pitch, const char *const *from, ptrdiff_t skip
    ) {
        optkern_f32x4 a, b, c, d, low, high, low2, high2;
        memcpy(&a, from[0] + skip, 16);
        memcpy(&b, from[1] + skip, 16);
        memcpy(&c, from[2] + skip, 16);
        memcpy(&d, from[3] + skip, 16);
        low = OPTKERN_MIX4(a, b, 0, 4, 1, 5);
        high = OPTKERN_MIX4(a, b, 2, 6, 3, 7);
        low2 = OPTKERN_MIX4(c, d, 0, 4, 1, 5);
        high2 = OPTKERN_MIX4(c, d, 2, 6, 3, 7);
        a = OPTKERN_MIX4(low, low2, 0, 1, 4, 5);
        b = OPTKERN_MIX4(low, low2, 2, 3, 6, 7);
        c = OPTKERN_MIX4(high, high2, 0, 1, 4, 5);
        d = OPTKERN_MIX4(high, high2, 2, 3, 6, 7);
        memcpy(to, &a, 16);
        memcpy(to + pitch, &b, 16);
        memcpy(to + 2 * pitch, &c, 16);
        memcpy(to + 3 * pitch, &d, 16);
    }

    static inline void optkern_turn_2x2(
        char *to, ptrdiff_t pitch, const char *const *from, ptrdiff_t skip
    ) {
        optkern_f64x2 a, b, low, high;
        memcpy(&a, from[0] + skip, 16);
        memcpy(&b, from[1] + skip, 16);
        low = OPTKERN_MIX2(a, b, 0, 2);
        high = OPTKERN_MIX2(a, b, 1, 3);
        memcpy(to, &low, 16);
        memcpy(to + pitch, &high, 16);
    }
    #else
    #define OPTKERN_VECTORS 0
    #endif

    static void optkern_prefetch(const char *from, ptrdiff_t size) {
    #if OPTKERN_VECTORS
        ptrdiff_t k;
        for (k = 0; k < size; k += 64)
            __builtin_prefetch(from + k);
        __builtin_prefetch(from + size - 1);
    #endif
    }

    /* to[row, column] = from[column][row]; pitch: bytes from a row to the next; wide: of doubles.
       The columns after these are fetched into cache: lines so far apart are foreseen by nobody. */
    static void optkern_turn(
        char *to, ptrdiff_t pitch, const char *const *from, int columns, int next, ptrdiff_t rows,
        int wide
    ) {
        ptrdiff_t size = wide ? 8 : 4, r = 0, k;
        int c, side = wide ? 2 : 4, whole = OPTKERN_VECTORS ? columns - columns % side : 0;
    #if OPTKERN_VECTORS
        for (; r + side <= rows; r += side) {
            if (r * size % 64 == 0)
                for (c = columns; c < columns + next; c++)
                    __builtin_prefetch(from[c] + r * size);
            if (wide)
                for (c = 0; c < whole; c += 2)
                    optkern_turn_2x2(to + r * pitch + c * 8, pitch, from + c, r * 8);
            else
                for (c = 0; c < whole; c += 4)
                    optkern_turn_4x4(to + r * pitch + c * 4, pitch, from + c, r * 4);
            for (c = whole; c < columns; c++)
                for (k = r; k < r + side; k++)
                    memcpy(to + k * pitch + c * size, from[c] + k * size, size);
        }
    #endif
        for (; r < rows; r++)
            for (c = 0; c < columns; c++)
                memcpy(to + r * pitch + c * size, from[c] + r * size, size);
    }
    """
    void turn "optkern_turn"(
        char* to, Py_ssize_t pitch, const char* const* columns, int count, int following,
        Py_ssize_t rows, bint wide
    ) noexcept nogil
    void prefetch "optkern_prefetch"(const char* x, Py_ssize_t size) noexcept nogil


cdef bint crosses(const layout_t* walk, int* axis) noexcept nogil:
    """Tell whether neighbours in memory, several to a cache line, are apart in C order.

    `axis`: the one along which they lie, not the last.
    """
    cdef Py_ssize_t size, least = LINE
    cdef int k, last = -1
    axis[0] = MAX_DIMS
    for k in range(walk.ndim):
        if walk.shape[k] != 1:
            last = k
            size = walk.strides[k] if walk.strides[k] >= 0 else -walk.strides[k]
            if size < least:
                axis[0], least = k, size
    return axis[0] < last


cdef void seek(
    const sweep_t* w, Py_ssize_t flat, Py_ssize_t* index, Py_ssize_t* offset
) noexcept nogil:
    """Place an element that is counted in C order: its indices, and how far it lies."""
    cdef int i, k
    for i in range(w.streams):
        offset[i] = 0
    for k in range(w.walk[0].ndim - 1, -1, -1):
        index[k] = flat % w.walk[0].shape[k]
        flat = flat // w.walk[0].shape[k]
        for i in range(w.streams):
            offset[i] += index[k] * w.walk[i].strides[k]


cdef int next_columns(
    const sweep_t* w, Py_ssize_t* index, Py_ssize_t* at, Py_ssize_t (*offset)[2 * TILE_COLUMNS],
    int first, int stop
) noexcept nogil:
    """Note where columns `first` to `stop` of a row lie, and go on to the next; their number."""
    cdef int i, j, k, here = first, last = w.walk[0].ndim - 1, run
    cdef Py_ssize_t step
    while here < stop:
        run = stop - here
        if last > w.axis:
            run = <int> min(<Py_ssize_t> run, w.walk[0].shape[last] - index[last])
        for i in range(w.streams):
            step = w.walk[i].strides[last]
            for j in range(run):
                offset[i][here + j] = at[i] + j * step
            at[i] += run * step
        here += run
        index[last] += run
        k = last
        while k > w.axis and index[k] == w.walk[0].shape[k]:   # on to a slower axis
            for i in range(w.streams):
                at[i] -= index[k] * w.walk[i].strides[k]
            index[k] = 0
            k -= 1
            if k > w.axis:
                index[k] += 1
                for i in range(w.streams):
                    at[i] += w.walk[i].strides[k]
    return stop - first


cdef char* column(
    const sweep_t* w, int i, Py_ssize_t offset, Py_ssize_t n, char* to, scratch_t* s
) noexcept nogil:
    """Give `n` elements of a column as the arithmetic takes them: in place or in `to`."""
    cdef const tensor_t* t = w.t
    cdef int j = w.stream[i]
    cdef Py_ssize_t size = t.itemsize[j], stride = w.walk[i].strides[w.axis]
    cdef char* codes = t.data[j] + offset
    if stride == size and t.storage[j] == PLAIN:
        return codes
    if stride != size or <size_t> codes % 2:
        copy_run(to if t.storage[j] == PLAIN else s.raw, codes, stride, n, size, False)
        codes = s.raw
    if t.storage[j] == PLAIN:
        return to
    SPANS.load[t.storage[j]](<float*> to, codes, NULL, n)
    return to


cdef void lay_out(layout_t* walk, const layout_t* like, Py_ssize_t size) noexcept nogil:
    """Say how to walk elements of so many bytes that lie in C order."""
    cdef int k
    walk.ndim = like.ndim
    for k in range(like.ndim - 1, -1, -1):
        walk.shape[k] = like.shape[k]
        walk.strides[k] = size
        size *= like.shape[k]


# Running sums of the blocks of a row, one after the other.
cdef struct running_t:
    double lane[LANES]
    Py_ssize_t block              # whose these are
    Py_ssize_t done               # how many of its elements are in them


cdef void begin_sums(running_t* sums, Py_ssize_t block) noexcept nogil:
    memset(sums, 0, sizeof(running_t))
    sums.block = block


cdef void run_on(
    running_t* sums, double* partial, int dtype, const char* x, Py_ssize_t n
) noexcept nogil:
    """Go on with n elements of a row; the sum of each block that they complete is written."""
    cdef Py_ssize_t take
    while n > 0:
        take = min(n, BLOCK - sums.done)
        SPANS.squares[dtype](sums.lane, x, take, sums.done)
        x += take * (8 if dtype else 4)
        n -= take
        sums.done += take
        if sums.done == BLOCK:
            partial[sums.block] = fold(sums.lane)
            begin_sums(sums, sums.block + 1)


cdef double squares_of(int dtype, const char* x, Py_ssize_t n) noexcept nogil:
    """Sum the squares of a block; `SPANS.dot` of it and itself would widen each element twice."""
    cdef double lane[LANES]
    memset(lane, 0, sizeof(lane))
    SPANS.squares[dtype](lane, x, n, 0)
    return fold(lane)
