# Written by tests/stubs.py from the rule table.
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from inspect import Signature
from types import EllipsisType
from typing import Any, Literal, TypeAlias

import numpy as np
from _typeshed import DataclassInstance
from numpy.typing import NDArray

from ..kernels.threads import ThreadReport
from ..rules import Rule
from .change import Change as Change
from .change import Counts as Counts
from .loading import refuse_impossible as refuse_impossible
from .session import Session as Session

Array: TypeAlias = NDArray[np.float16] | NDArray[np.float32] | NDArray[np.float64]
Gradient: TypeAlias = NDArray[np.floating[Any]] | None
Group: TypeAlias = Mapping[str, Any]
Triple: TypeAlias = tuple[float, float, float]
Params: TypeAlias = (
    Array
    | Sequence[Params | None]
    | Mapping[str, Params | None]
    | Iterator[Params]
    | DataclassInstance
    | Sequence[Group]
)
Gradients: TypeAlias = (
    Gradient
    | Sequence[Gradients]
    | Mapping[str, Gradients]
    | Iterator[Gradients]
    | DataclassInstance
)
Indices: TypeAlias = NDArray[np.integer[Any]] | Sequence[int] | EllipsisType | None
Rows: TypeAlias = (
    Indices
    | Sequence[Indices]
    | Mapping[str, Indices]
    | Sequence[Indices | Sequence[Indices] | Mapping[str, Indices]]
)
Number: TypeAlias = float | Callable[[int], float]
Pair: TypeAlias = tuple[float, float] | Callable[[int], tuple[float, float]]

class ParamGroup(dict[str, Any]): ...

class _Zeroing(int):
    def __call__(self, grads: Gradients | None = None) -> None: ...

class _ZeroGrad:
    def __get__(self, optimizer: Any, owner: type | None = None) -> _Zeroing: ...
    def __set__(self, optimizer: Any, value: bool) -> None: ...

class Optimizer:
    rule: Rule
    __signature__: Signature
    zero_grad: _ZeroGrad
    steps: int
    skipped_steps: int
    follow: bool
    strict_grads: bool
    @property
    def param_groups(self) -> tuple[ParamGroup, ...]: ...
    @property
    def num_threads(self) -> int | None: ...
    @num_threads.setter
    def num_threads(self, value: int | None) -> None: ...
    @property
    def on_nonfinite(self) -> str: ...
    @on_nonfinite.setter
    def on_nonfinite(self, value: str) -> None: ...
    @property
    def state_dtype(self) -> Literal["bfloat16", "int8"] | None: ...
    @property
    def master_weights(self) -> bool: ...
    @property
    def weight_rounding(self) -> Literal["stochastic", "nearest"]: ...
    @property
    def seed(self) -> int: ...
    @property
    def params(self) -> tuple[Array, ...]: ...
    @property
    def state(self) -> dict[int | str, dict[str, Any]]: ...
    def step(self, grads: Gradients) -> bool: ...
    def step_rows(self, rows: Rows, grads: Gradients) -> bool: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None: ...
    def reset(self, names: str | int | Iterable[str | int] | None = None) -> None: ...
    def flush(self) -> bool: ...
    def rebind(self, params: Params) -> None: ...
    def add_param_group(self, group: Group) -> None: ...
    def thread_report(self) -> ThreadReport: ...
    @property
    def session(self) -> Session: ...
    @property
    def last_grad_norm(self) -> float | None: ...
    @property
    def averages_are_in(self) -> bool: ...
    def swap_in(self) -> None: ...
    def swap_out(self) -> None: ...
    def averaged(self) -> AbstractContextManager[None]: ...
    clip_norm: Number | None
    clip_norm_per_tensor: Number | None
    clip_value: Number | None
    grad_scale: Number
    max_skips: int | Callable[[int], float] | None
    accumulate: int | Callable[[int], float]
    accumulate_form: Literal["mean", "sum"]
    centralize: bool
    adaptive_clip: float | tuple[float, float] | None
    adaptive_clip_head: bool
    unit_layout: Literal["in_out", "out_in"]
    clip_update_rms: Number | None
    cautious: bool
    project: Literal["nonnegative"] | tuple[float, float] | None
    lookahead: tuple[int, float] | None
    ema_decay: Number | None

def not_trained(opt: Any, x: Any) -> str: ...
def renewed(master: NDArray[Any], array: NDArray[Any]) -> NDArray[Any]: ...
def no_attribute(owner: str, name: str, options: Iterable[str], groups: Iterable[str]) -> str: ...
def unwrapped(owner: str, opt: Any) -> Any: ...
def no_optimizer(owner: str, opt: Any) -> str: ...

CLASSES: dict[str, type[Optimizer]]
MIXED: Rule
OF_WEIGHTS: tuple[str, ...]

__all__ = [
    "ADOPT",
    "ASGD",
    "FTRL",
    "LAMB",
    "LARS",
    "MARS",
    "SGD",
    "AdEMAMix",
    "AdaBelief",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Adan",
    "LaProp",
    "Lion",
    "Mixed",
    "Muon",
    "NAdam",
    "NorMuon",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Rprop",
]

