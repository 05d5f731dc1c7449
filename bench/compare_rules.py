"""Which rule for what? Every rule on three small tasks, each with the same budget for its rate.

    python bench/compare_rules.py            # what is missing in docs/which_rule.json, and the page
    python bench/compare_rules.py --fresh    # everything anew: under 30 minutes on two cores
    python bench/compare_rules.py --rules adam muon --quick   # a look: nothing is written

1. Digits: scikit-learn's 1,797 images, a network of 64 ReLU units, batches of 32: test accuracy.
   Rules made for full batches get all 1,097 training images in every step, as often as makes as
   many images.
2. Words: which of Python's help topics 12 words come from: the mean of their embeddings, a layer of
   tanh units, softmax. A step sees few of the 4,000 rows of embeddings: rules that have a row form
   train these by `step_rows`, the others take the dense gradient. Test accuracy.
3. Regression: scikit-learn's diabetes, 442 people, 24 tanh units, every step with all of them:
   what share of the variance is left of the training loss.
4. Each rule has 20 tries for its rate: 1e-5, 1e-4, ..., 100 and then the two beside the best, a
   third and three times of it, once with a constant rate and once with one that falls to zero as a
   cosine; all else is as by default. A try is judged by the mean of two seeds on validation data
   (the regression: on the training loss, which is what it compares); what is shown comes from five
   other seeds, on test data. No clipping. "Near": with how many of the eight rates that are ten
   times apart, under either schedule, a rule comes within two points of its best on the digits.
5. Rules of matrices, and SOAP, take those of the inside, as `optkern.groups` sorts them, with
   ``adjust_lr_fn="match_rms_adamw"`` where they have it; AdamW has the rest at the same rate.
6. A result is kept as soon as it is there: what was interrupted goes on, and a rule that is new, or
   whose defaults have changed, is run and put beside the others. Exit code 1 where a rule with its
   tuned rate stays below 96 % on the digits.

"""

from __future__ import annotations

import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from rule_tasks import TASKS, WORST, Run, Task, Weights
from which_rule_page import draw, page

import optkern
from optkern.bench.machine import machine
from optkern.bench.options import Parser
from optkern.rules import MATRIX_RULES, ROW_RULES, RULES, Rule
from optkern.schedules import Cosine

DOCS = Path(__file__).parent.parent / "docs"
PAGE, RESULTS, PICTURE = (DOCS / f"which_rule.{suffix}" for suffix in ("md", "json", "svg"))
MARKS = "<!-- python bench/compare_rules.py -->\n", "<!-- end -->\n"
RATES, SCHEDULES = [10.0**k for k in range(-5, 3)], ("constant", "cosine")
NEAR = 0.02  # as good as the best rate, or hardly worse
SEARCH_SEEDS, SEEDS = (101, 102), (1, 2, 3, 4, 5)
WANTED = 0.96  # on the digits, of every rule
ROW_NAMES = {rule.class_name for rule in ROW_RULES}
BY_CLASS = {rule.class_name: rule for rule in (*RULES, *MATRIX_RULES)}


class Entry(NamedTuple):
    """A line of the table: a rule with the options it is shown with."""

    title: str
    class_name: str
    options: dict[str, Any]

    @property
    def rule(self) -> Rule:
        return BY_CLASS[self.class_name]

    @property
    def of_matrices(self) -> bool:
        return self.rule.matrices is not None

    @property
    def by_rows(self) -> bool:
        return self.of_matrices or self.class_name in ROW_NAMES

    def steps(self, task: Task) -> int:
        """Count the steps it gets; 0: the task is not for it."""
        return task.steps if self.rule.mini_batches else task.full_steps

    def make(self, params: Weights, lr: Any) -> Any:
        if not self.of_matrices:
            return getattr(optkern, self.class_name)(params, lr=lr, **self.options)
        inside = {"rule": self.class_name, "lr": lr, **self.options}
        return optkern.Mixed(optkern.groups(params, muon=inside, lr=lr))


def entries() -> list[Entry]:
    found = []
    for name, rule in BY_CLASS.items():
        if rule.matrices is not None:
            adjusted = {"adjust_lr_fn": "match_rms_adamw"}
            own = adjusted if "adjust_lr_fn" in rule.hyperparameters else {}
            found.append(Entry(f"{name} (rest AdamW)", name, own))
            continue
        found.append(Entry(name, name, {}))
        if name == "SGD":
            found.append(Entry("SGD (momentum .9)", name, {"momentum": 0.9}))
            found.append(Entry("SGD (Nesterov .9)", name, {"momentum": 0.9, "nesterov": True}))
    return found


# --------------------------------------------------------------------------- the budget


def one_run(
    task: Task, entry: Entry, rate: float, schedule: str, seed: int, steps: int, last: bool
) -> float:
    def make(params: Weights) -> Any:
        return entry.make(params, Cosine(rate, T_max=steps) if schedule == "cosine" else rate)

    run = Run(make, seed, steps, entry.by_rows, not entry.rule.mini_batches, last)
    with np.errstate(all="ignore"):
        value = task.train(run)
    return value if np.isfinite(value) else WORST


