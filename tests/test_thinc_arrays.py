"""What thinc hands to optkern's optimizer: arrays that move, copies, what is none."""

import copy
import pickle

import numpy as np
import pytest

import optkern
from optkern import schedules

pytest.importorskip("thinc", reason="needs thinc: make test EXTRAS=thinc")

import thinc.api as api
import thinc.optimizers as theirs
from thinc_cases import EXACT, KEY, X, Y, arrays, assert_close, run, tagger, train

from optkern.integrations import thinc as ours
from optkern.integrations.thinc import library

# --------------------------------------------------------------------------- arrays


@pytest.mark.parametrize("rule", ("adamw", "nadam", "sgd"))
def test_arrays_that_move_keep_their_state(rule):
    options = {"momentum": 0.9, "dampening": 0.5} if rule == "sgd" else {}
    results = []
    for moving in (False, True):
        optimizer = ours.Optimizer(0.05, rule=rule, **options)
        w = arrays()[0]
        for g in arrays(count=6, seed=1):
            w, _ = optimizer(KEY, w.copy() if moving else w, g)
        results.append([w, optimizer.averages[KEY]])
    assert all(map(np.array_equal, *results))


def velocities(moving, begins, counts=()):
    """Weights after six steps with a dampened momentum that begins late; arrays that move or not.

    ``counts`` are numbers of updates that are written before a step.
    """
    momentum = lambda step: 0.9 if step >= begins else 0.0  # noqa: E731
    options = {"momentum": momentum, "dampening": 0.5, "grad_clip": 0.0, "use_averages": False}
    optimizer = ours.Optimizer(0.05, rule="sgd", **options)
    w = arrays()[0]
    for k, g in enumerate(arrays(count=6, seed=1)):
        if k in dict(counts):
            optimizer.nr_update[KEY] = dict(counts)[k]
        w, _ = optimizer(KEY, w.copy() if moving else w, g)
        optimizer.step_schedules()
    return w


@pytest.mark.parametrize("moving", (False, True))
@pytest.mark.parametrize("begins", (0, 1, 3, 5))
def test_a_velocity_begins_where_momentum_does(moving, begins):
    """Its first gradient is not dampened, all that follow are."""
    expected = arrays()[0]
    opt = optkern.SGD(
        expected, lr=0.05, momentum=lambda step: 0.9 if step >= begins else 0.0, dampening=0.5
    )
    for g in arrays(count=6, seed=1):
        opt.step(g)
    assert np.array_equal(velocities(moving, begins), expected)


@pytest.mark.parametrize("moving", (False, True))
def test_a_count_written_down_leaves_no_velocity_in_the_past(moving):
    """It was to begin after five updates; after two, as the count says then, it begins as well."""
    written = velocities(moving, begins=5, counts={5: 2}.items())
    assert np.array_equal(written, velocities(False, begins=5))
    # One that has begun goes on, whatever the count is.
    written = velocities(moving, begins=1, counts={4: 2}.items())
    assert np.array_equal(written, velocities(False, begins=1))


def test_another_view_of_the_same_memory_is_the_same_array():
    optimizer = ours.Adam(0.05)
    w = arrays()[0]
    for g in arrays(count=2, seed=1):
        optimizer(KEY, w[:], g)
    bound = optimizer._bound[KEY]
    optimizer(KEY, w[:], arrays(seed=2)[0])
    assert optimizer._bound[KEY] is bound
    optimizer(KEY, w.copy(), arrays(seed=2)[0])
    assert optimizer._bound[KEY] is not bound


