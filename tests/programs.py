"""Random programs: an optimizer of any rule over any structure, and what is done to it.

Each call is done to `modelled.Model` too, in NumPy, and all that there is to see is compared after
it, bit for bit. An error is to come where the model has one, and must change nothing.

`python tests/programs.py 100000 --seed 1` runs so many (`make fuzz`) and prints a program that
fails, made small, as Python.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import pickle
import sys
import tempfile
import time
import warnings
from pathlib import Path

import hypothesis
import numpy as np
from conftest import assert_same_bits
from modelled import Model
from program_parts import (
    BY_NAME,
    Over,
    gradient_of,
    groups_of,
    laid,
    parts,
    programs,
    values_of,
)

import optkern
from optkern.kernels import codecs, runtime

BATCH = 1000  # programs that hypothesis chooses together

# --------------------------------------------------------------------------- running


class Refused(Exception):
    """The constructor refuses these together."""


class Run:
    """Run a program on an optimizer and on its model."""

    def __init__(self, program, folder):
        self.program, self.path = program, folder / "run.npz"
        rule, self.kind = BY_NAME[program["rule"]], program["arranged"]
        self.added = 0
        self.arrays = [
            laid(start_of(shape, dtype, program["flavour"], k), layout)
            for k, (shape, dtype, layout) in enumerate(program["params"])
        ]
        self.saved = None
        try:
            self.opt = self.constructed(self.arrays)
        except (TypeError, ValueError) as error:
            raise Refused(str(error)) from None
        members = [k for k, n in enumerate(parts(self.kind, len(self.arrays))) for _ in range(n)]
        groups = [program["hyper"], {**program["hyper"], **program["second"]}][: max(members) + 1]
        self.model = Model(
            rule, self.arrays, members, groups, program["around"], list(self.opt.state),
            **program["storage"],
        )  # fmt: skip
        self.model.on_nonfinite = program["on_nonfinite"]

    def constructed(self, arrays):
        program = self.program
        self.params = groups_of(self.kind, arrays)
        if self.kind.endswith("groups"):
            own = [{}, program["second"]]
            self.params = [{"params": p, **more} for p, more in zip(self.params, own, strict=False)]
        return getattr(optkern, BY_NAME[program["rule"]].class_name)(
            self.params, **program["hyper"], **program["around"], **program["storage"],
            on_nonfinite=program["on_nonfinite"], num_threads=program["threads"],
        )  # fmt: skip

    def run(self):
        self.compare()
        for name, *arguments in self.program["calls"]:
            getattr(self, name.replace(" ", "_"))(*arguments)
            self.compare()

    def structured(self, grads):
        return groups_of(self.kind, grads, self.added)

    def outcome(self, expected, function, *arguments):
        """Call it; what it gives, or the error that it raises, is the model's."""
        if isinstance(expected, (tuple, type)):
            try:
                got = function(*arguments)
            except expected:
                return
            raise AssertionError(f"{expected} must come, got {got}")
        got = function(*arguments)
        assert got is expected, (got, expected)

    def gradients(self, specs):
        """Gradients by their forms; parameters that have come later get ordinary ones."""
        specs = [*specs, *[("C", "ordinary", 1)] * (len(self.arrays) - len(specs))]
        return [
            None if spec is None else gradient_of(p, *spec)
            for p, spec in zip(self.arrays, specs, strict=True)
        ]

    # ----------------------------------------------------------------- calls

    def step(self, specs):
        mine, theirs = self.gradients(specs), self.gradients(specs)
        expected = self.model.step(theirs)
        self.outcome(expected, self.opt.step, self.structured(mine))
        self.compare_gradients(expected, mine, theirs)

    def compare_gradients(self, expected, mine, theirs):
        """Their norm, where a step has taken it, and what they are after it."""
        if expected is True and self.model.options["clip_norm"] is not None:
            norm = self.opt.last_grad_norm
            assert same_number(norm, self.model.norm), (norm, self.model.norm)
        for a, b in zip(mine, theirs, strict=True):
            if a is not None:
                assert np.array_equal(raw(a), raw(b), equal_nan=True), "gradients"

    def bad_step(self, specs, where, form):
        grads = self.gradients(specs)
        grads[where] = gradient_of(self.arrays[where], form, "ordinary", 0)
        self.outcome((TypeError, ValueError), self.opt.step, self.structured(grads))

    def missing(self, where):
        """A structure that is not the parameters'."""
        grads = self.gradients([])
        if self.kind == "one" and not self.added:
            self.outcome((TypeError, ValueError), self.opt.step, grads)
        else:
            wrong = self.structured(grads)
            wrong = dict(list(wrong.items())[:-1]) if isinstance(wrong, dict) else wrong[:-1]
            self.outcome((TypeError, ValueError), self.opt.step, wrong)

    def rows(self, specs):
        specs = [*specs, *[("all", "ordinary", 1)] * (len(self.arrays) - len(specs))]
        if any(codecs.kind_of(p.dtype) for p in self.arrays):
            return  # whose rounding is `test_rows`' business
        rows, grads = [], []
        for p, (which, flavour, seed) in zip(self.arrays, specs, strict=True):
            if which is None or (p.ndim == 0 and which != "all"):
                rows.append(None)
                grads.append(None)
                continue
            whole = which == "all"
            which = [] if whole or not len(p) else [k % len(p) for k in which]
            shape = p.shape if whole else (len(which), *p.shape[1:])
            with np.errstate(all="ignore"):
                grads.append(values_of(shape, flavour, seed).astype(p.dtype))
            rows.append(... if whole else np.array(which, dtype=np.intp))
        theirs = [None if g is None else g.copy() for g in grads]
        expected = self.model.step_rows(rows, theirs)
        self.outcome(expected, self.opt.step_rows, self.structured(rows), self.structured(grads))
        self.compare_gradients(expected, grads, theirs)

    def flush(self):
        self.outcome(self.model.step([None] * len(self.arrays), flush=True), self.opt.flush)

    def set_lr(self, group, value):
        value = Over(0.5, 0.5) if value == "over" else value
        group %= len(self.model.groups)
        try:
            self.opt.param_groups[group]["lr"] = value
        except ValueError:
            return  # FTRL has no rate of 0
        self.model.groups[group]["lr"] = value

    def set_option(self, name, value):
        value = self.model_default(name) if value is None else value
        try:
            setattr(self.opt, name, value)
        except (TypeError, ValueError):
            return
        self.model.options[name] = value

    def model_default(self, name):
        return {"grad_scale": 1.0, "cautious": False, "zero_grad": False}.get(name)

    def set_threads(self, value):
        self.opt.num_threads = value

    def reset(self, where):
        label = None if where is None else self.model.labels[where % len(self.arrays)]
        self.opt.reset(label)
        self.model.reset(label)

    def add(self, shape, lr, seed):
        dtype = self.arrays[0].dtype
        with np.errstate(all="ignore"):
            p = values_of(shape, "ordinary", seed).astype(dtype)
        group = {"params": [p], "lr": lr}
        before = len(self.opt.params)
        self.opt.add_param_group(group)
        self.added += 1
        self.arrays.append(p)
        hyper = {**self.program["hyper"], "lr": lr}
        self.model.add([p], list(self.opt.state)[before:], hyper)

    def write(self, where, seed):
        """Other weights in a parameter; masters know nothing of it."""
        where %= len(self.arrays)
        p = self.arrays[where]
        if self.model.has_master(where) and self.model.taken[where]:
            return
        new = values_of(p.shape, "ordinary", seed).astype(p.dtype)
        p[...] = self.model.params[where][...] = new

    def rebind(self, layout):
        self.arrays = [laid(p, layout) for p in self.arrays]
        new = self.structured(self.arrays)
        if self.kind.endswith("groups") or self.added:
            new = [{"params": p} for p in new]
        self.opt.rebind(new)

    def averaged(self):
        expected = self.model.averaged()
        if isinstance(expected, type):
            self.outcome(expected, self.opt.swap_in)
            return
        with self.opt.averaged():
            assert_same_bits([np.asarray(raw(p)) for p in self.opt.params], [*map(raw, expected)])
            grads = self.structured(self.gradients([]))
            self.outcome(RuntimeError, self.opt.step, grads)

    def pickle(self):
        self.arrays, self.opt = pickle.loads(pickle.dumps((self.arrays, self.opt)))

    def copy(self):
        self.arrays, self.opt = copy.deepcopy((self.arrays, self.opt))

    def save(self):
        optkern.save(self.path, self.opt)
        self.saved = self.model.saved()

    def load(self):
        if self.saved is None:
            return
        loaded = self.model.loaded(self.saved)
        if loaded is None:
            self.outcome((TypeError, ValueError), optkern.load, self.path, self.opt)
        else:
            optkern.load(self.path, self.opt)
            self.model = loaded

    def reload(self):
        self.opt.load_state_dict(self.opt.state_dict())

    def anew(self):
        """Another optimizer over copies of the arrays goes on from the state dict."""
        if self.added or self.model.master_weights:
            return
        state = self.opt.state_dict()
        self.arrays = [p.copy(order="K") for p in self.arrays]
        self.opt = self.constructed(self.arrays)
        self.opt.load_state_dict(state)
        model, program = self.model, self.program
        for k, group in enumerate(model.groups):
            given = {**program["hyper"], **(program["second"] if k else {})}
            group |= {name: v for name, v in given.items() if callable(v)}
            group |= {
                name: v(model.applied)
                for name, v in group.items()
                if callable(v) and not callable(given.get(name))
            }
        for name, value in model.options.items():
            given = program["around"].get(name)
            if callable(given):
                model.options[name] = given
            elif callable(value):
                model.options[name] = value(model.applied)

    # ----------------------------------------------------------------- comparing

    def compare(self):
        """All that there is to see of both."""
        opt, model = self.opt, self.model
        model.begin()
        seen = [np.asarray(raw(p)) for p in self.arrays]
        assert_same_bits(seen, [*map(raw, model.params)])
        assert (opt.steps, opt.skipped_steps) == (model.applied, model.skipped)
        for i, entry in enumerate(opt.state.values()):
            expected = model.entry(i)
            accumulated = entry.pop("accumulator", None) if type(entry) is dict else None
            missing = expected.keys() - entry.keys()
            assert not missing, f"state of {i} lacks {missing}"
            assert accumulated is None
            for name, value in expected.items():
                if isinstance(value, (np.ndarray, codecs.Compact)):
                    for a, b in zip(parts_of(entry[name]), parts_of(value), strict=True):
                        assert_same_bits(np.array(a, order="C"), np.asarray(b))
                else:
                    assert same_number(entry[name], value), (i, name, entry[name], value)


