"""One thread or many: the decision under a clock of the test's own, and what the report says."""

import random
import sys

import numpy as np
import pytest
from conftest import assert_same_bits, ordinary

import optkern
from optkern.kernels import runtime
from optkern.kernels._choice import ThreadChoice

needs_openmp = pytest.mark.skipif(not runtime.OPENMP, reason="built without OpenMP: serial")
linux = pytest.mark.skipif(sys.platform != "linux", reason="forks")
CALLS = 10_000


class Loop:
    """A training loop in which a step with one thread takes 1, with many what `many` says.

    Between two steps `gap` passes, and `slowdown` more after many threads.
    """

    def __init__(self, many, gap=0.0, slowdown=0.0, seed=0, uneven=False):
        self.many, self.gap, self.slowdown = many, gap, slowdown
        self.uneven = uneven  # every other step and the gap after it are twice as long
        self.random = random.Random(seed)
        self.choice = ThreadChoice()
        self.now = self.used = 0.0
        self.calls, self.last = 0, False
        self.alone = 0.0  # what many threads alone would have taken

    def run(self, calls=CALLS):
        for _ in range(calls):
            times = 2 if self.uneven and self.calls % 2 else 1
            self.now += times * self.gap * self.noise() + (self.slowdown if self.last else 0)
            self.last = self.choice.next(self.now)
            many = self.many(self.calls, self.random) * self.noise()
            self.now += times * (many if self.last else self.noise())
            self.choice.observe(self.now)
            self.alone += many + self.gap + self.slowdown
            self.used += self.last
            self.calls += 1
        return self

    def noise(self):
        return 1 + 0.03 * self.random.random()

    @property
    def serial(self):
        return self.calls * (1 + self.gap)

    @property
    def against_serial(self):
        return self.now / self.serial

    @property
    def against_best(self):
        return self.now / min(self.serial, self.alone)


def outliers(usual, share, outlier):
    return lambda call, random: outlier if random.random() < share else usual


def then(first, calls, second):
    return lambda call, random: first if call < calls else second


