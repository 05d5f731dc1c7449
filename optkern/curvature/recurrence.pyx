# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The Lanczos recurrence on long vectors, and the small tridiagonal problem it leaves.

1. Vectors are float32 or float64 and stay so; every sum is float64, over fixed blocks in a fixed
   tree: the bits depend on neither threads nor instruction set. With float32 sums and no
   reorthogonalisation the smallest Ritz value drifts below the smallest eigenvalue.
2. The long passes are the engine's: it owns the threads. `reference.py` says the same in NumPy.
3. The basis is a list of separate vectors: it grows without being copied, and one that no longer
   fits is dropped at once.
4. The tridiagonal problem is solved by Sturm counts and LDL' factors, O(k) each: below the
   smallest Ritz value all pivots are positive, so that the polynomial and the resolvent of the
   certificate come out without cancellation.
"""
import numpy as np

cimport numpy as cnp
from libc.float cimport DBL_EPSILON, DBL_MIN, FLT_EPSILON
from libc.math cimport fabs, log, sqrt
from libc.stdlib cimport free, malloc, realloc

from optkern.kernels.sums cimport BLOCK, LANES, count_blocks
from optkern.kernels.vectors cimport (
    COMBINE, DOT, PROJECT, SCALE, SUBTRACT, run_vectors, vector_threads,
)

cnp.import_array()

# A second Gram-Schmidt pass follows where the first took away more than this leaves
# (Daniel, Gragg, Kaufman, Stewart, "Reorthogonalization and stable algorithms ...", 1976).
cdef double DGKS = 0.707
# Twice is enough for a vector with a part of its own; what is left of a product within the basis'
# span is rounding, and may lie there again.
cdef enum:
    TURNS = 5
REORTHOGONALIZE_BELOW = DGKS
MOST_TURNS = TURNS
SUM_BLOCK, SUM_LANES = BLOCK, LANES

# --------------------------------------------------------------------------- vectors
#
# One thread, where a caller has no number from its user: who asks for one has no region entered.


cdef char* address(object array, int dtype, Py_ssize_t n) except NULL:
    """Return where a dense vector of n elements begins."""
    cdef cnp.ndarray a = array
    cdef int kind = cnp.NPY_FLOAT64 if dtype else cnp.NPY_FLOAT32
    if not cnp.PyArray_ISCARRAY_RO(a) or cnp.PyArray_TYPE(a) != kind or cnp.PyArray_NDIM(a) != 1:
        word = "float64" if dtype else "float32"
        raise ValueError(
            f"expected a dense vector of {word}, got {array.dtype}, shape {array.shape}, "
            f"strides {array.strides}"
        )
    if cnp.PyArray_SIZE(a) != n:
        raise ValueError(f"expected a vector of {n} elements, got {cnp.PyArray_SIZE(a)}")
    return <char*> cnp.PyArray_DATA(a)


cdef class Pass:
    """Hold the buffers of the engine's passes over vectors of one length and dtype."""

    def __cinit__(self, Py_ssize_t n, int dtype, int num_threads):
        self.v.n = n
        self.v.dtype = dtype
        self.wanted = num_threads
        self.reserve(4)

    def __dealloc__(self):
        free(self.rows)
        free(self.v.partial)
        free(self.v.wide)

    cdef int reserve(self, Py_ssize_t k) except -1:
        """Make room for k rows, and for all threads that may be used now."""
        cdef void* rows
        cdef void* partial
        cdef void* wide
        cdef int threads = vector_threads(self.v.n, self.wanted)
        if threads > self.v.rooms:
            wide = realloc(self.v.wide, threads * BLOCK * sizeof(double))
            if not wide:
                raise MemoryError
            self.v.wide, self.v.rooms = <double*> wide, threads
        if k <= self.room:
            return 0
        k = max(k, 2 * self.room)
        rows = realloc(self.rows, k * sizeof(char*))
        if rows:
            self.rows = <const char**> rows
            self.v.rows = self.rows
        partial = realloc(self.v.partial, k * (count_blocks(self.v.n) + 1) * sizeof(double))
        if partial:
            self.v.partial = <double*> partial
        if not rows or not partial:
            raise MemoryError
        self.room = k
        return 0

    cdef double dot(self, const char* x, const char* y) noexcept nogil:
        self.v.work = DOT
        self.v.x = x
        self.v.y = y
        return run_vectors(&self.v, vector_threads(self.v.n, self.wanted))

    cdef void project(self, const char* x, Py_ssize_t k, double* c) noexcept nogil:
        """Compute c, the first k rows' dots with x."""
        cdef Py_ssize_t j
        self.v.work = PROJECT
        self.v.x = x
        self.v.k = k
        run_vectors(&self.v, vector_threads(self.v.n, self.wanted))
        for j in range(k):
            c[j] = self.v.partial[j * count_blocks(self.v.n)] if self.v.n else 0

    cdef double subtract(
        self, char* out, const char* x, Py_ssize_t k, const double* c, const char* y
    ) noexcept nogil:
        """Compute out = x - the first k rows times c; give out'y."""
        self.v.work = SUBTRACT
        self.v.out = out
        self.v.x = x
        self.v.k = k
        self.v.c = c
        self.v.y = y
        return run_vectors(&self.v, vector_threads(self.v.n, self.wanted))

    cdef void combine(self, double* out, Py_ssize_t k, const double* c) noexcept nogil:
        """Compute out = - the first k rows times c."""
        self.v.work = COMBINE
        self.v.out = <char*> out
        self.v.k = k
        self.v.c = c
        run_vectors(&self.v, vector_threads(self.v.n, self.wanted))

    cdef void scale(self, char* out, const char* x, double a) noexcept nogil:
        self.v.work = SCALE
        self.v.out = out
        self.v.x = x
        self.v.a = a
        run_vectors(&self.v, vector_threads(self.v.n, self.wanted))