class SGD(Optimizer):
    def __init__(
        self,
        params: Params,
        lr: Number = ...,
        momentum: Number = ...,
        dampening: Number = ...,
        weight_decay: Number = ...,
        nesterov: bool = ...,
        *,
        maximize: bool = ...,
        decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
        max_lr: Number = ...,
        momentum_form: Literal["torch", "classical", "average"] = ...,
        num_threads: int | None = ...,
        on_nonfinite: Literal["propagate", "skip", "raise"] = ...,
        state_dtype: Literal["bfloat16", "int8"] | None = ...,
        master_weights: bool = ...,
        weight_rounding: Literal["stochastic", "nearest"] | None = ...,
        seed: int = ...,
        follow: bool = ...,
        strict_grads: bool = ...,
        clip_norm: Number | None = ...,
        clip_norm_per_tensor: Number | None = ...,
        clip_value: Number | None = ...,
        grad_scale: Number = ...,
        max_skips: int | Callable[[int], float] | None = ...,
        accumulate: int | Callable[[int], float] = ...,
        accumulate_form: Literal["mean", "sum"] = ...,
        centralize: bool = ...,
        adaptive_clip: float | tuple[float, float] | None = ...,
        adaptive_clip_head: bool = ...,
        unit_layout: Literal["in_out", "out_in"] = ...,
        clip_update_rms: Number | None = ...,
        cautious: bool = ...,
        project: Literal["nonnegative"] | tuple[float, float] | None = ...,
        zero_grad: bool = ...,
        lookahead: tuple[int, float] | None = ...,
        ema_decay: Number | None = ...,
    ) -> None: ...

class Adagrad(Optimizer):
    def __init__(
        self,
        params: Params,
        lr: Number = ...,
        lr_decay: Number = ...,
        weight_decay: Number = ...,
        initial_accumulator_value: float = ...,
        eps: Number = ...,
        *,
        maximize: bool = ...,
        decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
        max_lr: Number = ...,
        num_threads: int | None = ...,
        on_nonfinite: Literal["propagate", "skip", "raise"] = ...,
        state_dtype: Literal["bfloat16", "int8"] | None = ...,
        master_weights: bool = ...,
        weight_rounding: Literal["stochastic", "nearest"] | None = ...,
        seed: int = ...,
        follow: bool = ...,
        strict_grads: bool = ...,
        clip_norm: Number | None = ...,
        clip_norm_per_tensor: Number | None = ...,
        clip_value: Number | None = ...,
        grad_scale: Number = ...,
        max_skips: int | Callable[[int], float] | None = ...,
        accumulate: int | Callable[[int], float] = ...,
        accumulate_form: Literal["mean", "sum"] = ...,
        centralize: bool = ...,
        adaptive_clip: float | tuple[float, float] | None = ...,
        adaptive_clip_head: bool = ...,
        unit_layout: Literal["in_out", "out_in"] = ...,
        clip_update_rms: Number | None = ...,
        cautious: bool = ...,
        project: Literal["nonnegative"] | tuple[float, float] | None = ...,
        zero_grad: bool = ...,
        lookahead: tuple[int, float] | None = ...,
        ema_decay: Number | None = ...,
    ) -> None: ...

class RMSprop(Optimizer):
    def __init__(
        self,
        params: Params,
        lr: Number = ...,
        alpha: Number = ...,
        eps: Number = ...,
        weight_decay: Number = ...,
        momentum: Number = ...,
        centered: bool = ...,
        *,
        maximize: bool = ...,
        decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
        max_lr: Number = ...,
        num_threads: int | None = ...,
        on_nonfinite: Literal["propagate", "skip", "raise"] = ...,
        state_dtype: Literal["bfloat16", "int8"] | None = ...,
        master_weights: bool = ...,
        weight_rounding: Literal["stochastic", "nearest"] | None = ...,
        seed: int = ...,
        follow: bool = ...,
        strict_grads: bool = ...,
        clip_norm: Number | None = ...,
        clip_norm_per_tensor: Number | None = ...,
        clip_value: Number | None = ...,
        grad_scale: Number = ...,
        max_skips: int | Callable[[int], float] | None = ...,
        accumulate: int | Callable[[int], float] = ...,
        accumulate_form: Literal["mean", "sum"] = ...,
        centralize: bool = ...,
        adaptive_clip: float | tuple[float, float] | None = ...,
        adaptive_clip_head: bool = ...,
        unit_layout: Literal["in_out", "out_in"] = ...,
        clip_update_rms: Number | None = ...,
        cautious: bool = ...,
        project: Literal["nonnegative"] | tuple[float, float] | None = ...,
        zero_grad: bool = ...,
        lookahead: tuple[int, float] | None = ...,
        ema_decay: Number | None = ...,
    ) -> None: ...

class Adadelta(Optimizer):
    def __init__(
        self,
        params: Params,
        lr: Number = ...,
        rho: Number = ...,
        eps: Number = ...,
        weight_decay: Number = ...,
        *,
        maximize: bool = ...,
        decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
        max_lr: Number = ...,
        num_threads: int | None = ...,
        on_nonfinite: Literal["propagate", "skip", "raise"] = ...,
        state_dtype: Literal["bfloat16", "int8"] | None = ...,
        master_weights: bool = ...,
        weight_rounding: Literal["stochastic", "nearest"] | None = ...,
        seed: int = ...,
        follow: bool = ...,
        strict_grads: bool = ...,
        clip_norm: Number | None = ...,
        clip_norm_per_tensor: Number | None = ...,
        clip_value: Number | None = ...,
        grad_scale: Number = ...,
        max_skips: int | Callable[[int], float] | None = ...,
        accumulate: int | Callable[[int], float] = ...,
        accumulate_form: Literal["mean", "sum"] = ...,
        centralize: bool = ...,
        adaptive_clip: float | tuple[float, float] | None = ...,
        adaptive_clip_head: bool = ...,
        unit_layout: Literal["in_out", "out_in"] = ...,
        clip_update_rms: Number | None = ...,
        cautious: bool = ...,
        project: Literal["nonnegative"] | tuple[float, float] | None = ...,
        zero_grad: bool = ...,
        lookahead: tuple[int, float] | None = ...,
        ema_decay: Number | None = ...,
    ) -> None: ...

