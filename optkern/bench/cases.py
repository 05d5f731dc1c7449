"""What is measured: rules with their options, sizes, and the buffers of a row."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..kernels import RULES, codecs
from ..kernels.rules import Rule
from ..optimizers.classes import MADE
from ..rules import MATRIX_RULES

Call = Callable[[], Any]


TensorArrays = list[
    tuple[np.ndarray, np.ndarray, list[np.ndarray | None]]
]  # p, g, state of each tensor


class Case(NamedTuple):
    """Hold a rule with the options it is measured with."""

    name: str
    rule: Rule
    options: Mapping[str, Any]

    @property
    def hyperparameters(self) -> dict[str, Any]:
        return {**self.rule.hyperparameters, **self.options}

    @property
    def of_matrices(self) -> bool:
        """Tell whether its rule makes of arrays of two axes what it makes of no others."""
        return self.rule.is_whole

    @property
    def streams(self) -> tuple[int, int]:
        """Return how many arrays of its parameter's size a step reads and writes."""
        hyper = self.hyperparameters
        state = sum(self.rule.needs(slot.name, hyper) for slot in self.rule.streams)
        return 2 + state, 1 + state

    def bytes_moved(self, dtype: np.dtype, state_dtype: str | None = None) -> float:
        """Return the bytes that a step reads and writes for each element.

        With ``state_dtype`` its state is compact, as the optimizers' option of that name has it.
        """
        read, written = self.streams
        kept = read - 2
        state: float = dtype.itemsize
        if state_dtype:
            block = codecs.Compact.zeros(state_dtype, (codecs.SCALED,), True)
            state = block.nbytes / codecs.SCALED
        return (read + written - 2 * kept) * dtype.itemsize + 2 * kept * state


def _cases() -> dict[str, Case]:
    """List every rule of the table with its defaults, and the further cases of its row."""
    cases = {}
    for rule in (*RULES, *MATRIX_RULES):
        cases[rule.name] = Case(rule.name, rule, {})
        cases |= {name: Case(name, rule, dict(own)) for name, own in rule.cases.items()}
    return cases


CASES = _cases()


class TensorSizes(NamedTuple):
    """Hold the sizes of the tensors of a row, and what the row calls them."""

    name: str
    sizes: tuple[int, ...]

    @property
    def elements(self) -> int:
        return sum(self.sizes)

    @property
    def matrix(self) -> tuple[int, int]:
        """Return what it is to a rule of matrices: ``"768x3072"`` as it stands, ``"1e4"`` 100x100.

        Of one number the two factors that are nearest to each other.

        Raises
        ------
        ValueError
            For a network, of which the shapes are not known here.
        """
        if len(self.sizes) > 1:
            if len(set(self.sizes)) > 1:
                raise ValueError(self.name)
            return len(self.sizes), self.sizes[0]
        n = self.elements
        rows = next(k for k in range(math.isqrt(n), 0, -1) if n % k == 0)
        return rows, n // rows

    @classmethod
    def parse(cls, text: str) -> TensorSizes:
        """Read ``"1e5"``, one tensor, ``"1000x1000"``, so many of so many, or a network's name.

        Raises
        ------
        ValueError
        """
        if text in NETWORKS:
            return cls(text, NETWORKS[text]())
        numbers = [float(part) for part in text.lower().split("x")]
        if len(numbers) > 2 or not all(1 <= x < 1e15 and x.is_integer() for x in numbers):
            raise ValueError(text)
        count, size = (1, *map(int, numbers))[-2:]
        return cls(text, (size,) * count)


def _resnet50() -> tuple[int, ...]:
    """Return the 161 tensors of ResNet-50.

    Bottlenecks of three convolutions, a scale and shift each.
    """
    sizes, width_in = [3 * 64 * 7 * 7, 64, 64], 64
    for blocks, width in ((3, 64), (4, 128), (6, 256), (3, 512)):
        wide = 4 * width
        for block in range(blocks):
            sizes += [width_in * width, width, width, width * width * 9, width, width]
            sizes += [width * wide, wide, wide]
            sizes += [width_in * wide, wide, wide] if block == 0 else []
            width_in = wide
    return (*sizes, 2048 * 1000, 1000)