def start_of(shape, dtype, flavour, seed):
    """What a parameter begins with."""
    if dtype == "bfloat16":
        import ml_dtypes

        dtype = ml_dtypes.bfloat16
    with np.errstate(all="ignore"):
        return values_of(shape, flavour, 10**6 + seed).astype(dtype)


def raw(a):
    """An array whose bits can be compared: 16 bits as float32."""
    return np.asarray(codecs.widened(a)) if isinstance(a, np.ndarray) and a.dtype.isnative else a


def parts_of(a):
    """The arrays of a state in which any NaN is any other."""
    if isinstance(a, codecs.Compact):
        return (a.decode(),)
    return (raw(a),)


def same_number(a, b):
    return a == b or (a != a and b != b)


def run(program, counts=None):
    """Run a program; Refused where the constructor takes no such optimizer."""
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        before = runtime.isa()
        runtime.use_isa(program["isa"])
        try:
            Run(program, Path(folder)).run()
        finally:
            runtime.use_isa(before)


def run_batch(seed, count, small=True):
    """Run so many programs of a seed; how many of them the constructor refused."""
    refused = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate, *([hypothesis.Phase.shrink] if small else [])],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(programs())
    def each(program):
        try:
            run(program)
        except Refused as error:
            refused.append(str(error))

    each()
    return refused


def main():
    parser = argparse.ArgumentParser(description="run random programs against the NumPy model")
    parser.add_argument("programs", type=int, nargs="?", default=2000)
    parser.add_argument("--seed", type=int, default=0, help="of the first batch")
    parser.add_argument("--as-found", action="store_true", help="do not make a failure small")
    arguments = parser.parse_args()
    began, done, refused = time.process_time(), 0, 0
    for seed in itertools.count(arguments.seed):
        if done >= arguments.programs:
            break
        count = min(BATCH, arguments.programs - done)
        refused += len(run_batch(seed, count, not arguments.as_found))
        done += count
        spent = time.process_time() - began
        print(f"seed {seed}: {done:,} programs, {refused:,} refused, {spent:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