class Adam(Optimizer):
    def __init__(
        self,
        params: Params,
        lr: Number = ...,
        betas: Pair = ...,
        eps: Number = ...,
        weight_decay: Number = ...,
        amsgrad: bool = ...,
        decoupled_weight_decay: bool = ...,
        *,
        maximize: bool = ...,
        decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
        max_lr: Number = ...,
        eps_form: Literal["corrected", "raw"] = ...,
        num_threads: int | None = ...,
        on_nonfinite: Literal["propagate", "skip", "raise"] = ...,
        state_dtype: Literal["bfloat16", "int8"] | None = ...,
        master_weights: bool = ...,
        weight_rounding: Literal["stochastic", "nearest"] | None = ...,
        seed: int = ...,
        follow: bool = ...,
        strict_grads: bool = ...,
        clip_norm: Number | None = ...,
        clip_norm_per_tensor: Number | None = ...,
        clip_value: Number | None = ...,
        grad_scale: Number = ...,
        max_skips: int | Callable[[int], float] | None = ...,
        accumulate: int | Callable[[int], float] = ...,
        accumulate_form: Literal["mean", "sum"] = ...,
        centralize: bool = ...,
        adaptive_clip: float | tuple[float, float] | None = ...,
        adaptive_clip_head: bool = ...,
        unit_layout: Literal["in_out", "out_in"] = ...,
        clip_update_rms: Number | None = ...,
        cautious: bool = ...,
        project: Literal["nonnegative"] | tuple[float, float] | None = ...,
        zero_grad: bool = ...,
        lookahead: tuple[int, float] | None = ...,
        ema_decay: Number | None = ...,
    ) -> None: ...

class AdamW(Optimizer):
    def __init__(
        self,
        params: Params,
        lr: Number = ...,
        betas: Pair = ...,
        eps: Number = ...,
        weight_decay: Number = ...,
        amsgrad: bool = ...,
        *,
        maximize: bool = ...,
        decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
        max_lr: Number = ...,
        eps_form: Literal["corrected", "raw"] = ...,
        num_threads: int | None = ...,
        on_nonfinite: Literal["propagate", "skip", "raise"] = ...,
        state_dtype: Literal["bfloat16", "int8"] | None = ...,
        master_weights: bool = ...,
        weight_rounding: Literal["stochastic", "nearest"] | None = ...,
        seed: int = ...,
        follow: bool = ...,
        strict_grads: bool = ...,
        clip_norm: Number | None = ...,
        clip_norm_per_tensor: Number | None = ...,
        clip_value: Number | None = ...,
        grad_scale: Number = ...,
        max_skips: int | Callable[[int], float] | None = ...,
        accumulate: int | Callable[[int], float] = ...,
        accumulate_form: Literal["mean", "sum"] = ...,
        centralize: bool = ...,
        adaptive_clip: float | tuple[float, float] | None = ...,
        adaptive_clip_head: bool = ...,
        unit_layout: Literal["in_out", "out_in"] = ...,
        clip_update_rms: Number | None = ...,
        cautious: bool = ...,
        project: Literal["nonnegative"] | tuple[float, float] | None = ...,
        zero_grad: bool = ...,
        lookahead: tuple[int, float] | None = ...,
        ema_decay: Number | None = ...,
    ) -> None: ...

class Adamax(Optimizer):
    def __init__(
        self,
        params: Params,
        lr: Number = ...,
        betas: Pair = ...,
        eps: Number = ...,
        weight_decay: Number = ...,
        *,
        maximize: bool = ...,
        decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
        max_lr: Number = ...,
        num_threads: int | None = ...,
        on_nonfinite: Literal["propagate", "skip", "raise"] = ...,
        state_dtype: Literal["bfloat16", "int8"] | None = ...,
        master_weights: bool = ...,
        weight_rounding: Literal["stochastic", "nearest"] | None = ...,
        seed: int = ...,
        follow: bool = ...,
        strict_grads: bool = ...,
        clip_norm: Number | None = ...,
        clip_norm_per_tensor: Number | None = ...,
        clip_value: Number | None = ...,
        grad_scale: Number = ...,
        max_skips: int | Callable[[int], float] | None = ...,
        accumulate: int | Callable[[int], float] = ...,
        accumulate_form: Literal["mean", "sum"] = ...,
        centralize: bool = ...,
        adaptive_clip: float | tuple[float, float] | None = ...,
        adaptive_clip_head: bool = ...,
        unit_layout: Literal["in_out", "out_in"] = ...,
        clip_update_rms: Number | None = ...,
        cautious: bool = ...,
        project: Literal["nonnegative"] | tuple[float, float] | None = ...,
        zero_grad: bool = ...,
        lookahead: tuple[int, float] | None = ...,
        ema_decay: Number | None = ...,
    ) -> None: ...