SPEEDS = {
    "twice as fast": outliers(0.5, 0, 0),
    "hardly faster": outliers(0.97, 0, 0),
    "slower": outliers(1.3, 0, 0),
    "hopeless": outliers(100, 0, 0),
    "rare outliers": outliers(0.5, 0.01, 10),
    "many outliers": outliers(0.5, 0.1, 10),
    "a lost time slice now and then": outliers(0.5, 0.03, 100),
    "bad from the middle on": then(0.5, CALLS // 2, 20),
    "good after a bad start": then(20, CALLS // 10, 0.5),
}


@pytest.mark.parametrize("gap", [0, 5])
@pytest.mark.parametrize("many", SPEEDS)
def test_never_much_worse_than_one_thread(many, gap):
    for seed in range(3):
        assert Loop(SPEEDS[many], gap, seed=seed).run().against_serial < 1.05


@pytest.mark.parametrize(
    "many", ["twice as fast", "hardly faster", "slower", "hopeless", "rare outliers"]
)
def test_never_much_worse_than_the_better_number(many):
    for seed in range(3):
        assert Loop(SPEEDS[many], seed=seed).run().against_best < 1.1


def test_steady_speed_is_tried_rarely():
    for many in ("twice as fast", "slower"):
        loop = Loop(SPEEDS[many]).run()
        assert loop.choice.trials < CALLS / 500
        assert loop.choice.prefers_many == (many == "twice as fast")


def test_threads_that_turn_bad_are_left_within_a_few_steps():
    loop = Loop(then(0.5, 5000, 50)).run(5000)
    assert loop.choice.prefers_many
    used = loop.used
    loop.run(2000)
    assert loop.used - used < 40 and not loop.choice.prefers_many


def test_threads_that_turn_good_are_found():
    loop = Loop(then(3, 5000, 0.5)).run(5000)
    assert not loop.choice.prefers_many
    assert loop.run(2000).choice.prefers_many


def test_work_between_steps_that_threads_slow_down_counts():
    loop = Loop(SPEEDS["twice as fast"], gap=5, slowdown=3).run()
    assert not loop.choice.prefers_many and loop.choice.slowdown == pytest.approx(3, rel=0.1)
    assert loop.against_best < 1.02
    assert Loop(SPEEDS["twice as fast"], gap=5).run().choice.prefers_many


@pytest.mark.parametrize("many", ["twice as fast", "slower"])
def test_loop_in_which_every_other_step_is_longer(many):
    loop = Loop(SPEEDS[many], gap=5, uneven=True).run()
    assert loop.choice.prefers_many == (many == "twice as fast")
    assert (loop.used > CALLS / 2) == (many == "twice as fast")


@pytest.mark.parametrize("awake", [True, False])
def test_workers_that_wait_awake_are_judged_by_what_comes_after_the_first_call(awake):
    """They sleep through a trial's serial calls: the first call with many of each two is slow."""

    class Waking(Loop):
        woken = False

        def run(self, calls=CALLS):
            for _ in range(calls):
                self.woken = self.last
                super().run(1)
            return self

    loop = Waking(lambda call, random: 0.5 if loop.woken else 1.5)
    loop.choice.awake = awake
    loop.run(1000)
    assert loop.choice.prefers_many == awake
    assert loop.choice.parallel == pytest.approx(0.5 if awake else 1.0, rel=0.05)


def test_part_of_a_step_counts_as_a_part():
    """Half of the parameters have a gradient in every other call: times are taken per element."""
    choice, now = ThreadChoice(), 0.0
    for call in range(200):
        part = 0.5 if call % 2 else 1.0
        many = choice.next(now)
        now += part * (0.8 if many else 1.0)
        choice.observe(now, part)
    assert choice.prefers_many
    assert (choice.serial, choice.parallel) == (pytest.approx(1), pytest.approx(0.8))


def test_first_calls():
    """A cold one, then one thread and many, then what was faster."""
    loop = Loop(SPEEDS["twice as fast"])
    taken = [loop.run(1).last for _ in range(12)]
    one, many = [False] * 2, [True] * 2
    assert taken == [*one, *many, *one, *many, False, True, True, True]
    assert loop.choice.trials == 1 and not loop.choice.trying
    assert loop.choice.serial == pytest.approx(1, rel=0.05)
    assert loop.choice.parallel == pytest.approx(0.5, rel=0.05)


def test_one_hopeless_step_ends_a_trial():
    loop = Loop(SPEEDS["hopeless"])
    assert [loop.run(1).last for _ in range(6)] == [False, False, True, False, False, False]
    assert loop.choice.debt > 90


# --------------------------------------------------------------------------- the report


def large(**options):
    p = np.zeros(100_000, np.float32)
    return optkern.Adam(p, **options), np.ones_like(p)


@needs_openmp
def test_report_of_what_was_measured():
    optkern.set_num_threads(2)
    opt, g = large()
    report = opt.thread_report()
    assert (report.threads, report.limit, report.trials) == (1, 2, 0)
    assert report.serial_seconds is None and "not been compared yet" in report.reason
    for _ in range(12):
        opt.step(g)
    report = opt.thread_report()
    assert report.trials >= 1 and report.steps == 12
    assert report.serial_seconds > 0 and report.parallel_seconds > 0
    assert report.threads in (1, 2) and report.next_trial > 0
    assert "with 1 thread and" in report.reason and "with 2" in report.reason
    assert str(report).startswith(f"{report.threads} thread") and "step" in str(report)
    assert str(report) in repr(report)


@needs_openmp
def test_another_limit_is_measured_anew():
    optkern.set_num_threads(2)
    opt, g = large()
    for _ in range(12):
        opt.step(g)
    optkern.set_num_threads(3)
    assert opt.thread_report().trials == 0
    opt.step(g)
    assert opt.thread_report().steps == 1 and opt.thread_report().limit == 3


@needs_openmp
@pytest.mark.parametrize(
    ("make", "threads", "words"),
    [
        (lambda: large(num_threads=2)[0], 2, "num_threads=2 was given"),
        (lambda: large(num_threads=1)[0], 1, "num_threads=1 was given"),
        (lambda: optkern.SGD(np.zeros(1000)), 1, "does not pay off for fewer than 65,536"),
        (lambda: optkern.SGD(np.zeros(1000), num_threads=2), 1, "one thread's share of 16,384"),
    ],
)
def test_report_of_what_was_not_measured(make, threads, words):
    optkern.set_num_threads(2)
    report = make().thread_report()
    assert (report.threads, report.next_trial) == (threads, None)
    assert report.serial_seconds is None and report.slowdown_seconds is None
    assert words in report.reason


@needs_openmp
def test_report_under_a_limit_of_one():
    optkern.set_num_threads(1)
    report = large()[0].thread_report()
    assert report.threads == 1 and "the limit is one thread" in report.reason


@linux
@needs_openmp
def test_report_of_a_forked_child(run_python):
    code = """
import os
import numpy as np, optkern
opt = optkern.SGD(np.zeros(100_000))
if os.fork() == 0:
    print(opt.thread_report(), flush=True)
    os._exit(0)
os.wait()
"""
    assert run_python(code).stdout.startswith("1 thread: a forked child is serial")


def test_report_without_openmp():
    if runtime.OPENMP:
        pytest.skip("built with OpenMP")
    report = large()[0].thread_report()
    assert report.threads == 1 and "without OpenMP" in report.reason


def test_trials_never_show_in_the_bits():
    """Over several trials, whatever they decide."""
    optkern.set_num_threads(2)
    p, q = (np.zeros(70_001, np.float32) for _ in range(2))
    free, single = optkern.Adam(p), optkern.Adam(q, num_threads=1)
    g = ordinary(np.float32, 70_001, 1)
    for _ in range(300):
        free.step(g)
        single.step(g)
    assert free.thread_report().trials >= 1 or not runtime.OPENMP
    assert_same_bits(p, q)
