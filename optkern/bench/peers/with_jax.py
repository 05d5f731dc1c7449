"""jax and optax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .peer import Peer, every
from .task import ALL, STEP


class Optax(Peer):
    """Run optax under `jax.jit` with donated buffers; its arrays are its own.

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
