"""What packages above see of an optimizer, and where its parts were in pickles of before."""

import pickle
import threading

import numpy as np
import pytest
from conftest import assert_same_bits

import optkern
from optkern.optimizers import CLASSES, Change, Counts, Session

every_class = pytest.mark.parametrize("cls", CLASSES.values(), ids=lambda cls: cls.__name__)


def trained(cls=optkern.Adam, **options):
    params = {"w": np.linspace(-1, 1, 6).reshape(2, 3), "b": np.ones(2)}
    opt = cls(params, lr=0.01, **options)
    opt.step({name: np.sin(p + 1) for name, p in params.items()})
    return opt


@every_class
def test_a_class_is_pickled_by_its_public_place_and_found_in_old_pickles(cls):
    opt = trained(cls, clip_norm=0.5)
    assert getattr(optkern.optimizers, cls.__name__) is cls is getattr(optkern, cls.__name__)
    text = pickle.dumps(opt, protocol=0)
    assert b"coptkern.optimizers\n" + cls.__name__.encode() in text or b"optkern.optimizers" in text
    assert b"optkern.optimizers.classes" not in text and b"optkern.optimizers.change" in text
    old = text.replace(b"optkern.optimizers.change", b"optkern._change")
    again = pickle.loads(old)
    assert type(again) is cls and again.steps == 1
    for each in (opt, again):
        each.step({"w": np.ones((2, 3)), "b": np.ones(2)})
    assert_same_bits(opt.params, again.params)


def test_a_session_owns_what_an_optimizer_works_on():
    opt = trained(ema_decay=0.5)
    assert opt.session is opt.session
    assert set(vars(opt)) == {"_session", "_num_threads", "_on_nonfinite"}
    group = opt.param_groups[0]
    group["lr"] = 0.5
    assert opt.session.groups[0] is group and opt.session.options["ema_decay"] == 0.5
    other = pickle.loads(pickle.dumps(opt))
    assert other.session is not opt.session and other.param_groups[0]["lr"] == 0.5
    del opt
    with pytest.raises(ReferenceError, match="this group's optimizer is gone"):
        group["lr"] = 1.0


def scheduled(act, **options):
    """Make an optimizer whose learning rate of .1 is a schedule that once calls ``act``."""
    acts = []

    def lr(step):
        if acts:
            acts.pop()(opt)
        return 0.1

    opt = optkern.SGD([np.ones(3)], lr=lr, **options)
    acts.append(act)
    return opt


@pytest.mark.parametrize(
    "act",
    [
        lambda opt: opt.step([np.ones(3)]),
        lambda opt: opt.step_rows([[0]], [np.ones(1)]),
        lambda opt: opt.flush(),
    ],
)
def test_no_step_is_taken_inside_a_schedule(act):
    """Its own values would be those of a step that has been taken."""
    opt = scheduled(act)
    with pytest.raises(RuntimeError, match="SGD: a step is under way already"):
        opt.step([np.ones(3)])
    assert (opt.params[0] == 1).all() and opt.steps == 0
    assert opt.step([np.ones(3)]) and opt.steps == 1


def test_a_number_that_a_schedule_writes_in_its_own_place_holds():
    opt = scheduled(lambda opt: opt.param_groups[0].update(lr=0.5))
    opt.step([np.ones(3)])
    assert opt.param_groups[0]["lr"] == 0.5 and (opt.params[0] == 0.5).all()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_beside_another_one_does_not_take_its_learning_rate_again(accumulate):
    """The schedule gives 2**-step, and another thread takes a step between its values and ours."""
    ready, go = threading.Event(), threading.Event()
    opt = optkern.SGD([np.zeros(1)], lr=lambda step: 2.0**-step, accumulate=accumulate)
    plan, errors = opt.session.plan, []

    def late():
        at = opt.session.run_schedules()
        ready.set()
        go.wait(10)
        try:
            plan.step((np.ones(1),), 1, 0, at)
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=late)
    thread.start()
    assert ready.wait(10)
    for _ in range(accumulate):
        opt.step([np.ones(1)])
    go.set()
    thread.join(10)
    assert len(errors) == 1 and "another step was taken" in errors[0]
    assert opt.params[0][0] == -1 and opt.steps == 1