class NAdam(Optimizer):
    def __init__(
        self,
        params: Params,
        lr: Number = ...,
        betas: Pair = ...,
        eps: Number = ...,
        weight_decay: Number = ...,
        momentum_decay: Number = ...,
        decoupled_weight_decay: bool = ...,
        *,
        maximize: bool = ...,
        decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
        max_lr: Number = ...,
        num_threads: int | None = ...,
        on_nonfinite: Literal["propagate", "skip", "raise"] = ...,
        state_dtype: Literal["bfloat16", "int8"] | None = ...,
        master_weights: bool = ...,
        weight_rounding: Literal["stochastic", "nearest"] | None = ...,
        seed: int = ...,
        follow: bool = ...,
        strict_grads: bool = ...,
        clip_norm: Number | None = ...,
        clip_norm_per_tensor: Number | None = ...,
        clip_value: Number | None = ...,
        grad_scale: Number = ...,
        max_skips: int | Callable[[int], float] | None = ...,
        accumulate: int | Callable[[int], float] = ...,
        accumulate_form: Literal["mean", "sum"] = ...,
        centralize: bool = ...,
        adaptive_clip: float | tuple[float, float] | None = ...,
        adaptive_clip_head: bool = ...,
        unit_layout: Literal["in_out", "out_in"] = ...,
        clip_update_rms: Number | None = ...,
        cautious: bool = ...,
        project: Literal["nonnegative"] | tuple[float, float] | None = ...,
        zero_grad: bool = ...,
        lookahead: tuple[int, float] | None = ...,
        ema_decay: Number | None = ...,
    ) -> None: ...

class RAdam(Optimizer):
    def __init__(
        self,
        params: Params,
        lr: Number = ...,
        betas: Pair = ...,
        eps: Number = ...,
        weight_decay: Number = ...,
        decoupled_weight_decay: bool = ...,
        *,
        maximize: bool = ...,
        decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
        max_lr: Number = ...,
        num_threads: int | None = ...,
        on_nonfinite: Literal["propagate", "skip", "raise"] = ...,
        state_dtype: Literal["bfloat16", "int8"] | None = ...,
        master_weights: bool = ...,
        weight_rounding: Literal["stochastic", "nearest"] | None = ...,
        seed: int = ...,
        follow: bool = ...,
        strict_grads: bool = ...,
        clip_norm: Number | None = ...,
        clip_norm_per_tensor: Number | None = ...,
        clip_value: Number | None = ...,
        grad_scale: Number = ...,
        max_skips: int | Callable[[int], float] | None = ...,
        accumulate: int | Callable[[int], float] = ...,
        accumulate_form: Literal["mean", "sum"] = ...,
        centralize: bool = ...,
        adaptive_clip: float | tuple[float, float] | None = ...,
        adaptive_clip_head: bool = ...,
        unit_layout: Literal["in_out", "out_in"] = ...,
        clip_update_rms: Number | None = ...,
        cautious: bool = ...,
        project: Literal["nonnegative"] | tuple[float, float] | None = ...,
        zero_grad: bool = ...,
        lookahead: tuple[int, float] | None = ...,
        ema_decay: Number | None = ...,
    ) -> None: ...

class Lion(Optimizer):
    def __init__(
        self,
        params: Params,
        lr: Number = ...,
        betas: Pair = ...,
        weight_decay: Number = ...,
        *,
        maximize: bool = ...,
        decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
        max_lr: Number = ...,
        num_threads: int | None = ...,
        on_nonfinite: Literal["propagate", "skip", "raise"] = ...,
        state_dtype: Literal["bfloat16", "int8"] | None = ...,
        master_weights: bool = ...,
        weight_rounding: Literal["stochastic", "nearest"] | None = ...,
        seed: int = ...,
        follow: bool = ...,
        strict_grads: bool = ...,
        clip_norm: Number | None = ...,
        clip_norm_per_tensor: Number | None = ...,
        clip_value: Number | None = ...,
        grad_scale: Number = ...,
        max_skips: int | Callable[[int], float] | None = ...,
        accumulate: int | Callable[[int], float] = ...,
        accumulate_form: Literal["mean", "sum"] = ...,
        centralize: bool = ...,
        adaptive_clip: float | tuple[float, float] | None = ...,
        adaptive_clip_head: bool = ...,
        unit_layout: Literal["in_out", "out_in"] = ...,
        clip_update_rms: Number | None = ...,
        cautious: bool = ...,
        project: Literal["nonnegative"] | tuple[float, float] | None = ...,
        zero_grad: bool = ...,
        lookahead: tuple[int, float] | None = ...,
        ema_decay: Number | None = ...,
    ) -> None: ...

class LARS(Optimizer):
    def __init__(
        self,
        params: Params,
        lr: Number = ...,
        momentum: Number = ...,
        dampening: Number = ...,
        weight_decay: Number = ...,
        nesterov: bool = ...,
        trust_coefficient: Number = ...,
        eps: Number = ...,
        adapt: bool = ...,
        *,
        maximize: bool = ...,
        decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
        max_lr: Number = ...,
        momentum_form: Literal["torch", "classical", "average"] = ...,
        num_threads: int | None = ...,
        on_nonfinite: Literal["propagate", "skip", "raise"] = ...,
        state_dtype: Literal["bfloat16", "int8"] | None = ...,
        master_weights: bool = ...,
        weight_rounding: Literal["stochastic", "nearest"] | None = ...,
        seed: int = ...,
        follow: bool = ...,
        strict_grads: bool = ...,
        clip_norm: Number | None = ...,
        clip_norm_per_tensor: Number | None = ...,
        clip_value: Number | None = ...,
        grad_scale: Number = ...,
        max_skips: int | Callable[[int], float] | None = ...,
        accumulate: int | Callable[[int], float] = ...,
        accumulate_form: Literal["mean", "sum"] = ...,
        centralize: bool = ...,
        adaptive_clip: float | tuple[float, float] | None = ...,
        adaptive_clip_head: bool = ...,
        unit_layout: Literal["in_out", "out_in"] = ...,
        clip_update_rms: Number | None = ...,
        cautious: bool = ...,
        project: Literal["nonnegative"] | tuple[float, float] | None = ...,
        zero_grad: bool = ...,
        lookahead: tuple[int, float] | None = ...,
        ema_decay: Number | None = ...,
    ) -> None: ...

