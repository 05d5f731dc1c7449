# --------------------------------------------------------------------------- factors
#
# The second moment of a matrix as a number for each row and one for each column (Adafactor): both
# sums of squares in one pass over the gradient. A row's sum is that of its blocks, as any sum of
# squares; a column's takes the rows of a band one after the other, and bands by halves. What a step
# divides by is the root of a product: an element is multiplied by the inverses of two roots, which
# spares a division and a root each, of the state's alone. They are spread piece by piece, and read
# where the rule has its state otherwise.

cdef enum:
    BAND = 64            # rows; it is part of the sums' definition, as in rules/adafactor.py
    TALLIED = 1 << 16    # elements that a thread tallies at a time


cdef struct tally_t:
    plan_t* plan
    tensor_t* t
    Py_ssize_t units, share   # parts of a matrix's rows, of a band and a block each; those of a job


cdef int bind_factors(Plan plan, Py_ssize_t i) except -1:
    """Make room for the sums over a tensor's rows and columns, and for the roots of their means."""
    cdef tensor_t* t = &plan.core.tensors[i]
    cdef factors_t* f
    cdef char* room
    cdef Py_ssize_t sums, lines, size = width(t)
    p = plan.params[i]
    f = <factors_t*> calloc(1, sizeof(factors_t))
    if f == NULL:
        raise MemoryError
    t.factors = f
    f.rows, f.columns = p.shape[p.ndim - 2], p.shape[p.ndim - 1]
    f.matrices = p.size // (f.rows * f.columns) if p.size else 0
    f.tiles, f.bands = count_blocks(f.columns), (f.rows + BAND - 1) // BAND
    lines = f.matrices * f.rows
    if p.size and (t.wholes[0].bytes, t.wholes[1].bytes) != (
        lines * size, f.matrices * f.columns * size
    ):
        raise ValueError(f"{plan.owner}: state of rows and columns does not fit its parameter")
    sums = lines * f.tiles + f.matrices * f.bands * f.columns
    room = <char*> calloc(sums * 8 + (lines + f.matrices * f.columns) * size + 1, 1)
    if room == NULL:
        raise MemoryError
    f.row_sums = <double*> room
    f.column_sums = f.row_sums + lines * f.tiles
    f.row_roots = room + sums * 8
    f.column_roots = f.row_roots + lines * size
    return 0


