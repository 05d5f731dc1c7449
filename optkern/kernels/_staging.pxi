# --------------------------------------------------------------------------- staging
#
# A stream that is not dense, or stored in fewer bits, is brought to scratch and back in pieces.

cdef Py_ssize_t ROOM = (sizeof(scratch_t) + LINE - 1) // LINE * LINE


cdef void transfer(
    const layout_t* a, char* base, char* scratch, Py_ssize_t first, Py_ssize_t n,
    Py_ssize_t itemsize, bint store,
) noexcept nogil:
    """Copy `n` elements of a strided array from flat index `first` to scratch, or back."""
    cdef Py_ssize_t index[MAX_DIMS]
    cdef Py_ssize_t run, rest = first
    cdef char* at = base
    cdef int k, last = a.ndim - 1
    for k in range(a.ndim - 1, -1, -1):
        index[k] = rest % a.shape[k]
        rest = rest // a.shape[k]
        at += index[k] * a.strides[k]
    if a.ndim == 0:
        copy_run(scratch, at, 0, 1, itemsize, store)
        return
    while n > 0:   # a run along the fastest axis at a time
        run = min(n, a.shape[last] - index[last])
        copy_run(scratch, at, a.strides[last], run, itemsize, store)
        scratch += run * itemsize
        n -= run
        at += run * a.strides[last]
        index[last] += run
        k = last
        while k > 0 and index[k] == a.shape[k]:
            at += a.strides[k - 1] - a.shape[k] * a.strides[k]
            index[k] = 0
            k -= 1
            index[k] += 1


cdef inline void copy_run(
    char* dense, char* strided, Py_ssize_t stride, Py_ssize_t n,
    Py_ssize_t itemsize, bint store,
) noexcept nogil:
    """Copy n elements; the size is a constant in each loop, or memcpy would be a call."""
    cdef Py_ssize_t i
    if itemsize == 2:
        for i in range(n):
            if store:
                memcpy(strided + i * stride, dense + i * 2, 2)
            else:
                memcpy(dense + i * 2, strided + i * stride, 2)
    elif itemsize == 4:
        for i in range(n):
            if store:
                memcpy(strided + i * stride, dense + i * 4, 4)
            else:
                memcpy(dense + i * 4, strided + i * stride, 4)
    else:
        for i in range(n):
            if store:
                memcpy(strided + i * stride, dense + i * 8, 8)
            else:
                memcpy(dense + i * 8, strided + i * stride, 8)


cdef inline Py_ssize_t width(const tensor_t* t) noexcept nogil:
    """Give the bytes of an element as the arithmetic takes it."""
    return 8 if t.dtype else 4


cdef inline int nearest(int storage) noexcept nogil:
    """Say how a gradient of a parameter's dtype is stored, however the parameter is rounded."""
    if storage == BFLOAT16_STATE:
        return BFLOAT16
    return FLOAT16 if storage == FLOAT16_RANDOM else storage


cdef const layout_t* way_through(
    const tensor_t* t, int j, bint in_c_order, scratch_t* s
) noexcept nogil:
    """Say how to walk a stream in the plan's order, or in C order; NULL: it lies like that."""
    cdef Py_ssize_t expected = t.itemsize[j]
    cdef bint as_is = <size_t> t.data[j] % t.itemsize[j] == 0
    cdef int k
    if not in_c_order or t.c_order == NULL:
        return t.layout[j]
    s.walk.ndim = t.c_order.ndim
    for k in range(s.walk.ndim):
        s.walk.shape[k] = t.c_order.shape[k]
        if t.layout[j] == NULL:
            s.walk.strides[k] = t.c_order.strides[k] * t.itemsize[j]
        else:
            s.walk.strides[k] = t.layout[j].strides[t.c_order.axis[k]]
    for k in range(s.walk.ndim - 1, -1, -1):
        if s.walk.shape[k] != 1:
            as_is = as_is and s.walk.strides[k] == expected
            expected *= s.walk.shape[k]
    return NULL if as_is else &s.walk


