"""Who goes where, by names and shapes; the gradients keep the parameters' structure."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import optkern

GPT = {
    "wte": (50, 8),
    "wpe": (10, 8),
    "h.0.ln_1.weight": (8,),
    "h.0.attn.W": (8, 24),
    "h.0.attn.b": (24,),
    "h.0.multi_head.W": (8, 8),
    "h.1.LayerNorm.gamma": (8,),
    "h.1.mlp.W2": (32, 8),
    "h.1.conv": (3, 3, 8, 8),
    "h.1.gate": (8,),
    "ln_f": (8,),
    "lm_head.W": (8, 50),
    "lm_head.b": (50,),
}
KINDS = {
    "wte": "embedding",
    "wpe": "embedding",
    "h.0.ln_1.weight": "norm",
    "h.0.attn.W": "matrix",
    "h.0.attn.b": "bias",
    "h.0.multi_head.W": "matrix",
    "h.1.LayerNorm.gamma": "norm",
    "h.1.mlp.W2": "matrix",
    "h.1.conv": "array",
    "h.1.gate": "vector",
    "ln_f": "norm",
    "lm_head.W": "head",
    "lm_head.b": "bias",
}


def made(shapes=GPT):
    return {name: np.ones(shape) for name, shape in shapes.items()}


def where(groups, key, default=None):
    return {label: g.get(key, default) for g in groups for label in g["params"]}


def test_what_a_parameter_is():
    groups = optkern.groups(made())
    assert groups.kinds == KINDS
    decay = where(groups, "weight_decay", "default")
    kept = {name for name, kind in KINDS.items() if kind in ("matrix", "array", "head")}
    assert {name for name, value in decay.items() if value == "default"} == kept
    assert all(decay[name] == 0 for name in KINDS if name not in kept)
    assert set(where(groups, "rule").values()) == {None}


def test_matrices_of_the_inside_go_to_their_rule():
    groups = optkern.groups(made(), muon={"rule": optkern.Lion, "lr": 0.02}, lr=0.1)
    rules, rates = where(groups, "rule"), where(groups, "lr")
    for name, kind in KINDS.items():
        assert rules[name] == ("lion" if kind == "matrix" else "adamw")
        assert rates[name] == (0.02 if kind == "matrix" else 0.1)
    named = optkern.groups(made(), muon="Lion", rule="SGD", no_decay=())
    assert set(where(named, "rule").values()) == {"lion", "sgd"} and len(named) == 2


@pytest.mark.parametrize("kind", ["list", "dict"])
def test_the_last_matrix_is_the_head_where_no_name_says_it(kind):
    arrays = [np.ones((4, 4)), np.ones(4), np.ones((4, 4)), np.ones(4), np.ones((4, 2)), np.ones(2)]
    names = ["W1", "b1", "W2", "b2", "W3", "b3"]
    params = arrays if kind == "list" else dict(zip(names, arrays))
    groups = optkern.groups(params, layer_decay=0.5, lr=1.0)
    small = "vector" if kind == "list" else "bias"
    assert [*groups.kinds.values()] == ["matrix", small, "matrix", small, "head", small]
    rates = where(groups, "lr")
    assert [rates[label] for label in groups.kinds] == [0.25, 0.25, 0.5, 0.5, 1.0, 1.0]


def test_rates_fall_from_layer_to_layer():
    groups = optkern.groups(made(), layer_decay=0.5, lr=0.8)
    rates = where(groups, "lr")
    depth = {"w": 0, "h.0": 1, "h.1": 2, "ln_f": 2, "lm_head": 3}
    for name, rate in rates.items():
        (layer,) = (k for key, k in depth.items() if name.startswith(key))
        assert rate == 0.8 * 0.5 ** (3 - layer), name
    schedule = optkern.schedules.Cosine(0.8, T_max=10)
    groups = optkern.groups(made(), layer_decay=0.5, lr=schedule, layers=lambda n: int(len(n) > 6))
    rates = where(groups, "lr")
    assert rates["wte"](5) == 0.5 * schedule(5) and rates["lm_head.W"](5) == schedule(5)


W, V, B, C = np.ones((9, 5)), np.ones((5, 2)), np.ones((1, 5)), np.ones((1, 2))
TWO_LAYERS = {
    "pairs": [(W, B[0]), (V, C[0])],
    "pairs of rows": [(W, B), (V, C)],
    "a list with rows": [W, B, V, C],
    "lists": {"weights": [W, V], "biases": [B.T, C.T]},
    "lists of scikit-learn": {"coefs_": [W, V], "intercepts_": [B[0], C[0]]},
    "within": {"net": {"W": [W, V], "b": [B, C]}},
    "last word": {"fc_w": W, "fc_b": B, "out_w": V, "out_b": C},
    "first word": {"W_hidden": W, "b_hidden": B, "W_out": V, "b_out": C},
    "numbers": {"W1": W, "b1": B, "W2": V, "b2": C},
}


@pytest.mark.parametrize("params", TWO_LAYERS.values(), ids=TWO_LAYERS)
def test_two_layers_however_they_are_kept(params):
    """The bias, also one of one row or column, is no head, does not decay, and is its layer's."""
    groups = optkern.groups(params, layer_decay=0.5, lr=1.0, weight_decay=0.1)
    found = sorted(
        (p.size, group["lr"], group["weight_decay"], groups.kinds[label] in ("bias", "vector"))
        for group in groups
        for label, p in group["params"].items()
    )
    assert found == [(2, 1, 0, True), (5, 0.5, 0, True), (10, 1, 0.1, False), (45, 0.5, 0.1, False)]
    assert [*groups.kinds.values()].count("head") == 1


