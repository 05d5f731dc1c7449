# --------------------------------------------------------------------------- running
#
# The rule over all elements of a plan: chunk by chunk where there are threads, a span of a tensor
# at a time, and in pieces where arrays are staged or something is done around the rule.

cdef extern from *:
    """
    /* What several threads may say at once. */
    #if defined(__GNUC__) || defined(__clang__)
    #define optkern_say(what) __atomic_store_n((what), 1, __ATOMIC_RELAXED)
    #else  /* MSVC, where a volatile number is written at once */
    #define optkern_say(what) (*(volatile int*)(what) = 1)
    #endif
    """
    void say "optkern_say"(bint* what) noexcept nogil


cdef void run_plan(plan_t* plan, int threads) noexcept nogil:
    cdef scratch_t* s = room_of(plan, 0)
    cdef Py_ssize_t k
    if plan.bad >= 0:   # found while matrices were made
        return
    if not plan.adding and not plan.ready:
        make_ready(plan, threads)
        if plan.bad >= 0:
            return
    if plan.shaped:
        step_matrices(plan)
    if not plan.adding and plan.measures:
        measure_directions(plan, threads)
    if threads == 1:   # no chunks: their dispatch costs 2 % in cache
        for k in range(plan.count):
            if plan.tensors[k].active:
                run_span(plan, &plan.tensors[k], 0, plan.tensors[k].size, s)
    else:
        run_jobs(run_chunk, plan, plan.chunks.count, threads)
    if plan.shaped:
        leave_matrices(plan)


cdef void make_ready(plan_t* plan, int threads) noexcept nogil:
    """Take the norms of gradients and complete the constants; nothing is written."""
    plan.ready = True
    if plan.measures:
        measure(plan, threads)
    elif plan.adjusts or plan.accumulated or plan.held_shift:
        adjust_constants(plan)


cdef void run_chunk(void* context, Py_ssize_t k, int thread) noexcept nogil:
    cdef plan_t* plan = <plan_t*> context
    cdef scratch_t* s = room_of(plan, thread)
    cdef Py_ssize_t i = plan.chunks.tensor[k], first = plan.chunks.first[k], end
    cdef Py_ssize_t last = plan.chunks.tensor[k + 1], stop = plan.chunks.first[k + 1]
    while i < last or (i == last and first < stop):
        end = stop if i == last else plan.tensors[i].size
        if plan.tensors[i].active and end > first:
            run_span(plan, &plan.tensors[i], first, end - first, s)
        i += 1
        first = 0


cdef void run_span(
    plan_t* plan, tensor_t* t, Py_ssize_t first, Py_ssize_t n, scratch_t* s
) noexcept nogil:
    if plan.adding:
        accumulate_span(plan, t, first, n, s)
    elif not t.staged and not plan.pieces and not t.h.lift and t.units == NULL:
        if n < LONG and first == 0:
            SPANS.update[t.index][t.dtype](t.h, t.data, n, 0)
        else:
            run_dense(plan, t, first, n)
    elif t.factors != NULL and not plan.pieces and lies_plain(plan, t):
        run_factored(t, first, n)
    elif (
        t.h.lift or t.units != NULL or not t.compact or plan.pieces and not follows(plan, t)
        or not run_compact(plan, t, first, n, s)
    ):
        run_pieces(plan, t, first, n, NULL, s)


