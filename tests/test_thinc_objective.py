"""A thinc model's loss as `optkern.curvature` takes it."""

import numpy as np
import pytest

import optkern
from optkern import curvature

pytest.importorskip("thinc", reason="needs thinc: make test EXTRAS=thinc")

import thinc.api as api
from thinc_cases import SENTENCES, TAGS, T, X, Y, network, regressor, tagger, weights

from optkern.integrations import thinc as ours

CASES = {
    "classes": (network, X, Y, None),
    "labels": (network, X, Y.argmax(axis=1).tolist(), api.CategoricalCrossentropy()),
    "smoothed": (
        network, X, Y.argmax(axis=1).tolist(), api.CategoricalCrossentropy(label_smoothing=0.1),
    ),
    "sequences": (tagger, SENTENCES, TAGS, None),
    "regression": (regressor, X, T, api.L2Distance()),
    "sum": (regressor, X, T, api.L2Distance(normalize=False)),
    "cosine": (regressor, X, T, api.CosineDistance()),
    "own": (
        regressor, X, T, lambda g, t: ((g - t) ** 3 / len(g), 0.25 * ((g - t) ** 4).sum() / len(g)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_objective(case):
    make, inputs, truths, loss = CASES[case]
    model = make()
    at = ours.objective(model, inputs, truths, loss, L2=0.3)
    pieces = ours.objective(model, inputs, truths, loss, L2=0.3, batch_size=7)
    x, value, grad = at
    assert all(a.dtype == np.float64 for a in x)
    assert all(map(np.array_equal, x, weights(model)))
    # Where it comes some layers are zeros, and those below them have no gradient.
    generator = np.random.default_rng(1)
    x = [a + 0.2 * generator.standard_normal(a.shape) for a in x]
    assert value(x) == pytest.approx(pieces.loss(x), rel=1e-12)
    gradient = grad(x)
    for a, b in zip(gradient, pieces.grad(x), strict=True):
        assert a.dtype == np.float64 and a.any()
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-14)
    for i, g in enumerate(gradient):
        along = [generator.standard_normal(a.shape) * (k == i) for k, a in enumerate(x)]
        h = 1e-6
        up, down = ([a + s * h * d for a, d in zip(x, along, strict=True)] for s in (1, -1))
        slope = float(np.vdot(g, along[i]))
        assert (value(up) - value(down)) / (2 * h) == pytest.approx(slope, rel=1e-4, abs=1e-8)


def test_objective_is_what_training_descends():
    """Its gradient is what thinc accumulates for a full batch."""
    model = tagger()
    guesses, backprop = model.begin_update(SENTENCES)
    backprop(api.SequenceCategoricalCrossentropy().get_grad(guesses, TAGS))
    expected = [n.get_grad(name) for n in model.walk() for name in n.grad_names]
    x, _, grad = ours.objective(model, SENTENCES, TAGS)
    for a, b in zip(grad(x), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-7)


def test_objective_does_not_touch_the_model():
    model = network()
    guesses, backprop = model.begin_update(X)
    backprop(guesses - Y)
    before = model.to_bytes(), {k: g.copy() for k, (_, g) in model.get_gradients().items()}
    kept = weights(model)
    x, loss, grad = ours.objective(model, X, Y)
    for a in x:
        a += 1.0
    loss(x), grad(x)
    assert model.to_bytes() == before[0]
    assert all(a is b for a, b in zip(weights(model), kept, strict=True))
    for key, (_, g) in model.get_gradients().items():
        assert np.array_equal(g, before[1][key])
    dropouts = [n.attrs["dropout_rate"] for n in model.walk() if "dropout_rate" in n.attrs]
    assert 0.2 in dropouts


def single():
    """A layer that gives float32 whatever it gets."""

    def forward(model, inputs, is_train):
        tanh = np.tanh(inputs, dtype="f", casting="same_kind")
        return tanh, lambda d: d * (1 - tanh**2)

    return api.Model("single", forward)


@pytest.mark.parametrize("middle", ("Relu", "Mish", "Gelu", "HardSwish", "Maxout", "residual"))
def test_layers_of_float32_alone_give_float32(middle):
    model = network()
    layer = api.residual(api.Mish(9, 9)) if middle == "residual" else getattr(api, middle)(9, 9)
    model.layers[1:1] = [single(), layer.initialize()]
    x, loss, grad = ours.objective(model, X, Y)
    assert all(a.dtype == np.float32 for a in x)
    assert loss(x) > 0 and all(g.dtype == np.float32 for g in grad(x))


def test_parameters_without_a_gradient_are_no_part_of_the_point():
    def forward(model, inputs, is_train):
        return inputs * model.get_param("scale"), lambda d: d * model.get_param("scale")

    model = network()
    model.layers.insert(0, api.Model("scaled", forward, params={"scale": np.full(6, 2.0, "f")}))
    x, _, _ = ours.objective(model, X, Y)
    assert len(x) == len(weights(model)) - 1
    frozen = api.chain(model.layers[0], api.softmax_activation())
    with pytest.raises(ValueError, match="no parameter of the model gets a gradient"):
        ours.objective(frozen, X[:, :3].repeat(2, axis=1), Y.repeat(2, axis=1) / 2)


def test_a_gradient_that_is_none_is_refused():
    """thinc's LSTM gives no gradient of its output: differences say so, in thinc 8.3 and 9.1."""
    api.fix_random_seed(0)
    sequences, truths = [X[:5], X[5:12], X[12:15]], [Y[:5], Y[5:12], Y[12:15]]
    lstm = api.with_padded(api.LSTM(4, 6, depth=1))
    model = api.chain(lstm, api.with_array(api.Softmax(3, 4))).initialize(sequences, truths)
    with pytest.raises(ValueError, match="does not give the gradient of its value"):
        ours.objective(model, sequences, truths)


@pytest.mark.parametrize("passed", (0.0, 0.5))
@pytest.mark.parametrize("layers", ((), (single,)), ids=("float64", "float32"))
def test_a_layer_that_stops_the_gradient_is_refused(layers, passed):
    """Along what is left of the gradient the loss rises as it says."""
    stop = api.Model(
        "stop", lambda model, inputs, is_train: (inputs, lambda d: d * np.float32(passed))
    )
    api.fix_random_seed(0)
    model = api.chain(api.Mish(9, 6), *(make() for make in layers), stop, api.Softmax(3, 9))
    words = "along a direction of W of mish the value rises by .*the gradient says"
    with pytest.raises(ValueError, match=words):
        ours.objective(model.initialize(), X, Y)


def saddle():
    """Two linear layers of zeros that give the mean: no gradient, and two directions go down."""
    model = api.chain(api.Linear(2, 6), api.Linear(2, 2)).initialize()
    for w in weights(model):
        w[...] = 0
    model.layers[1].set_param("b", T.mean(axis=0, dtype=float))
    return model


def test_objective_judges_a_saddle_and_leaves_it():
    x, loss, grad = ours.objective(saddle(), X, T.astype(float), api.L2Distance())
    verdict = curvature.classify(x, grad=grad, loss=loss)
    assert verdict.kind == "saddle", verdict
    before = loss(x)
    assert curvature.escape(x, verdict, loss=loss, grad=grad).moved
    assert loss(x) < 0.99 * before


def test_diagnose_takes_an_objective():
    monitor = optkern.Monitor()
    for _ in range(40):
        monitor.record(0.5)
    x, loss, grad = ours.objective(saddle(), X, T.astype(float), api.L2Distance())
    assert monitor.diagnose(x, grad=grad, loss=loss).kind == "saddle"


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((None, X, Y), TypeError, "model must be a thinc Model, got NoneType"),
        ((api.Softmax(3, 6), X, Y), ValueError, "W of softmax is not set: initialize first"),
        ((network(), X, Y[:5]), ValueError, "X and Y must be of one length > 0, got 60 and 5"),
        ((network(), X[:0], Y[:0]), ValueError, "X and Y must be of one length > 0"),
        ((network(), X, Y, "mse"), TypeError, "loss must be a loss of thinc.*got str"),
        ((network(), X, None), TypeError, "Y must be an array or a list, got NoneType"),
        ((network(), X, Y, lambda g, t: 3), TypeError, "loss must give a tuple .*got int"),
        ((network(), X * np.nan, Y), ValueError, "the loss is nan .*must be finite"),
        (
            (network(), X, np.ones((60, 1), "f"), api.L2Distance()),  # which NumPy would broadcast
            ValueError,
            "Y must have the shape that the model gives",
        ),
        (
            (api.chain(api.Linear(3, 6), api.Logistic()).initialize(), X, Y),
            ValueError,
            "does not give the gradient of its value.*needs a Softmax",
        ),
    ],
)
def test_objective_refuses(arguments, error, words):
    with pytest.raises(error, match=words):
        ours.objective(*arguments)


@pytest.mark.parametrize("batch_size", (0, -1, 1.5, "all", None))
def test_objective_refuses_a_batch_of(batch_size):
    with pytest.raises((TypeError, ValueError), match="batch_size must be an integer >= 1, got"):
        ours.objective(network(), X, Y, batch_size=batch_size)


def test_negated_classes_descend_no_function():
    loss = api.CategoricalCrossentropy(names=["a", "b", "c"], neg_prefix="!")
    truths = ["a", "!b", "c"] * 20
    with pytest.raises(ValueError, match="neg_prefix descends no function"):
        ours.objective(network(), X, truths, loss)