cdef Pass passes(object x, int num_threads):
    return Pass(x.shape[0], x.dtype.itemsize == 8, num_threads)


def blocks(Py_ssize_t n):
    """Return how many partial sums a sum over n elements has."""
    return count_blocks(n)


def dot(x, y, int num_threads=1):
    """Compute x'y of two dense float32 or float64 vectors."""
    cdef Pass p = passes(x, num_threads)
    cdef char* a = address(x, p.v.dtype, p.v.n)
    cdef char* b = address(y, p.v.dtype, p.v.n)
    with nogil:
        result = p.dot(a, b)
    return result


def project(list rows, x, int num_threads=1):
    """Return the dots of x with each of the rows, as float64."""
    cdef Pass p = passes(x, num_threads)
    cdef Py_ssize_t j, k = len(rows)
    cdef char* a = address(x, p.v.dtype, p.v.n)
    c = np.empty(k)
    cdef double* total = <double*> cnp.PyArray_DATA(c)
    p.reserve(k)
    for j in range(k):
        p.rows[j] = address(rows[j], p.v.dtype, p.v.n)
    if k:
        with nogil:
            p.project(a, k, total)
    return c


def subtract(out, x, list rows, c, y=None, int num_threads=1):
    """Compute out = x - sum_j c[j] rows[j], in place; give out'y (0.0 without a y)."""
    cdef Pass p = passes(x, num_threads)
    cdef Py_ssize_t j, k = len(rows)
    cdef char* to = address(out, p.v.dtype, p.v.n)
    cdef char* a = address(x, p.v.dtype, p.v.n)
    cdef char* b = NULL if y is None else address(y, p.v.dtype, p.v.n)
    coefficients = np.ascontiguousarray(c, np.float64)
    cdef const double* values = <const double*> cnp.PyArray_DATA(coefficients)
    if coefficients.shape != (k,) or not out.flags.writeable:
        raise ValueError(f"expected {k} coefficients and a writable out")
    p.reserve(k)
    for j in range(k):
        p.rows[j] = address(rows[j], p.v.dtype, p.v.n)
    with nogil:
        result = p.subtract(to, a, k, values, b)
    return result


def combine(list rows, weights, Py_ssize_t n, int num_threads=1):
    """Compute sum_j weights[j] rows[j] in float64: all rows for a block of it, then the next."""
    cdef Py_ssize_t j, k = len(rows)
    cdef Pass p = Pass(n, k and rows[0].dtype.itemsize == 8, num_threads)
    c = np.ascontiguousarray(-np.asarray(weights, np.float64))
    out = np.zeros(n)
    cdef double* to = <double*> cnp.PyArray_DATA(out)
    cdef const double* negative = <const double*> cnp.PyArray_DATA(c)
    if c.shape != (k,):
        raise ValueError(f"expected {k} weights, got {c.size}")
    p.reserve(k)
    for j in range(k):
        p.rows[j] = address(rows[j], p.v.dtype, n)
    if k and n:
        with nogil:
            p.combine(to, k, negative)
    return out


