"""The name under which `Counts` stands in pickles of before."""

from .optimizers.change import Counts as Counts