def test_a_row_that_is_a_matrix():
    """x @ W of one feature, and a classifier of one class, keep what matrices have."""
    groups = optkern.groups({"W1": np.ones((1, 5)), "b1": np.ones(5), "W2": np.ones((1, 5))})
    assert [*groups.kinds.values()] == ["array", "bias", "head"]
    assert [*optkern.groups([np.ones((1, 5)), np.ones((5, 1))]).kinds.values()] == ["array", "head"]


def test_every_decision_has_an_argument():
    params = made()
    groups = optkern.groups(
        params,
        muon="Lion",
        embeddings=["wte"],
        head=lambda name, array: name == "h.0.attn.W",
        no_decay="h.*.W*",
        weight_decay=0.3,
    )
    assert groups.kinds["wpe"] == "matrix" and groups.kinds["lm_head.W"] == "matrix"
    assert groups.kinds["h.0.attn.W"] == "head"
    decay = where(groups, "weight_decay", "default")
    assert decay["h.0.attn.W"] == 0 and decay["h.0.attn.b"] == 0.3 and decay["wpe"] == "default"
    none = optkern.groups(params, head=(), embeddings=())
    assert set(none.kinds.values()) == {"matrix", "array", "norm", "bias", "vector"}


def test_the_table():
    params = {"emb": np.ones((9, 4)), "W1": np.ones((4, 4)), "out": np.ones((4, 9))}
    text = str(optkern.groups(params, muon={"rule": "Lion", "lr": 0.01}, lr=0.001))
    assert text.splitlines() == [
        "parameter  shape   is         group  rule   lr     weight_decay  because of",
        "emb        (9, 4)  embedding  0      AdamW  0.001  0             'emb' in its name",
        "W1         (4, 4)  matrix     1      Lion   0.01   0             its two axes",
        "out        (4, 9)  head       2      AdamW  0.001  0.01          'out' in its name",
    ]


REASONS = {
    "wte": "'wte' in its name",
    "h.0.ln_1.weight": "'ln' in its name",
    "h.0.attn.b": "'b' in its name",
    "h.0.multi_head.W": "its two axes",
    "h.1.conv": "its 4 axes",
    "h.1.gate": "its one axis",
    "lm_head.W": "'head' in its name",
}


def test_the_table_says_why():
    reasons = optkern.groups(made()).reasons
    assert {name: reasons[name] for name in REASONS} == REASONS and set(reasons) == set(GPT)
    groups = optkern.groups(made(), head="h.0.attn.W", embeddings=["wte"])
    assert groups.reasons["h.0.attn.W"] == "head=" and groups.reasons["wte"] == "embeddings="
    assert groups.reasons["lm_head.W"] == "head=, its two axes"
    assert groups.reasons["wpe"] == "embeddings=, its two axes"
    rows = optkern.groups([np.ones((3, 4)), np.ones((1, 4)), np.ones((1, 5)), np.array(1.0)])
    assert [*rows.reasons.values()] == [
        "its two axes",
        "one row after a matrix of its columns",
        "being the last matrix; not sure: name it with head=...",
        "being one number",
    ]
    assert "its side of one" in str(optkern.groups([np.ones((1, 5)), np.ones((5, 3))]))