class LAMB(Optimizer):
    def __init__(
        self,
        params: Params,
        lr: Number = ...,
        betas: Pair = ...,
        eps: Number = ...,
        weight_decay: Number = ...,
        adapt: bool = ...,
        *,
        maximize: bool = ...,
        decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
        max_lr: Number = ...,
        num_threads: int | None = ...,
        on_nonfinite: Literal["propagate", "skip", "raise"] = ...,
        state_dtype: Literal["bfloat16", "int8"] | None = ...,
        master_weights: bool = ...,
        weight_rounding: Literal["stochastic", "nearest"] | None = ...,
        seed: int = ...,
        follow: bool = ...,
        strict_grads: bool = ...,
        clip_norm: Number | None = ...,
        clip_norm_per_tensor: Number | None = ...,
        clip_value: Number | None = ...,
        grad_scale: Number = ...,
        max_skips: int | Callable[[int], float] | None = ...,
        accumulate: int | Callable[[int], float] = ...,
        accumulate_form: Literal["mean", "sum"] = ...,
        centralize: bool = ...,
        adaptive_clip: float | tuple[float, float] | None = ...,
        adaptive_clip_head: bool = ...,
        unit_layout: Literal["in_out", "out_in"] = ...,
        clip_update_rms: Number | None = ...,
        cautious: bool = ...,
        project: Literal["nonnegative"] | tuple[float, float] | None = ...,
        zero_grad: bool = ...,
        lookahead: tuple[int, float] | None = ...,
        ema_decay: Number | None = ...,
    ) -> None: ...

class AdaBelief(Optimizer):
    def __init__(
        self,
        params: Params,
        lr: Number = ...,
        betas: Pair = ...,
        eps: Number = ...,
        weight_decay: Number = ...,
        *,
        maximize: bool = ...,
        decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
        max_lr: Number = ...,
        num_threads: int | None = ...,
        on_nonfinite: Literal["propagate", "skip", "raise"] = ...,
        state_dtype: Literal["bfloat16", "int8"] | None = ...,
        master_weights: bool = ...,
        weight_rounding: Literal["stochastic", "nearest"] | None = ...,
        seed: int = ...,
        follow: bool = ...,
        strict_grads: bool = ...,
        clip_norm: Number | None = ...,
        clip_norm_per_tensor: Number | None = ...,
        clip_value: Number | None = ...,
        grad_scale: Number = ...,
        max_skips: int | Callable[[int], float] | None = ...,
        accumulate: int | Callable[[int], float] = ...,
        accumulate_form: Literal["mean", "sum"] = ...,
        centralize: bool = ...,
        adaptive_clip: float | tuple[float, float] | None = ...,
        adaptive_clip_head: bool = ...,
        unit_layout: Literal["in_out", "out_in"] = ...,
        clip_update_rms: Number | None = ...,
        cautious: bool = ...,
        project: Literal["nonnegative"] | tuple[float, float] | None = ...,
        zero_grad: bool = ...,
        lookahead: tuple[int, float] | None = ...,
        ema_decay: Number | None = ...,
    ) -> None: ...

class Adan(Optimizer):
    def __init__(
        self,
        params: Params,
        lr: Number = ...,
        betas: tuple[float, float, float] | Callable[[int], tuple[float, float, float]] = ...,
        eps: Number = ...,
        weight_decay: Number = ...,
        no_prox: bool = ...,
        *,
        maximize: bool = ...,
        decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
        max_lr: Number = ...,
        num_threads: int | None = ...,
        on_nonfinite: Literal["propagate", "skip", "raise"] = ...,
        state_dtype: Literal["bfloat16", "int8"] | None = ...,
        master_weights: bool = ...,
        weight_rounding: Literal["stochastic", "nearest"] | None = ...,
        seed: int = ...,
        follow: bool = ...,
        strict_grads: bool = ...,
        clip_norm: Number | None = ...,
        clip_norm_per_tensor: Number | None = ...,
        clip_value: Number | None = ...,
        grad_scale: Number = ...,
        max_skips: int | Callable[[int], float] | None = ...,
        accumulate: int | Callable[[int], float] = ...,
        accumulate_form: Literal["mean", "sum"] = ...,
        centralize: bool = ...,
        adaptive_clip: float | tuple[float, float] | None = ...,
        adaptive_clip_head: bool = ...,
        unit_layout: Literal["in_out", "out_in"] = ...,
        clip_update_rms: Number | None = ...,
        cautious: bool = ...,
        project: Literal["nonnegative"] | tuple[float, float] | None = ...,
        zero_grad: bool = ...,
        lookahead: tuple[int, float] | None = ...,
        ema_decay: Number | None = ...,
    ) -> None: ...

