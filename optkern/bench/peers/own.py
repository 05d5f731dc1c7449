"""optkern itself, and the limit: the cheapest loop over the same arrays."""

from __future__ import annotations

from .peer import Peer, every
from .task import ALL, STEP


class Optkern(Peer):
    """Run `opt.step`, threads as it chooses."""

    name, package, rules = "optkern", "optkern", every(*ALL)

    def prepare(self) -> None:
        from optkern.bench.cases import CASES
        from optkern.optimizers import CLASSES

        task, case = self.task, CASES[self.task.case]
        only = len(task.p) == 1
        params, self.gradients = (x[0] if only else x for x in (task.p, task.g))
        self.optimizer = CLASSES[case.rule.name](params, **case.options)
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
    """Run the cheapest loop over the same streams, however many tensors they are cut into."""

    name, package, rules = "limit, 1 thread", "optkern", every(*ALL)
    threads = 1

    def prepare(self) -> None:
        from optkern.bench.sides import limit_plan

        n = sum(array.size for array in self.task.p)
        p, self.g, *state = (flat[:n] for flat in self.task.flat)
        self.plan = limit_plan(p, state)

    def step(self) -> None:
        self.plan.step((self.g,), self.threads)


class LimitAll(LimitOne):
    name = "limit, all threads"

    def prepare(self) -> None:
        super().prepare()
        self.threads = self.task.threads
