# --------------------------------------------------------------------------- gradients
#
# Fresh gradients are checked through the NumPy C API, because a memoryview for each of a thousand
# costs more than the update.


cdef int take_gradients(Plan plan, tuple gradients) except -1:
    cdef Py_ssize_t i
    if plan.core.hypers == NULL:
        raise RuntimeError(f"{plan.owner}: the plan has no groups yet (set_groups)")
    if len(gradients) != plan.core.count:
        raise ValueError(
            f"{plan.owner}: expected {plan.core.count} gradients, got {len(gradients)}"
        )
    plan._gradients = gradients
    for i in range(plan.core.count):
        if not take_alike(
            plan, i, PyTuple_GET_ITEM(gradients, i), PyList_GET_ITEM(plan.params, i)
        ):
            take_gradient(plan, i, gradients[i])
    if plan.core.options.zero_grad:
        check_zeroable(plan, gradients)
    return 0


cdef bint take_alike(Plan plan, Py_ssize_t i, PyObject* gradient, PyObject* p) noexcept:
    """Point a stream at a gradient that lies in memory as its parameter does, in C order.

    The common case and nothing but: with `take_gradient` alone a step over a thousand small
    tensors takes a quarter longer. False, and nothing done, where it is another case or wrong.
    """
    cdef tensor_t* t = &plan.core.tensors[i]
    cdef memory_t* memory = &plan.core.memory
    cdef char* data
    cdef char* end
    if t.staged or t.data[1] == NULL or plan.core.accumulator_filled[i]:
        return False   # the first gradient goes the general way too
    if not cnp.PyArray_CheckExact(<object> gradient):
        return False
    if not (
        cnp.PyArray_ISCARRAY(<cnp.ndarray> p)
        and dense_like(<cnp.ndarray> gradient, <cnp.ndarray> p, False, t.size)
    ):
        return False
    if <char*> cnp.PyArray_DATA(<cnp.ndarray> p) != t.data[0]:
        return False
    if cnp.PyArray_TYPE(<cnp.ndarray> p) != t.home_dtype:
        return False
    data = <char*> cnp.PyArray_DATA(<cnp.ndarray> gradient)
    if data != t.seen_gradient:
        end = data + t.size * cnp.PyArray_ITEMSIZE(<cnp.ndarray> gradient)
        if lies_between(memory, t.gap, data, end):
            memory.gap = t.gap
        elif lies_between(memory, memory.gap, data, end):   # beside the gradient before it
            t.gap = memory.gap
        else:
            return False
        t.seen_gradient = data
    t.data[1] = data
    t.accumulator_filled = False
    t.active = True
    return True


