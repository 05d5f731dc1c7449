# cython: cdivision=True
"""The update rules, one element at a time: the twins of reference.py, line for line.

1. A formula gets an element of p and g, pointers to its state, and the derived constants `h`
   (_constants.pxd); it writes the state and returns the new p.
2. No branch on the dtype: `floating` is float or double, and every constant is cast to it first.
3. State goes through `flush`; maxima and signs are written so that NaN and -0 come out as NumPy's.
4. `cdivision` stands at the head of this file: set elsewhere it does not reach these functions,
   and a check for a zero divisor in the loop costs a factor of two.
5. A moment that is used after another one has been stored is kept in a variable (`now_m`): gcc
   would load it again behind the store, 15 % of adamax and nadam.
"""
from optkern.kernels._constants cimport (
    AMSGRAD, APPLY, CENTERED, CLAMP, DECAY, DIRECTION, L2, MAXIMIZE, MOMENTUM, NESTEROV,
    RECTIFIED, SCALE, SHRINK, TRUST, constants_t,
)
from optkern.kernels._scalar cimport epsilon, floating, flush, magnitude, square_root


cdef inline floating ascended(floating p, floating g, constants_t h) noexcept nogil:
    """The gradient to descend along: scaled and clipped, turned to maximise, L2 decay added."""
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
    """The parameter after decoupled weight decay."""
    return p * <floating> h.shrink if h.flags & SHRINK else p


cdef inline floating sgd(floating p, floating g, floating* buf, constants_t h) noexcept nogil:
    cdef floating momentum = <floating> h.momentum, gain = <floating> h.gain
    g = ascended(p, g, h)
    if h.flags & TRUST:
        g = g * <floating> h.trust
    if h.flags & MOMENTUM:
        buf[0] = flush(momentum * buf[0] + gain * g)
        g = gain * g + momentum * buf[0] if h.flags & NESTEROV else buf[0]
    return shrunk(p, h) - <floating> h.rate * g


cdef inline floating adagrad(floating p, floating g, floating* s, constants_t h) noexcept nogil:
    g = ascended(p, g, h)
    s[0] = flush(s[0] + g * g)
    return shrunk(p, h) - g * <floating> h.rate / (square_root(s[0]) + <floating> h.eps)


cdef inline floating rmsprop(
    floating p, floating g, floating* v, floating* m, floating* buf, constants_t h
) noexcept nogil:
    cdef floating alpha = <floating> h.beta2, gain = <floating> h.gain2, d, least
    cdef floating share = epsilon(p) * <floating> h.horizon
    g = ascended(p, g, h)
    v[0] = flush(alpha * v[0] + gain * g * g)
    d = v[0]
    if h.flags & CENTERED:
        m[0] = flush(alpha * m[0] + gain * g)
        share = <floating> 1 if share > 1 else share
        least = share * d   # the averages' rounding
        d = d - m[0] * m[0]
        d = d if d >= least else least   # beyond the range inf - inf, and inf as without centering
    d = square_root(d) + <floating> h.eps
    if h.flags & MOMENTUM:
        buf[0] = flush(<floating> h.momentum * buf[0] + g / d)
        return shrunk(p, h) - <floating> h.rate * buf[0]
    return shrunk(p, h) - g * <floating> h.rate / d


cdef inline floating adadelta(
    floating p, floating g, floating* v, floating* u, constants_t h
) noexcept nogil:
    cdef floating rho = <floating> h.beta2, gain = <floating> h.gain2, eps = <floating> h.eps, d
    g = ascended(p, g, h)
    v[0] = flush(rho * v[0] + gain * g * g)
    d = square_root(u[0] + eps) * g / square_root(v[0] + eps)
    u[0] = flush(rho * u[0] + gain * d * d)
    return shrunk(p, h) - <floating> h.rate * d


cdef inline floating adam(
    floating p, floating g, floating* m, floating* v, floating* vmax, constants_t h
) noexcept nogil:
    cdef floating d, now_m
    g = ascended(p, g, h)
    now_m = flush(<floating> h.beta1 * m[0] + <floating> h.gain1 * g)
    m[0] = now_m
    v[0] = flush(<floating> h.beta2 * v[0] + <floating> h.gain2 * g * g)
    d = v[0]
    if h.flags & AMSGRAD:
        d = vmax[0] if vmax[0] > d else d
        vmax[0] = flush(d)
    return shrunk(p, h) - now_m * <floating> h.rate / (square_root(d) + <floating> h.eps)


