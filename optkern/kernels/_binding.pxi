# --------------------------------------------------------------------------- binding
#
# Arrays that have been checked become streams of a tensor: where their elements lie, in which order
# and how they are stored. Parameters and state are bound once, and their buffers held.


def check_arrays(Plan plan, rule):
    """Refuse parameters and state that cannot be bound."""
    rules = rule if isinstance(rule, list) else [rule] * len(plan.params)
    for label, p in zip(plan.labels, plan.params):
        buffers.check_parameter(plan.owner, buffers.named("parameter", label), p)
    for slot, arrays in plan.state.items():
        for row, label, p, a in zip(rules, plan.labels, plan.params, arrays):
            if a is not None:
                what = f"{slot} of {buffers.named('parameter', label)}"
                form = None if row.is_stream(slot) else np.shape(a)
                buffers.check_state(plan.owner, what, a, p, form)
    buffers.refuse_overlap(plan.owner, named_arrays(plan))


def named_arrays(Plan plan):
    """Name each array of a plan's parameters and state."""
    for label, p in zip(plan.labels, plan.params):
        yield buffers.named("parameter", label), p
    for slot, arrays in plan.state.items():
        for label, a in zip(plan.labels, arrays):
            for part in () if a is None else getattr(a, "arrays", (a,)):
                yield f"{slot} of {buffers.named('parameter', label)}", part


cdef int note_rules(Plan plan, rule) except -1:
    """Give each tensor its rule's place in the table, and the plan what the rules ask of it."""
    cdef Py_ssize_t i
    plan.rules = rule if isinstance(rule, list) else [rule] * plan.core.count
    plan.group_rules = plan.rules[:1] or [rule]
    for i, rule in enumerate(plan.rules):
        plan.core.tensors[i].index = INDEX[rule.name]
        note_rule(&plan.core, plan.core.tensors[i].index)
    return 0


cdef int bind_tensor(Plan plan, Py_ssize_t i, bint at_random) except -1:
    """Point a tensor's streams at its parameter and state, checked before.

    `at_random`: parameters of 16 bits without masters are rounded stochastically.
    """
    cdef tensor_t* t = &plan.core.tensors[i]
    p, state = plan.params[i], plan.state
    master = state["master"][i] if "master" in state else None
    arrays = [state[slot.name][i] for slot in plan.rules[i].streams]
    wholes = [state[slot.name][i] for slot in plan.rules[i].wholes]
    t.dtype = p.dtype == np.float64
    t.name = codecs.tensor_key(plan.labels[i])
    draws = at_random and master is None and codecs.kind_of(p.dtype)
    if wholes:
        bind_wholes(plan, t, wholes)
    if TRAITS[t.index].factors and wholes[0] is not None:
        bind_factors(plan, i)
    if draws or t.factors != NULL or any(isinstance(a, codecs.Compact) for a in arrays):
        # Positions, blocks and rows count in C order, whatever the parameter's own.
        order, dense = list(range(p.ndim)), p.flags.c_contiguous
    else:
        order, dense = buffers.memory_order(p)
    plan._orders.append(order)
    note_units(t, p, order)
    t.dense = dense
    if dense and not p.flags.c_contiguous:
        note_c_order(&plan.core, t, p, order)
    if master is not None:
        t.home = ROUNDED
        bind_stream(plan, i, 0, master)
    bind_stream(plan, i, t.home, p)
    t.home_dtype = cnp.PyArray_TYPE(p)
    if draws:
        t.storage[0] = BFLOAT16_STATE if t.storage[0] == BFLOAT16 else FLOAT16_RANDOM
    for j, a in enumerate(arrays, 2):
        if a is not None:
            bind_stream(plan, i, j, a)
        elif t.factors == NULL:
            t.flags_without_state |= TRAITS[t.index].needs[j]
    for j, slot in enumerate(OPTION_SLOTS, plan.core.streams):
        if state.get(slot):
            bind_stream(plan, i, j, state[slot][i])
    return 0


cdef int bind_wholes(Plan plan, tensor_t* t, list arrays) except -1:
    """Note where the arrays lie that a rule takes as a whole; None: absent."""
    cdef Py_ssize_t k
    cdef cnp.ndarray a
    t.wholes = <whole_t*> calloc(len(arrays), sizeof(whole_t))
    if t.wholes == NULL:
        raise MemoryError
    for k, array in enumerate(arrays):
        if array is None:
            continue
        if not array.flags.c_contiguous:
            raise ValueError(f"{plan.owner}: state that is taken as a whole must be C-contiguous")
        plan._views.append(memoryview(array.reshape(-1)))   # while it lasts, none is resized
        a = array
        t.wholes[k].data, t.wholes[k].bytes = <char*> cnp.PyArray_DATA(a), cnp.PyArray_NBYTES(a)
    return 0


cdef void release_tensors(plan_t* plan) noexcept:
    cdef Py_ssize_t i
    cdef int j
    if plan.tensors == NULL:
        return
    for i in range(plan.count):
        for j in range(MAX_STREAMS):
            free(plan.tensors[i].layout[j])
        free(plan.tensors[i].c_order)
        free(plan.tensors[i].wholes)
        if plan.tensors[i].factors != NULL:
            free(plan.tensors[i].factors.row_sums)   # and with it the rest of that room
            free(plan.tensors[i].factors)
    free(plan.tensors)


