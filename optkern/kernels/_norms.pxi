# --------------------------------------------------------------------------- norms
#
# Squares are summed in C order, whatever the memory order: block by block where the
# elements lie like that or far apart anyway, in sweeps (_sweep.pxi) where neighbours in memory are
# far apart in C order.


cdef int map_blocks(Plan plan) except -1:
    """Number the blocks of all tensors, and make room for their sums."""
    cdef Py_ssize_t i, total = 0
    cdef double* room
    cdef Py_ssize_t* blocks
    for i in range(plan._count):
        total += count_blocks(plan._tensors[i].size)
    blocks = <Py_ssize_t*> malloc((plan._count + 1) * sizeof(Py_ssize_t))
    room = <double*> calloc(2 * total + 4 * plan._count + 1, sizeof(double))
    if blocks == NULL or room == NULL:
        free(blocks)
        free(room)
        raise MemoryError
    blocks[0] = 0
    for i in range(plan._count):
        blocks[i + 1] = blocks[i] + count_blocks(plan._tensors[i].size)
    plan._blocks, plan._partial[0], plan._partial[1] = blocks, room, room + total
    plan._sums[0] = room + 2 * total
    plan._sums[1], plan._norms = plan._sums[0] + plan._count, plan._sums[0] + 2 * plan._count
    plan._tree = plan._sums[0] + 3 * plan._count
    return 0


cdef void measure(Plan plan, int threads) noexcept nogil:
    """Take the norms, and put into the constants what clipping and trust ratios make of them.

    Where a gradient must be finite and is not, stop at it (`_bad`); nothing is written then.
    """
    if plan._measures_gradients:
        sum_squares(plan, False, threads)
        plan._norm = gradient_norm(plan)
        plan.grad_norm = plan._norm * gradient_share(
            &plan._options, <double> (plan.accumulated + 1)
        )
        # A norm may be infinite because it is too large for a double.
        if plan._check_finite and not isfinite(plan._norm):
            plan._bad = plan._first_nonfinite()
            if plan._bad >= 0:
                return
    plan._adjust_constants()
    if plan._directs:
        sum_squares(plan, True, threads)
        plan._apply_directions()


cdef void sum_squares(Plan plan, bint directing, int threads) noexcept nogil:
    """The squares of each tensor's gradient, or direction, and parameter (for its trust)."""
    global region_entered
    cdef Py_ssize_t i, k, jobs = (plan._blocks[plan._count] + JOB - 1) // JOB
    plan._directing = directing
    if threads == 1:
        for k in range(jobs):
            square_blocks(plan, k, plan._room(0))
    else:
        region_entered = True
        for k in prange(jobs, schedule="dynamic", chunksize=1, num_threads=threads):
            square_blocks(plan, k, plan._room(threadid()))
    for i in range(plan._count):
        k = plan._blocks[i + 1] - plan._blocks[i]
        plan._sums[0][i] = add_blocks(plan._partial[0] + plan._blocks[i], k)
        plan._sums[1][i] = add_blocks(plan._partial[1] + plan._blocks[i], k)


cdef void square_blocks(Plan plan, Py_ssize_t job, scratch_t* s) noexcept nogil:
    cdef Py_ssize_t block = job * JOB, stop = min(block + JOB, plan._blocks[plan._count])
    cdef Py_ssize_t i = 0, after = plan._count, middle, end
    cdef optkern_mode_t mode = optkern_ieee_mode()
    while after - i > 1:   # the tensor of the first block
        middle = (i + after) // 2
        if plan._blocks[middle] <= block:
            i = middle
        else:
            after = middle
    while block < stop:
        while plan._blocks[i + 1] <= block:
            i += 1
        end = min(stop, plan._blocks[i + 1])
        square_tensor(plan, i, block, end, s)
        block = end
    optkern_restore_mode(mode)


cdef void square_tensor(
    Plan plan, Py_ssize_t i, Py_ssize_t block, Py_ssize_t stop, scratch_t* s
) noexcept nogil:
    """Sum the squares of blocks of one tensor: of its gradient or direction, and of itself."""
    cdef const tensor_t* t = &plan._tensors[i]
    cdef int what = DIRECTIONS if plan._directing else GRADIENTS
    cdef bint wanted = t.active and (not plan._directing or t.h.flags & DIRECTION)
    cdef Py_ssize_t k
    if not wanted:
        for k in range(block, stop):
            plan._partial[0][k] = plan._partial[1][k] = 0
    if wanted and not sweep_blocks(plan, i, what, block, stop, s):
        for k in range(block, stop):
            square_block(plan, i, k, 1, s)
    if wanted and plan._trusts and not sweep_blocks(plan, i, PARAMETERS, block, stop, s):
        for k in range(block, stop):
            square_parameter(plan, i, k, 1, s)


