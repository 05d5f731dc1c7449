"""What recording costs: a training step with and without `Monitor.record`, interleaved.

    python bench/bench_monitor.py

The step is a forward and backward pass in NumPy, the rule's update and nothing else. Rounds
alternate; shown is the quietest of each kind. The last column is what a call of `record` takes by
itself, its looks at the updates included and the clock that times it taken off, as a share of the
step.
"""

from __future__ import annotations

import time

import numpy as np

import optkern
from optkern.bench.options import Parser

SHAPES = {
    "64-32-10, batch 32": (64, 32, 10, 32),
    "64-256-10, batch 128": (64, 256, 10, 128),
    "784-512-10, batch 256": (784, 512, 10, 256),
}


def network(inputs, hidden, outputs, batch):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, inputs), dtype=np.float32)
    y = rng.standard_normal((batch, outputs), dtype=np.float32)
    p = {
        "w1": (rng.standard_normal((inputs, hidden)) / np.sqrt(inputs)).astype(np.float32),
        "b1": np.zeros(hidden, np.float32),
        "w2": (rng.standard_normal((hidden, outputs)) / np.sqrt(hidden)).astype(np.float32),
        "b2": np.zeros(outputs, np.float32),
    }

    def loss_and_grads():
        a = np.tanh(x @ p["w1"] + p["b1"])
        rest = a @ p["w2"] + p["b2"] - y
        d = rest * np.float32(1 / batch)
        back = (d @ p["w2"].T) * (1 - a * a)
        g = {"w1": x.T @ back, "b1": back.sum(0), "w2": a.T @ d, "b2": d.sum(0)}
        return 0.5 * float((rest * rest).mean()), g

    return p, loss_and_grads


def seconds(steps, loss_and_grads, opt, monitor):
    """Per step, and of that within `record` (or its absence: what the clock itself takes)."""
    spent = 0.0
    begin = time.perf_counter()
    for _ in range(steps):
        loss, grads = loss_and_grads()
        opt.step(grads)
        start = time.perf_counter()
        if monitor is not None:
            monitor.record(loss, grads, opt)
        spent += time.perf_counter() - start
    return (time.perf_counter() - begin) / steps, spent / steps


def main():
    Parser(__doc__).options()
    print(
        f"{'network':24} {'us a step':>10} {'us with record':>15} {'us in record':>13} {'share':>8}"
    )
    for name, shape in SHAPES.items():
        p, loss_and_grads = network(*shape)
        opt, monitor = optkern.Adam(p, lr=1e-5), optkern.Monitor()
        rounds = []
        steps = max(50, 2 * 10**8 // (shape[0] * shape[1] * shape[3]))
        for _ in range(9):
            plain = seconds(steps, loss_and_grads, opt, None)
            rounds.append((*plain, *seconds(steps, loss_and_grads, opt, monitor)))
        plain, clock, watched, record = np.min(rounds, axis=0) * 1e6
        record -= clock
        print(
            f"{name:24} {plain:10.1f} {watched:15.1f} {record:13.2f} {100 * record / plain:7.2f} %"
        )


if __name__ == "__main__":
    main()