def _gpt2() -> tuple[int, ...]:
    """Return the 148 tensors of GPT-2 small.

    Two embeddings, twelve blocks, the last normalisation.
    """
    d = 768
    attention = (d * 3 * d, 3 * d, d * d, d)
    mlp = (d * 4 * d, 4 * d, 4 * d * d, d)
    return (50257 * d, 1024 * d, *(d, d, *attention, d, d, *mlp) * 12, d, d)


NETWORKS = {"resnet50": _resnet50, "gpt2": _gpt2}
SHAPES = tuple(map(TensorSizes.parse, ("1e3", "1e4", "1e5", "1e6", "1e7", "1000x1000")))
MATRICES = tuple(map(TensorSizes.parse, ("128x1024", "384x1536", "768x768", "768x3072")))
BIG = tuple(map(TensorSizes.parse, ("1e8", "gpt2")))
RANDOM_NUMBERS = (
    100_000  # random numbers drawn; longer arrays repeat them, the time does not depend on it
)
SETTLING_STEPS = (
    10  # steps before anything is measured: past RAdam's warm-up and the choice of threads
)


def settle_allocator() -> None:
    """Let the C library keep freed memory, to NumPy's advantage.

    glibc gives a freed block back to the system unless a larger one has been freed before, and
    then every temporary costs page faults: the NumPy columns would be up to ten times slower, or
    not, by what ran earlier in the process. 31 MiB is the largest block it learns from.
    """
    np.empty(31 << 20, np.uint8)


class Problem:
    """Hold the buffers of one row and an optimizer bound to them.

    Parameters
    ----------
    case : Case
    shape : TensorSizes
        Of a rule of matrices its `matrix`.
    dtype : str or dtype
    num_threads : int or None
        As the optimizers take it.
    """

    def __init__(
        self, case: Case, shape: TensorSizes, dtype: Any = "float32", num_threads: int | None = None
    ) -> None:
        settle_allocator()
        self.case, self.shape, self.num_threads = case, shape, num_threads
        self.dtype = np.dtype(dtype)
        block = np.random.default_rng(0).standard_normal(RANDOM_NUMBERS).astype(self.dtype)
        shapes: Sequence[Any] = shape.sizes
        if case.of_matrices:
            shapes = [shape.matrix]
            self.shape = shape._replace(name="{}x{}".format(*shape.matrix))
        self.params = [np.resize(block, n) for n in shapes]
        self.gradients = [np.resize(block[::-1], n) for n in shapes]
        # As a user calls it: one array, or a list of them.
        only = len(shapes) == 1
        params, gradients = (x[0] if only else x for x in (self.params, self.gradients))
        make = MADE[case.rule.class_name]
        self.optimizer = make(params, **case.options, num_threads=num_threads)
        self.step: Call = partial(self.optimizer.step, gradients)
        for _ in range(SETTLING_STEPS):
            self.step()
        entries = self.optimizer.state.values()
        self.state = [[entry.get(slot) for slot in case.rule.state] for entry in entries]

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Give those of the next step, with the counts that the functional twins take as well."""
        entry = next(iter(self.optimizer.state.values()))
        carried = {name: entry[name] for name in self.case.rule.carried}
        return self.case.hyperparameters | {"step": entry["step"] + 1} | carried

    def arrays(self) -> TensorArrays:
        """Yield (p, g, state) of each tensor."""
        return list(zip(self.params, self.gradients, self.state))

    def copies(self) -> TensorArrays:
        """Copy what a step writes; the rest is the same."""
        return [
            (p.copy(), g, [None if a is None else a.copy() for a in state])
            for p, g, state in self.arrays()
        ]
