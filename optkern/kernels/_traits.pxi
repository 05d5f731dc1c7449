# --------------------------------------------------------------------------- traits
#
# What compiled code asks of the rule table, by the rule's position in it.


cdef int note_traits() except -1:
    cdef int k, j
    if len(COMPILED) > MAX_RULES or len(LIMITS) > MAX_LIMITS:
        raise SystemError("optkern: MAX_RULES or MAX_LIMITS in kernels/span.pxd is too small")
    if 2 + MAX_STATE + EXTRA + 1 > MAX_STREAMS:   # and a master
        raise SystemError("optkern: MAX_STREAMS in kernels/span.pxd has become too small")
    for k, rule in enumerate(COMPILED):
        TRAITS[k].derive = derivation(rule)
        TRAITS[k].streams = 2 + len(rule.streams)
        TRAITS[k].has_velocity = rule.begins_with is not None
        TRAITS[k].trusts, TRAITS[k].directs = rule.trust is not None, rule.trust == "direction"
        TRAITS[k].bounds = rule.bounded
        TRAITS[k].pools, TRAITS[k].wholes = rule.pool is not None, len(rule.wholes)
        TRAITS[k].matrices = TRAITS[k].pools or rule.matrices is not None
        TRAITS[k].factors = rule.has_factors
        for j, slot in enumerate(rule.streams):
            TRAITS[k].needs[2 + j] = rule.flag(slot.name) or ALWAYS
        TRAITS[k].needs[0] = TRAITS[k].needs[1] = ALWAYS
    return 0


cdef void note_rule(plan_t* plan, int index) noexcept nogil:
    """Note what a rule of one of its tensors asks of a plan as a whole."""
    plan.streams = max(plan.streams, TRAITS[index].streams)
    plan.trusts = plan.trusts or TRAITS[index].trusts
    plan.directs = plan.directs or TRAITS[index].directs or TRAITS[index].bounds
    plan.matrices = plan.matrices or TRAITS[index].matrices
    plan.pools = plan.pools or TRAITS[index].pools
    plan.factors = plan.factors or TRAITS[index].factors
    plan.trusts_gradients |= TRAITS[index].trusts and not TRAITS[index].directs


note_traits()