cdef int take_gradient(Plan plan, Py_ssize_t i, object gradient) except -1:
    """Check one gradient and point its stream at it; the common case touches no Python."""
    cdef tensor_t* t = &plan.core.tensors[i]
    cdef cnp.ndarray p = <cnp.ndarray> plan.params[i]
    cdef cnp.ndarray g
    cdef char* data
    cdef int storage = nearest(t.storage[t.home])
    t.accumulator_filled = plan.core.accumulator_filled[i]
    t.active = t.accumulator_filled or gradient is not None
    if gradient is None:
        t.data[1] = NULL
        t.seen_gradient = NULL
    if not t.active:
        return 0
    if not cnp.PyArray_ISWRITEABLE(p):   # it was when the plan was made
        buffers.check_parameter(
            plan.owner, buffers.named("parameter", plan.labels[i]), plan.params[i]
        )
    if <char*> cnp.PyArray_DATA(p) != t.data[t.home] or cnp.PyArray_SIZE(p) != t.size:
        what = buffers.named("parameter", plan.labels[i])
        raise ValueError(f"{plan.owner}: {what} was resized; bind it anew with rebind")
    if cnp.PyArray_TYPE(p) != t.home_dtype or not cnp.PyArray_ISNOTSWAPPED(p):
        what = buffers.named("parameter", plan.labels[i])
        found = p.dtype
        raise ValueError(f"{plan.owner}: {what} has had its dtype changed to {found}; set it back")
    if gradient is None:   # what it has accumulated is all there is
        return 0
    if not (
        cnp.PyArray_CheckExact(gradient)
        and cnp.PyArray_ISNOTSWAPPED(<cnp.ndarray> gradient)
        and common_size(<cnp.ndarray> gradient, p) >= 0
    ):
        what = buffers.named("gradient of parameter", plan.labels[i])
        gradient = buffers.as_gradient(plan.owner, what, gradient, plan.params[i])
        if type(plan._gradients) is tuple:
            plan._gradients = list(plan._gradients)
        plan._gradients[i] = gradient
        storage = codecs.kind_of(gradient.dtype)
    g = <cnp.ndarray> gradient
    data = <char*> cnp.PyArray_DATA(g)
    if storage != t.storage[1] or t.data[1] == NULL:
        t.storage[1] = storage
        t.itemsize[1] = cnp.PyArray_ITEMSIZE(g)
        t.seen_gradient = NULL
        note_staging(&plan.core, t)
    if not (t.dense and same_order(g, p)):
        bind_gradient(plan, i, gradient)
        low, high = byte_bounds(gradient)
        refuse_overlap(plan, i, gradient, <char*> <size_t> low, <char*> <size_t> high)
        return 0
    t.data[1] = data
    if t.layout[1] != NULL:
        free(t.layout[1])
        t.layout[1] = NULL
        note_staging(&plan.core, t)
    if data != t.seen_gradient:
        t.seen_gradient = NULL
        refuse_overlap(plan, i, gradient, data, data + t.size * t.itemsize[1])
        t.seen_gradient = data
    return 0


cdef int bind_gradient(Plan plan, Py_ssize_t i, object gradient) except -1:
    cdef Py_ssize_t views = len(plan._views)
    plan.core.tensors[i].seen_gradient = NULL
    bind_stream(plan, i, 1, gradient)
    del plan._views[views:]   # a gradient is held for one call only
    return 0


cdef int check_zeroable(Plan plan, tuple gradients) except -1:
    """Refuse gradients that cannot be zeroed in place; the same ones are checked once."""
    cdef Py_ssize_t i
    cdef tensor_t* t
    cdef bint known = True
    for i in range(plan.core.count):
        t = &plan.core.tensors[i]
        if gradients[i] is not None and (
            plan._gradients[i] is not gradients[i]
            or t.layout[1] != NULL
            or t.data[1] != t.zeroable
            or not cnp.PyArray_ISWRITEABLE(<cnp.ndarray> plan._gradients[i])
        ):
            known = False
            break
    if known:
        return 0
    named = []
    for label, g, p in zip(plan.labels, gradients, plan.params):
        if g is not None:
            what = buffers.named("gradient of parameter", label)
            g = buffers.shared(plan.owner, what, g)   # another library's, over the same memory
            buffers.check_zeroable(plan.owner, what, g, p)
            named.append((what, g))
    buffers.refuse_overlap(plan.owner, named)
    for i in range(plan.core.count):
        plan.core.tensors[i].zeroable = plan.core.tensors[i].data[1]
    return 0


cdef int refuse_overlap(
    Plan plan, Py_ssize_t i, object gradient, char* low, char* high
) except -1:
    """Refuse the gradient of a tensor where its memory, from low to high, is used already."""
    cdef tensor_t* t = &plan.core.tensors[i]
    cdef memory_t* memory = &plan.core.memory
    if t.size == 0 or lies_between(memory, t.gap, low, high):
        return 0
    t.gap = memory.gap = place_in(memory, low)
    if lies_between(memory, t.gap, low, high):
        return 0
    for what, array in named_arrays(plan):
        if buffers.share_memory(array, gradient):
            label = buffers.named("gradient of parameter", plan.labels[i])
            raise ValueError(f"{plan.owner}: {label} overlaps {what} in memory")
    return 0


