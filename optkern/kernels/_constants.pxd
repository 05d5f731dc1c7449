"""Hyperparameters in, the constants of one step out: the vocabulary of both, and the flags."""
from libc.string cimport memcpy, memset

from optkern.kernels._wide cimport wide_t


cdef enum:
    # What an update does beyond its plain form. DECAYS and SCALES are arithmetic on p and g alone;
    # the others decide which state is touched (`Rule.variants` in rules/row.py). The constants of
    # SCALES change nothing where their flag is off: a loop may take them all.
    TURN = 1
    L2 = 2
    SHRINK = 4
    MOMENTUM = 8
    NESTEROV = 16
    CENTERED = 32
    AMSGRAD = 64
    RECTIFIED = 128
    DIRECTION = 256   # LAMB: state is updated, and the result is the direction
    APPLY = 512       # LAMB: the direction that the state gives is applied
    SCALE = 1024
    CLAMP = 2048
    TRUST = 4096
    DECAY = 8192
    GUARD = 16384     # quotients whose parts could leave the range, or be 0
    WARY = 1 << 15    # decoupled decay where the step does not oppose it
    OWN1 = 1 << 16    # a rule's own, as in rules/flags.py
    OWN2 = 1 << 17
    OWN3 = 1 << 18
    OWN4 = 1 << 19
    CAUTIOUS = 1 << 20    # of a step, those elements that go down along the gradient
    AGREEMENT = 1 << 21   # the result is which these are
    RELATIVE = 1 << 22    # the result is the gradient over what its step divides by
    DECAYS = TURN | L2 | SHRINK | DECAY
    SCALES = SCALE | CLAMP | TRUST
    # Of loops of their own (`cases` in setup.py); each sets GUARD.
    RARE = GUARD | WARY | CAUTIOUS | AGREEMENT | RELATIVE


cdef enum:
    # The words of `decay_form` in rules/vocabulary.py.
    DECAY_L2
    DECAY_DECOUPLED
    DECAY_INDEPENDENT
    DECAY_CORRECTED
    DECAY_CAUTIOUS


cdef enum:
    OWN = 8       # numbers that a rule may have for itself, of either kind
    CARRIED = 3   # that its steps hand on (`Rule.carried`)


cdef struct hyper_t:
    # Every hyperparameter of every rule, as `Domain.encode` in rules/domains.py gives it.
    double lr
    double beta1
    double beta2
    double eps
    double alpha
    double rho
    double momentum
    double dampening
    double lr_decay
    double momentum_decay
    double weight_decay
    double nesterov
    double centered
    double amsgrad
    double maximize
    double decay_form
    double max_lr
    double eps_form
    double momentum_form
    double step
    double trust_coefficient
    double adapt
    double share         # how much of a gradient as it comes an update takes; 0: all of it
    double carried[CARRIED]   # from the last step's constants, in the order of `Rule.carried`
    double own[OWN]      # what no other rule has, in the order of `Rule.domains`


cdef struct options_t:
    # What an optimizer does around its rule, as OPTIONS in rules/options.py encodes it; 0: off.
    double clip_norm
    double clip_norm_per_tensor
    double clip_value
    double grad_scale
    double max_skips
    double accumulate
    double accumulate_form
    double centralize
    double adaptive_clip
    double adaptive_clip_eps
    double adaptive_clip_head
    double unit_layout
    double clip_update_rms
    double cautious
    double project
    double project_low
    double project_high
    double zero_grad
    double lookahead
    double lookahead_alpha
    double ema_decay


cdef enum:
    # As whose numbers a parameter is stored.
    AS_FLOAT32
    AS_FLOAT64
    AS_BFLOAT16
    AS_FLOAT16