cdef inline floating adamax(
    floating p, floating g, floating* m, floating* u, constants_t h
) noexcept nogil:
    cdef floating past = <floating> h.beta2 * u[0], now, now_m
    g = ascended(p, g, h)
    now_m = flush(<floating> h.beta1 * m[0] + <floating> h.gain1 * g)
    m[0] = now_m
    now = magnitude(g) + <floating> h.eps
    u[0] = flush(past if past > now else now)
    return shrunk(p, h) - now_m * <floating> h.rate / u[0]


cdef inline floating nadam(
    floating p, floating g, floating* m, floating* v, constants_t h
) noexcept nogil:
    cdef floating d, now_m
    g = ascended(p, g, h)
    now_m = flush(<floating> h.beta1 * m[0] + <floating> h.gain1 * g)
    m[0] = now_m
    v[0] = flush(<floating> h.beta2 * v[0] + <floating> h.gain2 * g * g)
    d = now_m * <floating> h.rate + g * <floating> h.gradient_rate
    return shrunk(p, h) - d / (square_root(v[0]) + <floating> h.eps)


cdef inline floating radam(
    floating p, floating g, floating* m, floating* v, constants_t h
) noexcept nogil:
    cdef floating d, now_m
    g = ascended(p, g, h)
    now_m = flush(<floating> h.beta1 * m[0] + <floating> h.gain1 * g)
    m[0] = now_m
    v[0] = flush(<floating> h.beta2 * v[0] + <floating> h.gain2 * g * g)
    d = now_m * <floating> h.rate
    if h.flags & RECTIFIED:
        d = d / (square_root(v[0]) + <floating> h.eps)
    return shrunk(p, h) - d


cdef inline floating lion(floating p, floating g, floating* m, constants_t h) noexcept nogil:
    cdef floating d
    g = ascended(p, g, h)
    d = <floating> h.beta1 * m[0] + <floating> h.gain1 * g
    d = <floating> 1 if d > 0 else (<floating> -1 if d < 0 else d)
    m[0] = flush(<floating> h.beta2 * m[0] + <floating> h.gain2 * g)
    return shrunk(p, h) - <floating> h.rate * d


cdef inline floating lamb(
    floating p, floating g, floating* m, floating* v, constants_t h
) noexcept nogil:
    cdef floating d, now_m = m[0]
    if not h.flags & APPLY:
        g = ascended(p, g, h)
        now_m = flush(<floating> h.beta1 * m[0] + <floating> h.gain1 * g)
        m[0] = now_m
        v[0] = flush(<floating> h.beta2 * v[0] + <floating> h.gain2 * g * g)
    d = now_m * <floating> h.rate / (square_root(v[0]) + <floating> h.eps)
    if h.flags & DECAY:
        d = d + <floating> h.decay * p
    if h.flags & DIRECTION:
        return d
    return shrunk(p, h) - <floating> h.trust * d


# The benchmark's limits (LIMITS in rules/): rate is 0 and gain 1, which the compiler cannot know.


cdef inline floating limit0(
    floating p, floating g, constants_t h
) noexcept nogil:
    return p - <floating> h.rate * g


cdef inline floating limit1(
    floating p, floating g, floating* a, constants_t h
) noexcept nogil:
    a[0] = a[0] * <floating> h.gain
    return p - <floating> h.rate * g


cdef inline floating limit2(
    floating p, floating g, floating* a, floating* b, constants_t h
) noexcept nogil:
    a[0] = a[0] * <floating> h.gain
    b[0] = b[0] * <floating> h.gain
    return p - <floating> h.rate * g


cdef inline floating limit3(
    floating p, floating g, floating* a, floating* b, floating* c, constants_t h
) noexcept nogil:
    a[0] = a[0] * <floating> h.gain
    b[0] = b[0] * <floating> h.gain
    c[0] = c[0] * <floating> h.gain
    return p - <floating> h.rate * g
