"""thinc
=====

One import changed, another rule, and where a tagger's training has stopped.

pip install '.[thinc]' && python examples/thinc_tagger.py
"""

import time

import numpy as np
import thinc.api as thinc

from optkern import curvature, schedules
from optkern.integrations.thinc import Adam, Optimizer, objective  # was: from thinc.api

# A language whose words end as their part of speech does, but every third one is ambiguous and
# takes its tag from the word before it.
rng = np.random.default_rng(0)
SENTENCES, TAGS = [], []
for length in rng.integers(4, 15, 600):
    words = rng.integers(1, 500, length)
    before = np.concatenate([[0], words[:-1]])
    tags = np.where(words % 3 == 0, before % 4, words % 4)
    SENTENCES.append(words.astype("uint64")[:, None])
    TAGS.append(np.eye(4, dtype="f")[tags])
TEST = slice(500, None)


def tagger(width=32):
    thinc.fix_random_seed(0)
    embed = thinc.HashEmbed(width, 1000, seed=1, column=0)
    context = thinc.chain(thinc.expand_window(1), thinc.Maxout(width, 3 * width, 3))
    model = thinc.with_array(thinc.chain(embed, context, thinc.Softmax(4, width)), pad=1)
    return model.initialize(SENTENCES[:3], TAGS[:3])


def trained(optimizer, epochs=5):
    model, loss = tagger(), thinc.SequenceCategoricalCrossentropy()
    start = time.perf_counter()
    for _ in range(epochs):
        for first in range(0, 500, 32):
            rows = slice(first, min(first + 32, 500))
            guesses, backprop = model.begin_update(SENTENCES[rows])
            backprop(loss.get_grad(guesses, TAGS[rows]))
            model.finish_update(optimizer)
            optimizer.step_schedules()
    seconds = time.perf_counter() - start
    with model.use_params(optimizer.averages):
        guesses = np.concatenate(model.predict(SENTENCES[TEST]))
    correct = guesses.argmax(axis=1) == np.concatenate(TAGS[TEST]).argmax(axis=1)
    return model, f"test accuracy {correct.mean():.3f}, {seconds:.2f} s"


print("thinc's Adam:", trained(thinc.Adam(0.01))[1])
print("optkern's Adam:", trained(Adam(0.01))[1])
cosine = schedules.warmup(16, then=schedules.Cosine(1e-2, T_max=64))
print("Lion, a schedule:", trained(Optimizer(cosine, rule="lion", L2=0.01))[1])

# In a configuration, as spaCy's: the name in the place of Adam.v1.
config = thinc.Config().from_str('[optimizer]\n@optimizers = "optkern.AdamW.v1"\nlearn_rate = 0.01')
print("AdamW by name:", trained(thinc.registry.resolve(config)["optimizer"])[1])

# Where has it stopped? Two lines, for a model that is small enough to be sure about.
thinc.fix_random_seed(0)
X = rng.standard_normal((200, 2)).astype("f")
Y = np.eye(2, dtype="f")[(X[:, 0] * X[:, 1] > 0).astype(int)]
layers = thinc.Mish(6, 2), thinc.Softmax(2, 6)
small, optimizer = thinc.chain(*layers).initialize(), Adam(0.02, grad_clip=0.0)
for _ in range(500):
    guesses, backprop = small.begin_update(X)
    backprop((guesses - Y) / len(Y))
    small.finish_update(optimizer)
x, loss, grad = objective(small, X, Y)
print(f"after training: loss {loss(x):.4f}")
print(curvature.classify(x, grad=grad, loss=loss))
