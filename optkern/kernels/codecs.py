"""How numbers are stored in fewer bits: the NumPy twins of the codecs in _span.pyx.tp.

1. Arithmetic is float32. A stream with a storage is decoded piece by piece, the ordinary span runs,
   the stream is encoded back. Parameters and gradients are float16 or bfloat16; state is bfloat16
   or int8.
2. State, and a parameter without a master, is rounded up or down at random, in proportion to the
   distances: with beta2 = 0.999 an average moves by less than half a bfloat16 step and would stand
   still for ever, rounded to nearest. (Gupta et al., "Deep learning with limited numerical
   precision", 2015, section 3.)
3. The random bits are a hash of seed, step, the tensor's name (its position, where it has none)
   and the element's position in C order, so that they depend on neither threads, chunks,
   instruction set nor memory layout. Blocks of 32 elements share a draw of 16 bits, times an odd
   number of the element's own: a product takes all of 2**16 values equally often, so each element
   is rounded without bias, and a multiplication for 32 of them is a tenth of what a hash for each
   takes. All state arrays of an element share its bits, which are independent from step to step.
4. An int8 code is the top of a float32's own bits: a block of 256 elements notes the exponent of
   its largest one, and a code counts steps of an eighth of a binade below that. To decode is a
   shift and an addition, no table. A signed code has 7 bits: 14 binades, then evenly down to
   zero; what is below a sixteenth of the last step is zero, because by chance it would become more
   than sixteen times itself, beside a second moment that does not. An unsigned one has 8: 31
   binades, and what is not zero never becomes zero, because a moment is divided by. (Blocks:
   Dettmers et al., "8-bit optimizers via block-wise quantization", 2022, section 2.)
   An infinity (a square that has overflowed) has the uppermost code, and the others keep a scale
   of their own, in steps of 8 binades: scales below 31 mark such blocks, 1 for 31 and so on.
5. A block that holds NaN is NaN as a whole.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from ..rules.domains import check_word

SCALED = 256  # elements that share an int8 scale
HALF = 1 << 31  # in the place of 32 random bits: round to nearest
SEGMENT = 1 << 20  # elements whose random bits share a key
DRAW = 32  # and those that share a draw
STATE_DTYPES = ("bfloat16", "int8")

# What a stream is stored as; the order of the enum in span.pxd.
STORAGE_KINDS = (
    "plain",
    "bfloat16",
    "float16",
    "bfloat16 state",
    "int8",
    "uint8",
    "float16 at random",
)

_LOW_EXPONENT = 31  # of a block's scale: no code then stands for a denormal
_INFINITY = 0x7F800000  # the bits of a float32
_FAR = (0xFF, 0x7F)  # its code, unsigned and signed, beside the sign's bit
_VANISHING = 1 << 16  # a sixteenth of the last step above zero
_NAN = 255  # a block's scale, and all of its codes


def is_bfloat16(dtype: np.dtype) -> bool:
    """Return whether this is ml_dtypes' bfloat16, told by its name.

    That package is not imported.
    """
    return dtype.itemsize == 2 and dtype.name == "bfloat16"  # a name takes NumPy a microsecond


def kind_of(dtype: np.dtype) -> int:
    """Return the position in `STORAGE_KINDS` of a parameter's or gradient's dtype."""
    if dtype == np.float16:
        return STORAGE_KINDS.index("float16")
    return STORAGE_KINDS.index("bfloat16") if is_bfloat16(dtype) else 0


def arithmetic_dtype(dtype: np.dtype) -> np.dtype:
    """Return the dtype that a parameter of ``dtype`` is updated in."""
    return np.dtype(np.float32) if kind_of(dtype) else dtype


def checked_rounding(owner: str, value: Any, master: bool) -> str:
    """Check the option `weight_rounding`: how float16 and bfloat16 parameters are rounded."""
    if value is None:
        return "nearest" if master else "stochastic"
    words, allowed = ("stochastic", "nearest"), "None, 'stochastic' or 'nearest'"
    check_word(owner, "weight_rounding", value, words, allowed)
    if master and value == "stochastic":
        raise ValueError(
            f"{owner}: weight_rounding='stochastic' is not possible with master_weights=True: "
            "what is trained are the masters, and they are written as their nearest"
        )
    return str(value)


# --------------------------------------------------------------------------- bfloat16, float16


def widened(array: np.ndarray) -> np.ndarray:
    """Widen a float16 or bfloat16 array to float32; return another one as it is."""
    if is_bfloat16(array.dtype):
        return decode_bfloat16(array.view(np.uint16))
    return array.astype(np.float32) if array.dtype == np.float16 else array


def write_rounded(array: np.ndarray, values: np.ndarray, random: np.ndarray | None = None) -> None:
    """Store ``values`` in an array of any dtype, rounded to nearest even (16 bits: by float32).

    With 32 ``random`` bits for each element, float16 and bfloat16 are rounded stochastically.
    """
    if random is not None:
        random = random.reshape(array.shape)
    if is_bfloat16(array.dtype):
        array.view(np.uint16)[...] = encode_bfloat16(values.astype(np.float32), random)
    elif random is not None and array.dtype == np.float16:
        array.view(np.uint16)[...] = encode_float16(values.astype(np.float32), random)
    else:
        with np.errstate(all="ignore"):
            array[...] = values.astype(np.float32) if kind_of(array.dtype) else values


def decode_bfloat16(codes: np.ndarray) -> np.ndarray:
    """Decode uint16 -> float32: the upper half of its bits."""
    return np.asarray(codes.astype(np.uint32) << 16).view(np.float32)  # of 0-d, a 0-d array


def encode_bfloat16(x: np.ndarray, random: np.ndarray | int | None = None) -> np.ndarray:
    """Encode float32 -> uint16, to nearest even, or by the upper 16 of 32 ``random`` bits."""
    bits = np.ascontiguousarray(x).view(np.uint32).reshape(np.shape(x))
    if random is None:
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
        return np.where(np.isnan(x), bits >> 16 | 0x40, rounded).astype(np.uint16)
    # From the largest number on all are cut: a carry would make them infinite, and run through the
    # bits of NaN into its sign.
    carry = np.where(bits & 0x7FFFFFFF < 0x7F7F0000, np.asarray(random, np.uint32) >> 16, 0)
    return ((bits + carry.astype(np.uint32)) >> 16).astype(np.uint16)


def encode_float16(x: np.ndarray, random: np.ndarray) -> np.ndarray:
    """Encode float32 -> uint16, up or down at random; to infinity what nearest would take there."""
    bits = np.ascontiguousarray(x).view(np.int32).reshape(np.shape(x))
    size = (bits & 0x7FFFFFFF).astype(np.int64)
    carry = (np.asarray(random, np.uint32) >> 19).astype(np.int64)
    normal = np.minimum((size - 0x38000000 + carry) >> 13, 0x7BFF)
    # A denormal's digits, and 13 more: multiples of 2**-37.
    digits = np.rint(np.where(size < 0x38800000, np.abs(x), 0).astype(np.float64) * 2.0**37)
    code = np.where(size < 0x38800000, (digits.astype(np.int64) + carry) >> 13, normal)
    code = np.where(size >= 0x477FF000, np.where(np.isnan(x), 0x7E00, 0x7C00), code)
    return (code | (bits >> 16 & 0x8000)).astype(np.uint16)


# --------------------------------------------------------------------------- int8


def decode_int8(codes: np.ndarray, scales: np.ndarray, signed: bool) -> np.ndarray:
    """Decode uint8 codes and a uint8 exponent a block of 256 -> float32, of the codes' shape."""
    k = codes.reshape(-1).astype(np.int32)
    offset = _spread(_offset(scales, signed), k.size)
    infinite = _spread(_marked(scales), k.size) & (k & _FAR[signed] == _FAR[signed])
    if signed:
        size = (((k & 0x7F) << 20) + offset).view(np.float32) - offset.view(np.float32)
        u = np.where(infinite, np.int32(_INFINITY), size.view(np.int32)).view(np.uint32)
        x = (u | ((k.view(np.uint32) & 0x80) << 24)).view(np.float32)
    else:
        x = np.where(k == 0, 0, (k << 20) + offset)
        x = np.where(infinite, _INFINITY, x).astype(np.int32).view(np.float32)
    return x.reshape(codes.shape)


