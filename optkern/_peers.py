"""The optimizers that `optkern bench --peers` measures optkern against, a small class each.

1. A peer runs in a worker process with its library's peers alone: whoever loads an OpenMP runtime
   first sets its wait policy for all who share it, and optkern's is passive. In optkern's process
   torch and numba would wake sleeping threads where their own users' spin: up to 20 us a call.
2. So this file is a program too, and imports optkern only where a peer needs nothing of OpenMP.
3. All workers map one file of memory: p, g and state are the same pages for every side. A library
   that cannot work on given arrays has copies, and `publish` brings them back for the comparison.
4. Each peer is written as a person who knows the library and wants speed would write it. Where its
   formula follows another convention, `rules` names the option of optkern that means the same, and
   parity is checked against the reference with that option.
"""

from __future__ import annotations

import gc
import importlib
import json
import mmap
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import repeat
from time import perf_counter
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

STEP = 11  # the step that is taken, as the bias corrections count
SAMPLE = 0.02  # seconds a sample lasts at least
SETTLE = 12  # steps before anything is timed: past optkern's first choice of threads; or
PATIENCE = 2.0  # seconds
ALIGNMENT = 64


class Task:
    """What a side has to do: a rule with its numbers, over buffers in shared memory.

    Parameters
    ----------
    case : str
        As in `optkern._bench.CASES`.
    hyper : mapping
        The rule's hyperparameters.
    sizes : sequence of int
        Elements of each tensor.
    slots : sequence of str
        The state arrays in use.
    dtype : str
    threads : int
    memory : buffer
        At least `bytes_needed` bytes.
    """

    def __init__(self, case, hyper, sizes, slots, dtype, threads, memory):
        self.case, self.hyper, self.threads = case, dict(hyper), threads
        self.o = SimpleNamespace(**hyper)
        self.flat = [
            np.frombuffer(memory, dtype, stride // np.dtype(dtype).itemsize, k * stride)
            for k, stride in enumerate(repeat(stream_bytes(sizes, dtype), 2 + len(slots)))
        ]
        streams = [list(cut(flat, sizes)) for flat in self.flat]
        self.p, self.g = streams[:2]
        self.state = dict(zip(slots, streams[2:]))

    @property
    def state_arrays(self) -> list[list[np.ndarray]]:
        return list(self.state.values())


def cut(flat: np.ndarray, sizes: Any) -> Iterator[np.ndarray]:
    """One array after the other, each on a cache line of its own."""
    line = ALIGNMENT // flat.itemsize
    at = 0
    for size in sizes:
        yield flat[at : at + size]
        at += -(-size // line) * line


def stream_bytes(sizes: Any, dtype: str) -> int:
    """The bytes of one stream, in whole pages."""
    itemsize = np.dtype(dtype).itemsize
    total = sum(-(-size * itemsize // ALIGNMENT) * ALIGNMENT for size in sizes)
    return -(-total // mmap.PAGESIZE) * mmap.PAGESIZE


# --------------------------------------------------------------------------- what a peer is


class Peer:
    """One side of the comparison, bound to a task's arrays.

    Attributes
    ----------
    name : str
        Of its column.
    package : str
        What must be importable.
    rules : dict of str to dict
        The cases it has, each with the options of optkern that mean the same formula.
    dtypes : tuple of str
    step : callable
        One update.
    refill : callable or None
        Called before each step, untimed.
    spins : bool
        Whether its threads go on spinning after a call, in the way of the next side.
    """

    name: ClassVar[str] = ""
    package: ClassVar[str] = "numpy"
    rules: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "float64")
    spins: ClassVar[bool] = False

    def __init__(self, task: Task) -> None:
        self.task = task
        self.prepare()

    def prepare(self) -> None:
        """Whatever is done once, before training."""

    step: Callable[[], Any]  # one update
    refill: Callable[[], Any] | None = None  # before each step, untimed

    def publish(self) -> None:
        """Write what lies elsewhere into the task's arrays."""

    def make_product(self, m: int, k: int) -> Callable[[], Any]:
        """A product of an m x k and a k x k matrix with the library's own routine."""
        a, b = np.ones((m, k), np.float32), np.ones((k, k), np.float32)
        c = np.empty((m, k), np.float32)
        return lambda: np.matmul(a, b, out=c)


def every(*cases: str, **options: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {case: options.get(case, {}) for case in cases}


ALL = ("sgd", "momentum", "adagrad", "rmsprop", "adam", "adamw")


# --------------------------------------------------------------------------- optkern


class Optkern(Peer):
    """`opt.step`, threads as it chooses."""

    name, package, rules = "optkern", "optkern", every(*ALL)

    def prepare(self) -> None:
        from optkern import _bench

        task, case = self.task, _bench.CASES[self.task.case]
        only = len(task.p) == 1
        params, self.gradients = (x[0] if only else x for x in (task.p, task.g))
        self.optimizer = _bench.CLASSES[case.rule.name](params, **case.options)
        saved = self.optimizer.state_dict()
        for k, entry in saved["state"].items():
            entry |= {slot: arrays[k] for slot, arrays in task.state.items()}
            entry["step"] = STEP - 1
        self.optimizer.load_state_dict(saved)
        self.call = self.optimizer.step

    def step(self) -> None:
        self.call(self.gradients)

    def publish(self) -> None:
        for k, entry in enumerate(self.optimizer.state.values()):
            for slot, arrays in self.task.state.items():
                arrays[k][...] = entry[slot]


class LimitOne(Peer):
    """The cheapest loop over the same streams, however many tensors they are cut into."""

    name, package, rules = "limit, 1 thread", "optkern", every(*ALL)
    threads = 1

    def prepare(self) -> None:
        from optkern import _bench

        n = sum(array.size for array in self.task.p)
        p, self.g, *state = (flat[:n] for flat in self.task.flat)
        self.plan = _bench._limit_plan(p, state)

    def step(self) -> None:
        self.plan.step((self.g,), self.threads)


class LimitAll(LimitOne):
    name = "limit, all threads"

    def prepare(self) -> None:
        super().prepare()
        self.threads = self.task.threads


# --------------------------------------------------------------------------- NumPy


class Natural(Peer):
    """NumPy as people write it, with temporaries and averages bound anew."""

    name, rules = "numpy", every(*ALL)

    def prepare(self) -> None:
        from optkern import _bench

        task = self.task
        self.formula = _bench.NATURAL[task.case]
        self.own = [
            {slot: arrays[k].copy() for slot, arrays in task.state.items()}
            for k in range(len(task.p))
        ]

    def step(self) -> None:
        for p, g, state in zip(self.task.p, self.task.g, self.own):
            self.formula(p, g, state, self.task.o)

    def publish(self) -> None:
        for k, state in enumerate(self.own):
            for slot, array in state.items():
                self.task.state[slot][k][...] = array


class Blocked(Peer):
    """NumPy without temporaries, in blocks that stay in the cache; corrections folded."""

    name, rules = "blocked", every(*ALL)
    BLOCK = 65536

    def prepare(self) -> None:
        task = self.task
        self.formula = globals()[f"_blocked_{task.case}"]
        self.numbers = folded(task.case, task.o)
        scratch = np.empty((2, self.BLOCK), task.p[0].dtype)
        self.blocks = [
            (*arrays, *scratch[:, : arrays[0].size])
            for tensor in zip(task.p, task.g, *task.state_arrays)
            for arrays in self.cut_up(tensor)
        ]

    def cut_up(self, tensor: tuple[np.ndarray, ...]) -> Iterator[list[np.ndarray]]:
        for at in range(0, tensor[0].size, self.BLOCK):
            yield [array[at : at + self.BLOCK] for array in tensor]

    def step(self) -> None:
        for block in self.blocks:
            self.formula(*block, self.numbers)


def folded(case: str, o: Any) -> SimpleNamespace:
    """The numbers of a step with bias corrections folded into rate and eps."""
    h = SimpleNamespace(rate=o.lr, eps=getattr(o, "eps", 0.0))
    if case in ("adam", "adamw"):
        h.beta1, h.beta2 = o.betas
        root = (1 - h.beta2**o.step) ** 0.5
        h.rate, h.eps = o.lr * root / (1 - h.beta1**o.step), o.eps * root
        h.shrink = 1 - o.lr * o.weight_decay
    elif case == "rmsprop":
        h.beta2 = o.alpha
    elif case == "momentum":
        h.momentum = o.momentum
    return h


def _blocked_sgd(p, g, t, u, h):
    np.multiply(g, h.rate, out=t)
    p -= t


def _blocked_momentum(p, g, m, t, u, h):
    m *= h.momentum
    m += g
    np.multiply(m, h.rate, out=t)
    p -= t


def _descend(p, m, v, t, h):
    """p -= rate * m / (sqrt(v) + eps)"""
    np.sqrt(v, out=t)
    t += h.eps
    np.divide(m, t, out=t)
    t *= h.rate
    p -= t


def _blocked_adagrad(p, g, v, t, u, h):
    np.multiply(g, g, out=t)
    v += t
    _descend(p, g, v, t, h)


def _blocked_second_moment(g, v, t, h):
    np.multiply(g, g, out=t)
    t *= 1 - h.beta2
    v *= h.beta2
    v += t


def _blocked_rmsprop(p, g, v, t, u, h):
    _blocked_second_moment(g, v, t, h)
    _descend(p, g, v, t, h)


def _blocked_adam(p, g, m, v, t, u, h):
    m *= h.beta1
    np.multiply(g, 1 - h.beta1, out=u)
    m += u
    _blocked_second_moment(g, v, t, h)
    _descend(p, m, v, t, h)


def _blocked_adamw(p, g, m, v, t, u, h):
    p *= h.shrink
    _blocked_adam(p, g, m, v, t, u, h)


# --------------------------------------------------------------------------- numba


class Numba(Peer):
    """One compiled loop per rule, parallel, fastmath.

    Fastmath divides by a reciprocal estimate and one Newton step: quicker and not exact.
    """

    name, package, rules, spins = "numba", "numba", every(*ALL), True
    parallel = True

    def prepare(self) -> None:
        task = self.task
        self.loop = numba_loop(task.case, self.parallel)
        h, real = folded(task.case, task.o), task.p[0].dtype.type
        names = NUMBERS[task.case]
        self.numbers = tuple(real(getattr(h, name)) for name in names)
        self.tensors = list(zip(task.p, task.g, *task.state_arrays))
        self.warm_up(real)

    def warm_up(self, real: Any) -> None:
        """Compile on arrays of its own."""
        streams = [np.ones(1, real) for _ in self.tensors[0]]
        self.loop(*streams, *self.numbers)

    def step(self) -> None:
        loop, numbers = self.loop, self.numbers
        for tensor in self.tensors:
            loop(*tensor, *numbers)


class NumbaSerial(Numba):
    """The same loops compiled for one thread: less of a call, for those whose arrays are small."""

    name, spins, parallel = "numba 1t", False, False


# The arguments of the loops after their streams.
NUMBERS = {
    "sgd": ("rate",),
    "momentum": ("rate", "momentum"),
    "adagrad": ("rate", "eps"),
    "rmsprop": ("rate", "eps", "beta2"),
    "adam": ("rate", "eps", "beta1", "beta2"),
    "adamw": ("rate", "eps", "beta1", "beta2", "shrink"),
}
_compiled: dict[tuple[str, bool], Any] = {}


def numba_loop(case: str, parallel: bool) -> Any:
    if (case, parallel) not in _compiled:
        import numba

        globals()["prange"] = numba.prange
        compiler = numba.njit(parallel=parallel, fastmath=True, error_model="numpy")
        _compiled[case, parallel] = compiler(globals()[f"_loop_{case}"])
    return _compiled[case, parallel]


def _loop_sgd(p, g, rate):
    for i in prange(p.size):  # noqa: F821 (numba's, set by numba_loop)
        p[i] -= rate * g[i]


def _loop_momentum(p, g, buf, rate, momentum):
    for i in prange(p.size):  # noqa: F821
        buf[i] = momentum * buf[i] + g[i]
        p[i] -= rate * buf[i]


def _loop_adagrad(p, g, s, rate, eps):
    for i in prange(p.size):  # noqa: F821
        s[i] += g[i] * g[i]
        p[i] -= rate * g[i] / (np.sqrt(s[i]) + eps)


def _loop_rmsprop(p, g, v, rate, eps, beta2):
    gain2 = p.dtype.type(1) - beta2
    for i in prange(p.size):  # noqa: F821
        v[i] = beta2 * v[i] + gain2 * g[i] * g[i]
        p[i] -= rate * g[i] / (np.sqrt(v[i]) + eps)


def _loop_adam(p, g, m, v, rate, eps, beta1, beta2):
    gain1, gain2 = p.dtype.type(1) - beta1, p.dtype.type(1) - beta2
    for i in prange(p.size):  # noqa: F821
        m[i] = beta1 * m[i] + gain1 * g[i]
        v[i] = beta2 * v[i] + gain2 * g[i] * g[i]
        p[i] -= rate * m[i] / (np.sqrt(v[i]) + eps)


def _loop_adamw(p, g, m, v, rate, eps, beta1, beta2, shrink):
    gain1, gain2 = p.dtype.type(1) - beta1, p.dtype.type(1) - beta2
    for i in prange(p.size):  # noqa: F821
        m[i] = beta1 * m[i] + gain1 * g[i]
        v[i] = beta2 * v[i] + gain2 * g[i] * g[i]
        p[i] = shrink * p[i] - rate * m[i] / (np.sqrt(v[i]) + eps)


# --------------------------------------------------------------------------- torch


class TorchClass(Peer):
    """`torch.optim` with fused=True; RMSprop, which has none, with foreach=True."""

    name, package, rules, spins = "torch", "torch", every(*ALL), True

    def prepare(self) -> None:
        import torch

        task, o = self.task, self.task.o
        self.params = [torch.from_numpy(p) for p in task.p]
        for p, g in zip(self.params, task.g):
            p.grad = torch.from_numpy(g)
        make, options = {
            "sgd": (torch.optim.SGD, {"lr": o.lr}),
            "momentum": (torch.optim.SGD, {"lr": o.lr, "momentum": getattr(o, "momentum", 0)}),
            "adagrad": (torch.optim.Adagrad, {"lr": o.lr}),
            "rmsprop": (torch.optim.RMSprop, {"lr": o.lr}),
            "adam": (torch.optim.Adam, {"lr": o.lr}),
            "adamw": (torch.optim.AdamW, {"lr": o.lr}),
        }[task.case]
        how = {"foreach": True} if task.case == "rmsprop" else {"fused": True}
        self.optimizer = make(self.params, **options, **how)
        for k, p in enumerate(self.params):
            entry = self.optimizer.state[p]
            entry |= {slot: torch.from_numpy(a[k]) for slot, a in task.state.items()}
            if "sgd" not in task.case and task.case != "momentum":
                entry["step"] = torch.tensor(float(STEP - 1))
        self.call = self.optimizer.step

    def step(self) -> None:
        self.call()

    def make_product(self, m: int, k: int) -> Callable[[], Any]:
        return torch_product(m, k)


class TorchRaw(Peer):
    """`torch._fused_*`, without the class around it."""

    name, package, spins = "torch raw", "torch", True
    rules = every("sgd", "momentum", "adagrad", "adam", "adamw")

    def prepare(self) -> None:
        import torch

        task, o = self.task, self.task.o
        p, g, *state = (
            [torch.from_numpy(a) for a in stream] for stream in (task.p, task.g, *task.state_arrays)
        )
        steps = [torch.tensor(float(STEP)) for _ in p]
        options = {"weight_decay": o.weight_decay, "lr": o.lr, "maximize": False}
        if task.case in ("sgd", "momentum"):
            momentum = {"momentum": o.momentum, "dampening": 0.0, "nesterov": False}
            arguments = (p, g, *(state or [[]]))
            function, options = torch._fused_sgd_, {**options, **momentum, "is_first_step": False}
        elif task.case == "adagrad":
            arguments = (p, g, *state, steps)
            function, options = torch._fused_adagrad_, {**options, "lr_decay": 0.0, "eps": o.eps}
        else:
            arguments = (p, g, *state, [], steps)
            function = torch._fused_adam_ if task.case == "adam" else torch._fused_adamw_
            beta1, beta2 = o.betas
            options |= {"beta1": beta1, "beta2": beta2, "eps": o.eps, "amsgrad": False}
        self.call = lambda: function(*arguments, **options)

    def step(self) -> None:
        self.call()

    def make_product(self, m: int, k: int) -> Callable[[], Any]:
        return torch_product(m, k)


def torch_product(m: int, k: int) -> Callable[[], Any]:
    import torch

    a, b, c = torch.ones(m, k), torch.ones(k, k), torch.empty(m, k)
    return lambda: torch.mm(a, b, out=c)


# --------------------------------------------------------------------------- thinc, scikit-learn


class Thinc(Peer):
    """`thinc.optimizers.Optimizer`; it leaves the gradient zero, so that is written anew, untimed.

    It has no threads.
    """

    name, package, dtypes = "thinc", "thinc", ("float32",)
    rules = every("sgd", "adam", "adamw", adam={"eps_form": "raw"}, adamw={"eps_form": "raw"})

    def prepare(self) -> None:
        from thinc.optimizers import Optimizer

        task, o = self.task, self.task.o
        beta1, beta2 = getattr(o, "betas", (0.0, 0.0))
        self.optimizer = Optimizer(
            o.lr,
            L2=float(o.weight_decay),
            beta1=beta1,
            beta2=beta2,
            eps=getattr(o, "eps", 1e-8),
            grad_clip=0.0,
            use_averages=False,
        )
        self.gradients = [g.copy() for g in task.g]
        self.keys = [(k, "W") for k in range(len(task.p))]
        for k, key in enumerate(self.keys):
            self.optimizer.nr_update[key] = STEP - 1
            for own, arrays in zip((self.optimizer.mom1, self.optimizer.mom2), task.state_arrays):
                own[key] = arrays[k]

    def refill(self) -> None:
        for own, g in zip(self.gradients, self.task.g):
            own[...] = g

    def step(self) -> None:
        optimizer = self.optimizer
        for key, p, g in zip(self.keys, self.task.p, self.gradients):
            optimizer(key, p, g)


class ScikitLearn(Peer):
    """The optimizers of `MLPClassifier`: NumPy."""

    name, package = "sklearn", "sklearn"
    rules = every(
        "sgd",
        "momentum",
        "adam",
        sgd={"momentum_form": "classical"},
        momentum={"momentum_form": "classical"},
        adam={"eps_form": "raw"},
    )

    def prepare(self) -> None:
        from sklearn.neural_network import _stochastic_optimizers as sklearn

        task, o = self.task, self.task.o
        if task.case == "adam":
            self.optimizer = sklearn.AdamOptimizer(task.p, o.lr, *o.betas, o.eps)
            self.optimizer.ms, self.optimizer.vs = task.state_arrays
            self.optimizer.t = STEP - 1
        else:
            self.optimizer = sklearn.SGDOptimizer(task.p, o.lr, momentum=o.momentum, nesterov=False)
            if task.state:
                (self.optimizer.velocities,) = task.state_arrays

    def step(self) -> None:
        self.optimizer.update_params(self.task.p, self.task.g)

    def publish(self) -> None:
        own = (
            [self.optimizer.ms, self.optimizer.vs]
            if self.task.case == "adam"
            else [self.optimizer.velocities]
        )
        for streams, arrays in zip(self.task.state_arrays, own):
            for stream, array in zip(streams, arrays):
                stream[...] = array


# --------------------------------------------------------------------------- jax + optax


class Optax(Peer):
    """optax under `jax.jit` with donated buffers; its arrays are its own.

    Its RMSprop and AdaGrad have eps under the root: RMSprop is told otherwise, AdaGrad gets an eps
    that does not show.
    """

    name, package, rules, dtypes = "optax", "optax", every(*ALL), ("float32",)

    def prepare(self) -> None:
        import jax
        import optax

        task = self.task
        transform = self.transform(optax)

        def update(params, gradients, state):
            updates, state = transform.update(gradients, state, params)
            return optax.apply_updates(params, updates), state

        self.update = jax.jit(update, donate_argnums=(0, 2))
        self.params, self.gradients = (
            [jax.numpy.array(a) for a in stream] for stream in (task.p, task.g)
        )
        slots = iter([jax.numpy.array(a) for a in stream] for stream in task.state_arrays)
        names = {"mu", "nu", "trace", "sum_of_squares"}

        def filled(entry):
            if not hasattr(entry, "_fields"):
                return tuple(filled(e) for e in entry) if isinstance(entry, tuple) else entry
            given = {f: next(slots) for f in entry._fields if f in names}
            if "count" in entry._fields:
                given["count"] = jax.numpy.asarray(STEP - 1, "int32")
            return entry._replace(**given)

        self.state = filled(transform.init(self.params))
        self.block = jax.block_until_ready

    def transform(self, optax: Any) -> Any:
        o, case = self.task.o, self.task.case
        if case in ("sgd", "momentum"):
            return optax.sgd(o.lr, o.momentum if case == "momentum" else None)
        if case == "adagrad":
            return optax.adagrad(o.lr, initial_accumulator_value=0.0, eps=1e-30)
        if case == "rmsprop":
            return optax.rmsprop(o.lr, o.alpha, o.eps, eps_in_sqrt=False)
        if case == "adam":
            return optax.adam(o.lr, *o.betas, o.eps)
        return optax.adamw(o.lr, *o.betas, o.eps, weight_decay=o.weight_decay)

    def step(self) -> None:
        self.params, self.state = self.block(self.update(self.params, self.gradients, self.state))

    def publish(self) -> None:
        import jax

        n = len(self.params)
        leaves = [a for a in jax.tree_util.tree_leaves(self.state) if a.ndim]
        streams = [self.params, *(leaves[k : k + n] for k in range(0, len(leaves), n))]
        for arrays, own in zip([self.task.p, *self.task.state_arrays], streams):
            for array, new in zip(arrays, own):
                array[...] = new

    def make_product(self, m: int, k: int) -> Callable[[], Any]:
        import jax

        a, b = jax.numpy.ones((m, k)), jax.numpy.ones((k, k))
        product = jax.jit(lambda a, b: a @ b)
        return lambda: product(a, b).block_until_ready()


SIDES: dict[str, type[Peer]] = {
    cls.name: cls
    for cls in (
        Optkern, LimitOne, LimitAll, Natural, Blocked, Numba, NumbaSerial, TorchClass, TorchRaw,
        Thinc, ScikitLearn, Optax,
    )
}  # fmt: skip


# --------------------------------------------------------------------------- the worker


def serve(package: str, memory: int) -> None:
    """Answer the benchmark's orders, a line of JSON each, until the pipe is closed.

    Parameters
    ----------
    package : str
        Whose peers run here.
    memory : int
        The file descriptor of the shared memory.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    gc.disable()
    try:
        module = importlib.import_module(package)
        answers.write(json.dumps({"version": getattr(module, "__version__", "")}) + "\n")
    except Exception as error:
        answers.write(json.dumps({"error": f"{type(error).__name__}: {error}"}) + "\n")
        return
    finally:
        answers.flush()
    worker = Worker(memory)
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = getattr(worker, order.pop("do"))(**order)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class Worker:
    """What a worker process can be told to do; the sides of one row live in it together."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.sides: dict[str, Peer] = {}
        self.products: dict[tuple[int, int], Callable[[], Any]] = {}

    def bind(self, side: str, bytes: int, **task: Any) -> None:
        mapped = mmap.mmap(self.memory, bytes)
        np.empty(31 << 20, np.uint8)  # see optkern._bench.settle_allocator
        self.sides[side] = SIDES[side](Task(**task, memory=mapped))

    def release(self) -> None:
        self.sides.clear()
        self.products.clear()
        gc.collect()

    def step(self, side: str) -> None:
        """One step, its outcome in the shared memory."""
        peer = self.sides[side]
        if peer.refill:
            peer.refill()
        peer.step()
        peer.publish()

    def count(self, side: str) -> int:
        """How many steps in a row make a sample, found out once the side has settled."""
        peer = self.sides[side]
        end = perf_counter() + PATIENCE
        for _ in repeat(None, SETTLE):
            if peer.refill:
                peer.refill()
            peer.step()
            if perf_counter() > end:
                break
        count, seconds = 1, self.time(side, 1)
        while count * seconds < SAMPLE / 4:
            count *= 4
            seconds = self.time(side, count)
        return max(1, int(-(-SAMPLE // seconds)))

    def time(self, side: str, count: int) -> float:
        """Seconds of a step: the mean over ``count`` in a row, after as many that are not timed.

        Those wake the cores: behind a turn of others, steps take half as long again at first.
        """
        peer = self.sides[side]
        step, refill = peer.step, peer.refill
        if refill:
            return self.time_refilled(step, refill, count)
        for _ in repeat(None, count):
            step()
        start = perf_counter()
        for _ in repeat(None, count):
            step()
        return (perf_counter() - start) / count

    def time_refilled(self, step: Any, refill: Any, count: int) -> float:
        total = 0.0
        for done in range(2 * count):
            refill()
            start = perf_counter()
            step()
            total += perf_counter() - start if done >= count else 0.0
        return total / count

    def beside(self, side: str, m: int, k: int, count: int) -> tuple[float, float]:
        """Seconds of a step and of a matrix product, called in turn; warmed up as in `time`."""
        peer = self.sides[side]
        key = (side, m, k)
        product = self.products.setdefault(key, peer.make_product(m, k))
        steps = products = 0.0
        for done in range(2 * count):
            if peer.refill:
                peer.refill()
            start = perf_counter()
            product()
            middle = perf_counter()
            peer.step()
            end = perf_counter()
            if done >= count:
                products += middle - start
                steps += end - middle
        return steps / count, products / count


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
