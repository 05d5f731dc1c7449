"""Names and sentences that the modules here share."""

# Scalars of the functional twins that the optimizer keeps per parameter itself.
COUNTED = ("step", "mu_product")
# The state that begins with the parameters' values.
OF_WEIGHTS = ("master", "slow", "ema")
SWAPPED = "the averages are in the parameters' place; call swap_out first"
