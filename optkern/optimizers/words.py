"""Names and sentences that the modules here share."""

from ..kernels.rules import CARRIED

# Scalars of the functional twins that the optimizer keeps per parameter itself.
COUNTED = ("step", *CARRIED)
# The state that begins with the parameters' values.
OF_WEIGHTS = ("master", "slow", "ema")
SWAPPED = "the averages are in the parameters' place; call swap_out first"
