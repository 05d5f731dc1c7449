# cython: cdivision=True
"""The update rules, one element at a time, a file each: the twins of those in `rules/`.

1. `formula` gets an element of p and g, pointers to its state, and the derived constants `h`
   (_constants.pxd); it writes the state and returns the new p. `derive` makes these constants from
   the hyperparameters `o`, in double; both twins call it.
2. No branch on the dtype: `floating` is float or double, and every constant is cast to it first.
3. State goes through `flush`; maxima and signs are written so that NaN and -0 come out as NumPy's.
4. `cdivision` stands at the head of each file: set elsewhere it does not reach these functions,
   and a check for a zero divisor in the loop costs a factor of two.
5. A moment that is used after another one has been stored is kept in a variable (`now_m`): gcc
   would load it again behind the store, 15 % of adamax and nadam.
6. A gradient that is unscaled or decayed may leave the range where no result does: a rule lets it
   go in over a power of two and makes that good (`make_room`). A rate above 1 is cut by one as
   well, and so is what it is divided by (`guard`). Such factors are exact: they change no bits but
   of what lies beside the smallest normal number.
7. What is a rule's own has its place in `o.own` and `h.own`, in the order of its row.
"""
from libc.math cimport INFINITY, frexp, ldexp

from optkern.kernels._constants cimport (
    AGREEMENT, CAUTIOUS, CLAMP, DECAY_DECOUPLED, DECAY_INDEPENDENT, DECAY_L2, GUARD, L2, SCALE,
    SHRINK, TURN, WARY, constants_t, hyper_t,
)
from optkern.kernels._scalar cimport floating, flush, if_wanted, least_root, square_root

# The words of the `Choice`s in rules/vocabulary.py, in their order.
cdef enum:
    EPS_CORRECTED
    EPS_RAW

cdef enum:
    FORM_TORCH
    FORM_CLASSICAL
    FORM_AVERAGE

cdef enum:
    HEADROOM = 31   # of a power of two: its square times such a rate is a constant of float32


cdef inline floating ascended(floating p, floating g, constants_t h) noexcept nogil:
    """Give the gradient to descend along, over `full`: scaled, clipped, turned, decayed."""
    cdef floating limit = <floating> h.limit
    if h.flags & SCALE:
        g = g * <floating> h.scale
    if h.flags & CLAMP:
        g = limit if g > limit else (-limit if g < -limit else g)
    if h.flags & TURN:
        g = g * <floating> h.turn
    if h.flags & L2:
        g = g + <floating> h.decay * p
    return g


cdef inline floating shrunk(floating p, constants_t h) noexcept nogil:
    """Return the parameter after decoupled weight decay."""
    return p * <floating> h.shrink if h.flags & SHRINK else p


cdef inline floating relative(floating g, floating v, constants_t h) noexcept nogil:
    """Return an ascended gradient over the root of its second moment, or over eps."""
    cdef floating d = square_root(v), eps = <floating> h.eps
    d = eps if d < eps else d
    return if_wanted(g * <floating> h.caution / d, d > 0)


cdef inline floating sign_of(floating x) noexcept nogil:
    """Return 1, -1, or 0 of 0 and of NaN."""
    return <floating> 1 if x > 0 else (<floating> -1 if x < 0 else <floating> 0)


cdef inline floating agreement(floating x, floating y) noexcept nogil:
    """Return 1 where two have the same sign, -1 where they have opposite ones, else 0.

    Their own product might underflow; four comparisons gcc makes branches of, and signs are not
    foreseen: 30 ns for .4.
    """
    return sign_of(x) * sign_of(y)


cdef inline bint spares(floating u, floating p, constants_t h) noexcept nogil:
    """Tell whether cautious decay leaves p alone: the step takes it away from zero."""
    cdef floating wary = <floating> 1 if h.flags & WARY else <floating> 0
    return wary * agreement(u, p) < 0


cdef inline floating spared(
    floating u, floating p, floating after, constants_t h
) noexcept nogil:
    """Return a step that decay comes after; cautious decay spares it where it spares p."""
    return u if spares(u, p, h) else u * after