def scale(out, x, double a, int num_threads=1):
    """Compute out = a x, in place."""
    cdef Pass p = passes(x, num_threads)
    cdef char* to = address(out, p.v.dtype, p.v.n)
    cdef char* start = address(x, p.v.dtype, p.v.n)
    if not out.flags.writeable:
        raise ValueError("expected a writable out")
    with nogil:
        p.scale(to, start, a)


# --------------------------------------------------------------------------- the recurrence


def fresh_direction(list basis, Py_ssize_t k, int num_threads=1):
    """Draw a unit vector orthogonal to the basis, for a Krylov space that has ended to rounding.

    What rounding leaves there is as arbitrary, but would shrink from product to product until it
    leaves the range of the numbers.
    """
    x = np.random.default_rng([0x5EED4, k]).standard_normal(basis[0].size, basis[0].dtype.type)
    cdef double before, square = dot(x, x, num_threads)
    for _ in range(TURNS):
        before = square
        square = subtract(x, x, basis, project(basis, x, num_threads), x, num_threads)
        if square > DGKS * DGKS * before:
            break
    scale(x, x, 1 / sqrt(square), num_threads)
    return x


cdef class Recurrence:
    """Build H V = V T + beta_k v_{k+1} e_k', one product at a time.

    Parameters
    ----------
    start : ndarray
        A dense float32 or float64 vector of norm 1: v_1.
    basis_limit : int
        Vectors to keep at the most. While they are kept, each new one is orthogonalised against
        all; the vector that would be one too many drops them all, and only three are kept.
    num_threads : int
        0: the engine's own choice.
    copy : bool
        False: ``start`` is given away and will be written over.
    shares : SharedBasis, optional
        What keeps the vectors in the place of a list: this process' slices of them.

    Attributes
    ----------
    k : int
        Products taken so far.
    alpha, beta : list of float
        T's diagonal, and below it; ``beta[-1]`` is beta_k.
    vector : ndarray
        v_{k+1}, read-only: multiply this next.
    basis : list of ndarray, SharedBasis or None
        v_1 ... v_{k+1}; None once dropped.
    noise_square, noise_count : float, int
        Sum and number of the squared elements of V'H V that T says are zero: samples of the
        products' error (and of rounding) along a direction.
    removed_square : float
        The part of that sum that Gram-Schmidt took away.

    References
    ----------
    Paige, "Computational variants of the Lanczos method for the eigenproblem", 1972, A(1, 6).
    """

    cdef readonly Py_ssize_t k, noise_count
    cdef readonly double noise_square, removed_square
    cdef readonly list alpha, beta
    cdef readonly object vector, basis
    cdef object _previous
    cdef Py_ssize_t _limit
    cdef Pass _pass
    cdef double* _c
    cdef Py_ssize_t _room
    cdef double _u, _largest   # unit roundoff; the largest element of T

    def __cinit__(
        self, start, Py_ssize_t basis_limit, int num_threads=0, bint copy=True, shares=None
    ):
        self._pass = passes(start, num_threads)
        self.vector = np.array(start) if copy else start
        self.vector.flags.writeable = False
        self._limit = basis_limit
        if basis_limit > 0:
            self.basis = [] if shares is None else shares
            self.basis.append(self.vector)
        self.alpha, self.beta = [], []
        self._u = 0.5 * (DBL_EPSILON if self._pass.v.dtype else FLT_EPSILON)

    def __dealloc__(self):
        free(self._c)

    def advance(self, product):
        """Take H times `vector`; afterwards `vector` is the next one.

        Parameters
        ----------
        product : ndarray
            Dense, of the vectors' length and dtype; it is not kept.
        """
        cdef Pass p = self._pass
        cdef double alpha, beta, square
        cdef double last = self.beta[self.k - 1] if self.k else 0
        cdef bint keep = self.basis is not None and len(self.basis) < self._limit
        cdef char* w = address(product, p.v.dtype, p.v.n)
        cdef char* v = address(self.vector, p.v.dtype, p.v.n)
        cdef char* previous = NULL
        cdef char* out
        if self._previous is not None:
            previous = address(self._previous, p.v.dtype, p.v.n)
        if not keep:
            self.basis = None
        if keep or self._previous is None:
            new = np.empty_like(self.vector)
        else:
            new = self._previous
            new.flags.writeable = True
        out = address(new, p.v.dtype, p.v.n)
        with nogil:
            if previous and not keep:
                self._note(p.dot(previous, w) - last)
            p.rows[0] = previous
            alpha = p.subtract(out, w, 1 if previous else 0, &last, v)
            p.rows[0] = v
            square = p.subtract(out, out, 1, &alpha, out)
        if keep and type(self.basis) is list:
            square = self._orthogonalize(out, square, &alpha)
        elif keep:
            square = self._orthogonalize_shares(new, square, &alpha)
        beta = sqrt(square)
        self._largest = max(self._largest, fabs(alpha), beta)
        if keep and beta <= self._u * self._largest and len(self.basis) < p.v.n:
            beta = self._u * self._largest
            if type(self.basis) is list:
                new[:] = fresh_direction(self.basis, self.k, p.wanted)
            else:
                new[:] = self.basis.fresh_direction(self.k)
        else:
            with nogil:
                p.scale(out, out, 1 / beta if beta > 0 else 0)
        self.alpha.append(alpha)
        self.beta.append(beta)
        self.k += 1
        self._previous = self.vector
        self.vector = new
        new.flags.writeable = False
        if keep:
            self.basis.append(new)

    cdef void _note(self, double sample) noexcept nogil:
        self.noise_square += sample * sample
        self.noise_count += 1

    cdef double _orthogonalize(self, char* out, double square, double* alpha) except -1:
        """Orthogonalise against the basis until that takes little away; give the square left.

        What it takes away along v_k belongs to alpha_k; along the others there should be nothing.
        """
        cdef Pass p = self._pass
        cdef Py_ssize_t j, k = len(self.basis)
        cdef double before = square
        cdef int turn
        cdef void* c
        p.reserve(k)
        if p.room > self._room:
            c = realloc(self._c, p.room * sizeof(double))
            if not c:
                raise MemoryError
            self._c, self._room = <double*> c, p.room
        for j in range(k):
            p.rows[j] = address(self.basis[j], p.v.dtype, p.v.n)
        with nogil:
            for turn in range(TURNS):
                p.project(out, k, self._c)
                before, square = square, p.subtract(out, out, k, self._c, out)
                alpha[0] += self._c[k - 1]
                if turn == 0:
                    for j in range(k - 1):
                        self._note(self._c[j])
                        self.removed_square += self._c[j] * self._c[j]
                if not square <= DGKS * DGKS * before:   # NaN too
                    return square
        return 0   # nothing but rounding within the span

    cdef double _orthogonalize_shares(self, new, double square, double* alpha) except -1:
        """Do as `_orthogonalize` where processes have slices of the vectors."""
        cdef double part
        taken, square = self.basis.orthogonalize(new, square)
        for parts in taken:
            alpha[0] += parts[len(parts) - 1]
        for part in taken[0][:len(taken[0]) - 1]:
            self._note(part)
            self.removed_square += part * part
        return square