class AdEMAMix(Optimizer):
    def __init__(
        self,
        params: Params,
        lr: Number = ...,
        betas: tuple[float, float, float] | Callable[[int], tuple[float, float, float]] = ...,
        eps: Number = ...,
        weight_decay: Number = ...,
        alpha: Number = ...,
        t_alpha_beta3: int = ...,
        *,
        maximize: bool = ...,
        decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
        max_lr: Number = ...,
        num_threads: int | None = ...,
        on_nonfinite: Literal["propagate", "skip", "raise"] = ...,
        state_dtype: Literal["bfloat16", "int8"] | None = ...,
        master_weights: bool = ...,
        weight_rounding: Literal["stochastic", "nearest"] | None = ...,
        seed: int = ...,
        follow: bool = ...,
        strict_grads: bool = ...,
        clip_norm: Number | None = ...,
        clip_norm_per_tensor: Number | None = ...,
        clip_value: Number | None = ...,
        grad_scale: Number = ...,
        max_skips: int | Callable[[int], float] | None = ...,
        accumulate: int | Callable[[int], float] = ...,
        accumulate_form: Literal["mean", "sum"] = ...,
        centralize: bool = ...,
        adaptive_clip: float | tuple[float, float] | None = ...,
        adaptive_clip_head: bool = ...,
        unit_layout: Literal["in_out", "out_in"] = ...,
        clip_update_rms: Number | None = ...,
        cautious: bool = ...,
        project: Literal["nonnegative"] | tuple[float, float] | None = ...,
        zero_grad: bool = ...,
        lookahead: tuple[int, float] | None = ...,
        ema_decay: Number | None = ...,
    ) -> None: ...

class ADOPT(Optimizer):
    def __init__(
        self,
        params: Params,
        lr: Number = ...,
        betas: Pair = ...,
        eps: Number = ...,
        weight_decay: Number = ...,
        clip_exponent: Number = ...,
        *,
        maximize: bool = ...,
        decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
        max_lr: Number = ...,
        num_threads: int | None = ...,
        on_nonfinite: Literal["propagate", "skip", "raise"] = ...,
        state_dtype: Literal["bfloat16", "int8"] | None = ...,
        master_weights: bool = ...,
        weight_rounding: Literal["stochastic", "nearest"] | None = ...,
        seed: int = ...,
        follow: bool = ...,
        strict_grads: bool = ...,
        clip_norm: Number | None = ...,
        clip_norm_per_tensor: Number | None = ...,
        clip_value: Number | None = ...,
        grad_scale: Number = ...,
        max_skips: int | Callable[[int], float] | None = ...,
        accumulate: int | Callable[[int], float] = ...,
        accumulate_form: Literal["mean", "sum"] = ...,
        centralize: bool = ...,
        adaptive_clip: float | tuple[float, float] | None = ...,
        adaptive_clip_head: bool = ...,
        unit_layout: Literal["in_out", "out_in"] = ...,
        clip_update_rms: Number | None = ...,
        cautious: bool = ...,
        project: Literal["nonnegative"] | tuple[float, float] | None = ...,
        zero_grad: bool = ...,
        lookahead: tuple[int, float] | None = ...,
        ema_decay: Number | None = ...,
    ) -> None: ...

class ASGD(Optimizer):
    def __init__(
        self,
        params: Params,
        lr: Number = ...,
        lambd: Number = ...,
        alpha: Number = ...,
        t0: Number = ...,
        weight_decay: Number = ...,
        *,
        maximize: bool = ...,
        decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
        max_lr: Number = ...,
        num_threads: int | None = ...,
        on_nonfinite: Literal["propagate", "skip", "raise"] = ...,
        state_dtype: Literal["bfloat16", "int8"] | None = ...,
        master_weights: bool = ...,
        weight_rounding: Literal["stochastic", "nearest"] | None = ...,
        seed: int = ...,
        follow: bool = ...,
        strict_grads: bool = ...,
        clip_norm: Number | None = ...,
        clip_norm_per_tensor: Number | None = ...,
        clip_value: Number | None = ...,
        grad_scale: Number = ...,
        max_skips: int | Callable[[int], float] | None = ...,
        accumulate: int | Callable[[int], float] = ...,
        accumulate_form: Literal["mean", "sum"] = ...,
        centralize: bool = ...,
        adaptive_clip: float | tuple[float, float] | None = ...,
        adaptive_clip_head: bool = ...,
        unit_layout: Literal["in_out", "out_in"] = ...,
        clip_update_rms: Number | None = ...,
        cautious: bool = ...,
        project: Literal["nonnegative"] | tuple[float, float] | None = ...,
        zero_grad: bool = ...,
        lookahead: tuple[int, float] | None = ...,
        ema_decay: Number | None = ...,
    ) -> None: ...

class FTRL(Optimizer):
    def __init__(
        self,
        params: Params,
        lr: Number = ...,
        beta: Number = ...,
        lambda_1: Number = ...,
        lambda_2: Number = ...,
        weight_decay: Number = ...,
        initial_accumulator_value: float = ...,
        *,
        maximize: bool = ...,
        decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
        max_lr: Number = ...,
        num_threads: int | None = ...,
        on_nonfinite: Literal["propagate", "skip", "raise"] = ...,
        state_dtype: Literal["bfloat16", "int8"] | None = ...,
        master_weights: bool = ...,
        weight_rounding: Literal["stochastic", "nearest"] | None = ...,
        seed: int = ...,
        follow: bool = ...,
        strict_grads: bool = ...,
        clip_norm: Number | None = ...,
        clip_norm_per_tensor: Number | None = ...,
        clip_value: Number | None = ...,
        grad_scale: Number = ...,
        max_skips: int | Callable[[int], float] | None = ...,
        accumulate: int | Callable[[int], float] = ...,
        accumulate_form: Literal["mean", "sum"] = ...,
        centralize: bool = ...,
        adaptive_clip: float | tuple[float, float] | None = ...,
        adaptive_clip_head: bool = ...,
        unit_layout: Literal["in_out", "out_in"] = ...,
        clip_update_rms: Number | None = ...,
        cautious: bool = ...,
        project: Literal["nonnegative"] | tuple[float, float] | None = ...,
        zero_grad: bool = ...,
        lookahead: tuple[int, float] | None = ...,
        ema_decay: Number | None = ...,
    ) -> None: ...