FACTORS = {
    "U @ V.T": {"U": (9, 3), "V": (7, 3)},
    "with biases": {"U": (9, 3), "V": (7, 3), "user_bias": (9,), "item_bias": (7,)},
    "V.T @ U": {"codes": (3, 9), "dictionary": (3, 7)},
    "of one size": {"U": (9, 3), "V": (9, 3)},
    "three ways": {"A": (9, 3), "B": (7, 3), "C": (5, 3)},
}


@pytest.mark.parametrize("shapes", FACTORS.values(), ids=FACTORS)
def test_factors_of_a_matrix_have_no_head(shapes):
    """Neither takes what the other gives: both are what the other is."""
    groups = optkern.groups(made(shapes), muon=True, lr=0.1)
    factors = [name for name, shape in shapes.items() if len(shape) == 2]
    assert {groups.kinds[name] for name in factors} == {"matrix"}
    assert groups.reasons[factors[-1]] == f"a side shared with {factors[0]!r}: a factor"
    chosen = optkern.groups(made(shapes), muon=True, lr=0.1, head=factors[-1])
    assert chosen.kinds[factors[-1]] == "head"


@pytest.mark.parametrize(
    "shapes",
    [
        [(9, 5), (5, 2)],
        [(5, 9), (2, 5)],
        [(9, 5), (5, 5), (5, 5), (5, 2)],
        [(8, 3, 3, 3), (8, 72)],
        [(9, 5), (32, 2)],
        [(9, 3)],
    ],
)
def test_the_last_layer_is_no_factor(shapes):
    """Whichever way weights are kept, or where something unseen is between two of them."""
    groups = optkern.groups([np.ones(shape) for shape in shapes])
    assert [*groups.kinds.values()][-1] == "head"


NETWORKS = {
    "LSTM and its output": (
        {"emb.weight": (20, 8), "lstm.weight_ih_l0": (64, 8), "lstm.weight_hh_l0": (64, 16)}
        | {"lstm.bias_ih_l0": (64,), "fc.weight": (20, 16), "fc.bias": (20,)},
        "embedding matrix matrix bias head bias",
    ),
    "of one size": (
        {"rnn.ih": (64, 16), "rnn.hh": (64, 16), "fc.weight": (9, 16), "fc.bias": (9,)},
        "matrix matrix head bias",
    ),
    "without a bias": (
        {"lstm.weight_ih_l0": (64, 8), "lstm.weight_hh_l0": (64, 16), "fc.weight": (20, 16)},
        "matrix matrix head",
    ),
    "columns of biases": (
        {"Wxh": (20, 9), "Whh": (20, 20), "Why": (9, 20), "bh": (20, 1), "by": (9, 1)},
        "matrix matrix head bias bias",
    ),
    "biases by row": (
        {"user.weight": (9, 4), "item.weight": (7, 4)}
        | {"user_biases.weight": (9, 1), "item_biases.weight": (7, 1)},
        "matrix matrix bias bias",
    ),
    "biases of heads": ({"q.kernel": (8, 2, 4), "q.bias": (2, 4), "W": (8, 8)}, "array bias head"),
    "a vector of three axes": (
        {"l1": (64, 30), "l2": (7, 64), "att": (1, 1, 7)},
        "matrix head vector",
    ),
    "tokens": (
        {"cls_token": (1, 1, 8), "value_embeds.0.weight": (9, 8), "mixer.W": (8, 8), "W": (8, 2)},
        "embedding embedding matrix head",
    ),
    "one output": ({"W1": (5, 8), "b1": (8,), "W2": (8, 1), "b2": (1,)}, "matrix bias head bias"),
}  # fmt: skip


@pytest.mark.parametrize("network", NETWORKS)
def test_what_networks_call_their_parameters(network):
    """A head is no bias of columns, and what has a bias of its length is no factor."""
    shapes, kinds = NETWORKS[network]
    assert [*optkern.groups(made(shapes), muon=True, lr=0.1).kinds.values()] == kinds.split()


