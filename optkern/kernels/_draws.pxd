# cython: cdivision=True
"""The random bits that round what is stored in fewer; codecs.py has the twins and the reasons."""
from optkern.kernels.span cimport DRAW, SEGMENT

cdef extern from *:
    """
    /* So that a draw times each takes all of 2**16 values equally often; the twin says the rest. */
    static const unsigned short optkern_odd[32] = {
        0xD8B5, 0xA803, 0xFFF5, 0x4DD5, 0x2897, 0xB743, 0x9AE3, 0x42B9,
        0x21F9, 0x2DF7, 0x2745, 0x4FB3, 0xFFA1, 0x8CC5, 0xA071, 0x93B5,
        0x86D9, 0xEFDD, 0x9EF5, 0x2993, 0xE6E9, 0x2B6D, 0x5DCD, 0x4FE9,
        0x229B, 0x80E9, 0xFD3D, 0x3195, 0xF993, 0x257F, 0xB45B, 0x2B51,
    };
    """
    const unsigned short* ODD "optkern_odd"


cdef inline unsigned int hashed(unsigned int x, unsigned int key) noexcept nogil:
    """Draw bits, the upper 20 of 32, from a block's number with a key added and another key."""
    x = x * <unsigned int> 0x85EBCA77
    return ((x ^ (x >> 13)) + key) * <unsigned int> 0xC2B2AE3D


cdef inline const unsigned short* drawn(
    unsigned short* room, unsigned int position, unsigned long long key, int n
) noexcept nogil:
    """Draw 16 bits for each of `n` elements from a position on; the room holds 2 * DRAW more.

    A vector of products of the block's draw and odd numbers: each takes all of 2**16 values.
    """
    cdef unsigned int first = (position & (SEGMENT - 1)) // DRAW, head = position % DRAW
    cdef int block, k, blocks = (<int> head + n + DRAW - 1) // DRAW
    cdef unsigned int number
    for block in range(blocks):
        number = first + <unsigned int> block + <unsigned int> key
        number = hashed(number, <unsigned int> (key >> 32)) >> 16
        for k in range(DRAW):
            room[block * DRAW + k] = <unsigned short> (number * ODD[k])
    return room + head
