"""An optimizer in NumPy alone: what `programs.py` compares the compiled one with, call by call.

It knows the formulas of `optkern.rules` and what `reference.fused_step` says of the options around
them; parameters, layouts, threads and plans it does not know. Each method does to a `Model` what
the optimizer's method of this name does, or returns the error that must come, nothing changed.
"""

from __future__ import annotations

import copy

import numpy as np
from conftest import copies

from optkern.kernels import codecs, reference
from optkern.optimizers.layers import heads_of
from optkern.optimizers.refused import NOT_OF_ROWS
from optkern.rules import ON_NONFINITE, OPTION_SLOTS, OPTIONS, ROW_RULES

REFUSED = (TypeError, ValueError)


class Model:
    """Hold what an optimizer holds, in C order.

    Parameters
    ----------
    rule : Rule
    params : list of ndarray
        Copied.
    members : list of int
        The group of each parameter.
    groups : list of dict
        The hyperparameters of each group, numbers or callables; what is not there is the default.
    options : dict
        Of OPTIONS; what is not there is off.
    labels : list of (int or str)
        What the optimizer calls the parameters: random bits depend on it.
    """

    def __init__(self, rule, params, members, groups, options, labels, **storage):
        self.rule, self.labels = rule, labels
        self.params = [np.array(p, order="C") for p in params]
        self.members = list(members)
        self.groups = [{**rule.hyperparameters, **group} for group in groups]
        self.options = {name: default for name, (default, _) in OPTIONS.items()} | options
        self.state_dtype = storage.get("state_dtype")
        self.master_weights = storage.get("master_weights", False)
        self.seed = storage.get("seed", 0)
        self.rounding = storage.get("weight_rounding")
        self.on_nonfinite = "propagate"
        self.applied = self.skipped = self.in_row = self.calls = 0
        self.norm = None
        self.taken = [0] * len(params)
        self.carried = [dict(zip(rule.carried, rule.first_carried)) for _ in params]
        self.held = [None] * len(params)
        self.state = [self.first_state(i) for i in range(len(params))]
        self.averages = [{} for _ in params]

    # ----------------------------------------------------------------- state

    def wide(self, i):
        """What a parameter's step computes with: its master, or its values."""
        if self.has_master(i) and "master" in self.averages[i]:
            return self.averages[i]["master"]
        return np.asarray(codecs.widened(self.params[i]))

    def has_master(self, i):
        return self.master_weights and bool(codecs.kind_of(self.params[i].dtype))

    def first_state(self, i):
        """The rule's state as it begins: decoded, or compact."""
        p, hyper = self.params[i], self.groups[self.members[i]]
        found = {}
        settings = {name: keyword.default for name, keyword in self.rule.settings.items()}
        for slot in self.rule.state:
            form = self.rule.form(slot, p.shape, hyper)
            if form is None:
                found[slot] = None
                continue
            start = self.rule.start_of(slot, settings | hyper, codecs.widened(p))
            if self.state_dtype:
                signed = slot not in self.rule.nonnegative
                found[slot] = codecs.Compact.zeros(self.state_dtype, form, signed)
                if np.any(start):
                    found[slot].encode(start)
            else:
                found[slot] = np.zeros(form, codecs.arithmetic_dtype(p.dtype))
                found[slot][...] = start
        return found

    def begin(self):
        """Until its first step a parameter is what its averages, masters and z begin with."""
        for i, taken in enumerate(self.taken):
            if taken:
                continue
            wide = np.array(codecs.widened(self.params[i]))
            self.averages[i] = {"slow": wide, "ema": wide.copy()}
            if self.has_master(i):
                self.averages[i]["master"] = wide.copy()
            for slot in self.rule.of_weights:
                self.state[i][slot][...] = wide

    def entry(self, i):
        """What `opt.state` shows of a parameter."""
        shown = {"step": self.taken[i], **self.carried[i]}
        shown |= {slot: a for slot, a in self.state[i].items() if a is not None}
        for slot in ("slow", "ema"):
            if self.options[OPTION_SLOTS[slot]] is not None:
                shown[slot] = self.averages[i][slot]
        if self.has_master(i):
            shown["master"] = self.averages[i]["master"]
        return shown

    def now(self, values):
        return {k: v(self.applied) if callable(v) else v for k, v in values.items()}

    # ----------------------------------------------------------------- steps

    def cast(self, grads):
        """The gradients as numbers of the arithmetic's dtype; None where one cannot be."""
        found = []
        for p, g in zip(self.params, grads, strict=True):
            if g is None:
                found.append(None)
                continue
            g = np.asarray(g)
            if g.shape != p.shape or not (g.dtype.kind == "f" or codecs.kind_of(g.dtype)):
                return None
            dtype = codecs.arithmetic_dtype(p.dtype)
            with np.errstate(all="ignore"):
                found.append(np.array(codecs.widened(g) if g.dtype.isnative else g, dtype))
        return found

    def zeroable(self, grads):
        """Whether zero_grad=True can set all of them to zero in place."""
        for p, g in zip(self.params, grads, strict=True):
            if g is None:
                continue
            if not isinstance(g, np.ndarray) or g.dtype != p.dtype or not g.flags.writeable:
                return False
            if g.size > 1 and 0 in [s for s, n in zip(g.strides, g.shape) if n > 1]:
                return False
        return True

    def step(self, grads, flush=False):
        """True, False or the errors that a step must end with; zeroes what it is to zero."""
        values = self.cast(grads)
        options = self.now(self.options)
        if values is None or (options["zero_grad"] and not self.zeroable(grads)):
            return REFUSED
        if flush and not self.calls:
            return False
        self.begin()
        calls = self.calls + (not flush)
        adding = not flush and calls < options["accumulate"]
        totals = reference.accumulate(self.held, values)
        if self.on_nonfinite != "propagate" and self.unbounded(totals, calls, adding, options):
            if self.on_nonfinite == "raise" or self.in_row == options["max_skips"]:
                return REFUSED
            self.skipped, self.in_row = self.skipped + 1, self.in_row + 1
            self.zero(grads, options)
            return False
        self.in_row = 0
        if adding:
            self.held, self.calls = totals, calls
        else:
            self.update(values, calls, options)
        self.zero(grads, options)
        return not adding

    def zero(self, grads, options):
        for g in grads if options["zero_grad"] else ():
            if g is not None:
                g[...] = 0

    def unbounded(self, totals, calls, adding, options):
        """Whether a sum of gradients, or what unscaling makes of it, is not finite."""
        share = reference.share_of(options, calls, totals.unit)
        clips = [options[name] for name in ("clip_norm", "clip_norm_per_tensor")]
        clips = options["clip_value"] or any(x is not None and x < np.inf for x in clips)
        scales = not adding and not clips and share > 1
        with np.errstate(all="ignore"):
            return any(
                not np.isfinite(g * g.dtype.type(share) if scales else g).all()
                for g in totals
                if g is not None
            )

    def update(self, values, calls, options):
        """One update by all that has come."""
        active = [g is not None or h is not None for g, h in zip(values, self.held)]
        wide = [np.array(self.wide(i)) for i in range(len(self.params))]
        decoded = [
            {slot: a.decode() if isinstance(a, codecs.Compact) else a for slot, a in own.items()}
            for own in self.state
        ]
        slots = {slot: [own[slot] for own in decoded] for slot in self.rule.state}
        slots |= {slot: [own[slot] for own in self.averages] for slot in ("slow", "ema")}
        hyper = [
            {**self.now(self.groups[k]), **carried, "step": taken + 1}
            for k, carried, taken in zip(self.members, self.carried, self.taken)
        ]
        named = dict(zip(self.labels, self.params))
        heads = heads_of(named) if options["adaptive_clip"] is not None else ()
        around = {name: value for name, value in options.items() if name != "zero_grad"}
        self.norm = reference.fused_step(
            self.rule, wide, values, slots, hyper, self.held, calls,
            [p.dtype.name for p in self.params], [label in heads for label in self.labels],
            **around,
        )  # fmt: skip
        for i in np.flatnonzero(active):
            self.write(i, wide[i], decoded[i], hyper[i]["step"])
            if self.rule.carried:
                one = reference.Constants(self.rule, hyper[i], np.dtype(np.float64))
                self.carried[i] = one.carried
            self.taken[i] += 1
        self.held, self.calls = [None] * len(values), 0
        self.applied += 1

    def write(self, i, wide, decoded, step):
        """Store what has been computed as it is stored."""
        p, own = self.params[i], self.state[i]
        stochastic = codecs.kind_of(p.dtype) and not self.has_master(i)
        stochastic = stochastic and self.rounding != "nearest"
        random = codecs.random_bits(self.seed, step, self.labels[i], p.size)
        if self.has_master(i):
            self.averages[i]["master"] = wide
        if codecs.kind_of(p.dtype):
            codecs.write_rounded(p, wide, random if stochastic else None)
        else:
            p[...] = wide
        for slot, a in own.items():
            if isinstance(a, codecs.Compact):
                a.encode(decoded[slot], random)

    def step_rows(self, rows, grads):
        """A step of some rows; ... is for all of them."""
        options = self.now(self.options)
        if self.rule not in ROW_RULES or self.state_dtype or self.calls:
            return REFUSED
        if any(self.options[name] != OPTIONS[name][0] for name in NOT_OF_ROWS):
            return REFUSED
        if options["zero_grad"] and not self.zeroable(grads):
            return REFUSED
        self.begin()
        values = [None if g is None else g.astype(p.dtype) for g, p in zip(grads, self.params)]
        sums = [
            (which, g) if which is None or which is ... else reference.sum_rows(which, g)
            for which, g in zip(rows, values)
        ]
        merged = reference.Held([g for _, g in sums])
        if self.on_nonfinite != "propagate" and (
            any(g is not None and not np.isfinite(g).all() for g in values)
            or self.unbounded(merged, 1, False, options)
        ):
            if self.on_nonfinite == "raise" or self.in_row == options["max_skips"]:
                return REFUSED
            self.skipped, self.in_row = self.skipped + 1, self.in_row + 1
            self.zero(grads, options)
            return False
        self.in_row = 0
        self.update_rows([which for which, _ in sums], merged, options)
        self.zero(grads, options)
        return True

    def update_rows(self, rows, merged, options):
        """The step of `opt.step` over arrays of nothing but these rows."""
        count = range(len(self.params))
        arrays = [[self.params[i], *self.state[i].values()] for i in count]
        parts = [
            [a if a is None or which is None or which is ... else a[which] for a in own]
            for which, own in zip(rows, arrays)
        ]
        hyper = [
            {**self.now(self.groups[k]), **carried, "step": taken + 1}
            for k, carried, taken in zip(self.members, self.carried, self.taken)
        ]
        slots = {slot: [own[1 + k] for own in parts] for k, slot in enumerate(self.rule.state)}
        around = {name: value for name, value in options.items() if name != "zero_grad"}
        self.norm = reference.fused_step(
            self.rule, [own[0] for own in parts], merged, slots, hyper, **around
        )
        for i, which in enumerate(rows):
            if which is None:
                continue
            for array, part in zip(arrays[i], parts[i]):
                if part is not None and which is not ...:
                    array[which] = part
            if self.rule.carried:
                one = reference.Constants(self.rule, hyper[i], np.dtype(np.float64))
                self.carried[i] = one.carried
            self.taken[i] += 1
        self.applied += 1

    # ----------------------------------------------------------------- the rest

    def averaged(self):
        """The parameters' averages, or the error where there are none."""
        if self.options["ema_decay"] is None and self.rule.average is None:
            return RuntimeError
        if self.rule.average is not None and any(codecs.kind_of(p.dtype) for p in self.params):
            return ValueError
        self.begin()
        if self.rule.average is None:
            return [own["ema"] for own in self.averages]
        with np.errstate(all="ignore"):
            return [
                np.asarray(self.rule.average(p, self.entry(i)), p.dtype)
                for i, p in enumerate(self.params)
            ]

    def reset(self, label=None):
        for i in range(len(self.params)):
            if label is None or self.labels[i] == label:
                self.taken[i] = 0
                self.carried[i] = dict(zip(self.rule.carried, self.rule.first_carried))
                self.held[i] = None
                self.state[i] = self.first_state(i)
        if not any(h is not None for h in self.held):
            self.held, self.calls = [None] * len(self.params), 0
        self.begin()

    def add(self, params, labels, group):
        """More parameters, in a group of their own."""
        self.groups.append({**self.rule.hyperparameters, **group})
        for p, label in zip(params, labels, strict=True):
            self.params.append(np.array(p, order="C"))
            self.labels.append(label)
            self.members.append(len(self.groups) - 1)
            self.taken.append(0)
            self.carried.append(dict(zip(self.rule.carried, self.rule.first_carried)))
            self.held = [*self.held, None] if self.calls == 0 else appended(self.held)
            self.averages.append({})
            self.state.append(self.first_state(len(self.params) - 1))

    def saved(self):
        """What a checkpoint keeps of it: callables are the values that they give."""
        kept = copy.deepcopy(self)
        kept.groups = [self.now(group) for group in self.groups]
        kept.options = self.now(self.options)
        return kept

    def loaded(self, kept):
        """What it is once a checkpoint is loaded; None: that does not fit."""
        if len(kept.params) != len(self.params):
            return None
        new = copy.deepcopy(kept)
        for own, theirs in zip([*self.groups, self.options], [*new.groups, new.options]):
            theirs |= {name: value for name, value in own.items() if callable(value)}
        new.on_nonfinite = self.on_nonfinite
        return new


def appended(held):
    """The sums held, with none of one more parameter."""
    new = reference.Held([*held, None])
    new.unit = held.unit
    return new


__all__ = ["ON_NONFINITE", "REFUSED", "Model", "copies"]
