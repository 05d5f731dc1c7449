"""Names of other libraries are told what they are called here."""

import importlib
import re

import numpy as np
import pytest

import optkern

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
    thinc = pytest.importorskip("optkern.integrations.thinc", exc_type=ImportError)
    with pytest.raises(AttributeError, match=f"has no attribute '{rule}'; .*uon {why}"):
        getattr(thinc, rule)
    pytest.importorskip("sklearn")
    sklearn = importlib.import_module("optkern.integrations.sklearn")
    for make in (sklearn.MLPOptimizer, sklearn.accelerate):
        with pytest.raises(ValueError, match=f"MLPOptimizer: rule='{rule}': .*uon {why}"):
            make(rule)
