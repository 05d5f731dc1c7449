"""Interrupted at any line, thinc's optimizer here and its arrays are old or new."""

from __future__ import annotations

import copy
import functools
import pickle

import interruption
import numpy as np
import pytest

pytest.importorskip("thinc", reason="extra `thinc`")

import thinc.optimizers as theirs

from optkern.integrations import thinc as ours

WHERE = (interruption.PACKAGE, theirs.__file__)
KEY, OTHER = (1, "W"), (2, "b")


class Case:
    """An optimizer, two arrays and their gradients, some steps on."""

    def __init__(self, steps=2, **settings):
        generator = np.random.default_rng(0)
        self.generator = generator
        self.w = {key: generator.standard_normal(5).astype("f") for key in (KEY, OTHER)}
        self.g = {key: np.zeros(5, "f") for key in (KEY, OTHER)}
        self.opt = ours.Optimizer(0.1, **settings)
        for _ in range(steps):
            self.accumulate()
            self.step(KEY), self.step(OTHER)
        self.accumulate()

    def accumulate(self):
        for g in self.g.values():
            g += self.generator.standard_normal(5).astype("f")

    def step(self, key=KEY):
        self.opt(key, self.w[key], self.g[key])

    def picture(self):
        """Return all that can be seen; zeros that nothing has come to are nothing."""
        opt, names = self.opt, ("mom1", "mom2", "averages")
        state = {name: getattr(opt, name) or {} for name in names} | opt._state
        held = {
            (name, key): array.tolist()
            for name, arrays in state.items()
            for key, array in arrays.items()
            if array.any() or name == "averages"
        }
        counts = {key: count for key, count in opt.nr_update.items() if count}
        arrays = [a.tolist() for arrays in (self.w, self.g) for a in arrays.values()]
        return repr((arrays, sorted(held.items()), sorted(counts.items()), opt.step))

    def goes_on(self):
        """Return where two more steps of each array lead: what is not seen counts there."""
        for _ in range(2):
            self.step(KEY), self.step(OTHER)
            self.accumulate()
        return self.picture()


def moved(case):
    case.w[KEY] = case.w[KEY].copy()
    case.step()


def replaced_state(case):
    case.opt.mom1[KEY] = np.full(5, 2.0, "f")
    case.step()


def replaced_average(case):
    case.opt.averages[KEY] = np.full(5, 2.0, "f")
    case.step()


def begins_anew(case):
    case.opt.nr_update[KEY] = 0
    case.step()


def rescheduled(case):
    case.opt.step_schedules()
    case.step()


def pickled(case):
    case.opt = pickle.loads(pickle.dumps(case.opt))
    case.step()


def copied(case):
    case.opt = copy.deepcopy(case.opt)
    case.step()


def of_float64(case):
    case.w[KEY] = case.w[KEY].astype("d")
    case.g[KEY] = case.g[KEY].astype("d")
    for held in (case.opt.mom1, case.opt.mom2, case.opt.averages):
        held[KEY] = held[KEY].astype("d")
    case.step()


def halving(step):
    return 0.1 / 2**step


OPERATIONS = {
    "first step": (Case.step, {"steps": 0}),
    "step": (Case.step, {}),
    "step without averages": (Case.step, {"use_averages": False}),
    "decay in the gradient": (Case.step, {"L2": 0.3, "L2_is_weight_decay": False}),
    "decay of the weights": (Case.step, {"L2": 0.3}),
    "clipped": (Case.step, {"L2": 0.3, "L2_is_weight_decay": False, "grad_clip": 0.1}),
    "radam": (Case.step, {"use_radam": True}),
    "first of radam": (Case.step, {"use_radam": True, "steps": 0}),
    "nadam": (Case.step, {"rule": "nadam"}),
    "a velocity": (Case.step, {"rule": "sgd", "momentum": 0.9}),
    "a velocity begins": (Case.step, {"rule": "sgd", "momentum": 0.9, "steps": 0}),
    "moved": (moved, {}),
    "moved nadam": (moved, {"rule": "nadam"}),
    "replaced state": (replaced_state, {}),
    "replaced average": (replaced_average, {}),
    "begins anew": (begins_anew, {"rule": "nadam"}),
    "rescheduled": (rescheduled, {"rule": "rmsprop", "alpha": halving}),
    "pickled": (pickled, {}),
    "copied": (copied, {"rule": "nadam"}),
    "of float64": (of_float64, {}),
}


def check(name, lines):
    """Raise at these lines, one run each; return how many there are."""
    act, settings = OPERATIONS[name]
    prepare = {moved, replaced_state, replaced_average, begins_anew, rescheduled, of_float64}
    seen = []
    for done in (False, True):
        case = Case(**settings)
        (act if done else (lambda case: None))(case)
        seen.append((case.picture(), case.goes_on()))
    reached = 0
    for line in lines:
        case = Case(**settings)
        if act in prepare:  # what comes before the call is a user's own
            before = Case(**settings)
            before.step = lambda: None
            act(before)
        if not interruption.interrupted(line, functools.partial(act, case), WHERE):
            break
        reached = line
        picture = case.picture()
        if act in prepare:
            del before.step
            seen[2:] = [(before.picture(), before.goes_on())]
        assert (picture, case.goes_on()) in seen, (name, line)
    return reached


def lines_of(name):
    act, settings = OPERATIONS[name]
    case = Case(**settings)
    return interruption.lines_of(functools.partial(act, case), WHERE)


@pytest.mark.parametrize("name", OPERATIONS)
def test_interrupted_at_some_lines(name):
    """The last ones, of which every third: there most is written."""
    total = lines_of(name)
    assert check(name, range(max(1, total - 45), total + 1, 3)) > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_interrupted_at_lines_all_along(name):
    assert check(name, range(1, lines_of(name), 11)) > 1


def test_a_rate_set_back_after_an_interrupt_holds():
    """What the kernel was told of in an interrupted step is told again."""
    lines = interruption.lines_of(Case().step, WHERE)
    for line in range(lines % 3, lines + 1, 3):
        case, twin = Case(use_averages=False), Case(use_averages=False)
        case.opt.learn_rate = 0.7
        interruption.interrupted(line, case.step, WHERE)
        if case.picture() != twin.picture():
            continue
        case.opt.learn_rate = twin.opt.learn_rate = 0.1
        case.step(), twin.step()
        assert case.picture() == twin.picture(), line