cdef int refuse_rows_overlap(Plan plan, Py_ssize_t i, cnp.ndarray gradient) except -1:
    """Refuse a gradient of rows of a tensor that lies in memory which is used already."""
    if cnp.PyArray_SIZE(gradient):
        low, high = byte_bounds(gradient)
        refuse_overlap(plan, i, gradient, <char*> <size_t> low, <char*> <size_t> high)
    return 0

# --------------------------------------------------------------------------- memory in use


cdef int map_memory(Plan plan) except -1:
    """Sort the memory of parameters and state, for the overlap test of gradients."""
    cdef memory_t* memory = &plan.core.memory
    cdef Py_ssize_t i
    bounds = sorted(byte_bounds(a) for _, a in named_arrays(plan) if a.size)
    memory.count = len(bounds)
    memory.intervals = <interval_t*> malloc((len(bounds) or 1) * sizeof(interval_t))
    if not memory.intervals:
        raise MemoryError
    high = 0
    for i in range(memory.count):
        # Strided arrays may be interleaved: keep the ends sorted too.
        high = max(high, bounds[i][1])
        memory.intervals[i].low = <char*> <size_t> bounds[i][0]
        memory.intervals[i].high = <char*> <size_t> high
    return 0


cdef inline bint lies_between(
    const memory_t* memory, Py_ssize_t k, char* low, char* high
) noexcept nogil:
    """Tell whether some memory lies between two neighbours of the sorted intervals."""
    if k > 0 and memory.intervals[k - 1].high > low:
        return False
    return k == memory.count or memory.intervals[k].low >= high


cdef Py_ssize_t place_in(const memory_t* memory, char* low) noexcept nogil:
    """Find the first interval that ends behind an address."""
    cdef Py_ssize_t left = 0, right = memory.count, middle
    while left < right:
        middle = (left + right) // 2
        if memory.intervals[middle].high <= low:
            left = middle + 1
        else:
            right = middle
    return left

# --------------------------------------------------------------------------- values


cdef Py_ssize_t first_nonfinite(plan_t* plan) noexcept nogil:
    """Find the first tensor whose gradient holds NaN or inf, or does once unscaled; or -1."""
    cdef Py_ssize_t i
    cdef double scale = unbounded_scale(plan)
    for i in range(plan.count):
        if plan.tensors[i].active and not gradient_is_finite(plan, &plan.tensors[i], scale):
            return i
    return -1


cdef double unbounded_scale(plan_t* plan) noexcept nogil:
    """Give what unscaling multiplies gradients by, where they may overflow by it; 1: not."""
    cdef options_t* o = &plan.options
    cdef double scale = gradient_share(o, <double> (plan.accumulated + 1), unit_of(plan))
    if plan.adding or o.clip_value or scale <= 1:
        return 1
    if 0 < o.clip_norm < INFINITY or 0 < o.clip_norm_per_tensor < INFINITY:
        return 1
    return scale


cdef bint gradient_is_finite(plan_t* plan, const tensor_t* t, double scale) noexcept nogil:
    """Tell whether a gradient, its sum with what was accumulated and that scaled is finite."""
    cdef scratch_t* s = room_of(plan, 0)
    cdef char* g
    cdef Py_ssize_t n, first = 0
    if t.dtype == 0:
        scale = <double> <float> scale   # a product of two floats is exact: rounded once
    if t.rows != NULL:
        return t.rows.finite(t.rows, scale)
    if t.layout[1] == NULL and t.storage[1] == PLAIN and not t.accumulator_filled and scale == 1:
        return SPANS.finite[t.dtype](t.data[1], t.size)
    while first < t.size:
        n = min(<Py_ssize_t> BLOCK, t.size - first)
        g = gradient_of(plan, t, first, n, s, False)
        if scale != 1:
            SPANS.scale[t.dtype](s.block[0], g, scale, n)
            g = s.block[0]
        if not SPANS.finite[t.dtype](g, n):
            return False
        first += n
    return True


