# Written by tests/stubs.py from the rule table.
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .codecs import Compact
from .rules import Rule

Array: TypeAlias = NDArray[np.float16] | NDArray[np.float32] | NDArray[np.float64]
Arrays: TypeAlias = Array | Sequence[Array]
Gradients: TypeAlias = NDArray[np.floating[Any]] | Sequence[NDArray[np.floating[Any]] | None]
State: TypeAlias = Array | Compact | Sequence[Array | Compact | None] | None
Indices: TypeAlias = NDArray[np.integer[Any]] | Sequence[int]
Rows: TypeAlias = Indices | Sequence[Indices | None]

def update(
    rule: Rule,
    p: NDArray[Any],
    g: NDArray[Any],
    state: Sequence[NDArray[Any] | Compact | None],
    hyperparameters: dict[str, Any],
    seed: int = ...,
    tensor: int = ...,
    master: NDArray[np.float32] | None = ...,
) -> None: ...

class Constants:
    def __init__(
        self, rule: Rule, hyperparameters: dict[str, Any], dtype: np.dtype[Any]
    ) -> None: ...
    def __getattr__(self, name: str) -> Any: ...

def sum_of_squares(x: Array, factor: float = ...) -> float: ...
def add_halves(x: NDArray[np.float64]) -> NDArray[np.float64]: ...
def gradient_norms(
    params: Sequence[Array], grads: Sequence[Array | None]
) -> tuple[float, list[float]]: ...

class Held(list[Array | None]):
    unit: float

def accumulate(held: Sequence[Array | None], grads: Sequence[Array | None]) -> Held: ...
def has_room(held: Array) -> bool: ...
def approach(average: Array, p: Array, weight: float) -> None: ...
def limits_of(options: Mapping[str, Any], stored: str) -> tuple[float, float]: ...
def confine(x: Array, limits: tuple[float, float]) -> None: ...
def fused_step(
    rule: Rule,
    params: Sequence[Array],
    grads: Sequence[Array | None],
    state: Mapping[str, Sequence[Array | None]],
    hyperparameters: Sequence[dict[str, Any]],
    held: Sequence[Array | None] | None = ...,
    calls: int = ...,
    stored: Sequence[str] | None = ...,
    **options: Any,
) -> float: ...
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
    decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
    max_lr: float = ...,
    momentum_form: Literal["torch", "classical", "average"] = ...,
    step: int = ...,
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
    decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
    max_lr: float = ...,
    step: int = ...,
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
    decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
    max_lr: float = ...,
    step: int = ...,
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
    decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
    max_lr: float = ...,
    step: int = ...,
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
    decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
    max_lr: float = ...,
    eps_form: Literal["corrected", "raw"] = ...,
    step: int = ...,
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
    decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
    max_lr: float = ...,
    eps_form: Literal["corrected", "raw"] = ...,
    step: int = ...,
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
    decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
    max_lr: float = ...,
    step: int = ...,
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
    decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
    max_lr: float = ...,
    step: int = ...,
    mu_product: float = ...,
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
    decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
    max_lr: float = ...,
    step: int = ...,
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
    decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
    max_lr: float = ...,
    step: int = ...,
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
    decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
    max_lr: float = ...,
    momentum_form: Literal["torch", "classical", "average"] = ...,
    step: int = ...,
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
    decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
    max_lr: float = ...,
    step: int = ...,
) -> None: ...
def rprop(
    p: Arrays,
    g: Gradients,
    prev: State = ...,
    step_size: State = ...,
    *,
    lr: float = ...,
    etas: tuple[float, float] = ...,
    step_sizes: tuple[float, float] = ...,
    weight_decay: float = ...,
    maximize: bool = ...,
    decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
    max_lr: float = ...,
    step: int = ...,
) -> None: ...
def sgd_rows(
    p: Arrays,
    rows: Rows,
    g: Gradients,
    momentum_buffer: State = ...,
    *,
    lr: float = ...,
    momentum: float = ...,
    dampening: float = ...,
    weight_decay: float = ...,
    nesterov: bool = ...,
    maximize: bool = ...,
    decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
    max_lr: float = ...,
    momentum_form: Literal["torch", "classical", "average"] = ...,
    step: int = ...,
) -> None: ...
def adagrad_rows(
    p: Arrays,
    rows: Rows,
    g: Gradients,
    sum: State = ...,
    *,
    lr: float = ...,
    lr_decay: float = ...,
    weight_decay: float = ...,
    eps: float = ...,
    maximize: bool = ...,
    decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
    max_lr: float = ...,
    step: int = ...,
) -> None: ...
def rmsprop_rows(
    p: Arrays,
    rows: Rows,
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
    decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
    max_lr: float = ...,
    step: int = ...,
) -> None: ...
def adam_rows(
    p: Arrays,
    rows: Rows,
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
    decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
    max_lr: float = ...,
    eps_form: Literal["corrected", "raw"] = ...,
    step: int = ...,
) -> None: ...
def adamw_rows(
    p: Arrays,
    rows: Rows,
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
    decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
    max_lr: float = ...,
    eps_form: Literal["corrected", "raw"] = ...,
    step: int = ...,
) -> None: ...
