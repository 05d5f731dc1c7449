# --------------------------------------------------------------------------- sweeps
#
# The squares of an array whose neighbours in memory are far apart in C order, as those of a Fortran
# array are. A sweep takes many rows (those of C order) column by column and turns tiles of them
# into C order, so that it reads a cache line once, or twice at the edge of a group of rows that is
# not aligned. Of directions the rule runs along the columns, as its arrays lie, and only its
# outcome is turned.
#
# A block's squares are added up in C order. Blocks of several rows wait until these are complete;
# where rows are longer than blocks, each row has its own running sums, and only what it shares of
# a block with the row before it waits for that one's end.


cdef bint sweep_blocks(
    plan_t* plan, Py_ssize_t i, int work, Py_ssize_t block, Py_ssize_t stop, scratch_t* s
) noexcept nogil:
    """Sum the squares of blocks of a tensor by a sweep; False where it wants none."""
    cdef const tensor_t* t = &plan.tensors[i]
    cdef Py_ssize_t begin = plan.norms.blocks[i], group, k
    cdef double* partial = plan.norms.partial[work == PARAMETERS] + begin
    cdef sweep_t w
    if t.c_order == NULL and not t.staged or plan.held_shift and work == GRADIENTS:
        return False
    memset(&w, 0, sizeof(sweep_t))
    if not plan_sweep(plan, &w, t, work, s):
        return False
    block -= begin
    stop -= begin
    group = rows_of_sweep(&w)
    # Groups of rows, or of blocks; each is swept where its first block is.
    k = max(block - 1, <Py_ssize_t> 0) * BLOCK // w.inner // group
    while k * group * w.inner < t.size:
        w.first = count_blocks(k * group * w.inner) * BLOCK
        w.stop = min(count_blocks((k + 1) * group * w.inner) * BLOCK, t.size)
        if w.first >= stop * BLOCK:
            break
        if w.first >= block * BLOCK and w.stop > w.first:
            if w.inner > BLOCK:
                sweep_long_rows(plan, &w, partial, s)
            else:
                sweep_short_rows(plan, &w, partial, s)
        k += 1
    return True