cdef void move_factors(plan_t* plan, int threads) noexcept nogil:
    """Move the means of rows and columns on, of all tensors that have them."""
    cdef Py_ssize_t i
    cdef tally_t work
    cdef tensor_t* t
    work.plan = plan
    for i in range(plan.count):
        t = &plan.tensors[i]
        if t.factors == NULL or not t.active or not t.size:
            continue
        plan.constants[i].flags ^= DIRECTION   # the gradient is wanted
        work.t, work.units = t, t.factors.matrices * t.factors.bands * t.factors.tiles
        work.share = max(<Py_ssize_t> 1, work.units * TALLIED // t.size)
        run_jobs(
            tally_share, &work, (work.units + work.share - 1) // work.share,
            threads if t.size > 2 * TALLIED else 1,
        )
        plan.constants[i].flags ^= DIRECTION | OWN1
        take_means(t, &plan.constants[i])


cdef void tally_share(void* context, Py_ssize_t job, int thread) noexcept nogil:
    cdef tally_t* work = <tally_t*> context
    cdef Py_ssize_t unit, first = job * work.share
    for unit in range(first, min(first + work.share, work.units)):
        tally_unit(work.plan, work.t, unit, room_of(work.plan, thread))


cdef void tally_unit(plan_t* plan, tensor_t* t, Py_ssize_t unit, scratch_t* s) noexcept nogil:
    """Sum the squares of a band's rows, a block of each: by row, and by column."""
    cdef factors_t* f = t.factors
    cdef Py_ssize_t tile = unit % f.tiles, band = unit // f.tiles   # across all matrices
    cdef Py_ssize_t matrix = band // f.bands, row = band % f.bands * BAND, column = tile * BLOCK
    cdef Py_ssize_t n = min(<Py_ssize_t> BLOCK, f.columns - column)
    cdef Py_ssize_t line = matrix * f.rows + row, stop = line + min(<Py_ssize_t> BAND, f.rows - row)
    cdef double* sums = f.column_sums + band * f.columns + column
    memset(sums, 0, n * sizeof(double))
    if as_it_came(plan, t):
        SPANS.tally[t.dtype](
            t.data[1] + (line * f.columns + column) * width(t), f.columns * width(t), stop - line,
            sums, n, f.row_sums + line * f.tiles + tile, f.tiles,
        )
        return
    for line in range(line, stop):
        run_direction(plan, t, line * f.columns + column, n, s.block[0], s)
        SPANS.tally[t.dtype](s.block[0], 0, 1, sums, n, f.row_sums + line * f.tiles + tile, 1)


cdef void take_means(tensor_t* t, const constants_t* constants) noexcept nogil:
    """Make of sums the means that the state holds, and the roots that a step divides by."""
    cdef factors_t* f = t.factors
    cdef constants_t h = resolved(constants)
    cdef double least = h.own[0], mean
    cdef double* sums
    cdef Py_ssize_t k, i, j, half, n
    if least < 0:
        least = DBL_EPSILON if t.dtype else FLT_EPSILON
    f.limit = 1 / least
    for k in range(f.matrices):
        mean = 0
        for i in range(k * f.rows, (k + 1) * f.rows):
            mean += move_mean(
                t, 0, i, add_blocks(f.row_sums + i * f.tiles, f.tiles) / <double> f.columns, &h
            )
        mean /= <double> f.rows
        for i in range(k * f.rows, (k + 1) * f.rows):
            put_root(t, f.row_roots, i, (least if mean < least else mean) / mean_at(t, 0, i))
        sums = f.column_sums + k * f.bands * f.columns
        n = f.bands
        while n > 1:
            half = (n + 1) // 2
            for j in range((n - half) * f.columns):
                sums[j] += sums[half * f.columns + j]
            n = half
        for j in range(f.columns):
            i = k * f.columns + j
            put_root(t, f.column_roots, i, 1 / move_mean(t, 1, i, sums[j] / <double> f.rows, &h))


cdef inline double mean_at(const tensor_t* t, int which, Py_ssize_t i) noexcept nogil:
    if t.dtype:
        return (<double*> t.wholes[which].data)[i]
    return (<float*> t.wholes[which].data)[i]


cdef inline double move_mean(
    tensor_t* t, int which, Py_ssize_t i, double mean, const constants_t* h
) noexcept nogil:
    """Move one mean on; return it as it is kept.

    Beyond float32's range it is the largest number there: its root is still far above the gradient
    over it.
    """
    cdef double now = h.beta2 * mean_at(t, which, i) + h.gain2 * mean
    if t.dtype:
        (<double*> t.wholes[which].data)[i] = flush(now)
    else:
        now = FLT_MAX if now > FLT_MAX and isfinite(now) else now
        (<float*> t.wholes[which].data)[i] = flush(<float> now)
    return mean_at(t, which, i)


cdef inline void put_root(tensor_t* t, char* roots, Py_ssize_t i, double x) noexcept nogil:
    if t.dtype:
        (<double*> roots)[i] = sqrt(x)
    else:
        (<float*> roots)[i] = <float> sqrt(x)


cdef inline bint lies_plain(const plan_t* plan, const tensor_t* t) noexcept nogil:
    """Tell whether a tensor's rule takes p and g where they lie."""
    return (
        t.home == 0 and t.layout[0] == NULL and t.storage[0] == PLAIN
        and t.layout[1] == NULL and t.storage[1] == PLAIN and not t.accumulator_filled
        and not plan.held_shift and not t.h.lift and t.units == NULL
    )


cdef inline bint as_it_came(const plan_t* plan, const tensor_t* t) noexcept nogil:
    """Tell whether the squares of a gradient as it came are those of what the rule makes of it."""
    return lies_plain(plan, t) and not t.h.flags & (SCALE | CLAMP | L2)


cdef inline Py_ssize_t row_at(
    const tensor_t* t, Py_ssize_t first, char** columns, double* root
) noexcept nogil:
    """Find the inverse roots of an element's row and column; how much of the row is left."""
    cdef factors_t* f = t.factors
    cdef Py_ssize_t line = first // f.columns, column = first % f.columns
    root[0] = (<double*> f.row_roots)[line] if t.dtype else (<float*> f.row_roots)[line]
    columns[0] = f.column_roots + (line // f.rows * f.columns + column) * width(t)
    return f.columns - column


cdef char* spread_roots(
    const tensor_t* t, Py_ssize_t first, Py_ssize_t n, char* to
) noexcept nogil:
    """Write what some elements are multiplied by: the product of their row's and column's."""
    cdef Py_ssize_t run, done = 0
    cdef char* columns
    cdef double root
    while done < n:
        run = min(row_at(t, first + done, &columns, &root), n - done)
        SPANS.spread[t.dtype](to + done * width(t), columns, root, t.factors.limit, run)
        done += run
    return to


cdef double along_block(const tensor_t* t, Py_ssize_t first, Py_ssize_t n) noexcept nogil:
    """Sum the squares of a block of a direction that nothing comes before."""
    cdef double lane[LANES]
    cdef Py_ssize_t run, done = 0
    cdef char* columns
    cdef double root
    memset(lane, 0, sizeof(lane))
    while done < n:
        run = min(row_at(t, first + done, &columns, &root), n - done)
        SPANS.along[t.dtype](
            lane, t.data[1] + (first + done) * width(t), columns, root, t.factors.limit, run, done
        )
        done += run
    return fold(lane)


cdef void run_factored(
    const tensor_t* t, Py_ssize_t first, Py_ssize_t n
) noexcept nogil:
    """Run the rule where p and g lie, row by row: looking for streams would be a tenth of it."""
    cdef factored_t step = SPANS.factored[t.index][t.dtype]
    cdef char* at[3]
    cdef Py_ssize_t size = width(t), run, head, end = first + n
    cdef double root
    cdef int j
    while first < end:
        run = min(row_at(t, first, &at[2], &root), end - first)
        at[0], at[1] = t.data[0] + first * size, t.data[1] + first * size
        if run >= LONG:
            head = <Py_ssize_t> (-<size_t> at[0] % LINE) // size
            step(t.h, at, root, t.factors.limit, head)
            for j in range(3):
                at[j] += head * size
            first += head
            run -= head
        step(t.h, at, root, t.factors.limit, run)
        first += run
