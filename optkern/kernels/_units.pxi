# --------------------------------------------------------------------------- units
#
# What is done to a gradient by units, the outputs of a layer: all elements of an array that share
# their place along one axis, the last (`unit_layout="in_out"`) or the first. Their sums are taken
# in one pass over gradient and parameter before the step; what follows from them is done to a piece
# of the gradient on its way into the rule, which knows nothing of it.
#
# A unit's elements are added up in C order, in UNIT_LANES running sums that take turns and are
# folded at the end (`rules/units.py` says the same), so that no order in memory and no number of
# threads shows.


cdef void note_units(tensor_t* t, object p, list order) except *:
    """Say of both layouts how a tensor's elements are those of units, in the plan's order."""
    cdef int k, layout, axis, place
    for layout in range(2):
        if p.ndim < 2:
            t.units_of[layout], t.inner_of[layout], t.inner_here[layout] = 1, p.size, p.size
            continue
        axis = 0 if layout == OUT_IN else p.ndim - 1
        # An array of three axes or more in another order is walked in C order.
        walk = order if p.ndim == 2 else list(range(p.ndim))
        t.units_of[layout] = p.shape[axis]
        t.inner_of[layout], t.inner_here[layout] = 1, 1
        for k in walk[walk.index(axis) + 1:]:
            t.inner_of[layout] *= p.shape[k]
        for k in order[order.index(axis) + 1:]:
            t.inner_here[layout] *= p.shape[k]
        if t.units_of[layout] == 1:
            t.inner_of[layout] = t.inner_here[layout] = p.size
    t.is_vector = p.ndim < 2
    t.in_c_order = p.ndim > 2 and order != list(range(p.ndim))


def note_heads(Plan plan, heads):
    """Say of each parameter of a plan whether it is the last layer's."""
    cdef Py_ssize_t i
    for i, head in enumerate(heads):
        plan.core.tensors[i].is_head = head


cdef bint works_by_units(const options_t* o) noexcept nogil:
    return o.centralize != 0 or o.adaptive_clip != 0


cdef int reserve_units(plan_t* plan, const options_t* o) except -1 nogil:
    """Make room for what units ask, in either layout, before options are in force."""
    cdef Py_ssize_t i, total = 0
    cdef double* room
    if not works_by_units(o) or plan.unit_room != NULL:
        return 0
    for i in range(plan.count):
        total += room_for_units(&plan.tensors[i])
    plan.unit_room = <double*> malloc((total + 1) * sizeof(double))
    if plan.unit_room == NULL:
        raise MemoryError
    room = plan.unit_room
    for i in range(plan.count):
        plan.tensors[i].unit_room = room
        room += room_for_units(&plan.tensors[i])
    return 0


cdef Py_ssize_t room_for_units(const tensor_t* t) noexcept nogil:
    """Count the numbers that a tensor's units need: two each, and the running sums of three."""
    return (2 + 3 * UNIT_LANES) * max(t.units_of[IN_OUT], t.units_of[OUT_IN])


cdef void measure_units(plan_t* plan, int threads) noexcept nogil:
    """Find what is subtracted from the gradient of each unit, and what it is multiplied by then."""
    run_jobs(measure_tensor_units, plan, plan.count, threads)


cdef void measure_tensor_units(void* context, Py_ssize_t i, int thread) noexcept nogil:
    cdef plan_t* plan = <plan_t*> context
    cdef tensor_t* t = &plan.tensors[i]
    cdef bint clips = plan.options.adaptive_clip != 0 and (
        not t.is_head or plan.options.adaptive_clip_head != 0
    )
    cdef bint centralizes = plan.options.centralize != 0 and not t.is_vector
    t.units = NULL
    if not t.active or t.size == 0 or not (clips or centralizes):
        return
    t.layout_here = <int> plan.options.unit_layout
    sum_units(plan, t, clips, 0, room_of(plan, thread))
    if not conclude_units(plan, i, clips, centralizes, 0):   # beyond the range of their squares
        sum_units(plan, t, clips, -UNIT_RESCUE, room_of(plan, thread))
        conclude_units(plan, i, clips, centralizes, -UNIT_RESCUE)
    t.units = t.unit_room


cdef void sum_units(
    plan_t* plan, const tensor_t* t, bint clips, int shift, scratch_t* s
) noexcept nogil:
    """Sum gradients, their squares and those of the parameter by units, times 2**shift each."""
    cdef Py_ssize_t units = t.units_of[t.layout_here], inner = t.inner_of[t.layout_here]
    cdef double* sums = t.unit_room + 2 * units
    cdef double* squares = sums + UNIT_LANES * units
    cdef double* weights = squares + UNIT_LANES * units
    cdef Py_ssize_t first = 0, n
    cdef char* x
    memset(sums, 0, 3 * UNIT_LANES * units * sizeof(double))
    while first < t.size:
        n = min(<Py_ssize_t> BLOCK, t.size - first)
        x = raised(t, gradient_of(plan, t, first, n, s, t.in_c_order), shift, n, s)
        if t.dtype:
            add_by_units(<double*> x, first, n, units, inner, sums, squares)
        else:
            add_by_units(<float*> x, first, n, units, inner, sums, squares)
        if clips:
            x = raised(t, gather(t, 0, first, n, s.block[0], s, t.in_c_order), shift, n, s)
            if t.dtype:
                add_by_units(<double*> x, first, n, units, inner, NULL, weights)
            else:
                add_by_units(<float*> x, first, n, units, inner, NULL, weights)
        first += n


cdef char* raised(
    const tensor_t* t, char* x, int shift, Py_ssize_t n, scratch_t* s
) noexcept nogil:
    """Give a block times 2**shift: in place, or in scratch."""
    if shift == 0:
        return x
    SPANS.scale[t.dtype](s.block[0], x, ldexp(1, shift), n)
    return s.block[0]


