"""Names and sentences that the modules here share."""

from ..kernels.rules import CARRIED, OPTIONS

# Scalars of the functional twins that the optimizer keeps per parameter itself.
COUNTED = ("step", *CARRIED)
# What an optimizer is given beside its groups.
OF_THE_WHOLE = (
    *OPTIONS,
    *("num_threads", "on_nonfinite", "state_dtype", "master_weights", "weight_rounding", "seed"),
    *("follow", "strict_grads"),
)
# The state that begins with the parameters' values.
OF_WEIGHTS = ("master", "slow", "ema")
SWAPPED = "the averages are in the parameters' place; call swap_out first"
