"""
15. The decision guide
======================

Training went badly: is the model too small, does the optimisation fail, does it learn by heart, are
the test data of another kind, or does it explode? Five runs with one fault each, and what
`compare_fits` and `diagnose` say of them.
"""

import lesson
import matplotlib.pyplot as plt
import numpy as np

import optkern

X, y, X_test, y_test = lesson.digits(1000)
TRAIN, HELD = (X[:600], y[:600]), (X[600:], y[600:])


def train(hidden=32, lr=3e-3, data=TRAIN, updates=600, rule=optkern.Adam, watch=None):
    """Return the network; ``watch`` records its losses and gradients."""
    net, rng = lesson.MLP(64, hidden, 10), np.random.default_rng(0)
    opt = rule(net.params, lr=lr)
    for _ in range(updates):
        rows = rng.permutation(len(data[1]))[:32]
        loss, grads = net.loss_and_grads(net.params, data[0][rows], data[1][rows])
        opt.step(grads)
        if watch is not None:
            watch.record(loss, grads, opt)
    return net


def losses(net, *sets):
    with np.errstate(all="ignore"):
        return [net.loss(net.params, *data) for data in sets]


# %%
# Five runs, each with a fault. 0.25 is a training loss that would be good enough.

few, upside_down = (X[:40], y[:40]), (X_test.reshape(-1, 8, 8)[:, ::-1].reshape(-1, 64), y_test)
runs = {}
for name, net, smaller in (
    ("model too small", train(hidden=2), train(hidden=1)),
    ("optimisation fails", train(lr=1e-5), train(hidden=8)),
):
    trained, held = losses(net, TRAIN, HELD)
    least = losses(smaller, TRAIN)[0]
    runs[name] = {"train": trained, "validation": held, "smaller_model_train": least}
by_heart = train(hidden=64, data=few)
runs["learnt by heart"] = dict(zip(("train", "test"), losses(by_heart, few, (X_test, y_test))))
other_kind = losses(train(), TRAIN, upside_down, HELD)
runs["other test data"] = dict(zip(("train", "test", "validation"), other_kind))
said = {name: optkern.compare_fits(**given, target=0.25) for name, given in runs.items()}
monitor = optkern.Monitor()
wild = train(lr=lambda update: 0.3 if update < 300 else 30.0, rule=optkern.SGD, watch=monitor)
said["the rate was raised"] = monitor.diagnose(
    wild.params,
    grad=lambda p: wild.loss_and_grads(p, *TRAIN)[1],
    loss=lambda p: wild.loss(p, *TRAIN),
)
for name, verdict in said.items():
    print(f"{name}\n    {str(verdict).splitlines()[0]}")  # kind: explanation
WANTED = ("bias", "optimization", "overfitting", "mismatch", "exploding")
right = [verdict.kind == kind for verdict, kind in zip(said.values(), WANTED)]
lesson.claim(
    "training, held-out and test loss, and the run's record, tell what is wrong",
    f"{sum(right)} of 5 faults are named as planted",
    all(right),
)
kept = train(lr=0.3, rule=optkern.SGD)  # the same run, had the rate stayed
ends = [losses(net, TRAIN)[0] for net in (wild, kept)]
lesson.claim(
    "the advice, back to the rate of then, helps",
    f"training loss {ends[0]:.0f} with the raised rate, {ends[1]:.3f} with that of before",
    ends[1] < 0.25,
)

figure, axes = plt.subplots(1, 2, figsize=(11, 4))
for k, part in enumerate(("train", "validation", "test", "smaller_model_train")):
    values = [given.get(part, np.nan) for given in runs.values()]
    axes[0].bar(np.arange(4) + 0.2 * k - 0.3, values, 0.2, label=part, color=lesson.COLOURS[k])
axes[0].axhline(0.25, color="k", lw=0.8)
axes[0].set(title="losses, and the target", yscale="log", ylim=(5e-4, 200), xticks=range(4))
axes[0].set_xticklabels([f"{name}\n-> {said[name].kind}" for name in runs], fontsize=8)
axes[1].semilogy(monitor.losses, **lesson.style(0))
axes[1].set(title="the rate was raised -> " + said["the rate was raised"].kind, xlabel="update")
axes[0].legend()
lesson.show(figure, "plot_15_decision_guide.py")
