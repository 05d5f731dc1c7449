"""What optimizers of other libraries are here, where they go by another name."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

_BY_KIND = "Mixed(optkern.groups(params, muon=True))"
# Each is an expression: of params, their grads, and of rows of them.
ELSEWHERE = {
    "AGC": "SGD(params, adaptive_clip=0.01)",
    "AMSGrad": "Adam(params, amsgrad=True)",
    "Adam8bit": "Adam(params, state_dtype='int8')",
    "AdamC": "AdamW(params, decay_form='corrected', max_lr=1e-3)",
    "AdamW8bit": "AdamW(params, state_dtype='int8')",
    "AdamWScheduleFree": "ScheduleFreeAdamW(params)",
    "AveragedModel": "AdamW(params, ema_decay=0.999)",
    "CAdamW": "AdamW(params, cautious=True)",
    "CLion": "Lion(params, cautious=True)",
    "CautiousAdamW": "AdamW(params, cautious=True)",
    "CautiousLion": "Lion(params, cautious=True)",
    "EMA": "AdamW(params, ema_decay=0.999)",
    "LazyAdam": "Adam(params, eps_form='raw').step_rows(rows, grads)",
    "Lookahead": "AdamW(params, lookahead=(5, 0.5))",
    "ModelEMA": "AdamW(params, ema_decay=0.999)",
    "Momentum": "SGD(params, momentum=0.9)",
    "MomentumSGD": "SGD(params, momentum=0.9)",
    "MuonWithAuxAdam": _BY_KIND,
    "NAG": "SGD(params, momentum=0.9, nesterov=True)",
    "NAdamW": "NAdam(params, decay_form='decoupled', weight_decay=0.01)",
    "Nesterov": "SGD(params, momentum=0.9, nesterov=True)",
    "RAdamScheduleFree": "ScheduleFreeRAdam(params)",
    "RAdamW": "RAdam(params, decay_form='decoupled', weight_decay=0.01)",
    "SGDScheduleFree": "ScheduleFreeSGD(params)",
    "SGDW": "SGD(params, decay_form='decoupled', weight_decay=0.01)",
    "SignSGD": "Lion(params, betas=(0.0, 0.0))",
    "Signum": "Lion(params, betas=(0.9, 0.9))",
    "SingleDeviceMuonWithAuxAdam": _BY_KIND,
    "SparseAdam": "Adam(params, eps_form='raw').step_rows(rows, grads)",
    "StableAdamW": "AdamW(params, clip_update_rms=1.0)",
    "Tiger": "Lion(params, betas=(0.965, 0.965))",
}
_BARE = {name.lower(): name for name in ELSEWHERE}
# The public modules whose names may be looked for beside them.
_ROOMS = ("curvature", "schedules", "solvers", "integrations")


def where(name: str) -> str:
    """Say what a name that `optkern` does not have is here, or where it is; '' if nobody knows."""
    if other := _BARE.get(name.replace("_", "").lower()):
        return f"it is optkern.{ELSEWHERE[other]}"
    for room in () if name.startswith("_") else _ROOMS:
        if name in _names_of(room):
            return f"it is optkern.{room}.{name}"
    return ""


def _names_of(room: str) -> Iterable[str]:
    return getattr(import_module(f"optkern.{room}"), "__all__", ())
