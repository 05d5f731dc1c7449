# --------------------------------------------------------------------------- gradients of rows
#
# What the engine asks of them, and how they are summed. The distinct rows, in the order in which
# they first came, are one array to all who take a norm of it: the same bits as that array's, of
# which no copy is made.


cdef void attach(Plan plan, list taken) noexcept:
    """Let the plan know which tensors' gradients are of rows, for the call under way."""
    cdef Py_ssize_t i
    cdef Rows one
    for i in range(plan.core.count):
        one = taken[i]
        if one is not None:
            plan.core.tensors[i].active, plan.core.tensors[i].rows = True, &one.r
    if plan.core.measures:
        number_blocks(&plan.core, True)


cdef void detach(Plan plan) noexcept:
    cdef Py_ssize_t i
    for i in range(plan.core.count):
        plan.core.tensors[i].rows = NULL
    if plan.core.norms.blocks != NULL:
        number_blocks(&plan.core, False)


ctypedef fused floating:
    float
    double


cdef void sum_gradients(
    const rows_t* r, Py_ssize_t k, Py_ssize_t first, Py_ssize_t n, floating* to
) noexcept nogil:
    """Return the sum of the gradients of one row.

    `n` elements of the k-th gradient and its followers. Doubles that leave the range on the way
    are summed again times a power of two.
    """
    cdef double sum[SUMMED]
    cdef const floating* g = <const floating*> (r.data[1] + k * r.stride[1]) + first
    cdef Py_ssize_t i, head = k
    if n <= 0:  # never; said for gcc, which would have `sum` read before it is written
        return
    for i in range(n):
        sum[i] = g[i]
    while r.next[k] >= 0:
        k = r.next[k]
        g = <const floating*> (r.data[1] + k * r.stride[1]) + first
        for i in range(n):
            sum[i] += g[i]
    if floating is double:
        for i in range(0 if SPANS.finite[1](<char*> sum, n) else n):
            if not isfinite(sum[i]):
                sum[i] = sum_out_of_the_way(r, head, first + i)
    for i in range(n):
        to[i] = <floating> sum[i]


cdef double sum_out_of_the_way(const rows_t* r, Py_ssize_t k, Py_ssize_t at) noexcept nogil:
    """Sum one element of the gradients of a row, whatever it is on the way."""
    cdef double down = ldexp(1, -OUT_OF_THE_WAY), sum = 0
    while k >= 0:
        sum += (<const double*> (r.data[1] + k * r.stride[1]))[at] * down
        k = r.next[k]
    return sum * ldexp(1, OUT_OF_THE_WAY)


cdef char* piece_of(
    const rows_t* r, Py_ssize_t k, Py_ssize_t first, Py_ssize_t n, double factor, char* scratch
) noexcept nogil:
    """Give n elements of the gradient of the k-th distinct row times a factor.

    In place, where it came once and the factor is 1; or in scratch, SUMMED at the most.
    """
    cdef char* g = r.data[1] + r.first[k] * r.stride[1] + first * (8 if r.dtype else 4)
    if r.next[r.first[k]] >= 0:
        if r.dtype:
            sum_gradients[double](r, r.first[k], first, n, <double*> scratch)
        else:
            sum_gradients[float](r, r.first[k], first, n, <float*> scratch)
        g = scratch
    if factor != 1:
        SPANS.scale[r.dtype](scratch, g, factor, n)
        g = scratch
    return g


cdef double square_block_of_rows(const rows_t* r, Py_ssize_t block, double factor) noexcept nogil:
    """Sum the squares of a block of the distinct rows' gradients times a factor."""
    cdef double lane[LANES]
    cdef char scratch[SUMMED * 8]
    cdef Py_ssize_t place = 0, n = min(<Py_ssize_t> BLOCK, r.count * r.width - block * BLOCK)
    cdef Py_ssize_t k, first, piece
    cdef char* x
    memset(lane, 0, sizeof(lane))
    if r.given == r.count and factor == 1:   # each came once: they lie one after the other
        x = r.data[1] + block * BLOCK * (8 if r.dtype else 4)
        SPANS.squares[r.dtype](lane, x, n, 0)
        return fold(lane)
    k, first = block * BLOCK // r.width, block * BLOCK % r.width
    while place < n:
        piece = min(n - place, min(<Py_ssize_t> SUMMED, r.width - first))
        x = piece_of(r, k, first, piece, factor, scratch)
        SPANS.squares[r.dtype](lane, x, piece, place)
        place += piece
        first += piece
        if first == r.width:
            k, first = k + 1, 0
    return fold(lane)


cdef bint rows_are_finite(const rows_t* r, double factor) noexcept nogil:
    """Tell whether all gradients are, the sums of those that share a row, and these scaled."""
    cdef Py_ssize_t k
    if not SPANS.finite[r.dtype](r.data[1], r.given * r.width):
        return False
    if factor == 1 and r.given == r.count:
        return True
    for k in range(r.count):
        if (factor != 1 or r.next[r.first[k]] >= 0) and not row_is_finite(r, k, factor):
            return False
    return True


cdef bint row_is_finite(const rows_t* r, Py_ssize_t k, double factor) noexcept nogil:
    """Tell whether the sum of one row's gradients is, in the dtype that it is rounded to."""
    cdef char scratch[SUMMED * 8]
    cdef Py_ssize_t n, first = 0
    while first < r.width:
        n = min(<Py_ssize_t> SUMMED, r.width - first)
        if not SPANS.finite[r.dtype](piece_of(r, k, first, n, factor, scratch), n):
            return False
        first += n
    return True


cdef void fill_with_zeros(cnp.ndarray g) noexcept:
    """Set a gradient to zero, wherever it lies; nothing here can fail."""
    cdef layout_t walk
    cdef double zeros[SUMMED]
    cdef Py_ssize_t n, first = 0, size = cnp.PyArray_SIZE(g)
    if cnp.PyArray_IS_C_CONTIGUOUS(g):
        memset(cnp.PyArray_DATA(g), 0, cnp.PyArray_NBYTES(g))
        return
    memset(zeros, 0, sizeof(zeros))
    lay(&walk, g, 0)
    while first < size:
        n = min(<Py_ssize_t> SUMMED, size - first)
        transfer(
            &walk, <char*> cnp.PyArray_DATA(g), <char*> zeros, first, n, cnp.PyArray_ITEMSIZE(g),
            True,
        )
        first += n


cdef void lay(layout_t* walk, cnp.ndarray array, int first) noexcept:
    """Say how to walk the axes of an array from one of them on."""
    cdef int k
    walk.ndim = cnp.PyArray_NDIM(array) - first
    for k in range(walk.ndim):
        walk.shape[k] = cnp.PyArray_DIMS(array)[first + k]
        walk.strides[k] = cnp.PyArray_STRIDES(array)[first + k]