@pytest.mark.parametrize("rule", (None, "nadam", "adagrad"))
def test_copies_go_on_bit_for_bit(rule):
    schedule = schedules.Cosine(0.05, T_max=20)
    optimizer = ours.Optimizer(schedule, rule=rule, L2=0.1)
    if library.Schedule is None:
        optimizer = ours.Optimizer(0.05, rule=rule, L2=0.1)
    w = run(optimizer, updates=5)[0]
    made = [optimizer, pickle.loads(pickle.dumps(optimizer)), copy.deepcopy(optimizer)]
    results = []
    for each in made:
        mine = w.copy()
        for g in arrays(count=5, seed=4):
            each(KEY, mine, g)
            each.step_schedules()
        results.append([mine, each.averages[KEY]])
    for other in results[1:]:
        assert all(map(np.array_equal, other, results[0]))


def test_copies_of_replaced_moments_go_on_bit_for_bit():
    optimizer = ours.Adam(0.05)
    w = run(optimizer, updates=3)[0]
    optimizer.mom1 = {k: v.copy() for k, v in optimizer.mom1.items()}
    for g in arrays(count=3, seed=4):
        optimizer(KEY, w, g)
    other, mine = pickle.loads(pickle.dumps(optimizer)), w.copy()
    optimizer(KEY, w, arrays(seed=5)[0])
    other(KEY, mine, arrays(seed=5)[0])
    assert np.array_equal(w, mine)


def test_a_wrapped_pytorch_model():
    torch = pytest.importorskip("torch", reason="needs PyTorch: make test EXTRAS=torch")
    results = []
    for side in (theirs, ours):
        torch.manual_seed(0)
        model = api.PyTorchWrapper(torch.nn.Linear(6, 3)).initialize()
        optimizer = side.Adam(0.05, L2=0.1, **EXACT)
        for _ in range(5):
            guesses, backprop = model.begin_update(X)
            backprop((guesses - Y) / len(Y))
            model.finish_update(optimizer)
        results.append(model.predict(X))
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="wraps another library's model"):
        ours.objective(model, X, Y)


# --------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"rule": "adamm"}, ValueError, "rule must be None or one of sgd, .*'adamm'"),
        ({"rule": 3}, ValueError, "rule must be None or one of"),
        ({"rule": "lion", "use_radam": True}, ValueError, "use_radam=True is thinc's own choice"),
        ({"rule": "lion", "eps": 0.1}, TypeError, "the rule lion has no eps"),
        ({"rule": "sgd", "beta1": 0.1}, TypeError, "the rule sgd has no beta1"),
        (
            {"rule": "sgd", "momentun": 0.1},
            TypeError,
            "option 'momentun'; sgd has moment.* did you mean momentum",
        ),
        ({"rule": "adam", "weight_decay": 0.1}, TypeError, "unknown option 'weight_decay'"),
        ({"momentum": 0.9}, TypeError, "unknown option 'momentum'; there are some with a rule"),
        ({"rule": "sgd", "momentum": 1.5}, ValueError, "SGD: momentum must be"),
        ({"rule": "sgd", "nesterov": True}, ValueError, "nesterov=True needs momentum"),
        ({"num_threads": 0}, ValueError, "num_threads"),
        (
            {"L2": "much"},
            ValueError,
            r"L2 must be a finite number in \[0, inf\) or a sched.*'much'",
        ),
        ({"L2": []}, ValueError, "L2 must be .* or a schedule of such, got \\[\\]"),
        ({"grad_clip": None}, ValueError, "grad_clip must be .*got None"),
        ({"grad_clip": np.ones(2)}, ValueError, "grad_clip must be .*got array"),
        ({"beta1": 1.0}, ValueError, r"beta1 must be a finite number in \[0, 1\) or .*got 1.0"),
        ({"beta2": -1}, ValueError, "beta2 must be .*got -1"),  # which was taken for SGD
        ({"rule": "adamw", "beta2": "x"}, ValueError, "beta2 must be .*got 'x'"),
        ({"eps": -1}, ValueError, "eps must be .*got -1"),
        ({"use_averages": "no"}, ValueError, "use_averages must be True or False, got 'no'"),
        ({"use_radam": 3}, ValueError, "use_radam must be True or False, got 3"),
        ({"L2_is_weight_decay": "no"}, ValueError, "L2_is_weight_decay must be True or False"),
        ({"rule": "adamw", "lr": 0.1}, TypeError, "option 'lr'; here it is learn_rate; adamw has"),
        ({"betas": (0.9, 0.99)}, TypeError, "option 'betas'; here it is beta1 and beta2; there"),
        ({"rule": "adam", "weight_decay": 0.1}, TypeError, "here it is L2; adam has amsgrad"),
    ],
)
def test_bad_arguments_are_refused_at_once(options, error, words):
    with pytest.raises(error, match=words):
        ours.Optimizer(0.1, **options)


