"""Every public callable with a slip in its call: a misspelt keyword, a wrong kind, no number.

What is said must be optkern's own: a TypeError or ValueError in a sentence, raised on purpose, and
not what Python or NumPy stumbled over.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import traceback
from pathlib import Path

import numpy as np
import pytest
from conftest import spread

import optkern
from optkern import curvature, schedules, solvers
from optkern.curvature import landscape
from optkern.integrations import cs231n, dl_from_scratch, evolution_strategies
from optkern.integrations.sklearn import MLPOptimizer, accelerate

ROOT = str(Path(optkern.__file__).parent)
A = np.diag([1.0, -2.0, 3.0])

# --------------------------------------------------------------------------- misspelt keywords

# What a call gives back is made by optkern, not by its users.
RESULTS = {
    *("Block", "Blocks", "Diagonal", "Escape", "LanczosResult", "SpectralDensity", "StableLR"),
    *("Trace", "Verdict", "Diagnosis", "FitComparison", "Flat", "Report", "Null"),
    *(
        "BallSharpness",
        "Line",
        "Plane",
        "DifferenceOperator",
        "NotSymmetricError",
        "Optimizer",
        "Schedule",
    ),
}
NOTHING = {"get_include", "get_num_threads", "isa", "show_versions"}  # these take no arguments


def keywords(function):
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind in kinds and p.name != "self"]


# A wrapper's 100 ns at each step; and what hands keywords on to a drawing's lines.
UNCHECKED = {optkern.Adam.step, optkern.Adam.step_rows, schedules.Schedule.plot, optkern.groups}


def public():
    """Everything that is called by name, by its name."""
    found = {}
    rooms = (optkern, curvature, schedules, solvers, landscape, optkern.kernels)
    hosts = (cs231n, dl_from_scratch, evolution_strategies)
    for room in (*rooms, *hosts):
        names = getattr(room, "__all__", None) or [
            name
            for name, value in vars(room).items()
            if name[0] != "_" and getattr(value, "__module__", "") == room.__name__
        ]
        for name in set(names) - RESULTS - NOTHING:
            if callable(getattr(room, name)) and getattr(room, name) not in UNCHECKED:
                found[f"{room.__name__.removeprefix('optkern.')}.{name}"] = getattr(room, name)
    found |= {f"reference.{r.name}": getattr(optkern.reference, r.name) for r in optkern.RULES}
    classes = (optkern.Adam, optkern.LBFGS, optkern.SAM, optkern.NewtonLanczos, optkern.Monitor)
    methods = [
        function
        for cls in (*classes, schedules.Plateau, schedules.Step, curvature.Null)
        for name, function in inspect.getmembers(cls, inspect.isfunction)
        if name[0] != "_" and keywords(function) and function not in UNCHECKED
    ]
    methods.append(optkern.Monitor().record)
    return found | {method.__qualname__: method for method in methods}


PUBLIC = public()


def slips(name):
    """Two letters exchanged, or one more; and other ways to write it."""
    swapped = name[:1] + name[2] + name[1] + name[3:] if len(name) > 3 else name + name[-1]
    return {swapped, name.upper(), name.replace("_", "-"), name.replace("_", "")} - {name}


@pytest.mark.parametrize("where", sorted(PUBLIC))
def test_a_misspelt_keyword_is_told_what_was_meant(where):
    function = PUBLIC[where]
    names = keywords(function)
    told = [(name, slip) for name in names for slip in slips(name) if slip not in names]
    assert told, names
    for name, slip in told:
        with pytest.raises(TypeError) as caught:
            function(**{slip: 1})
        said = str(caught.value)
        assert f"unexpected keyword argument {slip!r}" in said
        meant = said.rpartition("did you mean ")[2] or said.rpartition("the arguments are ")[2]
        assert name in meant.rstrip("?").replace(" or ", ", ").split(", "), said


def test_what_is_handed_on_to_lanczos_is_told_by_the_one_that_was_called():
    opt = optkern.SGD(np.ones(3))
    for call, owner in (
        (lambda **options: curvature.sharpness(A, **options), "sharpness"),
        (lambda **options: curvature.max_stable_lr(opt, A, **options), "max_stable_lr"),
        (lambda **options: curvature.blocks(np.ones(3), lambda v: A @ v, **options), "blocks"),
    ):
        with pytest.raises(TypeError, match=f"^{owner}: .*'max_matvec'; did you mean max_matvecs"):
            call(max_matvec=3)
        call(max_matvecs=3)


def test_what_groups_hands_on_is_told_from_its_own():
    params = {"w": np.ones((2, 2)), "b": np.ones(2)}
    with pytest.raises(TypeError, match=r"^groups: .*'no_deacy'; did you mean no_decay"):
        optkern.groups(params, rule="AdamW", no_deacy=())
    with pytest.raises(TypeError, match=r"^groups: .*'weight_decya'; did you mean weight_decay"):
        optkern.groups(params, muon="Lion", weight_decya=0.1)
    optkern.groups(params, initial_accumulator_value=0.1, etas=(0.5, 1.2), max_lr=1.0)


# --------------------------------------------------------------------------- wrong kinds


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """What takes a word for a file's name writes it there."""
    monkeypatch.chdir(tmp_path)