cdef int note_c_order(plan_t* plan, tensor_t* t, object p, list order) except -1:
    """Say how to walk a gapless array of another order in C order: norms take that.

    Their bits would depend on the memory order otherwise, which a copy (a checkpoint, a pickle)
    need not keep.
    """
    cdef int k
    t.c_order = <order_t*> malloc(sizeof(order_t))
    if t.c_order == NULL:
        raise MemoryError
    plan.sweeping = True
    t.c_order.ndim = p.ndim
    for k in range(p.ndim):
        t.c_order.shape[k] = p.shape[k]
        t.c_order.strides[k] = p.strides[k] // p.itemsize
        t.c_order.axis[k] = order.index(k)
    return 0


cdef int bind_stream(Plan plan, Py_ssize_t i, int stream, object array) except -1:
    """Point one stream of a tensor at an array, checked before."""
    cdef tensor_t* t = &plan.core.tensors[i]
    cdef cnp.ndarray a
    cdef list order = plan._orders[i]
    cdef layout_t* layout = NULL
    cdef int k
    cdef bint compact = isinstance(array, codecs.Compact)
    storage = array.kind if compact else codecs.kind_of(array.dtype)
    if compact:
        if array.scales is not None and array.scales.size:
            a = array.scales
            plan._views.append(memoryview(a))
            t.scales[stream] = <unsigned char*> cnp.PyArray_DATA(a)
        array = array.codes
    elif storage:
        array = array.view(np.uint16)   # bfloat16 gives no buffer
    a = array
    flat = array.transpose(order)
    if flat.flags.c_contiguous and flat.flags.aligned:
        plan._views.append(memoryview(flat.reshape(-1)))
    else:
        layout = <layout_t*> malloc(sizeof(layout_t))
        if layout == NULL:
            raise MemoryError
        layout.ndim = cnp.PyArray_NDIM(flat)
        for k in range(layout.ndim):
            layout.shape[k] = cnp.PyArray_DIMS(flat)[k]
            layout.strides[k] = cnp.PyArray_STRIDES(flat)[k]
    free(t.layout[stream])   # from here on nothing can fail
    t.layout[stream] = layout
    plan.core.sweeping = plan.core.sweeping or layout != NULL
    t.storage[stream] = <unsigned char> storage
    t.size = cnp.PyArray_SIZE(a)
    t.itemsize[stream] = <unsigned char> cnp.PyArray_ITEMSIZE(a)
    t.data[stream] = <char*> cnp.PyArray_DATA(a)
    note_staging(&plan.core, t)
    return 0


cdef void note_staging(plan_t* plan, tensor_t* t) noexcept nogil:
    """Note whether some stream of a tensor needs scratch."""
    cdef int k
    cdef bint dense = t.layout[t.home] == NULL
    t.staged = t.home != 0 or t.factors != NULL
    for k in range(plan.streams + EXTRA):
        dense = dense and t.layout[k] == NULL
        t.staged = t.staged or t.layout[k] != NULL or t.storage[k] != PLAIN
    plan.staging = plan.staging or t.staged
    if t.home != 0:
        t.compact = (
            dense and t.data[2] != NULL and t.storage[t.home] == t.storage[1]
            and t.storage[1] in (BFLOAT16, FLOAT16) and t.storage[2] in (PLAIN, BFLOAT16_STATE)
        )
        return
    t.compact = (
        t.home == 0 and t.layout[0] == NULL and t.layout[1] == NULL
        and t.storage[0] in (PLAIN, BFLOAT16_STATE) and t.storage[1] == nearest(t.storage[0])
        and t.storage[2] >= BFLOAT16_STATE
    )

# --------------------------------------------------------------------------- chunks


cdef int cut_chunks(plan_t* plan) except -1:
    """Cut all elements into chunks; each ends where the next one starts."""
    cdef chunks_t* chunks = &plan.chunks
    cdef Py_ssize_t i, first, room = CHUNK, bound, k = 0
    for i in range(plan.count):
        plan.total += plan.tensors[i].size
    bound = 2 * (plan.total // CHUNK) + 2 + plan.total // (CHUNK - EDGE)
    chunks.tensor = <Py_ssize_t*> malloc((bound + 1) * sizeof(Py_ssize_t))
    chunks.first = <Py_ssize_t*> malloc((bound + 1) * sizeof(Py_ssize_t))
    if not chunks.tensor or not chunks.first:
        raise MemoryError
    chunks.tensor[0] = chunks.first[0] = 0
    for i in range(plan.count):
        first = 0
        while plan.tensors[i].size - first > room:
            first += room - room % EDGE
            k += 1
            chunks.tensor[k] = i
            chunks.first[k] = first
            room = CHUNK
        room -= plan.tensors[i].size - first
    chunks.count = k + 1
    chunks.tensor[k + 1] = plan.count
    chunks.first[k + 1] = 0
    return 0
