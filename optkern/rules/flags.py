"""What an update does beyond its plain form: the flags that a derivation sets and a formula reads.

The build writes the enum of the compiled side from these (`_vocabulary.pxd`).
"""

from __future__ import annotations

TURN = 1 << 0  # the gradient is multiplied: by -1 to maximise, by a power of two to stay in range
L2 = 1 << 1
SHRINK = 1 << 2
MOMENTUM = 1 << 3
NESTEROV = 1 << 4
CENTERED = 1 << 5
AMSGRAD = 1 << 6
RECTIFIED = 1 << 7
DIRECTION = 1 << 8  # trust ratios of directions: state is updated, the result is the direction
APPLY = 1 << 9  # the same: the direction that the state gives is applied
SCALE = 1 << 10
CLAMP = 1 << 11
TRUST = 1 << 12
DECAY = 1 << 13
GUARD = 1 << 14  # quotients whose parts could leave the range, or be 0
WARY = 1 << 15  # decoupled decay where the step does not oppose it
# A rule's own, for what no other rule has: two rules may give one of these two meanings.
OWN1 = 1 << 16
OWN2 = 1 << 17
OWN3 = 1 << 18
OWN4 = 1 << 19
CAUTIOUS = 1 << 20  # of a step, those elements that go down along the gradient
AGREEMENT = 1 << 21  # the result is which these are
RELATIVE = 1 << 22  # the result is the gradient over what its step divides by

FLAGS = {name: bit for name, bit in globals().items() if name.isupper()}

# Arithmetic on p and g alone; the constants of SCALES change nothing where their flag is off, so a
# loop may take them all. The other flags decide which state is touched (`Rule.variants`).
DECAYS = TURN | L2 | SHRINK | DECAY
SCALES = SCALE | CLAMP | TRUST
