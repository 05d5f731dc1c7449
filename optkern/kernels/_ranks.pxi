# --------------------------------------------------------------------------- one of several ranks
#
# A plan over a share of the parameters, whose norms and refusals are of the whole. A step is two
# calls then: `look` says what this share has, `step_told` goes on with what all of them have.


def note_origins(Plan plan, origins):
    """Say of each parameter of a plan where in the whole array, in C order, it begins: slices.

    What is rounded at random has the bits of the whole array then, and so have blocks of int8: that
    takes multiples of a piece, in elements.
    """
    cdef Py_ssize_t i
    if any(origin < 0 or origin % PIECE for origin in origins):
        raise ValueError(f"{plan.owner}: slices begin at multiples of {PIECE}, got {origins}")
    for i, origin in enumerate(origins):
        plan.core.tensors[i].origin = origin


def look(
    Plan plan, tuple gradients, int num_threads, int on_nonfinite, flushing=False, int shift=0
):
    """Say what this share of the gradients has; nothing is written.

    Parameters
    ----------
    gradients, num_threads, on_nonfinite
        Those of the step.
    flushing : bool
        Whether the step is one of those that wait in the accumulators.
    shift : int
        Squares are of the gradients times 2**shift.

    Returns
    -------
    (int, ndarray or None)
        The position of the first parameter whose gradient is not finite, where that is asked for,
        or -1; the sums of squares of each block of each parameter, where a norm is asked for.
    """
    cdef plan_t* core = &plan.core
    cdef Py_ssize_t calls = core.accumulated
    cdef double every = core.options.accumulate
    plan.begin()
    try:
        if flushing:
            core.accumulated, core.options.accumulate = calls - 1, calls
        return _seen(plan, gradients, num_threads, plan.patient(on_nonfinite), shift)
    finally:
        core.options.accumulate, core.accumulated = every, calls
        plan.end()


cdef _seen(Plan plan, tuple gradients, int num_threads, int on_nonfinite, int shift):
    cdef plan_t* core = &plan.core
    cdef int threads = plan._usable_threads(num_threads)
    cdef bint checks = on_nonfinite != PROPAGATE, summing
    cdef Py_ssize_t bad = -1
    take_gradients(plan, gradients)
    reserve_scratch(core, threads)
    core.adding = core.accumulated + 1 < core.options.accumulate
    summing = core.measures_gradients and not core.adding
    if checks and (not summing or unbounded_scale(core) != 1):
        bad = first_nonfinite(core)
    if not summing:
        return bad, None
    squares = np.zeros(core.norms.blocks[core.count])
    if bad >= 0:
        return bad, squares
    with nogil:
        square_share(core, shift, threads)
    if squares.size:
        memcpy(cnp.PyArray_DATA(squares), core.norms.partial[0], cnp.PyArray_NBYTES(squares))
    if checks and not np.isfinite(squares).all():
        bad = first_nonfinite(core)
    return bad, squares


cdef void square_share(plan_t* plan, int shift, int threads) noexcept nogil:
    """Sum the squares of each block of the gradients times 2**shift."""
    cdef Py_ssize_t i, block
    plan.norms.directing = plan.norms.rehearsing = False
    if not shift:
        run_jobs(square_blocks, plan, (plan.norms.blocks[plan.count] + JOB - 1) // JOB, threads)
        return
    for i in range(plan.count):
        for block in range(plan.norms.blocks[i], plan.norms.blocks[i + 1]):
            if plan.tensors[i].active:
                square_block(plan, i, block, ldexp(1, shift), room_of(plan, 0))
            else:
                plan.norms.partial[0][block] = 0


def step_told(
    Plan plan, tuple gradients, int num_threads, int on_nonfinite, Py_ssize_t bad, norm,
    flushing=False, added_up=None,
):
    """Take a step, knowing what all shares have: ``bad`` and, (value, exponent), the norm.

    Where a rule asks for sums over all arrays, ``added_up(sums)`` is called once for it, with a row
    for each parameter that has a gradient (0 where it is another share's), and makes those of all.
    Result and errors are those of `Plan.step`, or of `Plan.flush`.
    """
    cdef plan_t* core = &plan.core
    cdef Py_ssize_t calls = core.accumulated
    cdef double every = core.options.accumulate
    cdef bint applied = False
    plan.begin()
    try:
        core.told, plan._added_up = True, added_up
        core.told_norm.value, core.told_norm.exponent = norm
        if flushing:
            core.accumulated, core.options.accumulate = calls - 1, calls
        if bad < 0:
            applied = plan._step(gradients, num_threads, on_nonfinite)
        else:
            applied = _left_out(plan, gradients, bad, plan.patient(on_nonfinite))
        return applied
    finally:
        core.told, plan._added_up = False, None
        if flushing:
            core.options.accumulate = every
            core.accumulated = 0 if applied else calls
        plan.end()


cdef bint _left_out(Plan plan, tuple gradients, Py_ssize_t bad, int on_nonfinite) except -1:
    cdef plan_t* core = &plan.core
    take_gradients(plan, gradients)
    reserve_scratch(core, 1)
    core.adding = core.accumulated + 1 < core.options.accumulate
    core.bad = bad
    if on_nonfinite == SKIP and core.options.zero_grad:
        zero_gradients(core)
    return plan.conclude(on_nonfinite)


def wants_room(Plan plan):
    """Tell whether one more gradient could take an accumulator of this share out of the range."""
    cdef plan_t* core = &plan.core
    cdef Py_ssize_t i
    if not core.crowded or core.held_shift:
        return False
    reserve_scratch(core, 1)
    for i in range(core.count):
        if core.accumulator_filled[i] and not walk_held(core, i, 0):
            return True
    return False


def lower_held(Plan plan):
    """Scale the accumulators down, as `make_room` does where that is needed."""
    cdef plan_t* core = &plan.core
    cdef Py_ssize_t i
    if core.held_shift:
        return
    reserve_scratch(core, 1)
    core.held_shift, core.crowded = HELD_SHIFT, False
    for i in range(core.count):
        if core.accumulator_filled[i]:
            walk_held(core, i, unit_of(core))


def norm_of_blocks(blocks, counts):
    """Add up block sums: of each parameter, and of all of them, in the engine's order.

    Parameters
    ----------
    blocks : ndarray of float64
        The sums of all blocks, one parameter's after the other's; overwritten.
    counts : ndarray of int64
        How many blocks each has.

    Returns
    -------
    (ndarray, float)
    """
    cdef cnp.ndarray partial = blocks
    cdef Py_ssize_t first = 0, length
    each = np.zeros(len(counts))
    for i, length in enumerate(counts.tolist()):
        if length:
            each[i] = add_blocks(<double*> cnp.PyArray_DATA(partial) + first, length)
        first += length
    return each, total_of(each)


def total_of(sums):
    """Add up the parameters' sums of squares, in the engine's order."""
    cdef cnp.ndarray tree = np.array(sums, np.float64)
    cdef Py_ssize_t count = cnp.PyArray_SIZE(tree)
    return add_blocks(<double*> cnp.PyArray_DATA(tree), count) if count else 0.0