def test_the_option_that_is_called_is_copied_as_a_number():
    opt = trained(zero_grad=True)
    again = pickle.loads(pickle.dumps(opt.zero_grad))
    assert again is True  # with its method it would bring the whole optimizer along


def test_a_session_gives_what_there_is_and_copies_of_what_was_counted():
    opt = trained(ema_decay=0.5)
    session = opt.session
    assert isinstance(session, Session) and session.owner == "Adam"
    assert session.labels == ["w", "b"] and session.members(0) == ["w", "b"]
    assert session.slots["exp_avg"][1] is opt.state["b"]["exp_avg"]
    counts = session.counts
    assert isinstance(counts, Counts) and counts.steps.tolist() == [1, 1] and counts.applied == 1
    counts.steps[:] = 7
    assert opt.state["w"]["step"] == 1
    old = session.plan
    opt.reset()
    assert session.plan is not old and session.counts.steps.tolist() == [0, 0]


def test_a_session_prepares_a_load_and_makes_it_with_other_writes_at_once():
    opt, other = trained(ema_decay=0.5), trained(ema_decay=0.5)
    other.step({"w": np.ones((2, 3)), "b": np.ones(2)})
    change = opt.session.prepare(other.state_dict(), opt.on_nonfinite)
    assert isinstance(change, Change) and opt.steps == 1
    copies = list(zip(opt.params, other.params, strict=True))
    opt.session.commit(change, [], copies)
    assert opt.steps == 2 and opt.state["w"]["step"] == 2
    assert_same_bits(opt.params, other.params)
    with pytest.raises(ValueError, match="this is the state of 'sgd'"):
        opt.session.prepare(trained(optkern.SGD).state_dict(), opt.on_nonfinite)


def test_averages_are_exchanged_and_refused_by_a_session():
    opt = trained(ema_decay=0.5)
    weights, averages = opt.params[0].copy(), opt.state["w"]["ema"].copy()
    opt.session.exchange_averages(refusal="they are in")
    assert np.array_equal(opt.params[0], averages) and opt.averages_are_in
    with pytest.raises(RuntimeError, match="somebody: the averages are in"):
        opt.session.refuse_averages("somebody")
    with pytest.raises(RuntimeError, match="they are in"):
        opt.step({"w": np.ones((2, 3)), "b": np.ones(2)})
    opt.session.exchange_averages()
    assert np.array_equal(opt.params[0], weights) and not opt.averages_are_in


def test_what_is_alone_in_a_session_keeps_other_threads_out():
    opt, said = trained(), []

    def other():
        try:
            opt.step({"w": np.ones((2, 3)), "b": np.ones(2)})
        except RuntimeError as error:
            said.append(str(error))

    def act():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return "done"

    assert opt.session.alone("a long act", act) == "done"
    assert len(said) == 1 and "a long act is under way already" in said[0] and opt.steps == 1


@pytest.mark.parametrize(
    ("start", "dampening"), [(0.5, 0.0), ("dampening", 0.5), ("dampening", lambda step: 0.5)]
)
def test_state_begins_with_what_its_row_says(start, dampening):
    """A number, or a hyperparameter, also one that a schedule says."""
    row = CLASSES["sgd"].rule
    slot = row.arrays[0]._replace(start=start)

    class Begun(optkern.Optimizer, rule=row.replace(arrays=(slot,))):
        pass

    opt = Begun({"w": np.ones(3)}, lr=0.1, momentum=0.9, dampening=dampening)
    assert_same_bits(opt.state["w"]["momentum_buffer"], np.full(3, 0.5))
    opt.step({"w": np.ones(3)})
    opt.reset()
    assert_same_bits(opt.state["w"]["momentum_buffer"], np.full(3, 0.5))
    state = opt.session.completed({}, opt.params[0], 0, opt.param_groups[0], {})
    assert_same_bits(state["momentum_buffer"], np.full(3, 0.5))