class Odd:
    """What nothing knows."""


WRONG = {
    "a word": "spam",
    "None": None,
    "a list of words": ["a", "b"],
    "a list of nothing": [],
    "a dict": {"w": "x"},
    "a set": {1, 2},
    "bytes": b"ab",
    "an integer": 7,
    "a huge integer": 10**400,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "a negative number": -1,
    "a complex number": 1j,
    "True": True,
    "an object": Odd(),
    "an array of objects": np.array([None, 1, 2]),
    "an array of words": np.array(["a", "b", "c"]),
    "an array of no dimensions": np.array(1.0),
    "NaNs": np.full(3, np.nan),
}


def ones(**more):
    return {"w": np.ones(3), **more}


def grad(v):
    return A @ v


def loss(v):
    return float(v @ A @ v / 2)


def stepped():
    opt = optkern.Adam(ones())
    opt.step(ones())
    return opt


def watched():
    monitor = optkern.Monitor(every=1)
    for k in range(30):
        monitor.record(1 / (k + 1))
    return monitor


def pi():
    made = Odd()
    made.mu, made.num_params = np.ones(3), 3
    return made


def of(method, make):
    """A method of an object that is made for each call."""
    return lambda **given: getattr(make(), method)(**given)


def closure():
    return 1.0, np.ones(3)