cdef void add_by_units(
    const one* x, Py_ssize_t first, Py_ssize_t n, Py_ssize_t units, Py_ssize_t inner,
    double* sums, double* squares,
) noexcept nogil:
    """Add elements, where sums are given, and their squares to the running sums of their units.

    A unit's running sums lie `units` apart.
    """
    cdef Py_ssize_t i = first % inner, row = first // inner, unit = row % units, run
    cdef Py_ssize_t outer = row // units, done = 0
    while done < n:
        if inner == 1:   # a row of units, one element each
            run = min(units - unit, n - done)
            add_row(
                x + done, run, NULL if sums == NULL else sums + outer % UNIT_LANES * units + unit,
                squares + outer % UNIT_LANES * units + unit,
            )
            unit += run
        else:
            run = min(inner - i, n - done)
            add_run(
                x + done, run, <int> ((outer * inner + i) % UNIT_LANES),
                NULL if sums == NULL else sums + unit, squares + unit, units,
            )
            i += run
            if i == inner:
                i = 0
                unit += 1
        if unit == units:
            unit = 0
            outer += 1
        done += run


cdef inline void add_row(
    const one* x, Py_ssize_t n, double* sums, double* squares
) noexcept nogil:
    """Add an element to each of n units."""
    cdef Py_ssize_t k
    for k in range(n):
        squares[k] += <double> x[k] * <double> x[k]
    if sums != NULL:
        for k in range(n):
            sums[k] += <double> x[k]


cdef inline void add_run(
    const one* x, Py_ssize_t n, int lane, double* sums, double* squares, Py_ssize_t apart
) noexcept nogil:
    """Add n elements to one unit, the first to its running sum number `lane`."""
    cdef double s[UNIT_LANES]
    cdef double q[UNIT_LANES]
    cdef Py_ssize_t k
    cdef int j
    for j in range(UNIT_LANES):   # where no other pointer leads, the next one first
        q[j] = squares[(lane + j) % UNIT_LANES * apart]
        s[j] = sums[(lane + j) % UNIT_LANES * apart] if sums != NULL else 0
    for k in range(n // UNIT_LANES):
        for j in range(UNIT_LANES):
            s[j] += <double> x[k * UNIT_LANES + j]
            q[j] += <double> x[k * UNIT_LANES + j] * <double> x[k * UNIT_LANES + j]
    for j in range(<int> (n % UNIT_LANES)):
        s[j] += <double> x[n - n % UNIT_LANES + j]
        q[j] += <double> x[n - n % UNIT_LANES + j] * <double> x[n - n % UNIT_LANES + j]
    for j in range(UNIT_LANES):
        squares[(lane + j) % UNIT_LANES * apart] = q[j]
        if sums != NULL:
            sums[(lane + j) % UNIT_LANES * apart] = s[j]


cdef inline double folded(const double* lanes, Py_ssize_t apart) noexcept nogil:
    return (lanes[0] + lanes[2 * apart]) + (lanes[apart] + lanes[3 * apart])


cdef bint conclude_units(
    plan_t* plan, Py_ssize_t i, bint clips, bint centralizes, int shift
) noexcept nogil:
    """Make a mean and a factor of each unit's sums; False where some are beyond the range.

    With a shift, of those alone that have been beyond it.
    """
    cdef tensor_t* t = &plan.tensors[i]
    cdef Py_ssize_t units = t.units_of[t.layout_here], u
    cdef double* means = t.unit_room
    cdef double* factors = means + units
    cdef const double* sums = factors + units
    cdef const double* squares = sums + UNIT_LANES * units
    cdef const double* weights = squares + UNIT_LANES * units
    cdef double total, of_g, of_p
    cdef bint good = True
    for u in range(units):
        if shift and factors[u] >= 0:
            continue
        total, of_g = folded(sums + u, units), folded(squares + u, units)
        of_p = folded(weights + u, units)
        if t.dtype and not shift and not isfinite(total + of_g + of_p):
            factors[u], good = -1, False   # to be seen once more
            continue
        means[u] = ldexp(total / <double> (t.size // units), -shift) if centralizes else 0
        factors[u] = kept_of_unit(
            &plan.options, &plan.constants[i], sqrt(of_g), sqrt(of_p), shift
        ) if clips else 1
    return good


cdef char* by_units(
    const tensor_t* t, const char* g, Py_ssize_t first, Py_ssize_t n, char* to
) noexcept nogil:
    """Give a piece of the gradient with its units' means subtracted, times their factors."""
    cdef Py_ssize_t units = t.units_of[t.layout_here], inner = t.inner_here[t.layout_here]
    if t.dtype:
        change_by_units(<const double*> g, <double*> to, first, n, units, inner, t.units)
    else:
        change_by_units(<const float*> g, <float*> to, first, n, units, inner, t.units)
    return to


cdef inline void change_by_units(
    const one* g, one* to, Py_ssize_t first, Py_ssize_t n, Py_ssize_t units, Py_ssize_t inner,
    const double* means,
) noexcept nogil:
    cdef const double* factors = means + units
    cdef Py_ssize_t i = first % inner, unit = first // inner % units, done = 0, run, k
    while done < n:
        if inner == 1:
            run = min(units - unit, n - done)
            for k in range(run):
                to[done + k] = <one> ((<double> g[done + k] - means[unit + k]) * factors[unit + k])
            unit += run
        else:
            run = min(inner - i, n - done)
            for k in range(run):
                to[done + k] = <one> ((<double> g[done + k] - means[unit]) * factors[unit])
            i += run
            if i == inner:
                i = 0
                unit += 1
        unit = 0 if unit == units else unit
        done += run
