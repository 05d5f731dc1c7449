"""Several rules in one optimizer: each group's bits are those of its class over everything."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from conftest import possible
from interruption import interrupted, lines_of

import optkern
from optkern.optimizers import CLASSES

SHAPES = {"W": (7, 5), "b": (5,), "V": (5, 3), "c": (3,), "E": (11, 4)}
AROUND = [
    {},
    {"clip_norm": 0.3},
    {"clip_norm_per_tensor": 0.2, "ema_decay": 0.9},
    {"clip_value": 0.1, "lookahead": (2, 0.5), "zero_grad": True},
    {"accumulate": 2, "clip_norm": 0.3, "ema_decay": 0.8},
    {"grad_scale": 8.0, "clip_norm": 2.0, "state_dtype": "int8", "seed": 3},
]


def arrays(seed: int, dtype: type = np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in SHAPES.items()}


def split(values: dict[str, np.ndarray], k: int, count: int) -> dict[str, np.ndarray]:
    return {name: a for i, (name, a) in enumerate(values.items()) if i % count == k}


def groups_of(params: dict[str, np.ndarray], rules: list[str]) -> list[dict[str, object]]:
    n = len(rules)
    return [{"params": split(params, k, n), "rule": rule} for k, rule in enumerate(rules)]


def mixed_of(rules: list[str], around: dict[str, object]) -> tuple[dict, optkern.Mixed]:
    params = arrays(0)
    return params, optkern.Mixed(groups_of(params, rules), **around)


def steps(opt: optkern.Mixed, count: int, first: int = 1) -> None:
    n = len(opt.param_groups)
    for seed in range(first, first + count):
        opt.step([split(arrays(seed), k, n) for k in range(n)])


def same(a: object, b: object) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    return a == b


NAMES = sorted(CLASSES)


def chosen(k: int) -> tuple[list[str], dict[str, object]]:
    """Three rules, and options that all of them take."""
    rules = [NAMES[k], NAMES[(k + 3) % len(NAMES)], NAMES[(k + 7) % len(NAMES)]]
    around = dict(AROUND[k % len(AROUND)])
    if any("" in CLASSES[rule].rule.not_compact for rule in rules):
        around.pop("state_dtype", None)
    for rule in rules:
        around = possible(CLASSES[rule].rule, around)
    return rules, around


PAIRS = [
    *map(chosen, range(len(NAMES))),
    (["lamb", "lars", "adamw"], AROUND[1]),
    (["lars", "sgd"], AROUND[4]),
    (["adam", "lion"], AROUND[5]),
    (["lamb", "sgd"], {}),
    (["adam", "rmsprop"], {"clip_update_rms": 0.5, "clip_norm": 0.3}),
    (["lion", "adamw"], {"cautious": True, "project": (-1.0, 1.0)}),
]


@pytest.mark.parametrize("rules, around", PAIRS, ids=lambda x: "-".join(x))
def test_a_group_has_the_bits_of_its_class_over_everything(rules, around):
    params, opt = mixed_of(rules, around)
    steps(opt, 5)
    for k, rule in enumerate(rules):
        alone_params = arrays(0)
        order = [name for j in range(len(rules)) for name in split(SHAPES, j, len(rules))]
        alone_params = {name: alone_params[name] for name in order}  # of squares summed, too
        alone = CLASSES[rule](alone_params, **around)
        for seed in range(1, 6):
            alone.step(arrays(seed))
        assert opt.steps == alone.steps
        assert opt.last_grad_norm == alone.last_grad_norm or alone.last_grad_norm is None
        for name in split(SHAPES, k, len(rules)):
            assert params[name].tobytes() == alone_params[name].tobytes(), (rule, name)
            mine = opt.state_dict()["state"][name]
            assert same(mine, alone.state_dict()["state"][name]), (rule, name)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_do_not_change_the_bits(threads):
    rng = np.random.default_rng(0)
    shapes = [(300, 200), (40000,), (17,)]
    p = [rng.standard_normal(shape) for shape in shapes]
    q = [a.copy() for a in p]
    g = [rng.standard_normal(shape) for shape in shapes]
    rules = ["adamw", "lion", "lars"]
    groups = [{"params": [a], "rule": rule} for a, rule in zip(p, rules)]
    opt = optkern.Mixed(groups, clip_norm=1.0, num_threads=threads)
    for _ in range(3):
        opt.step([[x] for x in g])
    for k, rule in enumerate(rules):
        alone = CLASSES[rule]([a.copy() for a in q], clip_norm=1.0, num_threads=1)
        for _ in range(3):
            alone.step(g)
        assert p[k].tobytes() == alone.params[k].tobytes()


RULES = ["nadam", "sgd", "adamw"]
WHOLE = {"clip_norm": 0.5, "ema_decay": 0.9, "accumulate": 2}


@pytest.mark.parametrize("way", ["dict", "file", "pickle", "copy"])
def test_what_is_kept_goes_on_bit_for_bit(way, tmp_path):
    params, opt = mixed_of(RULES, WHOLE)
    steps(opt, 3)
    if way == "pickle":
        other = pickle.loads(pickle.dumps(opt))
    elif way == "copy":
        other = copy.deepcopy(opt)
    else:
        others, other = mixed_of(RULES, WHOLE)
        if way == "file":
            optkern.save(tmp_path / "x", opt)
            assert optkern.load(tmp_path / "x", other) == ((), (), (), None)
        else:
            other.load_state_dict(opt.state_dict())
            for name, p in params.items():
                others[name][...] = p
    steps(opt, 4, 4)
    steps(other, 4, 4)
    assert same(opt.state_dict(), other.state_dict())
    assert all(a.tobytes() == b.tobytes() for a, b in zip(opt.params, other.params))


def test_a_state_of_other_rules_does_not_fit(tmp_path):
    _, opt = mixed_of(["nadam", "sgd"], {})
    steps(opt, 2)
    others, other = mixed_of(["nadam", "lion"], {})
    before = copy.deepcopy((others, other.state_dict()))
    with pytest.raises(ValueError, match="group 1 has the rule 'sgd', not 'lion'"):
        other.load_state_dict(opt.state_dict())
    optkern.save(tmp_path / "x", opt)
    with pytest.raises(ValueError, match="has the rule 'sgd', not 'lion'"):
        optkern.load(tmp_path / "x", other)
    assert same(before[0], others) and same(before[1], other.state_dict())
    report = optkern.load(tmp_path / "x", other, strict=False)
    assert report == ((), (), ("param_groups/1", "state/b", "state/c"), None)
    assert other.state["b"]["step"] == 0 and other.state["W"]["step"] == 2


@pytest.mark.parametrize("how", ["skip", "raise", "shape", "interrupt"])
def test_a_step_that_is_refused_leaves_all_parts_as_they_were(how):
    params, opt = mixed_of(RULES, {"clip_norm": 1.0, "ema_decay": 0.9})
    steps(opt, 2)
    opt.on_nonfinite = how if how in ("skip", "raise") else "propagate"
    before = copy.deepcopy([params, opt.state_dict()])
    grads = [split(arrays(3), k, 3) for k in range(3)]
    if how == "interrupt":
        whole = copy.deepcopy((params, opt))
        lines = lines_of(lambda: whole[1].step(grads))
        done = copy.deepcopy((params, opt))
        done[1].step(grads)
        for line in range(1, lines + 1):
            tried = copy.deepcopy((params, opt))
            interrupted(line, lambda tried=tried: tried[1].step(grads))
            now = [a.tobytes() for a in tried[1].params]
            old = [a.tobytes() for a in params.values()]
            new = [a.tobytes() for a in done[1].params]
            order = [name for k in range(3) for name in split(params, k, 3)]
            old = [params[name].tobytes() for name in order]
            assert now in (old, new), line
        return
    if how == "shape":
        grads[2]["V"] = np.ones((5, 4), np.float32)
        with pytest.raises(ValueError, match="'V'"):
            opt.step(grads)
    else:
        grads[2]["V"][0, 0] = np.nan
        if how == "raise":
            with pytest.raises(ValueError, match="'V' holds NaN"):
                opt.step(grads)
        else:
            assert not opt.step(grads)
            before[1] |= {"skipped_steps": 1, "skips_in_row": 1}
    assert same(before[0], params) and same(before[1], opt.state_dict())


def test_averages_are_of_the_whole():
    params, opt = mixed_of(["lion", "sgd"], {"ema_decay": 0.5})
    steps(opt, 3)
    before = copy.deepcopy(params)
    with opt.averaged():
        assert all(params[name].tobytes() != before[name].tobytes() for name in params)
        with pytest.raises(RuntimeError, match="averages are in the parameters' place"):
            steps(opt, 1, 4)
    assert same(params, before)


def test_schedules_and_writes_are_of_a_group_and_options_of_the_whole():
    params = arrays(0)
    groups = groups_of(params, ["lion", "sgd"])
    groups[0]["lr"] = lambda step: 0.0 if step < 2 else 1.0
    opt = optkern.Mixed(groups)
    steps(opt, 2)
    start = arrays(0)
    assert all(params[name].tobytes() == start[name].tobytes() for name in groups[0]["params"])
    assert all(params[name].tobytes() != start[name].tobytes() for name in groups[1]["params"])
    assert set(opt.state["b"]) == {"step"}
    opt.param_groups[1]["momentum"] = 0.9
    opt.clip_norm = 0.1
    steps(opt, 1, 3)
    assert "momentum_buffer" in opt.state["b"] and opt.last_grad_norm > 0.1
    opt.add_param_group({"params": {"new": np.ones(3)}, "rule": optkern.Adadelta})
    opt.step([None, None, {"new": np.ones(3)}])
    assert opt.state["new"]["step"] == 1 and set(opt.state["W"]) == {"step", "exp_avg"}
    opt.reset("new")
    assert opt.state["new"]["step"] == 0


def test_a_schedule_is_checked_as_its_own_rule_has_it():
    groups = groups_of(arrays(0), ["lion", "rprop"])
    groups[1]["etas"] = lambda step: (0.5, 1.2) if step < 2 else (0.5, 0.9)
    opt = optkern.Mixed(groups)
    steps(opt, 2)
    with pytest.raises(ValueError, match="group 1: at step 2: etas"):
        steps(opt, 1, 3)


def test_a_trial_from_the_start_lets_every_rule_begin():
    _, opt = mixed_of(["nadam", "sgd"], {})
    start = opt.state_dict()["state"]["W"]
    steps(opt, 2)
    opt.reset()
    assert same(opt.state_dict()["state"]["W"], start) and start["mu_product"] == 1


def test_rows_of_an_embedding_beside_other_rules():
    params = arrays(0)
    table = params["E"].copy()
    opt = optkern.Mixed(
        [
            {"params": {"E": params["E"]}, "rule": "adagrad"},
            {"params": {"W": params["W"]}, "rule": "lion"},
        ]
    )
    rows, grads = np.array([3, 1]), np.ones((2, 4), np.float32)
    opt.step_rows([{"E": rows}, None], [{"E": grads}, None])
    optkern.Adagrad(table).step_rows(rows, grads)
    assert params["E"].tobytes() == table.tobytes()
    with pytest.raises(TypeError, match="rule lion has no row-wise form"):
        opt.step_rows([None, {"W": rows}], [None, {"W": np.ones((2, 5), np.float32)}])


def test_other_rooms_take_it():
    params = {"W": np.full((2, 2), 3.0), "b": np.ones(2)}
    opt = optkern.Mixed(
        optkern.groups(params, rule="SGD", muon={"rule": "Lion"}, head=(), lr=0.01),
    )
    monitor = optkern.Monitor()
    for _ in range(30):
        grads = {name: 2 * a for name, a in params.items()}
        loss = float(sum((a**2).sum() for a in params.values()))
        opt.step(grads)
        monitor.record(loss, grads, opt)
    assert monitor.diagnose(params, lambda w: {name: 2 * a for name, a in w.items()}).kind
    with pytest.raises(ValueError, match="no stability limit is known for 'mixed'"):
        optkern.curvature.max_stable_lr(opt, np.eye(6))
    assert not opt.rule.scales_by_itself and opt.rule.mini_batches  # SGD's, and both's
    assert not optkern.Mixed([{"params": np.ones(2), "rule": "rprop"}]).rule.mini_batches
    before = opt.steps
    optkern.SAM(opt).step(lambda: (0.0, {name: 2 * a for name, a in params.items()}))
    assert opt.steps == before + 1 and "rule='lion'" in repr(opt)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("cls", ["mixed", "adam", "sgd"])
def test_rows_of_one_and_all_of_the_others_in_one_step(cls, threads):
    """Bit for bit what two optimizers of these parts do; one step is counted."""
    params, apart = arrays(0), arrays(0)
    rows, grads = np.array([3, 1, 3]), np.ones((3, 4), np.float32)
    rest = ("W", "b", "V")
    rules = ["adagrad", "lion"] if cls == "mixed" else [cls, cls]
    parts = [
        {"params": {"E": params["E"]}, "rule": rules[0]},
        {"params": {name: params[name] for name in rest}, "rule": rules[1]},
        {"params": {"c": params["c"]}, "rule": rules[1]},
    ]
    if cls != "mixed":
        for part in parts:
            del part["rule"]
    opt = (optkern.Mixed if cls == "mixed" else CLASSES[cls])(parts, num_threads=threads)
    by_rows = CLASSES[rules[0]]({"E": apart["E"]})
    whole = CLASSES[rules[1]]({name: apart[name] for name in rest})
    for seed in (1, 2, 3):
        g = {name: arrays(seed)[name] for name in rest}
        assert opt.step_rows([{"E": rows}, dict.fromkeys(rest, ...), None], [{"E": grads}, g, None])
        by_rows.step_rows({"E": rows}, {"E": grads})
        whole.step(g)
    assert opt.steps == 3 and [opt.state[name]["step"] for name in ("E", "W", "c")] == [3, 3, 0]
    assert same(params, apart)
    for name, other in (("E", by_rows), ("V", whole)):
        assert same(opt.state_dict()["state"][name], other.state_dict()["state"][name])


@pytest.mark.parametrize("where", ["rows", "whole"])
def test_rows_and_all_refuse_as_one(where):
    params = arrays(0)
    opt = optkern.Adam({"E": params["E"], "W": params["W"]}, on_nonfinite="skip")
    grads = {"E": np.ones((1, 4), np.float32), "W": np.ones((7, 5), np.float32)}
    rows = {"E": [2], "W": ...}
    grads["E" if where == "rows" else "W"][0, 0] = np.inf
    before = copy.deepcopy([params, opt.state_dict()])
    assert not opt.step_rows(rows, grads)
    before[1] |= {"skipped_steps": 1, "skips_in_row": 1}
    assert same(before[0], params) and same(before[1], opt.state_dict())
    opt.on_nonfinite = "raise"
    with pytest.raises(ValueError, match=f"'{'E' if where == 'rows' else 'W'}' holds NaN or inf"):
        opt.step_rows(rows, grads)
    opt.on_nonfinite = "propagate"
    assert opt.step_rows(rows, grads) and opt.state["W"]["step"] == 1
    with pytest.raises(ValueError, match="'W'"):
        opt.step_rows(rows, {**grads, "W": np.ones((7, 4), np.float32)})
    with pytest.raises(TypeError, match="'W' has rows but no gradients"):
        opt.step_rows(rows, {**grads, "W": None})


@pytest.mark.parametrize("name", ["rule", "lr", "betas", "ns_steps"])
def test_what_belongs_to_a_group_is_sent_there(name):
    with pytest.raises(TypeError, match=f"Mixed: .*'{name}'; it is a group's: .*'{name}': "):
        optkern.Mixed([{"params": np.ones(2), "rule": "adam"}], **{name: 0.1})
    with pytest.raises(TypeError, match=r"it has no 'rule': give optkern\.groups a rule= or muon="):
        optkern.Mixed(optkern.groups({"W": np.ones((2, 2))}, lr=0.1))
    opt = optkern.Mixed(optkern.groups({"W": np.ones((2, 2))}, rule="Adam"))
    with pytest.raises(TypeError, match=r"and a group that is added 'rule': optkern\.AdamW"):
        opt.add_param_group({"params": {"b": np.ones(2)}})
    opt.add_param_group({"params": {"b": np.ones(2)}, "rule": optkern.AdamW})


RESTS = ["ScheduleFreeAdamW", "Prodigy", "SOAP", "Adafactor", "Rprop", "FTRL"]


@pytest.mark.parametrize("rest", RESTS)
def test_muon_beside_rules_of_every_kind(rest):
    """One norm and one file; the state goes on bit for bit, and what has an average shows it."""
    shapes = {"emb": (9, 4), "W1": (4, 6), "b1": (6,), "head": (6, 9)}

    def some(seed):
        rng = np.random.default_rng(seed)
        return {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}

    def made():
        params = some(0)
        groups = optkern.groups(params, muon={"lr": 0.02}, rule=rest)
        return params, optkern.Mixed(groups, clip_norm=1.0, on_nonfinite="skip", max_skips=1)

    params, opt = made()
    for seed in (1, 2):
        assert opt.step(some(seed))
    norm = np.sqrt(sum((g.astype(float) ** 2).sum() for g in some(2).values()))
    np.testing.assert_allclose(opt.last_grad_norm, norm, rtol=1e-12)
    others, other = made()
    other.load_state_dict(opt.state_dict())
    for name, p in params.items():
        others[name][...] = p
    assert opt.step(some(3)) and other.step(some(3)) and same(params, others)
    bad = some(4)
    bad["W1"][0, 0] = np.nan
    assert not opt.step(bad) and same(params, others)
    with pytest.raises(ValueError, match="'W1' holds NaN or inf, after 1 calls"):
        opt.step(bad)
    if rest.startswith("ScheduleFree"):  # Muon has no average: its weights stand
        with opt.averaged():
            moved = [name for name, p in params.items() if (p != others[name]).any()]
        assert moved == ["emb", "b1", "head"] and same(params, others)
        with pytest.raises(ValueError, match=f"ema_decay is not possible with {rest}"):
            opt.ema_decay = 0.9
    assert opt.step(some(5))


class Own(optkern.Adam):
    """A class of one's own."""


