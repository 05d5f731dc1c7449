"""What the lessons share: lines that are told apart without colour, and how an outcome is said."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import matplotlib
import numpy as np

if "sphinx" not in sys.modules and not os.environ.get("DISPLAY"):
    matplotlib.use("Agg")
import itertools

import matplotlib.pyplot as plt
from matplotlib.colors import LinearSegmentedColormap

# Okabe and Ito's colours, which the colour-blind tell apart too, each with a dash of its own.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 1)))
HEIGHTS = LinearSegmentedColormap.from_list("heights", ("0.8", "0.3"))  # none of them too pale
OUTCOMES = {True: "yes", False: "NO"}


def style(k: int) -> dict[str, object]:
    """Return the look of the k-th line of a picture."""
    return {"color": COLOURS[k % len(COLOURS)], "linestyle": DASHES[k % len(DASHES)], "lw": 1.8}


def label_end(axes, x, y, text: str, k: int) -> None:
    """Write a line's name at its right end, in its colour."""
    axes.annotate(
        text,
        (x, y),
        xytext=(4, 0),
        textcoords="offset points",
        color=COLOURS[k % len(COLOURS)],
        fontsize=8,
        va="center",
    )


def claim(text: str, measured: str, held: bool | str) -> None:
    """Print a claim, what was measured, and whether it held: a bool, or under which condition."""
    print(f"claim     {text}")
    print(f"measured  {measured}")
    print(f"held      {OUTCOMES.get(held, held)}\n")


def held(wholly: bool, partly: bool, text: str) -> bool | str:
    """Return True, or the text where it holds under that condition only, or False."""
    return True if wholly else text if partly else False


def surface(axes, function, x, y, levels=30, **kwargs) -> None:
    """Draw the contours of ``function(x, y)`` over the grid of the vectors x and y."""
    grid = np.meshgrid(x, y)
    axes.contour(*grid, function(*grid), levels, cmap=HEIGHTS, linewidths=0.6, **kwargs)


def show(figure, script: str) -> None:
    """Save the picture beside the others of ``make lessons``; sphinx-gallery takes it by itself."""
    figure.tight_layout()
    folder = os.environ.get("OPTKERN_LESSONS")
    if folder:
        path = Path(folder) / (Path(script).stem + ".png")
        figure.savefig(path, dpi=110)
        print(f"picture   {path}")
    else:
        plt.show()


def digits(train: int = 1200, seed: int = 0):
    """Return scikit-learn's digits, normalised: X, y to train on and X, y to test on."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(y))
    X, y = (X[order] - 4.884) / 6.017, y[order]
    return X[:train], y[:train], X[train:], y[train:]


def digits_in_three(train: int):
    """Return X, y to train on, X, y to choose by (400 images), and X, y to test the choice on."""
    X, y, others, labels = digits(train)
    return (X, y), (others[:400], labels[:400]), (others[400:], labels[400:])


class MLP:
    """Tanh layers under softmax cross-entropy, or the mean squared error of ``mse=True``."""

    def __init__(self, *sizes: int, mse: bool = False, seed: int = 0, scale: float = 1.0) -> None:
        rng = np.random.default_rng(seed)
        self.mse, self.params = mse, []
        for fan_in, fan_out in itertools.pairwise(sizes):
            W = rng.standard_normal((fan_in, fan_out)) * scale / np.sqrt(fan_in)
            self.params += [W, np.zeros(fan_out)]

    def outputs(self, params, X):
        """Return what every layer gives, the input first."""
        layers = [X]
        for k in range(0, len(params), 2):
            z = layers[-1] @ params[k] + params[k + 1]
            layers.append(np.tanh(z) if k < len(params) - 2 else z)
        return layers

    def loss_and_grads(self, params, X, y):
        """Return the mean loss and its gradients, arranged as params."""
        layers = self.outputs(params, X)
        if self.mse:
            d = (layers[-1] - y.reshape(len(y), -1)) / len(y)
            loss = float((d * d).sum() * len(y) / 2)
        else:
            p = layers[-1] - layers[-1].max(1, keepdims=True)
            p -= np.log(np.exp(p).sum(1, keepdims=True))
            loss, d = -float(p[np.arange(len(y)), y].mean()), np.exp(p) / len(y)
            d[np.arange(len(y)), y] -= 1 / len(y)
        grads = []
        for k in range(len(params) - 2, -1, -2):
            grads[:0] = [layers[k // 2].T @ d, d.sum(0)]
            d = d @ params[k].T * (1 - layers[k // 2] ** 2)
        return loss, grads

    def dropout_grads(self, X, y, share, rng):
        """Return the gradients with a share of one hidden layer's units left out, others larger."""
        keep = (rng.random(self.params[1].size) >= share) / (1 - share)
        dropped = [*self.params[:2], self.params[2] * keep[:, None], self.params[3]]
        grads = self.loss_and_grads(dropped, X, y)[1]
        grads[2] = grads[2] * keep[:, None]
        return grads

    def loss(self, params, X, y):
        """Return the mean loss."""
        return self.loss_and_grads(params, X, y)[0]

    def accuracy(self, params, X, y):
        """Return the share of samples whose largest output is their label's."""
        return float((self.outputs(params, X)[-1].argmax(1) == y).mean())


