"""Options that a step takes along, and their references."""

import itertools

import numpy as np
from conftest import (
    ISAS,
    assert_same_bits,
    copies,
    ordinary,
    possible,
)

import optkern
from optkern import reference
from optkern.kernels import runtime
from optkern.kernels.rules import OPTION_SLOTS
from optkern.optimizers import CLASSES
from optkern.optimizers.layers import heads_of

SHAPES = ((6, 5), (4,), (), (2, 0), (3, 2, 4))

AXES = {
    "clip_norm": (None, 2.0),
    "clip_norm_per_tensor": (None, 1.5),
    "clip_value": (None, 0.25),
    "grad_scale": (1.0, 3.0),
    "accumulate": (1, 2),
    "accumulate_form": ("mean", "sum"),
    "zero_grad": (False, True),
    "lookahead": (None, (2, 0.4)),
    "ema_decay": (None, 0.9),
}

# What has come later is crossed with all of these by pairs.
MORE = {
    "centralize": (False, True),
    "adaptive_clip": (None, (0.25, 0.01)),
    "adaptive_clip_head": (False, True),
    "unit_layout": ("in_out", "out_in"),
    "clip_update_rms": (None, 0.5),
    "cautious": (False, True),
    "max_skips": (None, 9),
    "project": (None, (-1.0, 0.75)),
}

EVERYTHING = {name: values[1] for name, values in (AXES | MORE).items()}


def allowed(rule, options):
    """What a rule takes of options; a limit of skips only where there are any."""
    kept = possible(rule, options)
    if kept.get("on_nonfinite") != "skip":
        kept.pop("max_skips", None)
    return kept


def by_pairs(axes):
    """Settings in which every two values of different axes occur together: few of them."""
    open_pairs = {
        frozenset([(a, x), (b, y)])
        for a, b in itertools.combinations(axes, 2)
        for x, y in itertools.product(axes[a], axes[b])
    }
    found = []
    while open_pairs:
        setting = dict(min(open_pairs, key=lambda pair: sorted(map(repr, pair))))
        for name in axes:
            if name not in setting:
                setting[name] = max(
                    axes[name],
                    key=lambda x, name=name: sum(
                        frozenset([(name, x), pair]) in open_pairs for pair in setting.items()
                    ),
                )
        found.append({name: setting[name] for name in axes})
        open_pairs -= {frozenset(two) for two in itertools.combinations(setting.items(), 2)}
    return found


def arrays(seed=0, dtype=np.float64, shapes=SHAPES):
    return [
        ordinary(dtype, int(np.prod(s)), 100 * seed + k).reshape(s) for k, s in enumerate(shapes)
    ]


class Twin:
    """An optimizer written with the reference alone."""

    stored = None  # the dtypes of what these are masters of

    def __init__(self, rule, params, hyperparameters=None, **options):
        self.rule, self.params, self.options = rule, copies(params), options
        heads = heads_of(dict(enumerate(self.params)))
        self.heads = [i in heads for i in range(len(params))]
        self.hyper = [{**rule.hyperparameters, **(hyperparameters or {})} for _ in params]
        settings = {name: keyword.default for name, keyword in rule.settings.items()}
        self.state = {
            slot: [
                np.full_like(p, rule.start_of(slot, settings | own, p))
                for p, own in zip(params, self.hyper, strict=True)
            ]
            for slot in rule.state
        }
        self.state |= {slot: copies(params) for slot in ("slow", "ema")}
        self.taken = [0] * len(params)
        self.held, self.calls = [None] * len(params), 0
        self.norm = None

    def step(self, grads):
        self.calls += 1
        if self.calls < self.options.get("accumulate", 1):
            self.held = reference.accumulate(self.held, grads)
            if self.options.get("zero_grad"):
                zero(grads)
            return False
        active = [h is not None or g is not None for h, g in zip(self.held, grads, strict=True)]
        for i, on in enumerate(active):
            self.hyper[i]["step"] = self.taken[i] + 1
            self.taken[i] += on
        self.norm = reference.fused_step(
            self.rule, self.params, grads, self.state, self.hyper, self.held, self.calls,
            self.stored, self.heads, **self.options,
        )  # fmt: skip
        for hyper, on in zip(self.hyper, active, strict=True):
            if on and self.rule.carried:
                hyper |= reference.Constants(self.rule, hyper, np.dtype(np.float64)).carried
        self.held, self.calls = [None] * len(grads), 0
        return True


def zero(grads):
    for g in grads:
        if g is not None:
            g[...] = 0


def assert_equal_twin(opt, twin, hyperparameters=None):
    assert_same_bits(opt.params, twin.params)
    hyper = {**twin.rule.hyperparameters, **(hyperparameters or {})}
    slots = [slot for slot in twin.rule.state if twin.rule.needs(slot, hyper)]
    slots += [slot for slot in ("slow", "ema") if twin.options.get(OPTION_SLOTS[slot])]
    for i, entry in enumerate(opt.state.values()):
        for slot in slots:
            assert_same_bits(entry[slot], twin.state[slot][i])


def with_gaps(calls):
    """Calls in which one gradient or another is missing."""
    return [
        [None if (k + i) % 4 == 3 else g for i, g in enumerate(grads)]
        for k, grads in enumerate(calls)
    ]


def whole():
    """An optimizer with everything on, in the middle of an accumulation."""
    opt = optkern.Adam(arrays(), on_nonfinite="skip", **EVERYTHING)
    for grads in with_gaps([arrays(seed) for seed in range(1, 8)]):
        opt.step(grads)
    assert opt.steps == 3 and opt.state_dict()["accumulated"] == 1
    return opt


def run_of_every_order(shapes, count=4):
    """Parameters of these shapes, the second strided and the fourth in Fortran order; gradients."""
    start = [ordinary(np.float32, int(np.prod(s)), k).reshape(s) for k, s in enumerate(shapes)]
    start[3], start[1] = np.asfortranarray(start[3]), np.repeat(start[1], 2, axis=1)[:, ::2]
    calls = [
        [ordinary(np.float32, p.size, 9 * k + j).reshape(p.shape) for j, p in enumerate(start)]
        for k in range(count)
    ]
    return start, calls


def assert_no_order_shows(rule, start, calls, hyper, **options):
    """Every instruction set, with one and several threads, ends where the reference does."""
    twin = Twin(rule, start, hyper, **options)
    for grads in calls:
        twin.step(copies(grads))
    for isa, threads in itertools.product(ISAS, (1, 3)):
        runtime.use_isa(isa)
        params = [p.copy(order="K") for p in start]
        params[1] = np.repeat(start[1], 2, axis=1)[:, ::2]
        opt = CLASSES[rule.name](params, num_threads=threads, **hyper, **options)
        for grads in calls:
            opt.step(copies(grads))
        assert_equal_twin(opt, twin, hyper)
