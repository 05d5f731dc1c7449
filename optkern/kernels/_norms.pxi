# --------------------------------------------------------------------------- norms
#
# Squares are summed in C order, whatever the memory order: block by block where the
# elements lie like that or far apart anyway, in sweeps (_sweep.pxi) where neighbours in memory are
# far apart in C order.


cdef int map_blocks(plan_t* plan) except -1 nogil:
    """Number the blocks of all tensors, and make room for their sums."""
    cdef Py_ssize_t i, total = 0
    cdef double* room
    cdef Py_ssize_t* blocks
    for i in range(plan.count):
        total += count_blocks(plan.tensors[i].size)
    blocks = <Py_ssize_t*> malloc((plan.count + 1) * sizeof(Py_ssize_t))
    room = <double*> calloc(2 * total + 5 * plan.count + 1, sizeof(double))
    if blocks == NULL or room == NULL:
        free(blocks)
        free(room)
        raise MemoryError
    plan.norms.blocks = blocks
    number_blocks(plan, False)
    plan.norms.partial[0], plan.norms.partial[1] = room, room + total
    room += 2 * total
    plan.norms.sums[0], plan.norms.sums[1] = room, room + plan.count
    plan.norms.tree = room + 2 * plan.count
    plan.norms.each = <wide_t*> (room + 3 * plan.count)   # of two doubles' size
    return 0


cdef void number_blocks(plan_t* plan, bint by_rows) noexcept nogil:
    """Number the blocks of all elements; or, `by_rows`, of what a call's gradients are of."""
    cdef Py_ssize_t i, n
    plan.norms.blocks[0] = 0
    for i in range(plan.count):
        n = elements_of(&plan.tensors[i]) if by_rows else plan.tensors[i].size
        plan.norms.blocks[i + 1] = plan.norms.blocks[i] + count_blocks(n)


cdef void release_norms(plan_t* plan) noexcept nogil:
    free(plan.norms.blocks)
    free(plan.norms.partial[0])   # and with it all that `map_blocks` has made room for


cdef void measure(plan_t* plan, int threads) noexcept nogil:
    """Take the norms, and put into the constants what clipping and trust ratios make of them.

    Where a gradient must be finite and is not, stop at it (`bad`); nothing is written then.
    """
    cdef wide_t norm
    if plan.measures_gradients:
        if not plan.told or plan.options.clip_norm_per_tensor or plan.trusts:
            sum_squares(plan, GRADIENTS, threads)
            plan.norms.total = gradient_norm(plan)
        if plan.told:
            plan.norms.total = plan.told_norm
        norm = plan.norms.total
        norm.value *= gradient_share(
            &plan.options, <double> (plan.accumulated + 1), unit_of(plan)
        )
        plan.grad_norm = narrowed(norm)
        if plan.check_finite and not isfinite(plan.norms.total.value):
            plan.bad = first_nonfinite(plan)
            if plan.bad >= 0:
                return
    adjust_constants(plan)
    if plan.by_units:
        measure_units(plan, threads)


cdef void measure_directions(plan_t* plan, int threads) noexcept nogil:
    """Ask the rules for their directions, whose norms and signs the step depends on."""
    if plan.directs:
        if plan.factors:
            move_factors(plan, threads)
        sum_squares(plan, DIRECTIONS, threads)
        apply_directions(plan)
    if plan.options.clip_update_rms:
        apply_steadiness(plan, threads)
    if plan.options.cautious:
        apply_caution(plan, threads)


