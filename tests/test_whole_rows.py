"""Rules of whole arrays and steps by rows: beside them, and the words where they are refused."""

import re

import numpy as np
import pytest

import optkern
from optkern.integrations._host import said_of_whole
from optkern.rules import MATRIX_RULES, ROW_RULES, RULES

WHY = {
    "Muon": "its step is made of the whole matrix",
    "NorMuon": "its step is made of the whole matrix",
    "SOAP": "its step is made of the whole matrix",
    "Adafactor": "its second moments are of whole rows and columns",
    "Prodigy": "its step is of sums over all parameters",
    "LAMB": "its step is by norms of the whole array",
    "MARS": "its step is by norms of the whole array",
}


def both(rule):
    rng = np.random.default_rng(0)
    W, E = rng.standard_normal((4, 5)), rng.standard_normal((6, 3))
    groups = [
        {"params": {"W": W}, "rule": rule.name, "lr": 0.1},
        {"params": {"E": E}, "rule": "Adagrad", "lr": 0.1},
    ]
    return W, E, optkern.Mixed(groups)


@pytest.mark.parametrize("threads", (1, 2))
@pytest.mark.parametrize("rule", (*RULES, *MATRIX_RULES), ids=lambda rule: rule.name)
def test_beside_rows_a_rule_takes_the_step_that_it_takes_alone(rule, threads):
    """Muon, SOAP and Prodigy stepped along the gradient alone there, without a word."""
    (W, E, dense), (V, F, rows) = both(rule), both(rule)
    dense.num_threads = rows.num_threads = threads
    rng = np.random.default_rng(1)
    for _ in range(3):
        g, e = 3 * rng.standard_normal((4, 5)), np.zeros((6, 3))
        e[2] = rng.standard_normal(3)
        call = [{"W": ...}, {"E": [2]}], [{"W": g}, {"E": e[2:3]}]
        dense.step([{"W": g}, {"E": e}])
        rows.step_rows(*call)
        assert W.tobytes() == V.tobytes() and E.tobytes() == F.tobytes()
    for a, b in zip(dense.state.values(), rows.state.values(), strict=True):
        assert repr(a) == repr(b)


def test_what_fails_on_the_way_changes_nothing(monkeypatch):
    W, E, opt = both(next(rule for rule in MATRIX_RULES if rule.name == "prodigy"))
    call = [{"W": ...}, {"E": [2]}], [{"W": np.ones((4, 5))}, {"E": np.ones((1, 3))}]
    opt.step_rows(*call)
    before = W.tobytes(), E.tobytes(), repr(opt.state_dict())

    def fail(*args):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("optkern.rules.prodigy.sum_of_products", fail)
        with pytest.raises(MemoryError):
            opt.step_rows(*call)
    assert (W.tobytes(), E.tobytes(), repr(opt.state_dict())) == before
    assert opt.step_rows(*call)


@pytest.mark.parametrize("name", WHY)
def test_rows_of_it_are_refused_with_the_reason_and_the_way_out(name):
    p = np.ones((3, 2))
    opt = getattr(optkern, name)(p)
    with pytest.raises(TypeError, match=WHY[name]) as error:
        opt.step_rows([0], np.ones((1, 2)))
    said = str(error.value)
    assert all(rule.name in said for rule in ROW_RULES) and "optkern.Mixed" in said
    assert (p == 1).all() and opt.steps == 0


@pytest.mark.parametrize("rule", MATRIX_RULES, ids=lambda rule: rule.class_name)
def test_hosts_that_do_not_have_it_say_why(rule):
    why = said_of_whole(rule.name)
    assert f"optkern.{'Mixed' if rule.axes else rule.class_name}" in why
    if rule.class_name in ("SOAP", "Adafactor"):
        assert "state of other shapes than its parameters'" in why
    for name in (rule.name, rule.class_name):
        pytest.importorskip("sklearn")
        from optkern.integrations.sklearn import MLPOptimizer

        with pytest.raises(ValueError, match=re.escape(f"rule={name!r}: {why}")):
            MLPOptimizer(name)
        pytest.importorskip("thinc")
        from optkern.integrations.thinc import Optimizer

        if rule.pool:
            with pytest.raises(ValueError, match=re.escape(f"rule={name!r}: {why}")):
                Optimizer(0.1, rule=name)
        elif name == rule.class_name:
            with pytest.raises(ValueError, match=rf"got '{name}'; did you mean '{rule.name}'\?$"):
                Optimizer(0.1, rule=name)


def test_the_way_to_mixed_from_torch_is_one():
    torch = pytest.importorskip("torch", reason="extra `torch`")
    from optkern.integrations import torch as ours

    model = torch.nn.Sequential(*[torch.nn.Linear(6, 6) for _ in range(3)])
    model(torch.ones(4, 6)).pow(2).sum().backward()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(AttributeError) as error:
        _ = ours.Mixed
    held = {"optkern": optkern, "model": model}
    for line in re.search(r"model's tensors: (.*)", str(error.value))[1].split("; "):
        exec(line, held)
    assert held["opt"].param_groups[0]["rule"] == "muon"
    assert held["opt"].param_groups[0]["layout"] == "out_in"
    assert not any(map(torch.equal, before, model.parameters()))