def test_gradients_after_another_group():
    """The message shows what the list is of; so arranged they are taken."""
    opt = optkern.Mixed(optkern.groups(made(), muon=True, lr=0.1))
    opt.add_param_group({"params": {"more": np.ones(3)}, "rule": "SGD"})
    said = r"those of optkern.groups are one.*\[\{'wte': .*\}, \{'more': ...\}\], got dict"
    with pytest.raises(ValueError, match=said):
        opt.step({**made(), "more": np.ones(3)})
    assert opt.step([made(), {"more": np.ones(3)}])
    plain = optkern.Adam([np.ones(2), np.ones(3)])
    plain.add_param_group({"params": np.ones(4)})
    with pytest.raises(ValueError, match=r"2 groups, \[\[2 of them\], an array\], got 3"):
        plain.step([np.ones(2), np.ones(3), np.ones(4)])
    assert plain.step([[np.ones(2), np.ones(3)], np.ones(4)])


NESTED = {"emb": (6, 3), "layers": [{"W": (3, 3), "b": (3,)}, {"W": (3, 3), "b": (3,)}]}


def nested(seed):
    rng = np.random.default_rng(seed)
    layers = [{k: rng.standard_normal(s) for k, s in layer.items()} for layer in NESTED["layers"]]
    return {"emb": rng.standard_normal(NESTED["emb"]), "layers": layers}


def test_gradients_are_arranged_as_the_parameters():
    params, plain = nested(0), nested(0)
    opt = optkern.AdamW(optkern.groups(params, lr=0.1, weight_decay=0.5), clip_norm=1.0)
    alone = optkern.AdamW(
        [
            {"params": [plain["emb"]], "weight_decay": 0.0},
            {"params": {"W": plain["layers"][0]["W"], "V": plain["layers"][1]["W"]}},
            {"params": [x["b"] for x in plain["layers"]], "weight_decay": 0.0},
        ],
        lr=0.1,
        weight_decay=0.5,
    )
    for seed in (1, 2, 3):
        grads = nested(seed)
        opt.step(grads)
        scale = min(1.0, 1.0 / (opt.last_grad_norm + 1e-6))
        a, b = grads["layers"]
        weights = {"W": scale * a["W"], "V": scale * b["W"]}
        alone.step([[scale * grads["emb"]], weights, [scale * a["b"], scale * b["b"]]])
    assert np.array_equal(params["emb"], plain["emb"])
    for mine, theirs in zip(params["layers"], plain["layers"]):
        assert np.array_equal(mine["W"], theirs["W"]) and np.array_equal(mine["b"], theirs["b"])
    assert set(opt.state) == {"emb", "layers.0.W", "layers.0.b", "layers.1.W", "layers.1.b"}


