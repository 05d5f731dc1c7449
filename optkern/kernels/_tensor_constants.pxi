# --------------------------------------------------------------------------- constants
#
# The constants of a step: derived once for all tensors that share them, then each tensor's own
# where norms or options have a part in them.


cdef bint takes_gradient_norms(plan_t* plan, const options_t* o) noexcept nogil:
    return plan.trusts_gradients or o.clip_norm != 0 or o.clip_norm_per_tensor != 0


cdef bint rehearses(const options_t* o) noexcept nogil:
    """Tell whether a rule's loop runs once for what it would give."""
    return o.cautious != 0 or o.clip_update_rms != 0


cdef int reserve_norms(plan_t* plan, const options_t* o) except -1 nogil:
    """Make room for the norms that these options take, before they are in force."""
    cdef bint wanted = takes_gradient_norms(plan, o) or plan.trusts or plan.directs or rehearses(o)
    if wanted and plan.norms.blocks == NULL:
        map_blocks(plan)
    return reserve_units(plan, o)


cdef void note_options(plan_t* plan) noexcept nogil:
    """Keep what follows from the options in force."""
    cdef const options_t* o = &plan.options
    cdef Py_ssize_t i
    cdef int stored
    plan.measures_gradients = takes_gradient_norms(plan, o)
    plan.by_units = works_by_units(o)
    plan.measures = plan.measures_gradients or plan.trusts or plan.directs or rehearses(o)
    plan.measures = plan.measures or plan.by_units
    plan.adjusts = o.clip_value != 0 or o.grad_scale != 1 or o.lookahead != 0
    plan.adjusts = plan.adjusts or plan.matrices   # a matrix has constants of its own
    plan.pieces = o.zero_grad != 0 or o.project != 0 or plan.keeps
    for i in range(plan.count):
        plan.tensors[i].units = NULL
    for stored in range(4 if o.project else 0):
        confinement(o, stored, &plan.box[stored][0], &plan.box[stored][1])


cdef inline double* carried_by(const plan_t* plan, Py_ssize_t i) noexcept nogil:
    """Find what the last step has handed on to a tensor's next one."""
    return plan.carried + CARRIED * i


cdef inline bint differs(const double* one, const double* other) noexcept nogil:
    cdef int j
    for j in range(CARRIED):
        if one[j] != other[j]:
            return True
    return False


cdef hyper_t hypers_of(const plan_t* plan, Py_ssize_t i) noexcept nogil:
    """Return a tensor's hyperparameters, with all that its constants are derived from."""
    cdef hyper_t o = plan.hypers[plan.tensors[i].group]
    o.step = <double> (plan.steps[i] - plan.started[i] + 1)
    memcpy(o.carried, carried_by(plan, i), CARRIED * sizeof(double))
    o.share = gradient_share(&plan.options, <double> (plan.accumulated + 1), unit_of(plan))
    return o


cdef void derive_constants(plan_t* plan) noexcept nogil:
    """Derive the constants of this step, once for each run of tensors that share them."""
    cdef Py_ssize_t i, last = -1
    cdef constants_t* h = NULL
    cdef hyper_t o
    plan.state_missing = False
    for i in range(plan.count):
        if not plan.tensors[i].active:
            continue
        if plan.tensors[i].staged:
            plan.tensors[i].key = mixed(
                mixed(mixed(plan.seed) ^ (plan.steps[i] + 1)) ^ plan.tensors[i].name
            )
        if (
            last < 0
            or plan.tensors[i].group != plan.tensors[last].group
            or plan.steps[i] - plan.started[i] != plan.steps[last] - plan.started[last]
            or differs(carried_by(plan, i), carried_by(plan, last))
        ):
            o = hypers_of(plan, i)
            h = &plan.constants[i]
            make_constants(TRAITS[plan.tensors[i].index].derive, &o, h)
            last = i
        plan.tensors[i].h = h
        if plan.tensors[i].flags_without_state & (h.flags | ALWAYS):
            plan.state_missing = True


cdef void adjust_constants(plan_t* plan) noexcept nogil:
    """Make of each tensor's constants what norms and options ask: its own from now on."""
    cdef Py_ssize_t i
    cdef constants_t* h
    cdef double k = plan.options.lookahead
    cdef bint plain = takes_as_is(plan)   # asked once: 3 % of LARS over small arrays
    for i in range(plan.count - 1, -1, -1):   # last the one whose constants others share
        if not plan.tensors[i].active:
            continue
        plan.tensors[i].averages = k != 0 and (plan.steps[i] + 1) % <Py_ssize_t> k == 0
        h = &plan.constants[i]
        if plan.tensors[i].h != h:
            take_head(h, plan.tensors[i].h)
            plan.tensors[i].h = h
        if not plain:
            adjust_tensor(plan, i)
        if h.flags & TRUST:
            apply_trust(
                h, tensor_norm(plan, i, True), plan.norms.each[i], plan.tensors[i].dtype
            )