BAD_NUMBERS = [
    ({"learn_rate": -0.1}, "learn_rate must be a finite number in .*-0.1"),
    ({"learn_rate": float("nan")}, "learn_rate must be"),
    ({"learn_rate": 0.1, "L2": -1.0}, "L2 must be"),
    ({"learn_rate": 0.1, "grad_clip": -1.0}, "grad_clip must be"),
    ({"learn_rate": 0.1, "beta1": 1.0}, "beta1 must be"),
    ({"learn_rate": 0.1, "beta2": -1.0}, "beta2 must be"),
    ({"learn_rate": 0.1, "eps": -1.0}, "eps must be"),
    ({"learn_rate": 0.1, "L2": "x"}, "L2 must be .*got 'x'"),
    ({"learn_rate": 0.1, "beta2": np.ones(2)}, "beta2 must be .*got array"),
]


@pytest.mark.parametrize(("options", "words"), BAD_NUMBERS)
def test_bad_numbers_are_refused_at_once(options, words):
    with pytest.raises(ValueError, match=words):
        ours.Optimizer(**options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        *(
            ({**options, name: lambda step, bad=bad: bad}, words)
            for options, words in BAD_NUMBERS
            for name, bad in [list(options.items())[-1]]
        ),
        ({"learn_rate": 0.5, "L2": 3.0}, "learn_rate . L2 must not exceed 1, got 1.5"),
    ],
)
def test_bad_numbers_are_refused_when_they_come(options, words):
    optimizer = ours.Optimizer(**options)
    w, g = arrays(count=2)
    before = w.copy(), g.copy()
    with pytest.raises(ValueError, match=words):
        optimizer(KEY, w, g)
    assert np.array_equal(w, before[0]) and np.array_equal(g, before[1])
    assert not optimizer.nr_update[KEY] and not optimizer.averages


@pytest.mark.parametrize("settings", ({}, {"L2": 0.1, "L2_is_weight_decay": False}))
def test_arrays_that_do_not_fit(settings):
    optimizer = ours.Adam(0.1, **EXACT, **settings)
    w = arrays()[0]
    before = w.copy()
    for gradient, error, words in (
        (np.ones(3, "f"), ValueError, r"'W of node 1' must have the parameter's shape"),
        (np.ones(w.shape), TypeError, "must be an array of float32"),
        (w, ValueError, "overlaps"),
        ([1.0], TypeError, "must be"),
        (None, TypeError, "gradient of parameter 'W of node 1' must be a NumPy array, got NoneT"),
    ):
        with pytest.raises(error, match=words):
            optimizer(KEY, w, gradient)
    for scale in (-1, "x", float("nan")):
        with pytest.raises(ValueError, match="lr_scale must be"):
            optimizer(KEY, w, np.ones(w.shape, "f"), lr_scale=scale)
    for weights_, error, words in (
        ([1.0], TypeError, "parameter 'W of node 1' must be a NumPy array of float32"),
        (np.ones(3, int), TypeError, "must be float32 or float64, got int64"),
    ):
        with pytest.raises(error, match=words):
            optimizer((1, "W"), weights_, np.ones(3, "f"))
    assert np.array_equal(w, before) and not optimizer.averages
    assert_close(run(optimizer), run(theirs.Adam(0.1, **EXACT, **settings)))


