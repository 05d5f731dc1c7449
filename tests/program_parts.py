"""What `programs.py` makes programs of: arrays in any layout, structures, values, calls."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from optkern.kernels import codecs, runtime
from optkern.rules import (
    MATRIX_RULES,
    ON_NONFINITE,
    RULES,
    Choice,
    Count,
    Numbers,
    Real,
    Switch,
    refuse_option,
)

# Of the rules that are of whole parameters those whose steps are of each one alone, and not BLAS'.
FUZZED = [*RULES, *(rule for rule in MATRIX_RULES if not (rule.matrices or rule.pool))]
BY_NAME = {rule.name: rule for rule in FUZZED}

# --------------------------------------------------------------------------- arrays

LAYOUTS = ("C", "F", "strided", "reversed", "turned", "unaligned")
FORMS = (*LAYOUTS, "broadcast", "read-only", "swapped", "float64", "float32", "float16", "long")
BAD = ("shape", "int", "complex", "list", "object", "none of these")
FLAVOURS = ("ordinary", "small", "tiny", "large", "huge", "zeros", "mixed")


def values_of(shape, flavour, seed):
    """Numbers in double precision, some of them at the ends of float32's range."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    scale = {"small": 1e-6, "tiny": 1e-36, "large": 1e6, "huge": 1e30, "zeros": 0.0}
    x = np.asarray(x * scale.get(flavour, 1.0))
    if flavour == "mixed":
        x = x * 10.0 ** rng.integers(-44, 38, shape)
    if flavour in ("nan", "inf") and x.size:
        x.reshape(-1)[rng.integers(x.size)] = np.nan if flavour == "nan" else -np.inf
    return x


def laid(a, layout):
    """These values in an array that lies otherwise in memory."""
    if layout == "F":
        return np.array(a, order="F")
    if layout == "strided":
        room = np.full([2 * n + 1 for n in a.shape], np.nan, a.dtype)
        view = room[(..., *(slice(1, 2 * n + 1, 2) for n in a.shape))]
    elif layout == "reversed":
        view = np.empty(a.shape, a.dtype)[(..., *[slice(None, None, -1)] * a.ndim)]
    elif layout == "turned":
        axes = list(range(a.ndim))
        axes = axes[1:] + axes[:1]
        view = np.empty([a.shape[k] for k in axes], a.dtype).transpose(np.argsort(axes))
    elif layout == "unaligned":
        room = np.empty(a.nbytes + 1, np.uint8)
        view = room[1:].view(a.dtype).reshape(a.shape)
    else:
        return np.array(a, order="C")
    view[...] = a
    return view


def gradient_of(p, form, flavour, seed):
    """A gradient of a parameter, in a form that is taken or, of BAD, refused."""
    with np.errstate(all="ignore"):
        g = values_of(p.shape, flavour, seed)
        if form == "broadcast":
            return np.broadcast_to(p.dtype.type(g.flat[0] if g.size else 1.0), p.shape)
        if form == "shape":
            return np.zeros((*p.shape, 2), p.dtype)
        if form in ("int", "complex", "object"):
            return g.astype({"int": np.int64, "complex": np.complex128, "object": object}[form])
        if form == "list":
            return [1.0]
        if form == "none of these":
            return "gradient"
        if form == "long":
            return g.astype(np.longdouble)
        if form.startswith("float"):
            return g.astype(form)
        g = g.astype(p.dtype)
    if form == "swapped":
        return g.astype(g.dtype.newbyteorder()) if codecs.kind_of(g.dtype) != 1 else g
    g = laid(g, form)
    g.flags.writeable = form != "read-only"
    return g


class Over:
    """A schedule that can be pickled."""

    def __init__(self, first, stretch=1.0):
        self.first, self.stretch = first, stretch

    def __call__(self, step):
        return self.first / (1.0 + self.stretch * step)

    def __repr__(self):
        return f"Over({self.first!r}, {self.stretch!r})"


# --------------------------------------------------------------------------- structures

ARRANGED = ("one", "list", "tuple", "dict", "nested", "groups", "named groups")