cdef struct constants_t:
    # What a formula reads. First what norms and options make of it for each tensor (`take_head`,
    # `resolved`): so much, and no more, is written for a thousand tensors.
    double decay         # weight decay, added to the gradient
    double rate          # multiplies the direction
    double eps
    double scale         # multiplies the gradient: unscaling and clipping by norms
    double limit         # clips the gradient's elements
    double trust         # LARS: multiplies the gradient; LAMB: the direction
    double caution       # multiplies what is left of a cautious step, or a relative gradient
    double shrink        # decoupled weight decay, multiplies the parameter
    double turn          # multiplies the gradient: -1 to maximise, over `full`
    double full          # a power of two: makes good what keeps the gradient in range, mostly 1
    double down          # the same of a quotient: multiplies its divisor
    unsigned int flags
    int lift             # the gradient goes in times 2**lift: what `scale` does not hold, mostly 0
    Py_ssize_t behind    # what follows is that of the tensor so many before this one; alone: 0
    # beta/gain pairs weigh a running average's past and its new term.
    double beta1
    double gain1
    double beta2
    double gain2
    double momentum
    double gain
    double carried[CARRIED]   # into the next step's hyperparameters, in the order of `Rule.carried`
    double own[OWN]      # what no other rule has, in the order of `Rule.constants`


cdef inline void take_head(constants_t* h, const constants_t* shared) noexcept nogil:
    """Begin a tensor's own constants with what it shares with one before it in the same array."""
    memcpy(h, shared, <const char*> &shared.behind - <const char*> shared)
    h.behind = h - shared


cdef inline constants_t resolved(const constants_t* h) noexcept nogil:
    """Return a tensor's constants in one piece, which a compiler can keep in registers."""
    cdef constants_t whole = (h - h.behind)[0]
    whole.decay, whole.rate, whole.eps = h.decay, h.rate, h.eps
    whole.scale, whole.limit, whole.trust, whole.caution = h.scale, h.limit, h.trust, h.caution
    whole.shrink, whole.turn, whole.full, whole.down = h.shrink, h.turn, h.full, h.down
    whole.flags, whole.lift, whole.behind = h.flags, h.lift, 0
    return whole


ctypedef void (*derive_t)(const hyper_t* o, constants_t* h) noexcept nogil

cdef inline void make_constants(
    derive_t derive, const hyper_t* o, constants_t* h
) noexcept nogil:
    """Derive the constants of a step: the one place, whoever takes it."""
    cdef hyper_t own
    memset(h, 0, sizeof(constants_t))
    if o.decay_form < DECAY_CORRECTED:
        derive(o, h)
        return
    own = o[0]   # the two others are decoupled decay to a rule
    own.decay_form = DECAY_DECOUPLED
    if o.decay_form == DECAY_CORRECTED and o.max_lr > 0:
        own.weight_decay = o.weight_decay * (o.lr / o.max_lr)
    derive(&own, h)
    if o.decay_form == DECAY_CAUTIOUS and h.flags & (SHRINK | DECAY):
        h.flags |= WARY | GUARD


cdef derive_t derivation(rule) except NULL
cdef int encode(hyper_t* o, rule, str name, object value) except -1
cdef int encode_option(options_t* o, str name, object value) except -1
cdef void ask_relative(constants_t* h) noexcept nogil
cdef double kept_of_unit(
    const options_t* o, const constants_t* h, double g_norm, double p_norm, int shift
) noexcept nogil
cdef void bound_direction(constants_t* h, wide_t norm) noexcept nogil
cdef double share_of_rate(double squares, double size, double limit) noexcept nogil
cdef void ask_agreement(constants_t* h) noexcept nogil
cdef void be_cautious(constants_t* h, double agreeing, double size) noexcept nogil
cdef void confinement(const options_t* o, int stored, double* low, double* high) noexcept nogil
cdef double gradient_share(const options_t* o, double calls, double unit) noexcept nogil
cdef void adjust(
    const options_t* o, constants_t* h, double calls, double unit, wide_t norm, wide_t tensor_norm,
    int is_double,
) noexcept nogil
cdef void adapt_rate(constants_t* h, wide_t p_norm, wide_t norm, double size) noexcept nogil
cdef void apply_trust(constants_t* h, wide_t p_norm, wide_t norm, int is_double) noexcept nogil