class NormalisedMLP:
    """Two tanh layers, each normalised by its batch, layer or groups of it, or by none."""

    def __init__(self, mode, seed=0, width=32, groups=4):
        rng, self.mode, self.width = np.random.default_rng(seed), mode, width
        self.groups = groups if mode == "group" else 1
        sizes = ((64, width), (width, width), (width, 10))
        self.params = [rng.standard_normal(s) / np.sqrt(s[0]) for s in sizes]
        self.running = [[np.zeros(width), np.ones(width)] for _ in range(2)]

    def parts(self, samples):
        """Return the shape of a layer by groups."""
        return samples, self.groups, self.width // self.groups

    def normalised(self, z, k, training, learn):
        """Return z normalised, by what it was divided and along which axis."""
        if self.mode == "none":
            return z, 1.0, None
        axis, z = (0 if self.mode == "batch" else 2), z.reshape(self.parts(len(z)))
        mean, spread = z.mean(axis, keepdims=True), np.sqrt(z.var(axis, keepdims=True) + 1e-5)
        if self.mode == "batch" and learn:
            for old, new in zip(self.running[k], (mean, spread)):
                old += 0.1 * (new.ravel() - old)
        if self.mode == "batch" and not training:
            mean, spread = (v.reshape(1, 1, -1) for v in self.running[k])
        return ((z - mean) / spread).reshape(len(z), self.width), spread, axis

    def scores(self, params, X, training=True, learn=False):
        """Return the scores, and what the way back needs."""
        a, kept = X, []
        for k in range(2):
            h, spread, axis = self.normalised(a @ params[k], k, training, learn)
            kept.append((a, h, spread, axis))
            a = np.tanh(h)
        return a @ params[2], [*kept, a]

    def gradients(self, params, X, y, learn=False):
        """Return those of the mean cross-entropy; ``learn`` moves the running averages."""
        scores, (*kept, a) = self.scores(params, X, learn=learn)
        d = np.exp(scores - scores.max(1, keepdims=True))
        d = (d / d.sum(1, keepdims=True) - np.eye(10)[y]) / len(y)
        grads = [a.T @ d]
        for W, (a, h, spread, axis) in zip(params[:0:-1], kept[::-1]):
            d = (d @ W.T) * (1 - np.tanh(h) ** 2)
            if axis is not None:
                d, h = d.reshape(self.parts(len(y))), h.reshape(self.parts(len(y)))
                along = (d * h).mean(axis, keepdims=True)
                d = (d - d.mean(axis, keepdims=True) - h * along) / spread
                d = d.reshape(len(y), self.width)
            grads[:0] = [a.T @ d]
        return grads

    def train(self, X, y, batch, lr, updates=400, losses=None):
        """Take SGD's updates of random batches, the same at each call; returns the network."""
        import optkern

        rng, opt = np.random.default_rng(0), optkern.SGD(self.params, lr=lr)
        for k in range(updates):
            if losses is not None and k % 10 == 0:
                losses.append(self.loss(X, y))
            rows = rng.permutation(len(y))[:batch]
            opt.step(self.gradients(self.params, X[rows], y[rows], learn=True))
        return self

    def spectrum(self, X, y):
        """Return all eigenvalues of the Hessian, which is built column by column."""
        shapes = [p.shape for p in self.params]
        cuts = np.cumsum([p.size for p in self.params])[:-1]

        def gradient(w):
            params = [part.reshape(shape) for part, shape in zip(np.split(w, cuts), shapes)]
            return np.concatenate([g.ravel() for g in self.gradients(params, X, y)])

        return np.linalg.eigvalsh(hessian(gradient, np.concatenate([*map(np.ravel, self.params)])))

    def accuracy(self, X, y, **how):
        """Return the share of samples whose largest score is their label's."""
        return float((self.scores(self.params, X, **how)[0].argmax(1) == y).mean())

    def loss(self, X, y):
        """Return the mean cross-entropy, by the statistics of these samples."""
        scores = self.scores(self.params, X)[0]
        scores = scores - scores.max(1, keepdims=True)
        return float((np.log(np.exp(scores).sum(1)) - scores[np.arange(len(y)), y]).mean())