cdef void square_block(
    Plan plan, Py_ssize_t i, Py_ssize_t block, double factor, scratch_t* s
) noexcept nogil:
    """Sum the squares of one block of a gradient times a factor, or of a direction."""
    cdef const tensor_t* t = &plan._tensors[i]
    cdef Py_ssize_t first = (block - plan._blocks[i]) * BLOCK
    cdef Py_ssize_t n = min(<Py_ssize_t> BLOCK, t.size - first)
    cdef char* x
    if plan._directing:
        x = s.block[0]
        run_direction(plan, t, first, n, x, s)
    else:
        x = plan._gradient(t, first, n, s, True)
    if factor != 1:
        SPANS.scale[t.dtype](s.block[0], x, factor, n)
        x = s.block[0]
    plan._partial[0][block] = SPANS.dot[t.dtype](x, x, n)


cdef void square_parameter(
    Plan plan, Py_ssize_t i, Py_ssize_t block, double factor, scratch_t* s
) noexcept nogil:
    """Sum the squares of one block of a parameter times a factor."""
    cdef const tensor_t* t = &plan._tensors[i]
    cdef Py_ssize_t first = (block - plan._blocks[i]) * BLOCK
    cdef Py_ssize_t n = min(<Py_ssize_t> BLOCK, t.size - first)
    cdef char* x = gather(t, 0, first, n, s.block[0], s, True)
    if factor != 1:
        SPANS.scale[t.dtype](s.block[1], x, factor, n)
        x = s.block[1]
    plan._partial[1][block] = SPANS.dot[t.dtype](x, x, n)


cdef double gradient_norm(Plan plan) noexcept nogil:
    """The norm of all gradients together, and of each; of numbers beyond 1e154 too."""
    cdef Py_ssize_t i
    cdef double total
    for i in range(plan._count):
        plan._norms[i] = sqrt(plan._sums[0][i])
        plan._tree[i] = plan._sums[0][i]
    total = add_blocks(plan._tree, plan._count)
    if isfinite(total):
        return sqrt(total)
    for i in range(plan._count):
        if isfinite(plan._sums[0][i]):
            plan._tree[i] = ldexp(plan._sums[0][i], -2 * RESCUE)
        else:
            plan._tree[i] = rescued(plan, i)
            plan._norms[i] = ldexp(sqrt(plan._tree[i]), RESCUE)
    return ldexp(sqrt(add_blocks(plan._tree, plan._count)), RESCUE)


cdef double rescued(Plan plan, Py_ssize_t i) noexcept nogil:
    """The squares of a gradient, or direction, times 2**-RESCUE."""
    cdef Py_ssize_t block
    cdef optkern_mode_t mode = optkern_ieee_mode()
    for block in range(plan._blocks[i], plan._blocks[i + 1]):
        square_block(plan, i, block, ldexp(1, -RESCUE), plan._room(0))
    optkern_restore_mode(mode)
    return add_blocks(plan._partial[0] + plan._blocks[i], plan._blocks[i + 1] - plan._blocks[i])


cdef double direction_norm(Plan plan, Py_ssize_t i) noexcept nogil:
    """The norm of a direction; where squares overflow, of its numbers times 2**-RESCUE."""
    cdef constants_t* h = &plan._constants[i]
    cdef double squares = plan._sums[0][i]
    if isfinite(squares):
        return sqrt(squares)
    h.flags |= APPLY   # the state has moved on already, and is to be read alone
    squares = rescued(plan, i)
    h.flags ^= APPLY
    return ldexp(sqrt(squares), RESCUE)


cdef double parameter_norm(Plan plan, Py_ssize_t i) noexcept nogil:
    """The norm of a parameter; where squares overflow, of its numbers times 2**-RESCUE."""
    cdef Py_ssize_t block, first = plan._blocks[i], stop = plan._blocks[i + 1]
    if isfinite(plan._sums[1][i]):
        return sqrt(plan._sums[1][i])
    for block in range(first, stop):
        square_parameter(plan, i, block, ldexp(1, -RESCUE), plan._room(0))
    return ldexp(sqrt(add_blocks(plan._partial[1] + first, stop - first)), RESCUE)