POINT = {"x": np.ones(3), "grad": grad, "hvp": grad, "loss": loss}
OPERATOR = {"operator": A, "n": 3, "seed": 0, "dtype": None}
LIMITS = {"confidence": 0.99, "max_matvecs": 20, "num_threads": 1, "memory": 10**6}
CALLS = {
    "classify": (
        curvature.classify,
        {
            **POINT, **LIMITS, "grad_tol": 1e-8, "curvature_tol": 0.01, "eigenvalue_tol": 0.01,
            "x_scale": 1.0, "step": 1e-4, "seed": 0, "callback": None,
        },
    ),
    "lanczos": (
        curvature.lanczos,
        {
            **OPERATOR, **LIMITS, "which": "both", "k": 1, "certify": True, "tol": 0.01,
            "start": None, "callback": None,
        },
    ),
    "sharpness": (curvature.sharpness, {**OPERATOR, "block": None, "x": None}),
    "spectral_density": (
        curvature.spectral_density,
        {**OPERATOR, "steps": 3, "vectors": 2, "points": 20, "width": None, "block": None},
    ),
    "trace": (
        curvature.trace, {**OPERATOR, "method": "auto", "matvecs": 10, "rtol": 0.1, "block": None}
    ),
    "diagonal": (curvature.diagonal, {**OPERATOR, "vectors": 3, "rtol": 0.1, "block": None}),
    "blocks": (
        curvature.blocks, {"x": ones(), "grad": None, "names": None, "trace_rtol": 0.1, "seed": 0}
    ),
    "escape": (
        curvature.escape,
        {"x": np.zeros(3), "loss": loss, "grad": grad, "by": "noise", "max_steps": 3, "seed": 0},
    ),
    "hvp_from_grad": (
        curvature.hvp_from_grad, {"grad": grad, "x": np.ones(3), "step": None, "x_scale": None}
    ),
    "max_stable_lr": (curvature.max_stable_lr, {"optimizer": stepped(), "operator": A}),
    "null": (curvature.null, {"x": ones(), "directions": [ones()]}),
    "compare_fits": (
        optkern.compare_fits,
        {"train": [1.0, 0.5], "test": [1.0, 0.6], "target": 0.1, "tolerance": 0.1},
    ),
    "save": (optkern.save, {"opt": stepped(), "params": True}),
    "load": (optkern.load, {"opt": stepped(), "params": True, "strict": True}),
    "flatten": (optkern.flatten, {"params": ones()}),
    "set_num_threads": (optkern.set_num_threads, {"n": 1}),
    "Monitor": (optkern.Monitor, {"every": 1, "seed": 0, "curvature_every": None, "hvp": None}),
    "Monitor.record": (
        of("record", watched), {"loss": 1.0, "grads": ones(), "opt": stepped(), "val_loss": 0.1}
    ),
    "Monitor.diagnose": (
        of("diagnose", watched),
        {**POINT, "opt": None, "confidence": 0.99, "max_matvecs": 10, "seed": 0},
    ),
    "SAM": (optkern.SAM, {"optimizer": stepped(), "rho": 0.1, "adaptive": False}),
    "LBFGS": (
        optkern.LBFGS,
        {
            "params": ones(), "lr": 1.0, "max_iter": 2, "max_eval": 3, "tolerance_grad": 1e-7,
            "tolerance_change": 1e-9, "history_size": 3, "line_search_fn": None,
        },
    ),
    "NewtonLanczos": (
        optkern.NewtonLanczos,
        {"params": ones(), "max_iter": 2, "max_matvecs": 5, "radius": 1.0, "tolerance_grad": 0.1},
    ),
    "LBFGS.step": (
        of("step", lambda: optkern.LBFGS(np.ones(3))), {"closure": closure, "callback": None}
    ),
    "step": (of("step", stepped), {"grads": ones()}),
    "step_rows": (of("step_rows", stepped), {"rows": {"w": [0]}, "grads": {"w": np.ones(1)}}),
    "rebind": (of("rebind", stepped), {"params": ones()}),
    "reset": (of("reset", stepped), {"names": ["w"]}),
    "zero_grad": (of("zero_grad", stepped), {"grads": ones()}),
    "add_param_group": (of("add_param_group", stepped), {"group": {"params": {"v": np.ones(2)}}}),
    "load_state_dict": (of("load_state_dict", stepped), {"state_dict": stepped().state_dict()}),
    "Plateau.observe": (of("observe", lambda: schedules.Plateau(0.1)), {"loss": 1.0}),
    "Schedule.clamp": (of("clamp", lambda: schedules.Step(0.1, 3)), {"low": 0.0, "high": 1.0}),
    "MultiStep": (schedules.MultiStep, {"lr": 0.1, "milestones": [1, 2], "gamma": 0.1}),
    "Cosine": (schedules.Cosine, {"lr": 0.1, "T_max": 5, "eta_min": 0.0, "periodic": False}),
    "join": (schedules.join, {"schedules": [0.1, 0.2], "milestones": [3]}),
    "warmup": (schedules.warmup, {"n": 3, "then": 0.1, "start": 0.0}),
    "Pair": (schedules.Pair, {"first": 0.1, "second": 0.2}),
    "SpectralDensity.mean": (
        of("mean", lambda: curvature.spectral_density(A, steps=3, vectors=2)),
        {"function": np.sqrt},
    ),
    "cs231n.adam": (cs231n.adam, {"w": np.ones(3), "dw": np.ones(3), "config": {}}),
    "dl_from_scratch.Nesterov": (dl_from_scratch.Nesterov, {"lr": 0.1, "momentum": 0.9}),
    "evolution_strategies.SGD": (
        evolution_strategies.SGD, {"pi": pi(), "stepsize": 0.1, "momentum": 0.9}
    ),
}  # fmt: skip


def defaults(function):
    """The keywords that a function has defaults for."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


CALLS |= {
    cls.__name__: (cls, {"params": ones(), **defaults(cls)})
    for cls in (optkern.SGD, optkern.Adam, optkern.LAMB)
}
for _place in ("kernels", "reference"):
    _adam = getattr(optkern, _place).adam
    _state = {name: np.ones(3) for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")}
    CALLS[f"{_place}.adam"] = (
        _adam,
        {**defaults(_adam), "p": np.ones(3), "g": np.ones(3), **_state, "amsgrad": True},
    )


def on_purpose(error):
    """Whether optkern raised it itself: in a line that says raise, or in compiled code."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    if last.filename == __file__:  # a function of the user's that does not take it
        return True
    inside = last.filename.startswith(ROOT) or last.filename.startswith("optkern")
    return inside and (last.filename.endswith(".pyx") or "raise" in (last.line or ""))