cdef char* gradient_of(
    plan_t* plan, const tensor_t* t, Py_ssize_t first, Py_ssize_t n, scratch_t* s, bint in_c_order
) noexcept nogil:
    """Give a block of a gradient, with what was accumulated: in place or in scratch."""
    cdef char* g = gather(t, 1, first, n, s.block[0], s, in_c_order)
    cdef char* held
    g = lowered(plan, t, g, n, s.block[0])
    if not t.accumulator_filled:   # asked here as well: 2 % of norms of small arrays
        return g
    held = gather(t, plan.streams + ACCUMULATOR, first, n, s.block[1], s, in_c_order)
    return with_accumulated(t, g, held, n, s.block[1])


cdef char* with_accumulated(
    const tensor_t* t, char* g, char* held, Py_ssize_t n, char* scratch
) noexcept nogil:
    """Add a piece of the gradient and of its accumulator."""
    if not t.accumulator_filled:
        return g
    if g == NULL:
        return held
    if held == scratch:
        SPANS.add[t.dtype](scratch, g, n)
    else:
        SPANS.sum[t.dtype](scratch, held, g, n)
    return scratch

# --------------------------------------------------------------------------- sums out of the range
#
# The sum of the gradients of several calls may leave the range where their mean does not. Where one
# more gradient could take it there, the accumulators and all that comes after in the same window
# are held times a power of two.


cdef double unit_of(const plan_t* plan) noexcept nogil:
    """Give what the gradients of the window under way are multiplied by."""
    return ldexp(1, -<int> plan.held_shift) if plan.held_shift else 1


cdef char* lowered(
    const plan_t* plan, const tensor_t* t, char* g, Py_ssize_t n, char* scratch
) noexcept nogil:
    """Give a piece of a gradient as accumulators hold it: in place, or scaled in scratch."""
    if g == NULL or plan.held_shift == 0:
        return g
    SPANS.scale[t.dtype](scratch, g, unit_of(plan), n)
    return scratch


cdef void make_room(plan_t* plan) noexcept nogil:
    """Scale the accumulators down where one more gradient could take them out of the range."""
    cdef Py_ssize_t i
    cdef bint crowded = False
    if not plan.crowded or plan.held_shift:
        return
    for i in range(plan.count):
        crowded = crowded or plan.accumulator_filled[i] and not walk_held(plan, i, 0)
    if crowded:
        plan.held_shift = HELD_SHIFT
        for i in range(plan.count):
            if plan.accumulator_filled[i]:
                walk_held(plan, i, unit_of(plan))
    plan.crowded = False


cdef bint walk_held(plan_t* plan, Py_ssize_t i, double factor) noexcept nogil:
    """Multiply an accumulator by a factor; or, for 0, tell whether any gradient may be added."""
    cdef const tensor_t* t = &plan.tensors[i]
    cdef scratch_t* s = room_of(plan, 0)
    cdef int to = plan.streams + ACCUMULATOR
    cdef Py_ssize_t n, first = 0
    cdef char* held
    while first < t.size:
        n = min(<Py_ssize_t> PIECE, t.size - first)
        held = fetch(t, to, first, n, s.streams[to], s)
        if factor:
            SPANS.scale[t.dtype](held, held, factor, n)
            put(t, to, first, n, held, NULL, s)
        elif not SPANS.roomy[t.dtype](held, n):
            return False
        first += n
    return True

# --------------------------------------------------------------------------- shapes and orders


cdef inline bint same_order(cnp.ndarray g, cnp.ndarray p) noexcept:
    """Tell whether a gradient lies in memory as its gapless parameter does, and is aligned."""
    cdef int k
    if not cnp.PyArray_ISALIGNED(g):
        return False
    if cnp.PyArray_IS_C_CONTIGUOUS(g) and cnp.PyArray_IS_C_CONTIGUOUS(p):
        return True
    if cnp.PyArray_ITEMSIZE(g) != cnp.PyArray_ITEMSIZE(p):
        return False
    for k in range(cnp.PyArray_NDIM(g)):
        if cnp.PyArray_STRIDES(g)[k] != cnp.PyArray_STRIDES(p)[k] and cnp.PyArray_DIMS(g)[k] != 1:
            return False
    return True