cdef void run_dense(plan_t* plan, tensor_t* t, Py_ssize_t first, Py_ssize_t n) noexcept nogil:
    """Run the rule's loop from where a cache line begins on: zeros_beside in buffers.py.

    What is before it is of a whole line's elements, stepped over in a copy: of those in the line
    after it, which the loop does too, the bits are the same. One by one they took 0.1 us.
    """
    cdef span_t span = SPANS.update[t.index][t.dtype]
    cdef char room[(MAX_STREAMS + 1) * LINE]
    cdef char* line = room + (-<size_t> room % LINE)
    cdef char* at[MAX_STREAMS]
    cdef char* begun[MAX_STREAMS]
    cdef Py_ssize_t head = 0
    cdef int j
    for j in range(plan.streams):
        at[j] = t.data[j] + first * t.itemsize[j] if t.data[j] else NULL
    if n >= LONG:
        head = <Py_ssize_t> (-<size_t> at[0] % LINE) // t.itemsize[0]
    if head == 0:
        span(t.h, at, n, first)
        return
    for j in range(plan.streams):
        begun[j] = at[j]
        if j != 1 and at[j]:   # gradients are read where they are
            begun[j] = <char*> memcpy(line + j * LINE, at[j], LINE)
    span(t.h, begun, LINE // t.itemsize[0], first)
    for j in range(plan.streams):
        if at[j]:
            at[j] += head * t.itemsize[j]
    span(t.h, at, n - head, first + head)
    for j in range(plan.streams):
        if j != 1 and at[j]:
            memcpy(at[j] - head * t.itemsize[j], begun[j], LINE)


cdef void run_pieces(
    plan_t* plan, const tensor_t* t, Py_ssize_t first, Py_ssize_t n, char* direction, scratch_t* s
) noexcept nogil:
    """Run the rule and what is around it piece by piece.

    The direction, where it is asked for, is written instead of the parameter.
    """
    cdef char* at[MAX_STREAMS]
    cdef Py_ssize_t here = first, piece, end = first + n
    if not (taken_apart(plan, t) or direction):
        run_dense_pieces(plan, t, first, n, s)
        return
    while here < end:
        piece = min(PIECE - here % PIECE if t.staged else <Py_ssize_t> WORK, end - here)
        fetch_piece(plan, t, at, here, piece, s)
        if direction != NULL:
            memcpy(direction + (here - first) * width(t), at[0], piece * width(t))
            at[0] = direction + (here - first) * width(t)
        SPANS.update[t.index][t.dtype](t.h, at, piece, here)
        if direction == NULL:
            finish_piece(plan, t, at, here, piece, s)
            if t.home != 0:
                put(t, t.home, here, piece, at[0], NULL, s)
        put_state(plan, t, at, here, piece, s, direction != NULL)
        here += piece


cdef inline bint taken_apart(const plan_t* plan, const tensor_t* t) noexcept nogil:
    """Tell whether something comes between where a tensor's arrays lie and its rule."""
    return t.staged or t.accumulator_filled or t.h.lift or plan.held_shift or t.units != NULL


cdef void fetch_piece(
    plan_t* plan, const tensor_t* t, char** at, Py_ssize_t first, Py_ssize_t n, scratch_t* s
) noexcept nogil:
    """Find a piece of each stream as a rule takes it: of the gradient with what has accumulated."""
    cdef int j
    for j in range(plan.streams + EXTRA):
        at[j] = fetch(t, j, first, n, s.streams[j], s)
    if t.factors != NULL:
        at[2] = spread_roots(t, first, n, s.streams[2])
    at[1] = lowered(plan, t, at[1], n, s.streams[1])
    at[1] = with_accumulated(t, at[1], at[plan.streams + ACCUMULATOR], n, s.sum)
    if t.units != NULL:
        at[1] = by_units(t, at[1], first, n, s.sum)
    if t.h.lift:
        SPANS.scale[t.dtype](s.sum, at[1], ldexp(1, t.h.lift), n)
        at[1] = s.sum


cdef void run_dense_pieces(
    plan_t* plan, const tensor_t* t, Py_ssize_t first, Py_ssize_t n, scratch_t* s
) noexcept nogil:
    """Run them where they lie: looking for each stream's place in each piece is a tenth of SGD."""
    cdef span_t span = SPANS.update[t.index][t.dtype]
    cdef char* at[MAX_STREAMS]
    cdef Py_ssize_t here = first, piece, end = first + n
    cdef int j
    for j in range(plan.streams + EXTRA):
        at[j] = t.data[j] + first * t.itemsize[j] if t.data[j] else NULL
    while here < end:
        piece = min(<Py_ssize_t> WORK, end - here)
        span(t.h, at, piece, here)
        finish_piece(plan, t, at, here, piece, s)
        here += piece
        for j in range(plan.streams + EXTRA):
            if at[j]:
                at[j] += piece * t.itemsize[j]


cdef void put_state(
    plan_t* plan, const tensor_t* t, char** at, Py_ssize_t first, Py_ssize_t n, scratch_t* s,
    bint directing,
) noexcept nogil:
    """Bring a piece of the parameter (not of a direction) and its state back."""
    cdef const unsigned short* random = NULL
    cdef Py_ssize_t at_whole = t.origin + first
    cdef int j
    for j in range(plan.streams + EXTRA):
        if at[j] == NULL or j == 1 or j == 0 and directing:
            continue
        if t.storage[j] >= BFLOAT16_STATE and random == NULL:
            random = SPANS.random(
                s.random, <unsigned int> at_whole, random_key(t, at_whole), <int> n
            )
        put(t, j, first, n, at[j], random, s)


cdef inline void confine(plan_t* plan, const tensor_t* t, char* x, Py_ssize_t n) noexcept nogil:
    """Put a piece of a parameter, or of an average of it, back into its interval."""
    cdef const double* box
    if plan.options.project:
        box = plan.box[stored_as(t)]
        SPANS.confine[t.dtype](x, box[0], box[1], n)


cdef inline int stored_as(const tensor_t* t) noexcept nogil:
    """Say as whose numbers a parameter is stored."""
    cdef int storage = t.storage[t.home]
    if storage == PLAIN:
        return AS_FLOAT64 if t.dtype else AS_FLOAT32
    return AS_BFLOAT16 if storage in (BFLOAT16, BFLOAT16_STATE) else AS_FLOAT16


cdef void finish_piece(
    plan_t* plan, const tensor_t* t, char** at, Py_ssize_t first, Py_ssize_t n, scratch_t* s
) noexcept nogil:
    """Do what follows the rule: projection, Lookahead, average, zeros for the gradient."""
    cdef char* slow = at[plan.streams + SLOW]
    cdef char* ema = at[plan.streams + EMA]
    confine(plan, t, at[0], n)
    if t.averages:
        SPANS.approach[t.dtype](slow, at[0], plan.options.lookahead_alpha, n)
        confine(plan, t, slow, n)
        memcpy(at[0], slow, n * width(t))
    if ema != NULL:
        SPANS.approach[t.dtype](ema, at[0], 1 - plan.options.ema_decay, n)
        confine(plan, t, ema, n)
    if plan.options.zero_grad:
        zero(t, 1, first, n, s)


cdef void accumulate_span(
    plan_t* plan, const tensor_t* t, Py_ssize_t first, Py_ssize_t n, scratch_t* s
) noexcept nogil:
    """Add the gradient to its accumulator, or begin with it."""
    cdef int to = plan.streams + ACCUMULATOR
    cdef Py_ssize_t here = first, piece, end = first + n
    cdef char* g
    cdef char* held
    cdef add_t take = SPANS.add[t.dtype] if t.accumulator_filled else SPANS.hold[t.dtype]
    while here < end and t.data[1] != NULL:
        piece = min(PIECE - here % PIECE if t.staged else <Py_ssize_t> WORK, end - here)
        g = lowered(plan, t, fetch(t, 1, here, piece, s.streams[1], s), piece, s.streams[1])
        held = fetch(t, to, here, piece, s.streams[to], s)
        if not take(held, g, piece):
            say(&plan.crowded)   # whichever thread it is
        put(t, to, here, piece, held, NULL, s)
        if plan.options.zero_grad:
            zero(t, 1, here, piece, s)
        here += piece


cdef bint follows(const plan_t* plan, const tensor_t* t) noexcept nogil:
    """Tell whether what is done around a rule only follows its loop over compact state.

    An average may, and zeros for the gradient; what changes the parameter is in front of rounding.
    """
    cdef int ema = plan.streams + EMA
    if plan.options.project or plan.options.lookahead:
        return False
    return not (t.accumulator_filled or plan.held_shift) and (
        t.data[ema] == NULL or t.layout[ema] == NULL and t.storage[ema] == t.storage[0] == PLAIN
    )


cdef bint run_compact(
    plan_t* plan, tensor_t* t, Py_ssize_t first, Py_ssize_t n, scratch_t* s
) noexcept nogil:
    """Run the rule's loop over state of few bits, or beside a master.

    False where it has none for these options.
    """
    cdef bint bytes = not t.home and t.storage[2] != BFLOAT16_STATE
    cdef compact_t span = SPANS.compact[t.index][bytes][t.storage[0] != PLAIN]
    cdef unsigned char* scales[MAX_STREAMS]
    cdef char* at[MAX_STREAMS]
    cdef Py_ssize_t unit = SCALED if bytes else 4 // t.itemsize[0]   # a block, a pair, or one
    cdef Py_ssize_t run, head, done, at_whole, rest = n % unit, end = first + n - rest
    cdef bint ahead = plan.total >= BEYOND
    cdef int j
    if t.home:
        span = SPANS.master[t.index][t.storage[2] == BFLOAT16_STATE][t.storage[1] == FLOAT16]
    if span == NULL or rest == n:
        return False
    while first < end:
        at_whole = t.origin + first
        run = min(SEGMENT - at_whole % SEGMENT, end - first)
        if plan.pieces:   # a loop asks memory for nothing beyond its piece
            run = min(run, <Py_ssize_t> (CHUNK if ahead else WORK))
        for j in range(plan.streams + EXTRA):
            at[j] = t.data[j] + first * t.itemsize[j] if t.data[j] else NULL
            scales[j] = t.scales[j] + first // SCALED if t.scales[j] else NULL
        if t.home:
            at[ROUNDED] = t.data[t.home] + first * t.itemsize[t.home]
        if run >= LONG and not bytes:   # as for dense state, but whole units
            head = <Py_ssize_t> (-<size_t> at[0] % LINE) // t.itemsize[0] // unit * unit
            run = head if head else run
        done = span(t.h, at, scales, run, <unsigned int> at_whole, random_key(t, at_whole), ahead)
        if done < 0:
            return False
        if plan.pieces:
            finish_piece(plan, t, at, first, done, s)
        first += done
        if done < run - run % unit:
            run_pieces(plan, t, first, SCALED, NULL, s)
            first += SCALED
    if rest:
        run_pieces(plan, t, first, rest, NULL, s)
    return True


cdef void zero_gradients(plan_t* plan) noexcept nogil:
    """Set the gradients of a call to zero that is left out."""
    cdef Py_ssize_t i, first
    cdef tensor_t* t
    for i in range(plan.count):
        t = &plan.tensors[i]
        first = 0
        while t.data[1] != NULL and first < t.size:
            zero(t, 1, first, min(<Py_ssize_t> PIECE, t.size - first), room_of(plan, 0))
            first += PIECE


cdef Py_ssize_t active_elements(const plan_t* plan) noexcept nogil:
    """Count the elements that have a gradient in this call."""
    cdef Py_ssize_t i, elements = 0
    for i in range(plan.count):
        elements += elements_of(&plan.tensors[i])
    return elements


cdef inline Py_ssize_t elements_of(const tensor_t* t) noexcept nogil:
    """Count the elements of a tensor that have a gradient in this call."""
    if not t.active:
        return 0
    return t.size if t.rows == NULL else t.rows.count * t.rows.width


cdef void count_call(plan_t* plan) noexcept nogil:
    """Count the call that has been done."""
    cdef Py_ssize_t i
    cdef const constants_t* h
    if plan.adding:
        plan.accumulated += 1
        for i in range(plan.count):
            if plan.tensors[i].data[1] != NULL:
                plan.accumulator_filled[i] = True
        return
    plan.accumulated = plan.held_shift = 0
    plan.crowded = False
    plan.applied += 1
    for i in range(plan.count):
        if plan.tensors[i].active:
            plan.accumulator_filled[i] = False
            if TRAITS[plan.tensors[i].index].has_velocity and plan.started[i] == plan.steps[i]:
                if not plan.tensors[i].h.flags & MOMENTUM:
                    plan.started[i] += 1   # its first velocity is still to come
            plan.steps[i] += 1
            h = plan.tensors[i].h
            memcpy(carried_by(plan, i), (h - h.behind).carried, CARRIED * sizeof(double))
    if plan.pools:
        hand_around(plan, True)

# --------------------------------------------------------------------------- no plan


cdef int step_by_norms(
    int index, int dtype, const constants_t* constants, char** at, Py_ssize_t n
) except -1 nogil:
    """Step over one dense tensor whose constants ask for norms, as a plan would take them."""
    cdef plan_t plan
    cdef tensor_t t
    cdef constants_t own
    cdef int j
    memset(&plan, 0, sizeof(plan_t))
    memset(&t, 0, sizeof(tensor_t))
    own = constants[0]
    note_rule(&plan, index)
    plan.tensors, plan.constants, plan.count, plan.total = &t, &own, 1, n
    plan.options.grad_scale = 1
    t.index, t.size, t.dtype, t.h, t.active, t.dense = index, n, dtype, &own, True, True
    for j in range(plan.streams):
        t.data[j], t.itemsize[j] = at[j], 8 if dtype else 4
    note_options(&plan)
    plan.bad = -1
    try:
        reserve_norms(&plan, &plan.options)
        reserve_scratch(&plan, 1)
        run_plan(&plan, 1)
    finally:
        release_norms(&plan)
        release_scratch(&plan)
    return 0