def tuned(mode, training, held, batch, rates):
    """Return the rate of a NormalisedMLP that is best by the images held out, and that network."""
    nets = [NormalisedMLP(mode).train(*training, batch, lr) for lr in rates]
    k = int(np.argmax([net.accuracy(*held, training=False) for net in nets]))
    return rates[k], nets[k]


class FewDigits:
    """150 digits of 0 to 3 by 4 principal components, 2 tanh units and decay: 22 weights in one."""

    def __init__(self):
        X, y = digits()[:2]
        X, self.y = X[y < 4][:150], y[y < 4][:150]
        X = (X - X.mean(0)) @ np.linalg.svd(X - X.mean(0), full_matrices=False)[2][:4].T
        self.X, self.net = X / X.std(), MLP(4, 2, 4)

    def start(self, seed):
        """Return random weights."""
        return np.concatenate([p.ravel() for p in MLP(4, 2, 4, seed=seed).params])

    def loss_and_grad(self, w, rows=slice(None)):
        """Return the mean cross-entropy of these rows with .005 |w|^2 beside it, and its slope."""
        W, b, V, c = np.split(w, (8, 10, 18))
        params = [W.reshape(4, 2), b, V.reshape(2, 4), c]
        loss, grads = self.net.loss_and_grads(params, self.X[rows], self.y[rows])
        return loss + 0.005 * w @ w, np.concatenate([g.ravel() for g in grads]) + 0.01 * w

    def loss(self, w):
        """Return the loss of all images."""
        return self.loss_and_grad(w)[0]

    def grad(self, w):
        """Return the gradient of all images."""
        return self.loss_and_grad(w)[1]

    def critical(self, w):
        """Return the critical point beside w, which solves gradient = 0."""
        from scipy.optimize import least_squares

        return least_squares(
            self.grad, w, lambda w: hessian(self.grad, w), xtol=1e-15, ftol=1e-15, gtol=1e-15
        ).x


def conjugate_gradient(H, p, steps):
    """Return (rate, momentum) of each step down p (H p) / 2 with a diagonal H, and the points."""
    d, before, rate, chosen, points = 0 * p, H * p, 1.0, [], [p]
    for _ in range(steps):
        g, last = H * p, rate
        beta = (g @ g) / (before @ before)
        d, before = beta * d - g, g
        rate = (g @ g) / (d @ (H * d))
        p = p + rate * d
        chosen.append((rate, rate * beta / last))
        points.append(p)
    return chosen, points


def hessian(grad, w):
    """Return that of a gradient by central differences, symmetric."""
    columns = [(grad(w + 1e-5 * e) - grad(w - 1e-5 * e)) / 2e-5 for e in np.eye(len(w))]
    return (np.array(columns) + np.array(columns).T) / 2