def arranged(kind, arrays):
    """Arrays, or gradients of them, in a structure. (Groups: `groups_of`.)"""
    if kind == "one":
        return arrays[0]
    if kind == "dict":
        return {f"w{k}": a for k, a in enumerate(arrays)}
    if kind == "nested":
        return {"a": [arrays[0], {"b": tuple(arrays[1:])}]} if arrays[1:] else {"a": [arrays[0]]}
    return tuple(arrays) if kind == "tuple" else list(arrays)


def parts(kind, count):
    """How many parameters are in each group."""
    return [(count + 1) // 2, count // 2] if kind.endswith("groups") and count > 1 else [count]


def groups_of(kind, arrays, added=0):
    """One structure, or a list with one for each group; the last `added` arrays are alone."""
    first, rest = arrays[: len(arrays) - added], arrays[len(arrays) - added :]
    if not kind.endswith("groups"):
        found = [arranged(kind, first)]
    else:
        found, start = [], 0
        for k, size in enumerate(parts(kind, len(first))):
            own = first[start : start + size]
            named = {f"g{k}w{j}": a for j, a in enumerate(own)}
            found.append(named if kind == "named groups" else own)
            start += size
    found += [[a] for a in rest]
    return found if kind.endswith("groups") or added else found[0]


# --------------------------------------------------------------------------- strategies


def numbers_in(domain):
    """Some values of a hyperparameter's domain."""
    if isinstance(domain, Switch):
        return st.booleans()
    if isinstance(domain, Choice):
        return st.sampled_from(domain.words)
    if isinstance(domain, Count):
        return st.integers(domain.low, domain.low + 5)
    if isinstance(domain, Numbers):
        return st.tuples(*map(numbers_in, domain.parts))
    if isinstance(domain, Real):
        tried = (0.0, 1e-8, 1e-3, 0.1, 0.5, 0.9, 0.999, 1.0, 1.5, 3.0)
        return st.sampled_from([x for x in tried if domain.check(x) is not None])
    return st.nothing()


AROUND = {
    "clip_norm": (0.5, 3.0, np.inf, Over(2.0)),
    "clip_norm_per_tensor": (0.4, 2.0),
    "clip_value": (0.3, Over(1.0)),
    "grad_scale": (0.25, 3.0, 1024.0),
    "max_skips": (1, 2),
    "accumulate": (2, 3),
    "accumulate_form": ("sum",),
    "centralize": (True,),
    "adaptive_clip": (0.1, (0.25, 0.01)),
    "adaptive_clip_head": (True,),
    "unit_layout": ("out_in",),
    "clip_update_rms": (0.5, 1.0),
    "cautious": (True,),
    "project": ((-1.0, 0.75), (0.0, np.inf)),
    "zero_grad": (True,),
    "lookahead": ((2, 0.4), (1, 1.0)),
    "ema_decay": (0.9, 0.0, Over(0.9)),
}
WRITTEN = ("clip_norm", "clip_norm_per_tensor", "clip_value", "grad_scale", "cautious", "zero_grad")

sizes = st.one_of(st.integers(0, 7), st.sampled_from((16, 17, 255, 257)))
shapes = st.one_of(
    st.just(()),
    st.tuples(sizes),
    st.tuples(sizes, st.integers(0, 9)),
    st.tuples(*[st.integers(1, 4)] * 3),
    st.sampled_from(((4097,), (70, 66), (20011,), (3, 1, 2, 3))),
)
seeds = st.integers(0, 2**16)


@st.composite
def programs(draw):
    """A program: what is constructed, and calls with their arguments."""
    rule = draw(st.sampled_from(FUZZED))
    count = draw(st.integers(1, 4))
    kinds = ARRANGED if count == 1 else ARRANGED[1:]
    mixed = draw(st.booleans())
    halves = draw(st.integers(0, 3)) == 0
    dtypes = ("float16", "bfloat16", "float32") if halves else ("float32", "float64")
    common = draw(st.sampled_from(dtypes))
    params = [
        (
            draw(shapes),
            draw(st.sampled_from(dtypes)) if mixed else common,
            draw(st.sampled_from(LAYOUTS)),
        )
        for _ in range(count)
    ]
    storage = {}
    if halves:
        storage["master_weights"] = draw(st.booleans())
        if not storage["master_weights"]:
            storage["weight_rounding"] = draw(st.sampled_from(("stochastic", "nearest")))
    if "float64" not in [dtype for _, dtype, _ in params] and draw(st.integers(0, 3)) == 0:
        storage["state_dtype"] = draw(st.sampled_from(("bfloat16", "int8")))
        storage["seed"] = draw(st.integers(0, 5))
    hyper = draw(hyperparameters(rule, 3))
    on_nonfinite = draw(st.sampled_from(ON_NONFINITE))
    around = {}
    for name in draw(st.lists(st.sampled_from(sorted(AROUND)), unique=True, max_size=4)):
        try:
            refuse_option(rule.name, name, rule)
        except ValueError:
            continue
        if name != "max_skips" or on_nonfinite == "skip":  # else it is refused
            around[name] = draw(st.sampled_from(AROUND[name]))
    return {
        "rule": rule.name,
        "arranged": draw(st.sampled_from(kinds)),
        "params": params,
        "flavour": draw(st.sampled_from(FLAVOURS)),
        "hyper": hyper,
        "second": draw(hyperparameters(rule, 1)),
        "around": around,
        "storage": storage,
        "on_nonfinite": on_nonfinite,
        "threads": draw(st.sampled_from((None, 1, 2, 3))),
        "isa": draw(st.sampled_from(runtime.AVAILABLE_ISAS)),
        "calls": draw(st.lists(calls(rule, count), min_size=1, max_size=9)),
    }


@st.composite
def hyperparameters(draw, rule, most):
    """A few hyperparameters of a rule that go together."""
    names = [name for name in rule.hyperparameters if name != "step" and name not in rule.carried]
    chosen = {}
    for name in draw(st.lists(st.sampled_from(names), unique=True, max_size=most)):
        value = draw(numbers_in(rule.domain(name)))
        if name == "lr" and value and draw(st.booleans()):
            value = Over(value)
        tried = {**rule.hyperparameters, **chosen, name: value}
        tried = {k: v(0) if callable(v) else v for k, v in tried.items()}
        if tried.get("decay_form") == "corrected":
            tried["max_lr"] = 4.0
        try:
            rule.check(rule.name, tried)
        except ValueError:
            continue
        chosen[name] = value
    # A largest rate that nothing reads is refused, and a rate beyond it.
    chosen.pop("max_lr", None)
    if chosen.get("decay_form") == "corrected":
        chosen["max_lr"] = 4.0
    return chosen


def calls(rule, count):
    """A call: its name and arguments."""
    forms = st.one_of(st.just("C"), st.sampled_from(FORMS))
    flavours = st.one_of(st.just("ordinary"), st.sampled_from((*FLAVOURS, "nan", "inf")))
    gradient = st.one_of(*[st.tuples(forms, flavours, seeds)] * 5, st.none())
    gradients = st.lists(gradient, min_size=count, max_size=count)
    step = st.tuples(st.just("step"), gradients)
    bad = st.tuples(st.just("bad step"), gradients, st.integers(0, count - 1), st.sampled_from(BAD))
    which = st.one_of(st.none(), st.just("all"), st.lists(st.integers(0, 2**20), max_size=6))
    rows = st.tuples(
        st.just("rows"), st.lists(st.tuples(which, flavours, seeds), min_size=count, max_size=count)
    )
    others = [
        bad,
        st.tuples(st.just("missing"), st.integers(0, count - 1)),
        st.tuples(st.just("set lr"), st.integers(0, 3), st.sampled_from((0.0, 0.01, 1.0, "over"))),
        st.sampled_from(WRITTEN).flatmap(
            lambda name: st.tuples(
                st.just("set option"), st.just(name), st.sampled_from((*AROUND[name], None))
            )
        ),
        st.tuples(st.just("set threads"), st.sampled_from((None, 1, 2, 3))),
        st.tuples(st.just("reset"), st.one_of(st.none(), st.integers(0, 5))),
        st.tuples(st.just("add"), shapes, st.sampled_from((0.01, 0.5)), seeds),
        st.tuples(st.just("write"), st.integers(0, 5), seeds),
        st.tuples(st.just("rebind"), st.sampled_from(LAYOUTS)),
        *map(
            st.tuples,
            map(
                st.just,
                ("flush", "averaged", "pickle", "copy", "save", "load", "reload", "anew"),
            ),
        ),
    ]
    return st.one_of(step, step, step, rows, st.one_of(others), st.one_of(others))