cdef inline floating moved(floating p, floating u, floating g, constants_t h) noexcept nogil:
    """Return the parameter after a step of -u by the ascended gradient g, and decoupled decay.

    Cautious decay leaves alone what the step takes away from zero. A cautious step is that of the
    elements where it goes down along g, times `caution`; these are asked for first (AGREEMENT).
    """
    cdef bint agreeing
    if h.flags & CAUTIOUS:
        agreeing = agreement(u, g) > 0
        if h.flags & AGREEMENT:
            return if_wanted(<floating> 1, agreeing)
        u = if_wanted(u * <floating> h.caution, agreeing)
    return (p if spares(u, p, h) else shrunk(p, h)) - u


cdef inline floating whole(floating x, constants_t h) noexcept nogil:
    """Multiply what is linear in a gradient that has gone in over `full` by it."""
    return x * <floating> h.full if h.flags & TURN else x


cdef inline floating denominator(floating v, constants_t h) noexcept nogil:
    """Give sqrt(v) + eps; where v is too small to be kept, the root of the smallest that is."""
    cdef floating d = square_root(v) + <floating> h.eps
    if h.flags & GUARD:
        d = (least_root(v) if d < least_root(v) else d) * <floating> h.down
    return d


cdef inline floating move_moments(
    floating g, floating* m, floating* v, constants_t h
) noexcept nogil:
    """Move the running averages of the gradient and of its square on; the former as it is now."""
    cdef floating now_m = flush(<floating> h.beta1 * m[0] + <floating> h.gain1 * g)
    m[0] = now_m
    v[0] = flush(<floating> h.beta2 * v[0] + <floating> h.gain2 * g * g)
    return now_m


cdef inline int excess(double factor, int most) noexcept nogil:
    """Find the power of two that takes a factor below 1, if it is above; at the most so much."""
    cdef int k = 0
    if factor <= 1:
        return 0
    frexp(factor * (1 + 1e-6), &k)   # it is rounded later
    return k if k < most else most


cdef inline void common(const hyper_t* o, constants_t* h) noexcept nogil:
    """Derive what all rules share: the direction of the gradient and weight decay."""
    h.rate = o.lr
    h.eps = o.eps
    h.scale = h.full = h.down = 1
    h.limit = INFINITY
    h.turn = -1 if o.maximize else 1
    if o.maximize:
        h.flags |= TURN
    if o.weight_decay == 0:
        return
    if o.decay_form == DECAY_L2:
        h.flags |= L2
        h.decay = o.weight_decay
    else:
        h.flags |= SHRINK
        h.shrink = 1 - o.weight_decay * (o.lr if o.decay_form == DECAY_DECOUPLED else 1.0)


cdef inline void make_room(const hyper_t* o, constants_t* h) noexcept nogil:
    """Let the gradient go in over `full`, if unscaling or decay may take it out of range.

    A rule that asks for it makes that good: by `full` in its weights, or by `whole`.
    """
    cdef double most = (o.share if o.share > 1 else 1) + h.decay   # times the largest gradient
    h.full = ldexp(1, excess(most, HEADROOM))
    h.turn = h.turn / h.full
    h.decay = h.decay / h.full
    if h.full != 1:
        h.flags |= TURN


cdef inline void guard(constants_t* h, double rate) noexcept nogil:
    """Keep a quotient's parts in range: the largest rate of its dividend, and its divisor."""
    cdef int k = excess(rate, 2 * HEADROOM)
    h.down = ldexp(1, -k)
    h.rate = h.rate * h.down
    if k or h.eps < least_root(<float> 0):
        h.flags |= GUARD


cdef inline void averages(const hyper_t* o, constants_t* h) noexcept nogil:
    """Derive the weights of the two running averages, of the gradient and of its square."""
    h.beta1 = o.beta1
    h.gain1 = (1 - o.beta1) * h.full
    h.beta2 = o.beta2
    h.gain2 = (1 - o.beta2) * h.full * h.full