@pytest.mark.filterwarnings("ignore:.*it does nothing")
@spread(3, name=CALLS, what=WRONG)
def test_a_wrong_argument_is_refused_in_a_sentence_or_taken(name, what, tmp_path):
    function, given = CALLS[name]
    if name in ("save", "load"):
        given = {**given, "path": tmp_path / "run.npz"}
        optkern.save(given["path"], stepped())
    for key in given:
        try:
            function(**{**given, key: WRONG[what]})
        except FileNotFoundError as error:  # a word may be a file's name
            assert (name, key, error.filename) == ("load", "path", WRONG[what])
        except (TypeError, ValueError, RuntimeError) as error:
            said = f"{key}={WRONG[what]!r:.40}: {type(error).__name__}: {error}"
            assert on_purpose(error), said
            assert str(error).count(" ") >= 3, said


@pytest.mark.parametrize("name", CALLS)
def test_what_nothing_knows_is_never_taken(name, tmp_path):
    """Not either where another argument makes it idle: it would be in the call that counts."""
    function, given = CALLS[name]
    if name in ("save", "load"):
        given = {**given, "path": tmp_path / "run.npz"}
        optkern.save(given["path"], stepped())
    if name == "escape":
        given = {**given, "by": "direction", "radius": None}
    for key in given:
        with pytest.raises((TypeError, ValueError)):
            function(**{**given, key: Odd()})


@pytest.mark.parametrize("keyword", ["schedul", "powert", "rul", "weight_deccay"])
def test_accelerate_says_what_its_own_keywords_are(keyword):
    for call in (accelerate, MLPOptimizer):
        with pytest.raises(TypeError, match=r"unexpected keyword argument.*did you mean [a-z]+"):
            call(**{keyword: 1})


def public_modules():
    """Every module that a user may ask for a name, with one that it has."""
    integrations = [x.name for x in pkgutil.iter_modules(optkern.integrations.__path__)]
    top = [x.name for x in pkgutil.iter_modules(optkern.__path__)]
    # Commands, what kernels and classes show, and where looking a name up is in every step's way.
    without = ("bench", "cli", "demo", "rules", "kernels")
    names = [x for x in top if x[0] != "_" and x not in without]
    names += [f"integrations.{x}" for x in integrations if x[0] != "_"]
    return ["optkern", "optkern.reference", *(f"optkern.{name}" for name in names)]


SLIPS = {
    "optkern": ("AdamWW", "AdamW"),
    "optkern.checkpoint": ("laod", "load"),
    "optkern.curvature": ("lanzcos", "lanczos"),
    "optkern.diagnose": ("Monitr", "Monitor"),
    "optkern.fits": ("compare_fit", "compare_fits"),
    "optkern.integrations": ("cs231m", "cs231n"),
    "optkern.integrations.autograd": ("adaam", "adam"),
    "optkern.integrations.cs231n": ("sgd_momentm", "sgd_momentum"),
    "optkern.integrations.dl_from_scratch": ("Adagad", "AdaGrad"),
    "optkern.integrations.evolution_strategies": ("Adm", "Adam"),
    "optkern.integrations.sklearn": ("acelerate", "accelerate"),
    "optkern.integrations.thinc": ("AdmW", "AdamW"),
    "optkern.integrations.torch": ("AdmW", "AdamW"),
    "optkern.monitor": ("Monitr", "Monitor"),
    "optkern.mpi": ("Shardde", "Sharded"),
    "optkern.optimizers": ("Optimiser", "Optimizer"),
    "optkern.ranks": ("Alon", "Alone"),
    "optkern.reference": ("lino", "lion"),
    "optkern.schedules": ("Cosin", "Cosine"),
    "optkern.solvers": ("LBGFS", "LBFGS"),
}


def test_a_misspelt_name_of_a_module_that_steps_go_through(run_python):
    """Python says it where it shows the error; a ``__getattr__`` would slow every look down."""
    result = run_python("import optkern; optkern.kernels.adamm")
    assert "Did you mean: 'adam'" in result.stderr
    assert "__getattr__" not in vars(optkern.kernels)


@pytest.mark.parametrize("module", public_modules())
def test_a_misspelt_name_of_a_module(module):
    slip, right = SLIPS[module]
    host = module.removeprefix("optkern.integrations.")
    if host in ("sklearn", "thinc", "torch", "autograd"):
        pytest.importorskip(host)
    home = optkern.reference if module == "optkern.reference" else importlib.import_module(module)
    assert hasattr(home, right)
    with pytest.raises(AttributeError, match=rf"{slip}'; did you mean {right}( or \w+)?\?$"):
        getattr(home, slip)
    assert not hasattr(home, "quite_another") and not hasattr(home, "__wrapped__")
    inspect.getdoc(home), inspect.getmembers(home)