cdef bint takes_as_is(const plan_t* plan) noexcept nogil:
    """Tell whether gradients are neither scaled nor clipped."""
    cdef const options_t* o = &plan.options
    cdef double calls = <double> (plan.accumulated + 1)
    if o.clip_norm or o.clip_norm_per_tensor or o.clip_value:
        return False
    return gradient_share(o, calls, unit_of(plan)) == 1


cdef void adjust_tensor(plan_t* plan, Py_ssize_t i) noexcept nogil:
    """Put unscaling and clipping into a tensor's own constants."""
    cdef wide_t norm
    norm.value, norm.exponent = 0, 0
    if plan.measures_gradients:
        norm = plan.norms.each[i]
    adjust(
        &plan.options, &plan.constants[i], <double> (plan.accumulated + 1), unit_of(plan),
        plan.norms.total, norm, plan.tensors[i].dtype,
    )


cdef void apply_directions(plan_t* plan) noexcept nogil:
    """Put the trust ratios of directions into the constants; the next pass applies these."""
    cdef Py_ssize_t i
    cdef wide_t p_norm, norm
    for i in range(plan.count):
        if not (plan.tensors[i].active and plan.constants[i].flags & DIRECTION):
            continue
        norm = tensor_norm(plan, i, False)
        if TRAITS[plan.tensors[i].index].bounds:
            bound_direction(&plan.constants[i], norm)
            continue
        p_norm = tensor_norm(plan, i, True)
        if TRAITS[plan.tensors[i].index].factors:
            adapt_rate(&plan.constants[i], p_norm, norm, <double> plan.tensors[i].size)
        else:
            apply_trust(&plan.constants[i], p_norm, norm, plan.tensors[i].dtype)
        plan.constants[i].flags ^= DIRECTION | APPLY


cdef void apply_steadiness(plan_t* plan, int threads) noexcept nogil:
    """Take each tensor's root mean square of relative gradients, before its step is taken.

    Where it is high, its constants are derived anew, by a smaller learning rate.
    """
    cdef Py_ssize_t i
    cdef tensor_t* t
    cdef double share
    for i in range(plan.count):
        if plan.tensors[i].active:   # what others share with it stays as it is
            plan.constants[i] = resolved(&plan.constants[i])
    for i in range(plan.count):
        if plan.tensors[i].active:
            ask_relative(&plan.constants[i])
    sum_squares(plan, REHEARSALS, threads)
    for i in range(plan.count):
        t = &plan.tensors[i]
        if not t.active:
            continue
        share = share_of_rate(
            plan.norms.sums[0][i], <double> t.size, plan.options.clip_update_rms
        ) if t.size else 1
        shorten(plan, i, share)


cdef void shorten(plan_t* plan, Py_ssize_t i, double share) noexcept nogil:
    """Derive a tensor's constants as they are with a share of its learning rate."""
    cdef hyper_t o = hypers_of(plan, i)
    cdef constants_t* h = &plan.constants[i]
    cdef double trust = h.trust
    o.lr, o.max_lr = o.lr * share, o.max_lr * share   # corrected decay: by lr / max_lr as before
    make_constants(TRAITS[plan.tensors[i].index].derive, &o, h)
    if TRAITS[plan.tensors[i].index].bounds:
        h.trust = trust   # of its direction, whose norm has been taken
        h.flags ^= DIRECTION
    if not takes_as_is(plan):
        adjust_tensor(plan, i)


cdef void apply_caution(plan_t* plan, int threads) noexcept nogil:
    """Count for each tensor what its step has of elements that agree, before it is taken."""
    cdef Py_ssize_t i
    for i in range(plan.count):
        if plan.tensors[i].active:
            ask_agreement(&plan.constants[i])
    sum_squares(plan, REHEARSALS, threads)
    for i in range(plan.count):
        if plan.tensors[i].active:
            be_cautious(&plan.constants[i], plan.norms.sums[0][i], <double> plan.tensors[i].size)


cdef int refuse_missing_state(Plan plan) except -1:
    """Refuse to run where the derived flags touch a state array that is not there."""
    cdef Py_ssize_t i
    cdef int j
    cdef tensor_t* t
    for i in range(plan.core.count):
        t = &plan.core.tensors[i]
        j = missing_stream(&TRAITS[t.index], t.h.flags, t.data) if t.active else -1
        if j >= 2:
            what = buffers.named("parameter", plan.labels[i])
            raise ValueError(f"{plan.owner}: {what} has no {plan.rules[i].streams[j - 2].name}")
    return 0