class LaProp(Optimizer):
    def __init__(
        self,
        params: Params,
        lr: Number = ...,
        betas: Pair = ...,
        eps: Number = ...,
        weight_decay: Number = ...,
        *,
        maximize: bool = ...,
        decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
        max_lr: Number = ...,
        num_threads: int | None = ...,
        on_nonfinite: Literal["propagate", "skip", "raise"] = ...,
        state_dtype: Literal["bfloat16", "int8"] | None = ...,
        master_weights: bool = ...,
        weight_rounding: Literal["stochastic", "nearest"] | None = ...,
        seed: int = ...,
        follow: bool = ...,
        strict_grads: bool = ...,
        clip_norm: Number | None = ...,
        clip_norm_per_tensor: Number | None = ...,
        clip_value: Number | None = ...,
        grad_scale: Number = ...,
        max_skips: int | Callable[[int], float] | None = ...,
        accumulate: int | Callable[[int], float] = ...,
        accumulate_form: Literal["mean", "sum"] = ...,
        centralize: bool = ...,
        adaptive_clip: float | tuple[float, float] | None = ...,
        adaptive_clip_head: bool = ...,
        unit_layout: Literal["in_out", "out_in"] = ...,
        clip_update_rms: Number | None = ...,
        cautious: bool = ...,
        project: Literal["nonnegative"] | tuple[float, float] | None = ...,
        zero_grad: bool = ...,
        lookahead: tuple[int, float] | None = ...,
        ema_decay: Number | None = ...,
    ) -> None: ...

class MARS(Optimizer):
    def __init__(
        self,
        params: Params,
        lr: Number = ...,
        betas: Pair = ...,
        eps: Number = ...,
        weight_decay: Number = ...,
        gamma: Number = ...,
        *,
        maximize: bool = ...,
        decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
        max_lr: Number = ...,
        num_threads: int | None = ...,
        on_nonfinite: Literal["propagate", "skip", "raise"] = ...,
        state_dtype: Literal["bfloat16", "int8"] | None = ...,
        master_weights: bool = ...,
        weight_rounding: Literal["stochastic", "nearest"] | None = ...,
        seed: int = ...,
        follow: bool = ...,
        strict_grads: bool = ...,
        clip_norm: Number | None = ...,
        clip_norm_per_tensor: Number | None = ...,
        clip_value: Number | None = ...,
        grad_scale: Number = ...,
        max_skips: int | Callable[[int], float] | None = ...,
        accumulate: int | Callable[[int], float] = ...,
        accumulate_form: Literal["mean", "sum"] = ...,
        centralize: bool = ...,
        adaptive_clip: float | tuple[float, float] | None = ...,
        adaptive_clip_head: bool = ...,
        unit_layout: Literal["in_out", "out_in"] = ...,
        clip_update_rms: Number | None = ...,
        cautious: bool = ...,
        project: Literal["nonnegative"] | tuple[float, float] | None = ...,
        zero_grad: bool = ...,
        lookahead: tuple[int, float] | None = ...,
        ema_decay: Number | None = ...,
    ) -> None: ...

class Rprop(Optimizer):
    def __init__(
        self,
        params: Params,
        lr: Number = ...,
        etas: Pair = ...,
        step_sizes: Pair = ...,
        weight_decay: Number = ...,
        *,
        maximize: bool = ...,
        decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
        max_lr: Number = ...,
        num_threads: int | None = ...,
        on_nonfinite: Literal["propagate", "skip", "raise"] = ...,
        state_dtype: Literal["bfloat16", "int8"] | None = ...,
        master_weights: bool = ...,
        weight_rounding: Literal["stochastic", "nearest"] | None = ...,
        seed: int = ...,
        follow: bool = ...,
        strict_grads: bool = ...,
        clip_norm: Number | None = ...,
        clip_norm_per_tensor: Number | None = ...,
        clip_value: Number | None = ...,
        grad_scale: Number = ...,
        max_skips: int | Callable[[int], float] | None = ...,
        accumulate: int | Callable[[int], float] = ...,
        accumulate_form: Literal["mean", "sum"] = ...,
        centralize: bool = ...,
        adaptive_clip: float | tuple[float, float] | None = ...,
        adaptive_clip_head: bool = ...,
        unit_layout: Literal["in_out", "out_in"] = ...,
        clip_update_rms: Number | None = ...,
        cautious: bool = ...,
        project: Literal["nonnegative"] | tuple[float, float] | None = ...,
        zero_grad: bool = ...,
        lookahead: tuple[int, float] | None = ...,
        ema_decay: Number | None = ...,
    ) -> None: ...

class Adafactor(Optimizer):
    def __init__(
        self,
        params: Params,
        lr: Number = ...,
        beta2_decay: Number = ...,
        eps: Pair = ...,
        d: Number = ...,
        weight_decay: Number = ...,
        *,
        maximize: bool = ...,
        decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
        max_lr: Number = ...,
        num_threads: int | None = ...,
        on_nonfinite: Literal["propagate", "skip", "raise"] = ...,
        state_dtype: Literal["bfloat16", "int8"] | None = ...,
        master_weights: bool = ...,
        weight_rounding: Literal["stochastic", "nearest"] | None = ...,
        seed: int = ...,
        follow: bool = ...,
        strict_grads: bool = ...,
        clip_norm: Number | None = ...,
        clip_norm_per_tensor: Number | None = ...,
        clip_value: Number | None = ...,
        grad_scale: Number = ...,
        max_skips: int | Callable[[int], float] | None = ...,
        accumulate: int | Callable[[int], float] = ...,
        accumulate_form: Literal["mean", "sum"] = ...,
        centralize: bool = ...,
        adaptive_clip: float | tuple[float, float] | None = ...,
        adaptive_clip_head: bool = ...,
        unit_layout: Literal["in_out", "out_in"] = ...,
        clip_update_rms: Number | None = ...,
        cautious: bool = ...,
        project: Literal["nonnegative"] | tuple[float, float] | None = ...,
        zero_grad: bool = ...,
        lookahead: tuple[int, float] | None = ...,
        ema_decay: Number | None = ...,
    ) -> None: ...