# --------------------------------------------------------------------------- the small problem


cdef class Tridiagonal:
    """Hold T_k and its remainder beta_k; ``sign=-1``: -T, so that every end is a lowest one.

    Eigenvalues and pivots do not see the signs of the off-diagonal, which stay: -T's eigenvectors
    come out with alternating signs.
    """

    cdef readonly Py_ssize_t k
    cdef readonly int sign
    cdef double* a
    cdef double* b
    cdef double* d
    cdef double* z
    cdef double tiny

    def __cinit__(self, alpha, beta, int sign=1):
        cdef Py_ssize_t j
        self.k = len(alpha)
        self.sign = sign
        self.a = <double*> malloc(4 * (self.k or 1) * sizeof(double))
        if not self.a:
            raise MemoryError
        self.b = self.a + self.k
        self.d = self.b + self.k
        self.z = self.d + self.k
        for j in range(self.k):
            self.a[j] = sign * <double> alpha[j]
            self.b[j] = beta[j]
        self.tiny = max(DBL_MIN, DBL_EPSILON * DBL_EPSILON * self.norm())

    def __dealloc__(self):
        free(self.a)

    cpdef double norm(self) noexcept:
        """Return a bound on ||T||: the largest sum of magnitudes in a row."""
        cdef double largest = 0, left = 0, right
        cdef Py_ssize_t j
        for j in range(self.k):
            right = self.b[j] if j < self.k - 1 else 0
            largest = max(largest, left + fabs(self.a[j]) + right)
            left = right
        return largest

    cdef Py_ssize_t factor(self, double t) noexcept nogil:
        """Count the negative pivots of T - t = L D L', as many as there are eigenvalues below t."""
        cdef Py_ssize_t j, below = 0
        for j in range(self.k):
            self.d[j] = self.a[j] - t
            if j:
                self.d[j] -= self.b[j - 1] / self.d[j - 1] * self.b[j - 1]
            if fabs(self.d[j]) < self.tiny:
                self.d[j] = -self.tiny
            below += self.d[j] < 0
        return below

    def count_below(self, double t):
        """Return how many Ritz values lie below t."""
        return self.factor(t)

    cpdef double lowest(self) noexcept:
        """Return the smallest Ritz value, by bisection to the last bits."""
        cdef double high = self.a[0], low, middle, norm = self.norm()
        cdef Py_ssize_t j
        for j in range(self.k):
            high = min(high, self.a[j])
        low = -norm
        while high - low > 2 * DBL_EPSILON * max(fabs(low), fabs(high)) + self.tiny:
            middle = low + 0.5 * (high - low)
            if middle <= low or middle >= high:
                break
            if self.factor(middle):
                high = middle
            else:
                low = middle
        return low + 0.5 * (high - low)

    cdef double excess(self, double t, double floor, double noise, double* polynomial) noexcept:
        """Compute 1/|p_k(t)| + ||(T - t)^-1 e_1|| noise, t below all Ritz values; inf elsewhere."""
        cdef double logarithm = 0, square = 0, x
        cdef Py_ssize_t j
        if self.factor(t):
            return float("inf")
        for j in range(self.k):
            logarithm += log(self.d[j] / max(self.b[j], floor if j == self.k - 1 else self.tiny))
            self.z[j] = -self.b[j - 1] / self.d[j - 1] * self.z[j - 1] if j else 1
        x = 0
        for j in range(self.k - 1, -1, -1):
            x = (self.z[j] - (self.b[j] * x if j < self.k - 1 else 0)) / self.d[j]
            square += x * x
        polynomial[0] = logarithm
        return 2.0 ** (-logarithm * 1.4426950408889634) + sqrt(square) * noise

    def lower_bound(self, double gamma, double floor, double noise):
        """Find the t left of which no lowest eigenvalue lies if v_1 has gamma of its vector.

        Solves ``1/|p_k(t)| + ||(T_k - t)^-1 e_1|| noise = gamma`` for t below the smallest Ritz
        value, with ``beta_k = max(beta_k, floor)``.

        References
        ----------
        van Dorsselaer, Hochstenbach, van der Vorst, "Computing probabilistic bounds for extreme
        eigenvalues of symmetric matrices with the Lanczos method", 2000, theorem 3.1.
        """
        cdef double high = self.lowest(), low, middle, ignored
        cdef double width = max(DBL_EPSILON * self.norm(), floor, self.tiny)
        if self.norm() == 0 and self.b[self.k - 1] == 0 and noise == 0:
            return 0   # the zero operator: no scale to search on
        low = high - width
        # "not <=", here and below: a NaN must never pass for a bound.
        while not self.excess(low, floor, noise, &ignored) <= gamma:
            width *= 2
            low = high - width
            if not width < 1e300:
                return -float("inf")
        width = high   # from now on: the Ritz value itself
        while high - low > 1e-6 * (width - low):
            middle = low + 0.5 * (high - low)
            if middle <= low or middle >= high:
                break
            if self.excess(middle, floor, noise, &ignored) <= gamma:
                low = middle
            else:
                high = middle
        return low

    def vector(self, double theta):
        """Return the unit eigenvector of T for its eigenvalue theta, from twisted factors.

        References
        ----------
        Parlett, Dhillon, "Fernando's solution to Wilkinson's problem: an application of double
        factorization", 1997, section 3.
        """
        cdef Py_ssize_t j, twist = 0, k = self.k
        cdef double gamma, best = float("inf"), square = 1
        s = np.empty(k)
        cdef double* x = <double*> cnp.PyArray_DATA(s)
        self.factor(theta)   # from above: d
        for j in range(k - 1, -1, -1):   # from below: z
            self.z[j] = self.a[j] - theta
            if j < k - 1:
                self.z[j] -= self.b[j] / self.z[j + 1] * self.b[j]
            if fabs(self.z[j]) < self.tiny:
                self.z[j] = -self.tiny
            gamma = fabs(self.d[j] + self.z[j] - (self.a[j] - theta))
            if gamma < best:
                best = gamma
                twist = j
        x[twist] = 1
        for j in range(twist - 1, -1, -1):
            x[j] = -self.b[j] / self.d[j] * x[j + 1]
            square += x[j] * x[j]
        for j in range(twist + 1, k):
            x[j] = -self.b[j - 1] / self.z[j] * x[j - 1]
            square += x[j] * x[j]
        if self.sign < 0:
            s[1::2] *= -1
        return s / sqrt(square)