cdef Py_ssize_t rows_of_sweep(const sweep_t* w) noexcept nogil:
    """Count the rows swept together: as many as their blocks, or beginnings, fit a tile."""
    cdef Py_ssize_t part = min(w.inner, <Py_ssize_t> BLOCK)
    cdef Py_ssize_t most = (TILE // width(w.t) - 2 * BLOCK) // (part + part // 16)   # with gaps
    if w.inner > BLOCK:
        return min(most, <Py_ssize_t> LONG_ROWS)
    return min(most, max(<Py_ssize_t> LONG_ROWS, JOB * BLOCK // w.inner))


cdef void sweep_short_rows(
    plan_t* plan, const sweep_t* w, double* partial, scratch_t* s
) noexcept nogil:
    """Sum the squares of the blocks in hand, of whole rows in a tile.

    Rows do not begin at the same place of pages: lines that do wait for each other in the caches.
    """
    cdef Py_ssize_t size = width(w.t), left = w.first % w.inner, n
    cdef Py_ssize_t first = w.first, pitch = w.inner * size
    cdef char* x = s.tile + left * size
    cdef running_t sums
    if pitch % APART == 0:
        pitch += LINE
    sweep(plan, w, 0, w.inner, s.tile, pitch, s)
    if pitch == w.inner * size:
        for n in range(w.first // BLOCK, count_blocks(w.stop)):
            partial[n] = squares_of(w.t.dtype, x, min(<Py_ssize_t> BLOCK, w.stop - n * BLOCK))
            x += BLOCK * size
        return
    begin_sums(&sums, w.first // BLOCK)
    while first < w.stop:
        n = min(w.inner - left, w.stop - first)
        run_on(&sums, partial, w.t.dtype, x, n)
        first += n
        x += pitch - left * size
        left = 0
    if sums.done:   # the tensor's last block
        partial[sums.block] = fold(sums.lane)


cdef bint plan_sweep(
    plan_t* plan, sweep_t* w, const tensor_t* t, int work, scratch_t* s
) noexcept nogil:
    """Find the rows of a sweep; False where the elements lie in C order, or each by itself."""
    cdef const layout_t* walk
    cdef int[3] streams
    cdef int i, k, found = -1
    w.t, w.work = t, work
    if work == DIRECTIONS:
        if t.c_order == NULL:
            return False
        w.streams, w.stream[0] = 1, 0
        w.walk[0].ndim = t.c_order.ndim
        for k in range(w.walk[0].ndim):
            w.walk[0].shape[k] = t.c_order.shape[k]
            w.walk[0].strides[k] = t.c_order.strides[k]
            if w.walk[0].strides[k] == 1 and w.walk[0].shape[k] != 1:
                w.axis = k
        found = 0
    else:
        streams[0] = plan.streams + ACCUMULATOR if t.accumulator_filled else -1
        if work == PARAMETERS:
            streams[0] = 0
        streams[1] = 1 if work == GRADIENTS else -1
        for i in range(2):
            if streams[i] < 0 or t.data[streams[i]] == NULL:
                continue
            walk = way_through(t, streams[i], True, s)
            w.stream[w.streams] = streams[i]
            w.walk[w.streams].ndim = -1
            if walk != NULL:
                w.walk[w.streams] = walk[0]
                if found < 0 and crosses(walk, &w.axis):
                    found = w.streams
            w.streams += 1
        if found < 0:
            return False
        for i in range(w.streams):
            if w.walk[i].ndim < 0:
                lay_out(&w.walk[i], &w.walk[found], t.itemsize[w.stream[i]])
    w.as_is = work != DIRECTIONS and w.streams == 1 and t.storage[w.stream[0]] == PLAIN
    w.as_is = w.as_is and w.walk[0].strides[w.axis] == t.itemsize[w.stream[0]]
    w.length, w.inner = w.walk[found].shape[w.axis], 1
    for k in range(w.axis + 1, w.walk[found].ndim):
        w.inner *= w.walk[found].shape[k]
    return True


cdef void sweep_long_rows(
    plan_t* plan, const sweep_t* w, double* partial, scratch_t* s
) noexcept nogil:
    """Sum the squares of rows that are longer than a block: of the blocks that begin in them."""
    cdef int dtype = w.t.dtype
    cdef Py_ssize_t size = width(w.t), row = w.first // w.inner, last = w.stop // w.inner
    cdef Py_ssize_t left = BLOCK, right, r, n, window = BLOCK * 8 // (LONG_ROWS * size)
    cdef Py_ssize_t pitch = BLOCK * size + LINE
    cdef running_t sums[LONG_ROWS]
    sweep(plan, w, 0, BLOCK, s.tile, pitch, s)
    for r in range(last - row):   # a row's beginning may belong to a block of the row before
        n = count_blocks((row + r) * w.inner) * BLOCK - (row + r) * w.inner
        begin_sums(&sums[r], count_blocks((row + r) * w.inner))
        run_on(&sums[r], partial, dtype, s.tile + r * pitch + n * size, BLOCK - n)
    while left < w.inner:
        right = min(left + window, w.inner)
        sweep(plan, w, left, right, s.block[0], window * size, s)
        for r in range(last - row):
            run_on(&sums[r], partial, dtype, s.block[0] + r * window * size, right - left)
        left = right
    for r in range(last - row):
        if sums[r].done:
            n = min(BLOCK - sums[r].done, w.t.size - (row + r + 1) * w.inner)
            run_on(&sums[r], partial, dtype, s.tile + (r + 1) * pitch, n)
            if sums[r].done:   # the tensor's last block
                partial[sums[r].block] = fold(sums[r].lane)


cdef void sweep(
    plan_t* plan, const sweep_t* w, Py_ssize_t left, Py_ssize_t right, char* to, Py_ssize_t pitch,
    scratch_t* s
) noexcept nogil:
    """Bring columns of the elements in hand into C order; `to`: for the first row's first one."""
    cdef Py_ssize_t size = width(w.t), top = w.first // w.inner, bottom = w.stop // w.inner
    cdef Py_ssize_t above = w.first % w.inner, below = w.stop % w.inner
    cdef Py_ssize_t here = left, end, row, stop, n
    while here < right:
        end = right
        if here < above < end:
            end = above
        if here < below < end:
            end = below
        row = top + (here < above)
        stop = bottom + (here < below)
        while row < stop:   # as far as rows lie side by side
            n = min(stop - row, w.length - row % w.length)
            sweep_band(
                plan, w, row, n, here, end,
                to + ((row - top) * pitch + (here - left) * size), pitch, s,
            )
            row += n
        here = end


cdef void sweep_band(
    plan_t* plan, const sweep_t* w, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t left,
    Py_ssize_t right, char* to, Py_ssize_t pitch, scratch_t* s
) noexcept nogil:
    """Bring the columns of rows that lie side by side into C order."""
    cdef Py_ssize_t index[MAX_DIMS]
    cdef Py_ssize_t at[2]
    cdef Py_ssize_t offset[2][2 * TILE_COLUMNS]   # of the columns in hand, and of the next ones
    cdef char* columns[2 * TILE_COLUMNS]
    cdef Py_ssize_t here, found, stop = row + rows, n
    cdef int i, j, many
    while row < stop:
        n = min(<Py_ssize_t> TILE_ROWS, stop - row)
        seek(w, row * w.inner + left, index, at)
        here = found = left
        while here < right:
            many = <int> min(<Py_ssize_t> TILE_COLUMNS, right - here)
            found += next_columns(
                w, index, at, offset, <int> (found - here),
                <int> (min(here + 2 * TILE_COLUMNS, right) - here),
            )
            find_columns(plan, w, columns, offset, many, <int> (found - here), n, s)
            turn(
                to + (here - left) * width(w.t), pitch, <const char* const*> columns, many,
                <int> (found - here) - many, n, w.t.dtype,
            )
            here += many
            for i in range(w.streams):
                for j in range(TILE_COLUMNS):
                    offset[i][j] = offset[i][TILE_COLUMNS + j]
        row += n
        to += n * pitch


cdef void find_columns(
    plan_t* plan, const sweep_t* w, char** at, Py_ssize_t (*offset)[2 * TILE_COLUMNS], int columns,
    int known, Py_ssize_t rows, scratch_t* s
) noexcept nogil:
    """Point at the values of columns; s.block[1] holds those that do not lie in memory as such.

    Of the columns that are known beyond these it is only said where they lie in memory.
    """
    cdef const tensor_t* t = w.t
    cdef Py_ssize_t size = width(t)
    cdef int i, j = 0, k, many
    cdef char* other
    if w.as_is:
        for k in range(known):
            at[k] = t.data[w.stream[0]] + offset[0][k]
        return
    for k in range(columns, known):
        at[k] = t.data[w.stream[0]] + offset[0][k] if w.work != DIRECTIONS else s.block[1]
    while j < columns:
        at[j] = s.block[1] + j * rows * size
        many = 1
        if w.work == DIRECTIONS:   # columns that follow one another in memory go together
            while j + many < columns and offset[0][j + many] == offset[0][j] + many * rows:
                many += 1
            k = j + many + AHEAD - 1
            if many == 1 and k < known:
                for i in range(plan.streams):
                    if t.data[i]:
                        prefetch(t.data[i] + offset[0][k] * t.itemsize[i], rows * t.itemsize[i])
            run_direction(plan, t, offset[0][j], many * rows, at[j], s)
            for k in range(1, many):
                at[j + k] = at[j] + k * rows * size
        elif w.streams == 1:
            at[j] = column(w, 0, offset[0][j], rows, at[j], s)
        else:
            other = column(w, 0, offset[0][j], rows, at[j], s)
            if other != at[j]:
                memcpy(at[j], other, rows * size)
            other = column(w, 1, offset[1][j], rows, s.streams[0], s)
            if <size_t> other % size:
                memcpy(s.streams[0], other, rows * size)
                other = s.streams[0]
            SPANS.add[t.dtype](at[j], other, rows)
        j += many


cdef void run_direction(
    plan_t* plan, const tensor_t* t, Py_ssize_t first, Py_ssize_t n, char* to, scratch_t* s
) noexcept nogil:
    """Run a rule that writes its direction, in the plan's order, into `to`."""
    cdef char* at[MAX_STREAMS]
    cdef int j
    if plan.norms.rehearsing or TRAITS[t.index].bounds and taken_apart(plan, t):
        rehearse(plan, t, first, n, to, s)
        return
    if taken_apart(plan, t):
        run_pieces(plan, t, first, n, to, s)
        return
    for j in range(plan.streams):
        at[j] = t.data[j] + first * t.itemsize[j] if t.data[j] else NULL
    memcpy(to, at[0], n * t.itemsize[0])
    at[0] = to
    SPANS.update[t.index][t.dtype](t.h, at, n, first)


cdef void rehearse(
    plan_t* plan, const tensor_t* t, Py_ssize_t first, Py_ssize_t n, char* to, scratch_t* s
) noexcept nogil:
    """Run a rule on copies, piece by piece, for what it would write in the parameter's place."""
    cdef char* at[MAX_STREAMS]
    cdef Py_ssize_t piece, here = first, end = first + n
    cdef int j
    while here < end:
        piece = min(PIECE - here % PIECE, end - here)
        fetch_piece(plan, t, at, here, piece, s)
        for j in range(plan.streams):
            if j != 1 and at[j] != NULL and at[j] != s.streams[j]:
                memcpy(s.streams[j], at[j], piece * width(t))
                at[j] = s.streams[j]
        SPANS.update[t.index][t.dtype](t.h, at, piece, here)
        memcpy(to + (here - first) * width(t), at[0], piece * width(t))
        here += piece