def test_python_adds_no_guess_of_its_own(run_python):
    done = run_python("import optkern; optkern.schedules.Cosin")
    assert done.stderr.splitlines()[-1].endswith("did you mean Cosine or Join?")


def written(opt, name, word):
    opt.param_groups[0][name] = word


ONES = np.ones(2)
WORDS = {
    "on_nonfinite": (lambda: optkern.Adam(ONES, on_nonfinite="skp"), "skip"),
    "on_nonfinite =": (lambda: setattr(optkern.Adam(ONES), "on_nonfinite", "rase"), "raise"),
    "state_dtype": (lambda: optkern.Adam(ONES, state_dtype="bfloat61"), "bfloat16"),
    "weight_rounding": (lambda: optkern.Adam(ONES, weight_rounding="nearst"), "nearest"),
    "accumulate_form": (lambda: optkern.Adam(ONES, accumulate_form="men"), "mean"),
    "eps_form": (lambda: optkern.Adam(ONES, eps_form="correctd"), "corrected"),
    "a group's": (lambda: written(optkern.Adam(ONES), "eps_form", "raww"), "raw"),
    "a twin's": (lambda: optkern.kernels.sgd(ONES, ONES, momentum_form="torhc"), "torch"),
    "line_search_fn": (lambda: optkern.LBFGS(ONES, line_search_fn="strongwolfe"), "strong_wolfe"),
    "which": (lambda: curvature.lanczos(lambda v: v, 3, which="smalest"), "smallest"),
    "method": (lambda: curvature.trace(lambda v: v, 3, method="hutchinsn"), "hutchinson"),
    "by": (lambda: curvature.escape(ONES, None, by="directon"), "direction"),
    "directions": (lambda: curvature.null(np.ones((3, 2)), ["translatons"]), "translations"),
    "dtype": (lambda: curvature.lanczos(A, dtype="flaot32"), "float32"),
    "schedule": (lambda: MLPOptimizer(schedule="invscalin"), "invscaling"),
    "mode": (lambda: schedules.Plateau(1e-3, mode="mn"), "min"),
    "anneal_strategy": (
        lambda: schedules.OneCycle(1e-3, total_steps=3, anneal_strategy="coss"), "cos",
    ),
    "reset": (lambda: optkern.Adam({"weight": ONES}).reset(["weigth"]), "weight"),
    "block": (
        lambda: curvature.sharpness(lambda v: v, x={"layer": ONES}, block="layr"),
        "layer",
    ),
}  # fmt: skip


@pytest.mark.parametrize("option", WORDS)
def test_a_misspelt_word(option):
    call, right = WORDS[option]
    with pytest.raises(
        (ValueError, KeyError, TypeError), match=rf"did you mean '?{right}'?( or|\?)"
    ):
        call()


@pytest.mark.parametrize(
    ("line", "right"),
    [("bench --threds 2", "--threads"), ("demo --plto x", "--plot"), ("bnech", "bench")],
)
def test_a_misspelt_word_of_a_command(line, right, run_python):
    done = run_python(f"from optkern.cli import main; raise SystemExit(main({line.split()}))")
    assert done.returncode == 2 and f"did you mean {right}" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_array_in_a_number_s_place_is_told_by_its_form():
    arrays = [np.ones((30, 30), np.float32), np.ones(2)]
    with pytest.raises(ValueError, match=r"got ndarray of float32, shape \(30, 30\)$"):
        optkern.curvature.lanczos(lambda v: v, arrays[0])
    with pytest.raises(ValueError, match=r"shape \(30, 30\), array\(\[1., 1.\]\)\]$"):
        optkern.curvature.lanczos(lambda v: v, arrays)


@pytest.mark.parametrize("schedule", (lambda: 0.1, lambda a, b: 0.1, lambda *, step: 0.1))
def test_a_schedule_that_does_not_take_the_step_is_told_at_once(schedule):
    with pytest.raises(TypeError, match=r"Adam: lr must be .* step -> number; <lambda> cannot be"):
        optkern.Adam(np.ones(2), lr=schedule)
    opt = optkern.Adam(np.ones(2))
    with pytest.raises(TypeError, match="lr must be a number or a callable"):
        opt.param_groups[0]["lr"] = schedule
    for good in (lambda *steps: 0.1, lambda step, scale=1.0: 0.1, float, optkern.schedules.Step):
        opt.param_groups[0]["lr"] = good(0.1, 2) if good is optkern.schedules.Step else good