class Muon(Optimizer):
    def __init__(
        self,
        params: Params,
        lr: Number = ...,
        weight_decay: Number = ...,
        momentum: Number = ...,
        nesterov: bool = ...,
        ns_coefficients: Literal["original", "quintic", "polar_express"] | Triple = ...,
        eps: Number = ...,
        ns_steps: int = ...,
        adjust_lr_fn: Literal["original", "match_rms_adamw"] = ...,
        layout: Literal["in_out", "out_in"] = ...,
        *,
        maximize: bool = ...,
        decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
        max_lr: Number = ...,
        num_threads: int | None = ...,
        on_nonfinite: Literal["propagate", "skip", "raise"] = ...,
        state_dtype: Literal["bfloat16", "int8"] | None = ...,
        master_weights: bool = ...,
        weight_rounding: Literal["stochastic", "nearest"] | None = ...,
        seed: int = ...,
        follow: bool = ...,
        strict_grads: bool = ...,
        clip_norm: Number | None = ...,
        clip_norm_per_tensor: Number | None = ...,
        clip_value: Number | None = ...,
        grad_scale: Number = ...,
        max_skips: int | Callable[[int], float] | None = ...,
        accumulate: int | Callable[[int], float] = ...,
        accumulate_form: Literal["mean", "sum"] = ...,
        centralize: bool = ...,
        adaptive_clip: float | tuple[float, float] | None = ...,
        adaptive_clip_head: bool = ...,
        unit_layout: Literal["in_out", "out_in"] = ...,
        clip_update_rms: Number | None = ...,
        cautious: bool = ...,
        project: Literal["nonnegative"] | tuple[float, float] | None = ...,
        zero_grad: bool = ...,
        lookahead: tuple[int, float] | None = ...,
        ema_decay: Number | None = ...,
    ) -> None: ...

class NorMuon(Optimizer):
    def __init__(
        self,
        params: Params,
        lr: Number = ...,
        weight_decay: Number = ...,
        momentum: Number = ...,
        beta2: Number = ...,
        nesterov: bool = ...,
        ns_coefficients: Literal["original", "quintic", "polar_express"] | Triple = ...,
        eps: Number = ...,
        ns_steps: int = ...,
        adjust_lr_fn: Literal["original", "match_rms_adamw", "rms"] = ...,
        layout: Literal["in_out", "out_in"] = ...,
        *,
        maximize: bool = ...,
        decay_form: Literal["l2", "decoupled", "independent", "corrected", "cautious"] = ...,
        max_lr: Number = ...,
        num_threads: int | None = ...,
        on_nonfinite: Literal["propagate", "skip", "raise"] = ...,
        state_dtype: Literal["bfloat16", "int8"] | None = ...,
        master_weights: bool = ...,
        weight_rounding: Literal["stochastic", "nearest"] | None = ...,
        seed: int = ...,
        follow: bool = ...,
        strict_grads: bool = ...,
        clip_norm: Number | None = ...,
        clip_norm_per_tensor: Number | None = ...,
        clip_value: Number | None = ...,
        grad_scale: Number = ...,
        max_skips: int | Callable[[int], float] | None = ...,
        accumulate: int | Callable[[int], float] = ...,
        accumulate_form: Literal["mean", "sum"] = ...,
        centralize: bool = ...,
        adaptive_clip: float | tuple[float, float] | None = ...,
        adaptive_clip_head: bool = ...,
        unit_layout: Literal["in_out", "out_in"] = ...,
        clip_update_rms: Number | None = ...,
        cautious: bool = ...,
        project: Literal["nonnegative"] | tuple[float, float] | None = ...,
        zero_grad: bool = ...,
        lookahead: tuple[int, float] | None = ...,
        ema_decay: Number | None = ...,
    ) -> None: ...

class Mixed(Optimizer):
    def __init__(
        self,
        params: Params,
        num_threads: int | None = ...,
        on_nonfinite: Literal["propagate", "skip", "raise"] = ...,
        state_dtype: Literal["bfloat16", "int8"] | None = ...,
        master_weights: bool = ...,
        weight_rounding: Literal["stochastic", "nearest"] | None = ...,
        seed: int = ...,
        follow: bool = ...,
        strict_grads: bool = ...,
        clip_norm: Number | None = ...,
        clip_norm_per_tensor: Number | None = ...,
        clip_value: Number | None = ...,
        grad_scale: Number = ...,
        max_skips: int | Callable[[int], float] | None = ...,
        accumulate: int | Callable[[int], float] = ...,
        accumulate_form: Literal["mean", "sum"] = ...,
        centralize: bool = ...,
        adaptive_clip: float | tuple[float, float] | None = ...,
        adaptive_clip_head: bool = ...,
        unit_layout: Literal["in_out", "out_in"] = ...,
        clip_update_rms: Number | None = ...,
        cautious: bool = ...,
        project: Literal["nonnegative"] | tuple[float, float] | None = ...,
        zero_grad: bool = ...,
        lookahead: tuple[int, float] | None = ...,
        ema_decay: Number | None = ...,
    ) -> None: ...
