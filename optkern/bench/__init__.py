"""Measure the update rules: `optkern bench`, and what the files in bench/ share with it.

How a comparison is made:

1. Parity first: the kernel's step must equal the reference formula in every bit, and the natural
   code must equal it to rounding, on the very buffers of the row. Nothing is timed otherwise.
2. The sides of a row share parameters and gradients and are timed in turn, A B C A B C; a side's
   time is the median of its samples, so that a drift of the machine or a neighbour's burst does
   not favour one of them. One untimed call before each sample brings a side's buffers back into
   the cache that the side before has used.
3. A row's bytes are counted from the rule table: p, g and the state arrays in use are read, p and
   the state are written.
4. The limit is measured in the same run, between the other sides: the fastest loop we have over
   arrays of the same size with the same streams (`limit_sides`). It is no more than what some loop
   reached, so the share of it is an upper estimate.

A row where optkern is behind is printed like any other.
"""
