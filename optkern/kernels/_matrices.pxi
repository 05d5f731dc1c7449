# --------------------------------------------------------------------------- matrices
#
# Rules that make something of a whole matrix's direction (`Rule.matrices`), in NumPy: what may fail
# or be interrupted. It is all done before one element of parameters and state is written, that of
# another shape being worked on as copies; from then on nothing leaves compiled code.


cdef int shape_matrices(Plan plan, int threads) except -1:
    """Compute what the matrices step along; `run_plan` takes the steps then."""
    try:
        shape_each(plan, threads)
    except SystemError as error:   # as NumPy says that no memory is left
        refuse_unsaid(plan.owner, error)
        raise
    return 0


cdef int shape_each(Plan plan, int threads) except -1:
    cdef plan_t* core = &plan.core
    cdef tensor_t* t
    cdef dict h
    cdef list pooled = []   # (tensor, constants, what it adds to the sums)
    cdef Py_ssize_t i
    cdef int j
    if not core.matrices:
        return 0
    plan._matrices = []
    with nogil:
        make_ready(core, threads)
    for i in range(core.count):
        t = &core.tensors[i]
        t.matrix = NULL
        if core.bad >= 0 or not t.active or not TRAITS[t.index].matrices:
            continue
        flat = direction_of(plan, i, False)
        u = in_shape(plan, i, flat)
        wholes = [plan.state[slot.name][i] for slot in plan.rules[i].wholes]
        made = [None if a is None else a.copy() for a in wholes]
        h = resolved(&core.constants[i])
        if TRAITS[t.index].pools:
            pooled.append((i, h, pool_tensor(plan, i, u, h)))
        else:
            plan.rules[i].matrices(u, made, h)
            if core.options.cautious:
                keep_agreeing(u, in_shape(plan, i, direction_of(plan, i, True)))
        for j, a in enumerate(made):
            if a is not None:
                t.wholes[j].made = <char*> cnp.PyArray_DATA(<cnp.ndarray> a)
        plan._matrices.append((flat, made))
        t.matrix = <char*> cnp.PyArray_DATA(<cnp.ndarray> flat)
    settle_pools(plan, pooled)
    core.shaped = core.bad < 0
    return 0


cdef object direction_of(Plan plan, Py_ssize_t i, bint alone):
    """Run a rule for a matrix's direction, or for the ascended gradient alone; nothing is moved."""
    cdef plan_t* core = &plan.core
    cdef tensor_t* t = &core.tensors[i]
    cdef constants_t* h = &core.constants[i]
    cdef constants_t kept = h[0]
    flat = np.empty(t.size, np.float64 if t.dtype else np.float32)
    cdef char* to = <char*> cnp.PyArray_DATA(<cnp.ndarray> flat)
    h.flags |= DIRECTION
    if alone:
        h[0] = resolved(h)   # these would be those of another tensor
        h.gain1, h.beta1 = 1, 0   # the shares that gradient and momentum have of a direction
    with nogil:
        run_direction(core, t, 0, t.size, to, room_of(core, 0))
    h[0] = kept
    return flat


cdef object in_shape(Plan plan, Py_ssize_t i, flat):
    """View what is in a plan's order as an array of a parameter's shape."""
    order, p = plan._orders[i], plan.params[i]
    return flat.reshape([p.shape[k] for k in order]).transpose(*np.argsort(order))


cdef object pool_tensor(Plan plan, Py_ssize_t i, u, dict h):
    """Ask a rule what a tensor adds to the sums that the step depends on."""
    masters = plan.state.get("master")
    p = codecs.widened(plan.params[i]) if not masters or masters[i] is None else masters[i]
    return plan.rules[i].pool(p, u, [plan.state[x.name][i] for x in plan.rules[i].streams], h)


cdef int settle_pools(Plan plan, list pooled) except -1:
    """Put into the constants of tensors what follows from the sums over all of a rule's."""
    cdef Py_ssize_t i
    cdef dict h
    for rule in {plan.rules[i]: None for i, _, _ in pooled}:
        own = [row for row in pooled if plan.rules[row[0]] is rule]
        sums = [row[2] for row in own]
        if plan._added_up is not None:
            sums = plan._added_up(np.array(sums)).tolist()
        settled = rule.settle([row[1] for row in own], sums)
        for row, h in zip(own, settled):
            i = row[0]
            plan.core.constants[i] = h
    return 0


cdef void hand_around(plan_t* plan, bint counted) noexcept nogil:
    """Give what a rule's tensors have in common to those that have none yet, or did not step."""
    cdef Py_ssize_t i, k
    for k in range(plan.count):
        if not TRAITS[plan.tensors[k].index].pools or (counted and plan.tensors[k].active):
            continue
        if not counted and carried_by(plan, k)[0] != 0:
            continue
        for i in range(plan.count):
            if plan.tensors[i].index != plan.tensors[k].index or carried_by(plan, i)[0] == 0:
                continue
            if plan.tensors[i].active or not counted:
                memcpy(carried_by(plan, k), carried_by(plan, i), CARRIED * sizeof(double))
                break


cdef void step_matrices(plan_t* plan) noexcept nogil:
    """Move the momenta on and step along what is made of them; these tensors rest from then on."""
    cdef scratch_t* s = room_of(plan, 0)
    cdef Py_ssize_t i, first, held = plan.held_shift
    cdef int j
    cdef tensor_t* t
    for i in range(plan.count):
        t = &plan.tensors[i]
        if t.matrix == NULL:
            continue
        first = t.size if TRAITS[t.index].pools else 0   # their state moves with the step
        while first < t.size:
            run_direction(plan, t, first, min(<Py_ssize_t> BLOCK, t.size - first), s.block[0], s)
            first += BLOCK
        for j in range(TRAITS[t.index].wholes):
            if t.wholes[j].data != NULL:
                memcpy(t.wholes[j].data, t.wholes[j].made, t.wholes[j].bytes)
        first = 0
        while plan.options.zero_grad and first < t.size:
            zero(t, 1, first, min(<Py_ssize_t> PIECE, t.size - first), s)
            first += PIECE
        plan.held_shift = 0
        step_along(plan, t, &plan.constants[i], s)
        plan.held_shift = held
        t.active = False


cdef void step_along(plan_t* plan, tensor_t* t, constants_t* h, scratch_t* s) noexcept nogil:
    """Step along a matrix, which takes the gradient's place for that."""
    cdef char* data = t.data[1]
    cdef unsigned char itemsize = t.itemsize[1], storage = t.storage[1]
    cdef layout_t* layout = t.layout[1]
    cdef bint filled = t.accumulator_filled
    cdef double* units = t.units
    t.data[1], t.itemsize[1], t.storage[1] = t.matrix, <unsigned char> width(t), PLAIN
    t.layout[1], t.accumulator_filled, t.units, h.lift = NULL, False, NULL, 0
    h.flags |= APPLY
    run_pieces(plan, t, 0, t.size, NULL, s)
    h.flags ^= APPLY
    t.data[1], t.itemsize[1], t.storage[1] = data, itemsize, storage
    t.layout[1], t.accumulator_filled, t.units = layout, filled, units


cdef void leave_matrices(plan_t* plan) noexcept nogil:
    """Let the tensors that have been stepped as matrices count again."""
    cdef Py_ssize_t i
    for i in range(plan.count):
        if plan.tensors[i].matrix != NULL:
            plan.tensors[i].active, plan.tensors[i].matrix = True, NULL
    plan.shaped = False
