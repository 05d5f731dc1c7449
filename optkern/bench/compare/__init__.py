"""`optkern bench --peers`: optkern beside the fastest CPU optimizers there are, in one run.

How the comparison is made:

1. Every side lives in a process with its own library (optkern.bench.peers says why) and all of
   them map the same p, g and state. The processes take turns, A B C A B C; who is not at work
   waits on a pipe.
2. Parity first: optkern's step must equal the NumPy reference in every bit, a peer's to its own
   rounding, from the same start. Nothing is timed otherwise.
3. A side's time is the median of its samples. After a side whose threads go on spinning there is a
   rest: on two cores they would take one from the side that follows.
4. The limit is two of the sides: the cheapest loop over the same streams with one thread and all.
5. `--mode gemm`: product, step, product, step, each with its library's own product of a layer
   of that many parameters and a batch of 128. The time of both counts.

Cells where optkern is behind are printed like any other, and so is what could not be measured.
"""
