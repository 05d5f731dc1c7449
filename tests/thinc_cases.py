"""Arrays, models and data that the tests of thinc's side share."""

import numpy as np
import thinc.api as api

KEY = (1, "W")
CLOSE = {"rtol": 3e-6, "atol": 5e-7}
# thinc computes 1 - beta in float32: of these without an error, of .999 with one of 1e-5.
EXACT = {"beta1": 0.875, "beta2": 0.984375}
ROUNDED = {"atol": 2e-5}
rng = np.random.default_rng(0)


def arrays(shape=(40, 7), count=1, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(shape).astype(np.float32) for _ in range(count)]


def run(optimizer, updates=12, scale=1.0, lr_scale=1.0, step=True):
    """Weights and average after some updates of one array; gradients of very different lengths."""
    w = arrays()[0]
    for k, g in enumerate(arrays(count=updates, seed=1)):
        g *= scale * 10.0 ** (-k % 4)
        back, zeros = optimizer(KEY, w, g, lr_scale=lr_scale)
        assert np.shares_memory(back, w) and np.shares_memory(zeros, g) and not g.any()
        if step:
            optimizer.step_schedules()
    return [w, *([optimizer.averages[KEY]] if optimizer.averages is not None else [])]


def assert_close(found, expected, **tolerance):
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype == np.float32
        np.testing.assert_allclose(a, b, **{**CLOSE, **tolerance})


def tagger(seed=0):
    api.fix_random_seed(seed)
    embed = api.concatenate(
        api.HashEmbed(8, 200, seed=1, column=0), api.HashEmbed(8, 100, seed=2, column=1)
    )
    model = api.with_array(
        api.chain(embed, api.expand_window(1), api.Maxout(12, 48, 3), api.Softmax(5, 12)), pad=1
    )
    return model.initialize(SENTENCES[:5], TAGS[:5])


def network(seed=0, activation=None):
    api.fix_random_seed(seed)
    layers = (activation or api.Relu)(9, 6), api.Dropout(0.2), api.Softmax(3, 9)
    return api.chain(*layers).initialize()


def regressor():
    api.fix_random_seed(0)
    return api.chain(api.Mish(7, 6), api.Linear(2, 7)).initialize()


SENTENCES = [rng.integers(1, 300, (n, 2)).astype("uint64") for n in rng.integers(3, 9, 40)]
TAGS = [np.eye(5, dtype="f")[s[:, 0] % 5] for s in SENTENCES]
X = rng.standard_normal((60, 6)).astype("f")
Y = np.eye(3, dtype="f")[np.argmax(X[:, :3], axis=1)]
T = np.tanh(X[:, :2])


def train(model, optimizer, batches=20):
    loss = api.SequenceCategoricalCrossentropy()
    for k in range(batches):
        rows = slice(8 * k % 40, 8 * k % 40 + 8)
        guesses, backprop = model.begin_update(SENTENCES[rows])
        backprop(loss.get_grad(guesses, TAGS[rows]))
        model.finish_update(optimizer)
        optimizer.step_schedules()
    return weights(model)


def weights(model):
    return [n.get_param(name) for n in model.walk() for name in n.param_names if n.has_param(name)]