@pytest.mark.parametrize("way", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_go_on_and_more_groups_come(way, tmp_path):
    params = nested(0)
    opt = optkern.Mixed(
        optkern.groups(params, muon="Lion", lr=0.1, layer_decay=None), clip_norm=1.0
    )
    opt.step(nested(1))
    others, other = way((params, opt))
    for each in (opt, other):
        each.step(nested(2))
    assert all(np.array_equal(a, b) for a, b in zip(opt.params, other.params))
    assert np.shares_memory(others["emb"], other.params[0])
    optkern.save(tmp_path / "x", opt)
    optkern.load(tmp_path / "x", other)
    other.add_param_group({"params": {"new": np.ones(2)}, "rule": "SGD", "lr": 1.0})
    other.step([nested(3), {"new": np.ones(2)}])
    opt.step(nested(3))
    assert other.param_groups[-1]["rule"] == "sgd" and other.state["new"]["step"] == 1
    opt.rebind(nested(5))
    opt.step(nested(6))
    assert [*opt.state["emb"]] == [*other.state["emb"]]


def test_what_comes_into_the_container_is_told():
    params = nested(0)
    groups = optkern.groups(params, lr=0.1)
    opt = optkern.AdamW(groups, follow=True)
    params["emb"] = np.ones((6, 3))
    with pytest.raises(ValueError, match="make them again"):
        optkern.AdamW(groups)
    opt.step(nested(1))
    assert params["emb"][0, 0] != 1
    params["more"] = np.ones(3)
    with pytest.raises(ValueError, match=r"'more' has come into .* is not trained"):
        opt.step(nested(1))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"no_decay": ["wtf"]}, "no_decay='wtf' fits no parameter; did you mean wte"),
        ({"no_decay": 3}, "no_decay must be a callable"),
        ({"head": "hd*"}, "head='hd.' fits no parameter"),
        ({"layer_decay": 0.5}, "layer_decay needs the rate.*lr=..."),
        ({"layer_decay": 0.5, "lr": 0.1, "muon": "Lion"}, "layer_decay needs the rate.*muon="),
        ({"layer_decay": 1.5, "lr": 0.1}, "layer_decay must be"),
        ({"layer_decay": 0.5, "lr": lambda step: 0.1}, "one of optkern.schedules"),
        ({"layers": len}, "give that"),
        ({"layer_decay": 0.5, "lr": 0.1, "layers": lambda n: "x"}, "integer of at least 0"),
        ({"rule": "AdmW"}, "no rule 'AdmW'; did you mean AdamW"),
        ({"nodecay": ()}, "unexpected keyword argument .nodecay.; did you mean no_decay"),
        ({"rule": "SGD", "betas": (0.9, 0.99)}, "betas is no argument, and SGD does not have it"),
        ({"muon": {"rule": "Lion", "momentm": 0.9}}, "groups: muon: momentm is no argument"),
        ({"muon": {"rule": "nothing"}}, "groups: muon: there is no rule 'nothing'"),
        (
            {"normuon": {}},
            r"'normuon'; for the matrices .* muon=\{'rule': 'NorMuon', ...\}, for all",
        ),
        ({"SOAP": {}, "lr": 0.1}, "for all else rule='SOAP'"),
        ({"clip_norm": 1.0}, r"'clip_norm'; it is the whole optimizer's: Mixed\(groups, clip_norm"),
        (
            {"muon": {"seed": 1}},
            r"groups: muon: seed is the whole optimizer's: Mixed\(groups, seed",
        ),
        ({"layer_decay": 0.5, "lr": 0.1, "layers": 3}, "layers must be a callable .*, got 3"),
        ({"layer_decay": 0.5, "lr": 0.1, "muon": True}, r"Muon's matrices too, muon=\{'lr': ...\}"),
        ({"layer_decay": 0.5, "lr": 0.1, "muon": "SOAP"}, r"SOAP's .*muon=\{'rule': 'SOAP', 'lr'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        optkern.groups(made(), **arguments)


def test_bad_params():
    with pytest.raises(TypeError, match="not groups of them"):
        optkern.groups(optkern.groups(made()))
    with pytest.raises(TypeError, match="not groups of them"):
        optkern.groups([{"params": np.ones(2)}])
    with pytest.raises(TypeError, match="groups: parameter 'a' must"):
        optkern.groups({"a": np.ones(3, int)})
    groups = optkern.groups(made())
    groups[1]["lr"] = -1.0
    with pytest.raises(ValueError, match="AdamW: group 1: lr"):
        optkern.AdamW(groups)
    groups = optkern.groups(made())
    del groups[0]["params"]["wte"]
    with pytest.raises(ValueError, match="parameter 'wte' is not in one of the groups"):
        optkern.AdamW(groups)


def test_muon_takes_the_matrices_of_the_inside():
    rng = np.random.default_rng(0)
    params = {"emb": np.ones((9, 4)), "W1": rng.standard_normal((4, 6)), "b1": np.ones(6)}
    params["head"] = np.ones((6, 9))
    matrix = params["W1"].copy()
    groups = optkern.groups(params, muon={"lr": 0.02, "ns_steps": 4}, lr=1e-3)
    (inside,) = [g for g in groups if g["rule"] == "muon"]
    assert list(inside["params"]) == ["W1"] and inside["lr"] == 0.02
    assert {g["rule"] for g in groups} == {"muon", "adamw"}
    opt = optkern.Mixed(groups)
    alone = optkern.Muon({"W1": matrix}, lr=0.02, ns_steps=4)
    g = {name: np.ones_like(p) for name, p in params.items()}
    g["W1"] = rng.standard_normal((4, 6))
    opt.step(g)
    alone.step({"W1": g["W1"]})
    np.testing.assert_array_equal(params["W1"], matrix)
    with pytest.raises(TypeError, match=r"groups: muon: ns_step is no argument, .* ns_steps"):
        optkern.groups(params, muon={"ns_step": 4}, lr=1e-3)
    assert "muon" in {g["rule"] for g in optkern.groups(params, muon=True, lr=1e-3)}