def test_no_gradient_is_no_update():
    optimizer = ours.Adam(0.1)
    w, g = np.zeros((1, 2)), np.zeros(0)
    back = optimizer(KEY, w, g)
    assert back[0] is w and back[1] is g
    assert not optimizer.nr_update and not w.any()


@pytest.mark.parametrize(
    ("held", "value", "words"),
    [
        ("mom1", np.ones(2, "f"), "mom1 of 'W of node 1' must have .* elements of float32 like"),
        ("mom2", [1.0], "mom2 of 'W of node 1' must be a NumPy array, got list"),
        ("averages", np.ones(2, "f"), "averages of 'W of node 1' must have"),
        ("nr_update", -5, "nr_update of .*'W'.* must be an integer >= 0.*, got -5"),
        ("nr_update", "x", "nr_update of .*'W'.* must be an integer >= 0.*, got 'x'"),
    ],
)
def test_state_that_was_written_badly(held, value, words):
    optimizer = ours.Adam(0.1)
    w, g = arrays(count=2)
    optimizer(KEY, w, g.copy())
    kept = getattr(optimizer, held)[KEY]
    before = w.copy()
    getattr(optimizer, held)[KEY] = value
    with pytest.raises((TypeError, ValueError), match=words):
        optimizer(KEY, w, g.copy())
    assert np.array_equal(w, before)
    getattr(optimizer, held)[KEY] = kept
    optimizer(KEY, w, g.copy())
    assert optimizer.nr_update[KEY] == 2


def test_an_attribute_that_means_nothing_is_refused():
    optimizer = ours.Optimizer(0.1, rule="rmsprop", momentum=0.5)
    with pytest.raises(AttributeError, match=r"no attribute 'lern_rate' .* opt\.learn_rate\?"):
        optimizer.lern_rate = 0.2
    for twin in (optimizer, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        twin.learn_rate = twin.L2 = twin.momentum = 0.0  # as thinc 8 has its schedules' values
        with pytest.raises(AttributeError, match="'momentun'"):
            twin.momentun = 0.1

    class Own(ours.Optimizer):
        pass

    own = Own(0.1)
    own.anything = 1
    assert own.anything == 1


def test_the_rest_of_optkern_says_what_serves_instead(tmp_path):
    optimizer = ours.Adam(0.1)
    for call in (optkern.save, optkern.load):
        with pytest.raises(TypeError, match=r"thinc.Optimizer: .*pickle.dump\(optimizer, file\)"):
            call(tmp_path / "x.npz", optimizer)
    with pytest.raises(TypeError, match="one array at a time; leave opt out"):
        optkern.Monitor().record(1.0, None, optimizer)
    run(optimizer)
    again = pickle.loads(pickle.dumps(optimizer))
    assert all(map(np.array_equal, run(optimizer), run(again)))


def test_training_the_averages_themselves_is_refused():
    model, optimizer = tagger(), ours.Adam(0.01)
    train(model, optimizer, batches=2)
    with model.use_params(optimizer.averages), pytest.raises(ValueError, match="overlap"):
        train(model, optimizer, batches=1)
    train(model, optimizer, batches=1)


def test_a_host_that_is_missing_or_too_old(run_python):
    code = """
import sys
{change}
try:
    import optkern.integrations.thinc
except ImportError as error:
    print(error)
"""
    result = run_python(code.format(change="sys.modules['thinc'] = None"))
    assert "needs thinc 8.3 or newer, which is not installed: pip install" in result.stdout
    old = "import types; m = types.ModuleType('thinc'); m.__version__ = '8.2.5'\n"
    result = run_python(code.format(change=old + "sys.modules['thinc'] = m"))
    assert "needs thinc 8.3 or newer, found 8.2.5: pip install 'thinc>=8.3'" in result.stdout