def judged(number: int, entry: Entry, share: float) -> dict[str, Any]:
    """Search an entry's rate on a task, and run it with five other seeds."""
    task, began = TASKS[number], time.process_time()
    steps = max(round(entry.steps(task) * share), min(entry.steps(task), 23))
    seeds, searched = (SEEDS, SEARCH_SEEDS) if share == 1 else (SEEDS[:1], SEARCH_SEEDS[:1])
    tried: dict[tuple[float, str], float] = {}

    def best(rates: Sequence[float], schedule: str) -> float:
        for rate in rates:
            found = [one_run(task, entry, rate, schedule, seed, steps, False) for seed in searched]
            tried[rate, schedule] = float(np.mean(found))
        return max(rates, key=lambda rate: tried[rate, schedule])

    for schedule in SCHEDULES:
        rate = best(RATES, schedule)
        best((rate / 3, rate * 3), schedule)
    rate, schedule = max(tried, key=lambda place: tried[place])
    first = tried[rate, schedule]
    values = [one_run(task, entry, rate, schedule, seed, steps, True) for seed in seeds]
    return {
        "rate": float(f"{rate:.3g}"),
        "schedule": schedule,
        "values": values,
        "by_rows": entry.by_rows,
        "near": sum(any(first - tried[r, s] <= NEAR for s in SCHEDULES) for r in RATES),
        "cpu_seconds": round(time.process_time() - began, 1),
    }


# --------------------------------------------------------------------------- what is kept


def asked(task: Task, entry: Entry) -> str:
    """Say what a result is the result of; one of something else is not used."""
    defaults = {k: v for k, v in entry.rule.hyperparameters.items() if k != "step"}
    row = (entry.options, defaults, entry.by_rows, entry.steps(task))
    budget = (RATES, SCHEDULES, SEARCH_SEEDS, SEEDS, NEAR)
    return f"{zlib.crc32(repr((row, budget)).encode()):08x}"


def places() -> dict[str, tuple[int, Entry]]:
    """List what there is to run, by the names that results have: a task's number and an entry."""
    return {
        f"{task.name}: {entry.title}": (number, entry)
        for number, task in enumerate(TASKS)
        for entry in entries()
        if entry.steps(task)
    }


def kept(path: Path) -> dict[str, dict[str, Any]]:
    """Read the results so far, by task and title: those of what would be run today."""
    found = json.loads(path.read_text())["results"] if path.exists() else {}
    wanted = {name: asked(TASKS[number], entry) for name, (number, entry) in places().items()}
    return {name: x for name, x in found.items() if x["of"] == wanted.get(name)}


def keep(path: Path, results: dict[str, dict[str, Any]]) -> None:
    sorted_results = {name: results[name] for name in places() if name in results}
    about = {k: v for k, v in machine("float64", 1).items() if k != "huge pages"}
    text = json.dumps({"machine": about, "results": sorted_results}, indent=1)
    beside = path.with_suffix(".part")
    beside.write_text(text + "\n")
    beside.replace(path)


def run_all(
    wanted: list[Entry], results: dict[str, dict[str, Any]], share: float, workers: int
) -> Iterator[None]:
    """Run what is missing; a result goes into ``results`` before each turn of the caller's."""
    missing = {
        name: (number, entry)
        for name, (number, entry) in places().items()
        if entry in wanted and name not in results
    }
    with ProcessPoolExecutor(workers) as pool, progress(len(missing)) as advance:
        running = {pool.submit(judged, *place, share): name for name, place in missing.items()}
        try:
            for done in as_completed(running):
                name = running[done]
                number, entry = missing[name]
                results[name] = {"of": asked(TASKS[number], entry), **done.result()}
                advance()
                yield
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def progress(total: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar until the work is done; nothing where nobody watches."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    console = Console(stderr=True)
    columns = ("rules on tasks", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


def too_weak(results: dict[str, dict[str, Any]]) -> list[str]:
    """Name the rules that stay below what is wanted of each on the digits, means of all seeds."""
    return [
        f"{name} {100 * np.mean(result['values']):.1f} %"
        for name, result in results.items()
        if name.startswith("digits") and np.mean(result["values"]) < WANTED
    ]


def main() -> int:
    parser = Parser(__doc__, quick=False, rules=None)
    parser.add_argument("--fresh", action="store_true", help="keep no earlier results of them")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    options = parser.options()
    began, wanted = time.perf_counter(), entries()
    if options.rules:
        names = {case.rule.name for case in options.rules}
        wanted = [entry for entry in wanted if entry.rule.name in names]
    results = {} if options.quick else kept(RESULTS)
    if options.fresh:
        names = {entry.title for entry in wanted}
        results = {k: v for k, v in results.items() if k.partition(": ")[2] not in names}
    for _ in run_all(wanted, results, 0.1 if options.quick else 1.0, options.workers):
        if not options.quick:
            keep(RESULTS, results)
    titles = [entry.title for entry in (wanted if options.quick else entries())]
    text = page(TASKS, titles, results)
    print(text)
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes", file=sys.stderr)
    if options.quick:
        return 0
    head, _, rest = PAGE.read_text().partition(MARKS[0])
    PAGE.write_text(f"{head}{MARKS[0]}\n{text}\n\n{MARKS[1]}{rest.partition(MARKS[1])[2]}")
    draw(TASKS, titles, results, PICTURE)
    for line in (weak := too_weak(results)):
        print(f"below {100 * WANTED:.0f} %: {line}", file=sys.stderr)
    return 1 if weak else 0


if __name__ == "__main__":
    sys.exit(main())