def encode_int8(
    x: np.ndarray, signed: bool, random: np.ndarray | int = HALF
) -> tuple[np.ndarray, np.ndarray]:
    """Encode float32 -> uint8 codes of the same shape, and a uint8 exponent a block of 256."""
    bits = np.ascontiguousarray(x, np.float32).reshape(-1).view(np.int32)
    size = bits & 0x7FFFFFFF
    starts = np.arange(0, bits.size, SCALED)
    infinite = size == _INFINITY
    if bits.size:
        largest = np.maximum.reduceat(size, starts)
        others = np.maximum.reduceat(np.where(infinite, 0, size), starts)
    else:
        largest = others = size
    scales = np.maximum(largest >> 23, _LOW_EXPONENT)
    beside = (np.maximum(others >> 23, _LOW_EXPONENT) - _LOW_EXPONENT + 7) // 8 + 1
    scales = np.where(largest == _INFINITY, beside, scales)
    offset = _spread(_offset(scales, signed), bits.size)
    carry = (np.ravel(np.asarray(random, np.uint32)) >> 12).astype(np.int32)
    most = (0x7F7FFFFF - offset) >> 20  # the last code that stands for a finite number
    if signed:
        with np.errstate(over="ignore", invalid="ignore"):
            shifted = (size.view(np.float32) + offset.view(np.float32)).view(np.int32)
        shifted = np.where(shifted - offset < _VANISHING, offset, shifted)
        k = np.minimum((shifted - offset + carry) >> 20, most)
        k = np.where(infinite, _FAR[signed], k)
        k = k | (bits.view(np.uint32) >> 24 & 0x80)
    else:
        k = np.maximum(np.minimum((size - offset + carry) >> 20, most), 1)
        k = np.where(infinite, _FAR[signed], k)
        k = np.where(size == 0, 0, k)
    k = np.where(_spread(scales, bits.size) == _NAN, _NAN, k)
    return k.astype(np.uint8).reshape(np.shape(x)), scales.astype(np.uint8)