cdef char* fetch(
    const tensor_t* t, int j, Py_ssize_t first, Py_ssize_t n, char* to, scratch_t* s,
    bint in_c_order=False,
) noexcept nogil:
    """Give `n` elements of a stream as the arithmetic takes them: in place or in `to`.

    At most PIECE of them, but any number of a stream that needs no scratch.
    """
    cdef char* codes = s.raw
    cdef const layout_t* layout
    if t.data[j] == NULL:
        return NULL
    layout = way_through(t, j, in_c_order, s)
    if layout == NULL:
        codes = t.data[j] + first * t.itemsize[j]
        if t.storage[j] == PLAIN:
            return codes
    elif t.storage[j] == PLAIN:
        transfer(layout, t.data[j], to, first, n, t.itemsize[j], False)
        return to
    else:
        transfer(layout, t.data[j], codes, first, n, t.itemsize[j], False)
    SPANS.load[t.storage[j]](<float*> to, codes, t.scales[j] + first // SCALED, n)
    return to


cdef void put(
    const tensor_t* t, int j, Py_ssize_t first, Py_ssize_t n, char* x,
    const unsigned short* random, scratch_t* s,
) noexcept nogil:
    """Bring `n` elements, that `fetch` has found a place for, back to their stream."""
    cdef char* codes = s.raw
    cdef const layout_t* layout = t.layout[j]
    if t.storage[j] == PLAIN:
        if layout != NULL:
            transfer(layout, t.data[j], x, first, n, t.itemsize[j], True)
        return
    if layout == NULL:
        codes = t.data[j] + first * t.itemsize[j]
    SPANS.store[t.storage[j]](<float*> x, codes, t.scales[j] + first // SCALED, random, n)
    if layout != NULL:
        transfer(layout, t.data[j], codes, first, n, t.itemsize[j], True)


cdef char* gather(
    const tensor_t* t, int j, Py_ssize_t first, Py_ssize_t n, char* to, scratch_t* s,
    bint in_c_order,
) noexcept nogil:
    """Do as `fetch`, for any number of elements that `to` holds."""
    cdef Py_ssize_t piece, done = 0
    if t.data[j] == NULL or t.storage[j] == PLAIN and way_through(t, j, in_c_order, s) == NULL:
        return fetch(t, j, first, n, to, s, in_c_order)
    while done < n:
        piece = min(<Py_ssize_t> PIECE, n - done)
        fetch(t, j, first + done, piece, to + done * width(t), s, in_c_order)
        done += piece
    return to


cdef void zero(
    const tensor_t* t, int j, Py_ssize_t first, Py_ssize_t n, scratch_t* s
) noexcept nogil:
    """Set elements of a stream to zero; n <= PIECE where it is not dense."""
    if t.data[j] == NULL:
        return
    if t.layout[j] == NULL:
        memset(t.data[j] + first * t.itemsize[j], 0, n * t.itemsize[j])
    else:
        transfer(t.layout[j], t.data[j], s.zeros, first, n, t.itemsize[j], True)


cdef inline unsigned long long mixed(unsigned long long x) noexcept nogil:
    """Mix 64 bits into 64 others; the twin is in codecs.py."""
    x = x + <unsigned long long> 0x9E3779B97F4A7C15
    x = (x ^ (x >> 30)) * <unsigned long long> 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * <unsigned long long> 0x94D049BB133111EB
    return x ^ (x >> 31)


cdef inline unsigned long long random_key(const tensor_t* t, Py_ssize_t position) noexcept nogil:
    """Make the key of the random bits of the segment that a position of the whole is in."""
    return mixed(t.key ^ <unsigned long long> (position // SEGMENT))

# --------------------------------------------------------------------------- scratch


cdef int reserve_scratch(plan_t* plan, int threads) except -1 nogil:
    """Make room for what so many threads stage, where anything is staged."""
    cdef rooms_t* rooms = &plan.rooms
    cdef bint wanted = plan.staging or plan.pieces or plan.measures or plan.adjusts
    cdef char* start
    cdef int k
    if wanted and threads > rooms.count:
        start = <char*> calloc(threads * ROOM + LINE, 1)
        if start == NULL:
            raise MemoryError
        release_scratch(plan)   # the new rooms know of no tiles
        rooms.start, rooms.count = start, threads
    if plan.measures and plan.sweeping and rooms.tiles == NULL:
        rooms.tiles = <char*> malloc(rooms.count * TILE + LINE)
        if rooms.tiles == NULL:
            raise MemoryError
        for k in range(rooms.count):
            room_of(plan, k).tile = rooms.tiles + (-<size_t> rooms.tiles % LINE) + k * TILE
    return 0


cdef void release_scratch(plan_t* plan) noexcept nogil:
    free(plan.rooms.start)
    free(plan.rooms.tiles)
    memset(&plan.rooms, 0, sizeof(rooms_t))


cdef inline scratch_t* room_of(const plan_t* plan, int thread) noexcept nogil:
    """Give a thread's scratch, from a cache line's beginning; NULL where none is reserved."""
    cdef size_t start = <size_t> plan.rooms.start
    if start == 0:
        return NULL
    return <scratch_t*> (start + (-start % LINE) + <size_t> thread * ROOM)
