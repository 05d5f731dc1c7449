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
6. What is a rule's own has its place in `o.own` and `h.own`, in the order of its row.
"""
from optkern.kernels._constants cimport (
    CLAMP, L2, MAXIMIZE, SCALE, SHRINK, constants_t, hyper_t,
)
from optkern.kernels._scalar cimport floating, flush

# The words of the `Choice`s in rules/vocabulary.py, in their order.
cdef enum:
    DECAY_L2
    DECAY_DECOUPLED
    DECAY_INDEPENDENT

cdef enum:
    EPS_CORRECTED
    EPS_RAW

cdef enum:
    FORM_TORCH
    FORM_CLASSICAL
    FORM_AVERAGE


cdef inline floating ascended(floating p, floating g, constants_t h) noexcept nogil:
    """Return the gradient to descend along: scaled, clipped, turned to maximise, L2 decay added."""
    cdef floating limit = <floating> h.limit
    if h.flags & SCALE:
        g = g * <floating> h.scale
    if h.flags & CLAMP:
        g = limit if g > limit else (-limit if g < -limit else g)
    if h.flags & MAXIMIZE:
        g = -g
    if h.flags & L2:
        g = g + <floating> h.decay * p
    return g


cdef inline floating shrunk(floating p, constants_t h) noexcept nogil:
    """Return the parameter after decoupled weight decay."""
    return p * <floating> h.shrink if h.flags & SHRINK else p


cdef inline floating move_moments(
    floating g, floating* m, floating* v, constants_t h
) noexcept nogil:
    """Move the running averages of the gradient and of its square on; the former as it is now."""
    cdef floating now_m = flush(<floating> h.beta1 * m[0] + <floating> h.gain1 * g)
    m[0] = now_m
    v[0] = flush(<floating> h.beta2 * v[0] + <floating> h.gain2 * g * g)
    return now_m


cdef inline void common(const hyper_t* o, constants_t* h) noexcept nogil:
    """Derive what all rules share: the direction of the gradient and weight decay."""
    h.rate = o.lr
    h.eps = o.eps
    if o.maximize:
        h.flags |= MAXIMIZE
    if o.weight_decay == 0:
        return
    if o.decay_form == DECAY_L2:
        h.flags |= L2
        h.decay = o.weight_decay
    else:
        h.flags |= SHRINK
        h.shrink = 1 - o.weight_decay * (o.lr if o.decay_form == DECAY_DECOUPLED else 1.0)


cdef inline void averages(const hyper_t* o, constants_t* h) noexcept nogil:
    """Return the weights of the two running averages."""
    h.beta1 = o.beta1
    h.gain1 = 1 - o.beta1
    h.beta2 = o.beta2
    h.gain2 = 1 - o.beta2