def _offset(scales: np.ndarray, signed: bool) -> np.ndarray:
    """Return what the codes of each block count from, as a float32's bits."""
    beside = np.minimum(_NAN - 1, _LOW_EXPONENT - 8 + 8 * scales.astype(np.int32))
    exponent = np.where(_marked(scales), beside, np.maximum(scales, _LOW_EXPONENT)).astype(np.int32)
    if signed:
        return np.where(exponent < _NAN, (exponent - 14) << 23, 0x77D00000)
    return np.where(exponent < _NAN, ((exponent - 30) << 23) - (1 << 20), 0x6FD00000)


def _marked(scales: np.ndarray) -> np.ndarray:
    """Return which blocks hold infinities."""
    return (scales > 0) & (scales < _LOW_EXPONENT)


def _spread(per_block: np.ndarray, n: int) -> np.ndarray:
    return np.repeat(per_block.astype(np.int32), SCALED)[:n]


# --------------------------------------------------------------------------- random bits

_MASK = (1 << 64) - 1


def mixed(x: int) -> int:
    """Mix 64 bits in, 64 bits out (Steele, Lea, Flood, "Fast splittable pseudorandom number
    generators", 2014, figure 17, the constants of variant 13)."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & _MASK
    return x ^ x >> 31


def tensor_key(label: int | str) -> int:
    """Return what a parameter adds to its random bits: its name, or position where it has none.

    64 bits of the name's BLAKE2b, the uppermost set: no position is as large.
    """
    if isinstance(label, str):
        import hashlib  # which loads OpenSSL

        digest = hashlib.blake2b(label.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "little") | 1 << 63
    return int(label)


def random_bits(seed: int, step: int, tensor: int | str, n: int, first: int = 0) -> np.ndarray:
    """Make a uint32 for each of ``n`` elements; its upper 16 bits are random, the rest half of one.

    Parameters
    ----------
    seed : int
    step : int
        The step being taken, from 1.
    tensor : int or str
        The parameter's position, or its name where it has one.
    n, first : int
        How many elements, and the position of the first one.
    """
    key = mixed(mixed(mixed(seed) ^ step) ^ tensor_key(tensor))
    position = np.arange(first, first + n, dtype=np.uint64)
    segment = position // np.uint64(SEGMENT)
    block = (position % np.uint64(SEGMENT)).astype(np.uint32) // np.uint32(DRAW)
    words = np.empty(n, np.uint32)
    for number in np.unique(segment):
        here = segment == number
        k = mixed(key ^ int(number))
        draws = _hashed(block[here] + np.uint32(k & 0xFFFFFFFF), np.uint32(k >> 32)) >> 16
        words[here] = draws * _ODD[position[here] % np.uint64(DRAW)]
    return words << 16 | HALF >> 16


def _hashed(x: np.ndarray, key: np.uint32) -> np.ndarray:
    """Apply two rounds of a multiplicative hash, a key between them (multipliers: xxHash's).

    The upper bits of a position far away reach too few of the result's: segments have own keys.
    """
    x = x * np.uint32(0x85EBCA77)
    return ((x ^ x >> 13) + key) * np.uint32(0xC2B2AE3D)


# Odd, so that a draw's product with each takes all of 2**16 values equally often; of no two do the
# products correlate by more than 0.004.
_ODD = np.array(
    [
        *(0xD8B5, 0xA803, 0xFFF5, 0x4DD5, 0x2897, 0xB743, 0x9AE3, 0x42B9),
        *(0x21F9, 0x2DF7, 0x2745, 0x4FB3, 0xFFA1, 0x8CC5, 0xA071, 0x93B5),
        *(0x86D9, 0xEFDD, 0x9EF5, 0x2993, 0xE6E9, 0x2B6D, 0x5DCD, 0x4FE9),
        *(0x229B, 0x80E9, 0xFD3D, 0x3195, 0xF993, 0x257F, 0xB45B, 0x2B51),
    ],
    np.uint32,
)


# --------------------------------------------------------------------------- a state array


_AS_A_WHOLE = "; new ones are written as a whole: opt.state[name][slot] = np.asarray(it) * 2"


class Compact:
    """Hold a state array in fewer bits; ``np.asarray`` and `decode` give its float32 values.

    Attributes
    ----------
    codes : ndarray of uint16 (bfloat16) or uint8 (int8)
        C-contiguous, of the parameter's shape.
    scales : ndarray of uint8, or None (bfloat16)
        A biased exponent for each block of 256 elements in C order.
    signed : bool
        Whether its values have signs (a first moment) or not (a second moment).
    """

    def __init__(self, codes: np.ndarray, scales: np.ndarray | None, signed: bool) -> None:
        vars(self).update(codes=codes, scales=scales, signed=signed)

    codes: np.ndarray
    scales: np.ndarray | None
    signed: bool

    def __setattr__(self, name: str, value: Any) -> None:
        # A step goes on with the arrays that it has bound.
        raise AttributeError(f"compact state: {name!r} cannot be set; write new values with encode")

    def __setitem__(self, key: Any, value: Any) -> None:
        raise TypeError(
            "compact state is not written element by element: read np.array(it), change that, and "
            "give it back, opt.state[name][slot] = values, or it.encode(values)"
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(np.ndarray, name):
            raise AttributeError(f"compact state has no attribute {name!r}")
        raise AttributeError(
            f"compact state has no attribute {name!r}; np.asarray(it) has, an array of its values "
            f"that is read alone{_AS_A_WHOLE}"
        )

    def _refuse_operator(self, *args: Any) -> NoReturn:
        raise TypeError(
            f"compact state has no operators; np.asarray(it) gives its values{_AS_A_WHOLE}"
        )

    __getitem__ = _refuse_operator
    __iadd__ = __isub__ = __imul__ = __itruediv__ = __ifloordiv__ = __ipow__ = _refuse_operator
    __add__ = __sub__ = __mul__ = __truediv__ = __pow__ = __matmul__ = _refuse_operator
    __radd__ = __rsub__ = __rmul__ = __rtruediv__ = __neg__ = __abs__ = _refuse_operator

    @classmethod
    def zeros(cls, state_dtype: str, shape: tuple[int, ...], signed: bool) -> Compact:
        if state_dtype == "bfloat16":
            return cls(np.zeros(shape, np.uint16), None, signed)
        codes = np.zeros(shape, np.uint8)
        return cls(codes, np.zeros(-(-codes.size // SCALED), np.uint8), signed)

    @property
    def state_dtype(self) -> str:
        return "bfloat16" if self.scales is None else "int8"

    @property
    def kind(self) -> int:
        """Return the position in `STORAGE_KINDS`."""
        return STORAGE_KINDS.index("bfloat16 state") if self.scales is None else 5 - self.signed

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + (0 if self.scales is None else self.scales.nbytes)

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        return (self.codes,) if self.scales is None else (self.codes, self.scales)

    def decode(self) -> np.ndarray:
        """Decode the values into a new float32 array."""
        if self.scales is None:
            return decode_bfloat16(self.codes)
        return decode_int8(self.codes, self.scales, self.signed)

    def encode(self, values: Any, random: np.ndarray | int = HALF) -> None:
        """Store values of the same shape, with 32 random bits each (default: to nearest).

        Raises
        ------
        ValueError
            On a negative number where there are no signs (``signed=False``).
        """
        x = np.empty(self.shape, np.float32)
        x[...] = values
        if not self.signed and np.any(x < 0):
            raise ValueError("compact state without signs holds no negative numbers")
        random = np.asarray(random, np.uint32)
        if self.scales is None:
            bits = random.reshape(self.shape) if random.ndim else random
            self.codes[...] = encode_bfloat16(x, bits)
        else:
            self.codes[...], self.scales[...] = encode_int8(x, self.signed, random)

    def copy(self) -> Compact:
        scales = None if self.scales is None else self.scales.copy()
        return Compact(self.codes.copy(), scales, self.signed)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("compact state is decoded to a new array; copy=False is not possible")
        values = self.decode()
        values = values if dtype is None else values.astype(dtype, copy=False)
        # A write into this copy would be lost; whoever asks for one of their own may write.
        values.flags.writeable = bool(copy)
        return values

    def __repr__(self) -> str:
        return f"Compact({self.state_dtype}, shape={self.shape}, {self.nbytes:,} bytes)"