@pytest.mark.parametrize(
    "params, message",
    [
        ({"W": np.ones(2)}, "must be groups that name their rules"),
        ([{"params": np.ones(2)}], "group 0: it has no 'rule'"),
        ([{"params": np.ones(2), "rule": "adamm"}], "no rule 'adamm'; did you mean"),
        ([{"params": np.ones(2), "rule": optkern.SAM}], "rule must be a class of optkern's"),
        ([{"params": np.ones(2), "rule": optkern.Mixed}], "rule must be a class of optkern's"),
        ([{"params": np.ones(2), "rule": 3}], "rule must be a class of optkern's.*got 3"),
        ([{"params": np.ones(2), "rule": "lion", "eps": 1.0}], "unknown hyperparameter 'eps'"),
        ([{"params": np.ones(2), "rule": "lion", "lr": -1.0}], "group 0: lr must be"),
        ([{"params": np.ones(2), "rule": "lion", "clip_norm": 1.0}], "an option of the whole"),
        ([{"params": np.ones(2), "rule": "lion", "state_dtype": "int8"}], "an option of the whole"),
    ],
)
def test_bad_groups(params, message):
    with pytest.raises((TypeError, ValueError), match=message):
        optkern.Mixed(params)


def test_names_of_rules_and_attributes():
    for rule in ("AdamW", "adamw", optkern.AdamW, Own):
        opt = optkern.Mixed([{"params": np.ones(2), "rule": rule}])
        assert opt.param_groups[0]["rule"] == ("adam" if rule is Own else "adamw")
    with pytest.raises(AttributeError, match=r"param_groups\[0\]\['lr'\]"):
        opt.lr = 1.0
    with pytest.raises(ValueError, match="its rule is 'adam' and stays so"):
        opt.param_groups[0]["rule"] = "sgd"
    opt.param_groups[0]["rule"] = "adam"
    with pytest.raises(TypeError, match=r"optkern\.Mixed's"):
        optkern.Adam([{"params": np.ones(2), "rule": "adam"}])


def test_torchs_tensors_by_the_way_that_its_room_says():
    torch = pytest.importorskip("torch")
    from optkern.integrations import torch as room

    with pytest.raises(AttributeError, match=r"p\.detach\(\) for n, p in .*p\.grad for n, p in"):
        _ = room.Mixed
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
    before = [p.detach().clone() for p in model.parameters()]
    arrays_of = {n: p.detach() for n, p in model.named_parameters()}
    opt = optkern.Mixed(optkern.groups(arrays_of, muon="Lion", lr=0.1))
    model(torch.ones(3, 4)).square().sum().backward()
    assert opt.step({n: p.grad for n, p in model.named_parameters()})
    assert all((p != old).any() for p, old in zip(model.parameters(), before))


def test_thincs_room_says_why_there_is_none():
    room = pytest.importorskip("optkern.integrations.thinc", exc_type=ImportError)
    with pytest.raises(AttributeError, match="one array at a time"):
        _ = room.Mixed
