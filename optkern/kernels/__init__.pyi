# Written by tests/stubs.py from the rule table.
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import reference as reference
from ._storage import Compact
from .rules import RULES as RULES

Array: TypeAlias = NDArray[np.float16] | NDArray[np.float32] | NDArray[np.float64]
Arrays: TypeAlias = Array | Sequence[Array]
Gradients: TypeAlias = NDArray[np.floating[Any]] | Sequence[NDArray[np.floating[Any]] | None]
State: TypeAlias = Array | Compact | Sequence[Array | Compact | None] | None

openmp_policy: str

def sgd(
    p: Arrays,
    g: Gradients,
    momentum_buffer: State = ...,
    *,
    lr: float = ...,
    momentum: float = ...,
    dampening: float = ...,
    weight_decay: float = ...,
    nesterov: bool = ...,
    maximize: bool = ...,
    decay_form: Literal["l2", "decoupled", "independent"] = ...,
    momentum_form: Literal["torch", "classical", "average"] = ...,
    step: int = ...,
    num_threads: int | None = ...,
) -> None: ...
def adagrad(
    p: Arrays,
    g: Gradients,
    sum: State = ...,
    *,
    lr: float = ...,
    lr_decay: float = ...,
    weight_decay: float = ...,
    eps: float = ...,
    maximize: bool = ...,
    decay_form: Literal["l2", "decoupled", "independent"] = ...,
    step: int = ...,
    num_threads: int | None = ...,
) -> None: ...
def rmsprop(
    p: Arrays,
    g: Gradients,
    square_avg: State = ...,
    grad_avg: State = ...,
    momentum_buffer: State = ...,
    *,
    lr: float = ...,
    alpha: float = ...,
    eps: float = ...,
    weight_decay: float = ...,
    momentum: float = ...,
    centered: bool = ...,
    maximize: bool = ...,
    decay_form: Literal["l2", "decoupled", "independent"] = ...,
    step: int = ...,
    num_threads: int | None = ...,
) -> None: ...
def adadelta(
    p: Arrays,
    g: Gradients,
    square_avg: State = ...,
    acc_delta: State = ...,
    *,
    lr: float = ...,
    rho: float = ...,
    eps: float = ...,
    weight_decay: float = ...,
    maximize: bool = ...,
    decay_form: Literal["l2", "decoupled", "independent"] = ...,
    step: int = ...,
    num_threads: int | None = ...,
) -> None: ...
def adam(
    p: Arrays,
    g: Gradients,
    exp_avg: State = ...,
    exp_avg_sq: State = ...,
    max_exp_avg_sq: State = ...,
    *,
    lr: float = ...,
    betas: tuple[float, float] = ...,
    eps: float = ...,
    weight_decay: float = ...,
    amsgrad: bool = ...,
    maximize: bool = ...,
    decay_form: Literal["l2", "decoupled", "independent"] = ...,
    eps_form: Literal["corrected", "raw"] = ...,
    step: int = ...,
    num_threads: int | None = ...,
) -> None: ...
def adamw(
    p: Arrays,
    g: Gradients,
    exp_avg: State = ...,
    exp_avg_sq: State = ...,
    max_exp_avg_sq: State = ...,
    *,
    lr: float = ...,
    betas: tuple[float, float] = ...,
    eps: float = ...,
    weight_decay: float = ...,
    amsgrad: bool = ...,
    maximize: bool = ...,
    decay_form: Literal["l2", "decoupled", "independent"] = ...,
    eps_form: Literal["corrected", "raw"] = ...,
    step: int = ...,
    num_threads: int | None = ...,
) -> None: ...
def adamax(
    p: Arrays,
    g: Gradients,
    exp_avg: State = ...,
    exp_inf: State = ...,
    *,
    lr: float = ...,
    betas: tuple[float, float] = ...,
    eps: float = ...,
    weight_decay: float = ...,
    maximize: bool = ...,
    decay_form: Literal["l2", "decoupled", "independent"] = ...,
    step: int = ...,
    num_threads: int | None = ...,
) -> None: ...
def nadam(
    p: Arrays,
    g: Gradients,
    exp_avg: State = ...,
    exp_avg_sq: State = ...,
    *,
    lr: float = ...,
    betas: tuple[float, float] = ...,
    eps: float = ...,
    weight_decay: float = ...,
    momentum_decay: float = ...,
    maximize: bool = ...,
    decay_form: Literal["l2", "decoupled", "independent"] = ...,
    step: int = ...,
    mu_product: float = ...,
    num_threads: int | None = ...,
) -> None: ...
def radam(
    p: Arrays,
    g: Gradients,
    exp_avg: State = ...,
    exp_avg_sq: State = ...,
    *,
    lr: float = ...,
    betas: tuple[float, float] = ...,
    eps: float = ...,
    weight_decay: float = ...,
    maximize: bool = ...,
    decay_form: Literal["l2", "decoupled", "independent"] = ...,
    step: int = ...,
    num_threads: int | None = ...,
) -> None: ...
def lion(
    p: Arrays,
    g: Gradients,
    exp_avg: State = ...,
    *,
    lr: float = ...,
    betas: tuple[float, float] = ...,
    weight_decay: float = ...,
    maximize: bool = ...,
    decay_form: Literal["l2", "decoupled", "independent"] = ...,
    step: int = ...,
    num_threads: int | None = ...,
) -> None: ...
def lars(
    p: Arrays,
    g: Gradients,
    momentum_buffer: State = ...,
    *,
    lr: float = ...,
    momentum: float = ...,
    dampening: float = ...,
    weight_decay: float = ...,
    nesterov: bool = ...,
    trust_coefficient: float = ...,
    eps: float = ...,
    adapt: bool = ...,
    maximize: bool = ...,
    decay_form: Literal["l2", "decoupled", "independent"] = ...,
    momentum_form: Literal["torch", "classical", "average"] = ...,
    step: int = ...,
    num_threads: int | None = ...,
) -> None: ...
def lamb(
    p: Arrays,
    g: Gradients,
    exp_avg: State = ...,
    exp_avg_sq: State = ...,
    *,
    lr: float = ...,
    betas: tuple[float, float] = ...,
    eps: float = ...,
    weight_decay: float = ...,
    adapt: bool = ...,
    maximize: bool = ...,
    decay_form: Literal["l2", "decoupled", "independent"] = ...,
    step: int = ...,
    num_threads: int | None = ...,
) -> None: ...