cdef void sum_squares(plan_t* plan, int what, int threads) noexcept nogil:
    """Sum the squares of each tensor's gradient, or direction, and parameter (for trust)."""
    cdef Py_ssize_t i, k
    plan.norms.directing, plan.norms.rehearsing = what != GRADIENTS, what == REHEARSALS
    run_jobs(square_blocks, plan, (plan.norms.blocks[plan.count] + JOB - 1) // JOB, threads)
    plan.norms.rehearsing = False   # a matrix's momentum is moved by `run_direction`, too
    for i in range(plan.count):
        k = plan.norms.blocks[i + 1] - plan.norms.blocks[i]
        plan.norms.sums[0][i] = add_blocks(plan.norms.partial[0] + plan.norms.blocks[i], k)
        plan.norms.sums[1][i] = add_blocks(plan.norms.partial[1] + plan.norms.blocks[i], k)


cdef void square_blocks(void* context, Py_ssize_t job, int thread) noexcept nogil:
    cdef plan_t* plan = <plan_t*> context
    cdef Py_ssize_t block = job * JOB, stop = min(block + JOB, plan.norms.blocks[plan.count])
    cdef Py_ssize_t i = 0, after = plan.count, middle, end
    while after - i > 1:   # the tensor of the first block
        middle = (i + after) // 2
        if plan.norms.blocks[middle] <= block:
            i = middle
        else:
            after = middle
    while block < stop:
        while plan.norms.blocks[i + 1] <= block:
            i += 1
        end = min(stop, plan.norms.blocks[i + 1])
        square_tensor(plan, i, block, end, room_of(plan, thread))
        block = end


cdef void square_tensor(
    plan_t* plan, Py_ssize_t i, Py_ssize_t block, Py_ssize_t stop, scratch_t* s
) noexcept nogil:
    """Sum the squares of blocks of one tensor: of its gradient or direction, and of itself."""
    cdef const tensor_t* t = &plan.tensors[i]
    cdef int what = DIRECTIONS if plan.norms.directing else GRADIENTS
    cdef bint wanted = t.active and (
        not plan.norms.directing or plan.norms.rehearsing or t.h.flags & DIRECTION
    )
    cdef Py_ssize_t k
    if not wanted:
        for k in range(block, stop):
            plan.norms.partial[0][k] = plan.norms.partial[1][k] = 0
    if wanted and (
        plan.norms.directing and t.h.flags & AGREEMENT   # which is counted in any order
        or t.rows != NULL
        or not sweep_blocks(plan, i, what, block, stop, s)
    ):
        for k in range(block, stop):
            square_block(plan, i, k, 1, s)
    wanted = wanted and TRAITS[t.index].trusts and not plan.norms.rehearsing
    if wanted and not sweep_blocks(plan, i, PARAMETERS, block, stop, s):
        for k in range(block, stop):
            square_parameter(plan, i, k, 1, s)


cdef void square_block(
    plan_t* plan, Py_ssize_t i, Py_ssize_t block, double factor, scratch_t* s
) noexcept nogil:
    """Sum the squares of one block of a gradient times a factor, or of a direction."""
    cdef const tensor_t* t = &plan.tensors[i]
    cdef Py_ssize_t first = (block - plan.norms.blocks[i]) * BLOCK
    cdef Py_ssize_t n = min(<Py_ssize_t> BLOCK, t.size - first)
    cdef char* x
    if t.rows != NULL:
        plan.norms.partial[0][block] = t.rows.square(t.rows, block - plan.norms.blocks[i], factor)
        return
    if plan.norms.directing and t.factors != NULL and factor == 1 and as_it_came(plan, t):
        plan.norms.partial[0][block] = along_block(t, first, n)
        return
    if plan.norms.directing and factor == 1 and ask_block(plan, t, block, first, n, s):
        return
    if not plan.norms.directing and factor == 1 and square_codes(plan, t, block, first, n, s):
        return
    if plan.norms.directing:
        x = s.block[0]
        run_direction(plan, t, first, n, x, s)
    else:
        x = gradient_of(plan, t, first, n, s, True)
    if factor != 1:
        SPANS.scale[t.dtype](s.block[0], x, factor, n)
        x = s.block[0]
    plan.norms.partial[0][block] = squares_of(t.dtype, x, n)


cdef bint square_codes(
    plan_t* plan, const tensor_t* t, Py_ssize_t block, Py_ssize_t first, Py_ssize_t n, scratch_t* s
) noexcept nogil:
    """Sum the squares of a block of a gradient of 16 bits that lies in C order as it is."""
    cdef squares_t squares = SPANS.squares_of_codes[t.storage[1]]
    cdef double lane[LANES]
    if squares == NULL or t.data[1] == NULL or t.accumulator_filled or plan.held_shift:
        return False
    if way_through(t, 1, True, s) != NULL:
        return False
    memset(lane, 0, sizeof(lane))
    squares(lane, t.data[1] + first * t.itemsize[1], n, 0)
    plan.norms.partial[0][block] = fold(lane)
    return True


cdef bint ask_block(
    plan_t* plan, const tensor_t* t, Py_ssize_t block, Py_ssize_t first, Py_ssize_t n, scratch_t* s
) noexcept nogil:
    """Sum the squares of a block of what a rule gives, where it has a loop for just that."""
    cdef ask_t ask = SPANS.ask[t.index][t.dtype]
    cdef unsigned int wanted = RELATIVE | AGREEMENT if plan.norms.rehearsing else DIRECTION
    cdef char* at[MAX_STREAMS]
    cdef double lane[LANES]
    cdef Py_ssize_t piece, end = first + n
    cdef int j
    if ask == NULL or not t.h.flags & wanted:
        return False
    memset(lane, 0, sizeof(lane))
    while first < end:
        piece = end - first
        if taken_apart(plan, t):
            piece = min(piece, <Py_ssize_t> PIECE)
            fetch_piece(plan, t, at, first, piece, s)
        else:
            for j in range(plan.streams):
                at[j] = t.data[j] + first * t.itemsize[j] if t.data[j] else NULL
        ask(t.h, at, piece, lane)
        first += piece
    plan.norms.partial[0][block] = fold(lane)
    return True


cdef void square_parameter(
    plan_t* plan, Py_ssize_t i, Py_ssize_t block, double factor, scratch_t* s
) noexcept nogil:
    """Sum the squares of one block of a parameter times a factor."""
    cdef const tensor_t* t = &plan.tensors[i]
    cdef Py_ssize_t first = (block - plan.norms.blocks[i]) * BLOCK
    cdef Py_ssize_t n = min(<Py_ssize_t> BLOCK, t.size - first)
    cdef char* x = gather(t, 0, first, n, s.block[0], s, True)
    if factor != 1:
        SPANS.scale[t.dtype](s.block[1], x, factor, n)
        x = s.block[1]
    plan.norms.partial[1][block] = squares_of(t.dtype, x, n)


cdef wide_t gradient_norm(plan_t* plan) noexcept nogil:
    """Compute the norm of all gradients together, and that of each where it is asked for."""
    cdef Py_ssize_t i
    cdef int shift
    cdef double total
    for i in range(plan.count):
        plan.norms.tree[i] = plan.norms.sums[0][i]
    total = add_blocks(plan.norms.tree, plan.count)
    shift = rescue(total, True)
    if shift:
        for i in range(plan.count):
            if rescue(plan.norms.sums[0][i], plan.tensors[i].dtype) == shift:
                plan.norms.tree[i] = rescued(plan, i, False, shift)
            else:
                plan.norms.tree[i] = ldexp(plan.norms.sums[0][i], 2 * shift)
        total = add_blocks(plan.norms.tree, plan.count)
    if plan.options.clip_norm_per_tensor or plan.trusts:
        for i in range(plan.count):
            plan.norms.each[i] = tensor_norm(plan, i, False)
    return root(total, shift)


cdef wide_t tensor_norm(plan_t* plan, Py_ssize_t i, bint of_parameter) noexcept nogil:
    """Compute the norm of a parameter, or of a gradient or direction."""
    cdef double squares = plan.norms.sums[of_parameter][i]
    cdef int shift = rescue(squares, plan.tensors[i].dtype)
    return root(rescued(plan, i, of_parameter, shift) if shift else squares, shift)


cdef double rescued(plan_t* plan, Py_ssize_t i, bint of_parameter, int shift) noexcept nogil:
    """Sum the squares of a parameter, gradient or direction times 2**shift."""
    cdef Py_ssize_t block, first = plan.norms.blocks[i], stop = plan.norms.blocks[i + 1]
    cdef unsigned int flags = plan.constants[i].flags
    if not plan.tensors[i].active:
        return 0
    # LAMB's state has moved on already, and is to be read alone.
    if plan.norms.directing and TRAITS[plan.tensors[i].index].directs:
        plan.constants[i].flags |= APPLY
    for block in range(first, stop):
        if of_parameter:
            square_parameter(plan, i, block, ldexp(1, shift), room_of(plan, 0))
        else:
            square_block(plan, i, block, ldexp(1, shift), room_of(plan, 0))
    plan.constants[i].flags = flags
    return add_blocks(plan.norms.partial[of_parameter] + first, stop - first)
