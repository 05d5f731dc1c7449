"""Names of other libraries are told what they are called here."""

import importlib
import re

import numpy as np
import pytest

import optkern
from optkern._elsewhere import ELSEWHERE

CLIPS = "clip_norm or clip_value"
MEANT = {
    "grad_clip": CLIPS,
    "gradient_clip_val": CLIPS,
    "clip": CLIPS,
    "clip_grad_norm": "clip_norm",
    "clip_grad_value": "clip_value",
    "ema": "ema_decay",
}


@pytest.mark.parametrize("name", MEANT)
@pytest.mark.parametrize("cls", [optkern.AdamW, optkern.SGD, optkern.Lion])
def test_a_keyword_of_another_library(cls, name):
    with pytest.raises(TypeError, match=re.escape(f"did you mean {MEANT[name]}?")):
        cls([np.ones(3)], **{name: 1.0})


@pytest.mark.parametrize("key", ["param", "parms", "Params", "parmas"])
def test_a_group_whose_key_is_misspelt(key):
    with pytest.raises(TypeError, match=f"did you mean 'params' by '{key}'"):
        optkern.AdamW([{key: [np.ones(3)]}])
    with pytest.raises(TypeError, match=f"did you mean 'params' by '{key}'"):
        optkern.AdamW([{key: [np.ones(3)], "lr": 0.1}])


def test_layers_are_no_groups():
    opt = optkern.AdamW([{"W": [np.ones(3)]}, {"param": np.ones(2)}])
    assert set(opt.state) == {"0.W.0", "1.param"}


def test_a_models_parameters_are_shown_the_way():
    torch = pytest.importorskip("torch", reason="needs torch: make test EXTRAS=torch")
    with pytest.raises(TypeError, match=r"optkern\.integrations\.torch"):
        optkern.AdamW(torch.nn.Linear(2, 2).parameters())


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda w: optkern.RMSprop(w, rho=0.9), "RMSprop: .*'rho'; did you mean alpha[?]$"),
        (lambda w: optkern.SGD(w, eps=1e-8), "SGD: .*'eps'; SGD has none$"),
        (lambda w: optkern.Lion(w, eps=1e-8), "Lion: .*'eps'; Lion has none$"),
        (
            lambda w: optkern.NewtonLanczos(w, hpv=abs),
            ".*'hpv'; hvp belongs to step$",
        ),
        (
            lambda w: optkern.NewtonLanczos(w, hvp=abs),
            ".*'hvp'; hvp belongs to step$",
        ),
        (lambda w: optkern.NewtonLanczos(w, max_itr=3), "did you mean max_iter[?]$"),
    ],
)
def test_an_argument_of_another_is_said_alone(make, said):
    with pytest.raises(TypeError, match=said):
        make(np.ones(2))
    optkern.Adadelta(np.ones(2), rho=0.9)  # where it is one it stays


@pytest.mark.parametrize("rule", ["muon", "Muon", "NorMuon"])
def test_a_rule_of_matrices_is_told_why_a_host_has_it_not(rule):
    why = "is for matrices, and here one rule trains the biases as well: .* optkern.Mixed gives"
    pytest.importorskip("sklearn")
    sklearn = importlib.import_module("optkern.integrations.sklearn")
    for make in (sklearn.MLPOptimizer, sklearn.accelerate):
        with pytest.raises(ValueError, match=f"MLPOptimizer: rule='{rule}': .*uon {why}"):
            make(rule)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_an_optimizer_by_its_name_elsewhere(name):
    """The advice, as it stands, takes a step (or is one)."""
    with pytest.raises(AttributeError, match=f"module 'optkern' has no attribute '{name}'") as said:
        getattr(optkern, name)
    code = str(said.value).split("; it is ")[1]
    rng = np.random.default_rng(0)
    shapes = {"fc1.weight": (4, 3), "fc1.bias": (3,), "fc2.weight": (3, 2)}
    params = {key: np.ones(shape, np.float32) for key, shape in shapes.items()}
    grads = {key: rng.standard_normal(shape, np.float32) for key, shape in shapes.items()}
    rows = [1, 2]
    if "step_rows" in code:
        params, grads = np.ones((4, 3)), np.ones((2, 3))
    made = eval(code, {"optkern": optkern, "params": params, "rows": rows, "grads": grads})
    if made is True:
        assert (params[[1, 2]] < 1).all() and (params[[0, 3]] == 1).all()
    else:
        for _ in range(6):  # RAdam's first ones rest
            made.step(grads)
        assert not any((w == 1).all() for w in params.values())


def test_advice_means_what_the_name_does():
    g = [np.array([[0.5, -2.0]]), np.array([[-0.1, 3.0]])]
    signs, sparse = np.zeros((1, 2)), np.ones((3, 2))
    opt = eval("optkern." + ELSEWHERE["Signum"], {"optkern": optkern, "params": signs})
    opt.step(g[0]), opt.step(g[1])
    momentum = 0.1 * g[0], 0.09 * g[0] + 0.1 * g[1]
    assert np.allclose(signs, -1e-4 * (np.sign(momentum[0]) + np.sign(momentum[1])))
    given = {"optkern": optkern, "params": sparse, "rows": [1], "grads": g[0]}
    eval("optkern." + ELSEWHERE["SparseAdam"].replace("optkern.", ""), given)
    torch = pytest.importorskip("torch", reason="needs torch: make test EXTRAS=torch")
    theirs = torch.nn.Parameter(torch.ones(3, 2, dtype=torch.float64))
    theirs.grad = torch.sparse_coo_tensor([[1]], torch.from_numpy(g[0]), (3, 2))
    torch.optim.SparseAdam([theirs]).step()
    assert np.allclose(sparse, theirs.detach().numpy(), rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    "name, said",
    [
        (
            "sparse_adam",
            r"it is optkern\.Adam\(.*\)\.step_rows\(rows, grads\)$",
        ),
        ("classify", r"it is optkern\.curvature\.classify$"),
        ("AdaFactor", r"did you mean Adafactor\?$"),
        ("Adamw", r"did you mean AdamW\?$"),
        ("quite_another", r"no attribute 'quite_another'$"),
    ],
)
def test_a_name_that_optkern_does_not_have(name, said):
    with pytest.raises(AttributeError, match=said):
        getattr(optkern, name)
    assert not hasattr(optkern, name)
