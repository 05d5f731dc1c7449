"""What a rule's name means in torch, optax and Keras, where that is not what it means here.

Defaults are compared with those recorded below (optax 0.2, Keras 3; `tests/test_site.py` asks the
libraries themselves, where they are installed); torch.optim's are the same, which
`tests/test_names_elsewhere.py` and the parity tests see to.
"""

from __future__ import annotations

from typing import Any

from optkern.rules import Rule

# Defaults under their libraries' own names.
RECORDED: dict[str, dict[str, dict[str, Any]]] = {
    "optax": {
        "sgd": {},
        "adagrad": {"initial_accumulator_value": 0.1, "eps": 1e-7},
        "rmsprop": {"decay": 0.9, "eps": 1e-8},
        "adadelta": {"rho": 0.9, "eps": 1e-6, "weight_decay": 0.0},
        "adam": {"b1": 0.9, "b2": 0.999, "eps": 1e-8},
        "adamw": {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 1e-4},
        "adamax": {"b1": 0.9, "b2": 0.999, "eps": 1e-8},
        "nadam": {"b1": 0.9, "b2": 0.999, "eps": 1e-8},
        "radam": {"b1": 0.9, "b2": 0.999, "eps": 1e-8},
        "lion": {"b1": 0.9, "b2": 0.99, "weight_decay": 1e-3},
        "lars": {"trust_coefficient": 1e-3, "eps": 0.0, "momentum": 0.9, "weight_decay": 0.0},
        "lamb": {"b1": 0.9, "b2": 0.999, "eps": 1e-6, "weight_decay": 0.0},
        "adabelief": {"b1": 0.9, "b2": 0.999, "eps": 1e-16},
        "adan": {"b1": 0.98, "b2": 0.92, "b3": 0.99, "eps": 1e-8, "weight_decay": 0.0},
        "rprop": {},
        "adafactor": {},
        "contrib.ademamix": {"b1": 0.9, "b2": 0.999, "b3": 0.9999, "alpha": 5.0, "eps": 1e-8},
        "contrib.adopt": {"b1": 0.9, "b2": 0.9999, "eps": 1e-6},
        "contrib.schedule_free_adamw": {
            "learning_rate": 2.5e-3,
            "b1": 0.9,
            "b2": 0.999,
            "eps": 1e-8,
            "weight_decay": 0.0,
            "weight_lr_power": 2.0,
        },
        "contrib.prodigy": {"learning_rate": 1.0, "eps": 1e-8, "weight_decay": 0.0},
        "contrib.schedule_free_sgd": {"learning_rate": 1.0, "weight_lr_power": 2.0},
        "contrib.muon": {"ns_steps": 5, "eps": 1e-8, "weight_decay": 0.0},
    },
    "keras": {
        "SGD": {"learning_rate": 0.01, "momentum": 0.0},
        "Adagrad": {"learning_rate": 1e-3, "initial_accumulator_value": 0.1, "epsilon": 1e-7},
        "RMSprop": {"learning_rate": 1e-3, "rho": 0.9, "momentum": 0.0, "epsilon": 1e-7},
        "Adadelta": {"learning_rate": 1e-3, "rho": 0.95, "epsilon": 1e-7},
        "Adam": {"learning_rate": 1e-3, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7},
        "AdamW": {"learning_rate": 1e-3, "weight_decay": 4e-3, "epsilon": 1e-7},
        "Adamax": {"learning_rate": 1e-3, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7},
        "Nadam": {"learning_rate": 1e-3, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7},
        "Lion": {"learning_rate": 1e-3, "beta_1": 0.9, "beta_2": 0.99},
        "Lamb": {"learning_rate": 1e-3, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7},
        "Adafactor": {"learning_rate": 1e-3},
        "Ftrl": {"learning_rate": 1e-3, "initial_accumulator_value": 0.1, "beta": 0.0},
        "ScheduleFreeAdamW": {
            "learning_rate": 2.5e-3,
            "beta_1": 0.9,
            "beta_2": 0.999,
            "epsilon": 1e-8,
            "warmup_steps": 0,
        },
        "Muon": {"learning_rate": 1e-3, "weight_decay": 4e-3, "momentum": 0.95, "ns_steps": 5},
    },
}
# Their names for ours; of betas the place.
OURS: dict[str, tuple[str, int | None]] = {
    "learning_rate": ("lr", None),
    "epsilon": ("eps", None),
    **dict.fromkeys(("b1", "beta_1"), ("betas", 0)),
    **dict.fromkeys(("b2", "beta_2"), ("betas", 1)),
    "b3": ("betas", 2),
    "decay": ("alpha", None),
}
# Beyond numbers.
WORDS: dict[tuple[str, str], str] = {
    ("optax", "sgd"): "no ``dampening``",
    ("optax", "adagrad"): "eps stands within the root",
    ("optax", "rmsprop"): "eps stands within the root, unless ``eps_in_sqrt=False``",
    ("optax", "adafactor"): "a side shorter than 128 is not factored "
    "(``min_dim_size_to_factor``); ``eps`` is 1e-30 (here ``eps[0]``, the machine's); "
    "``lr`` is taken as it is given (here ``1 / sqrt(step)`` is the most), and "
    "decay is not multiplied by it (``decay_form='independent'``)",
    ("optax", "contrib.schedule_free_adamw"): "the same to 2e-15 over 12 steps, but for a warm-up, "
    "which begins at a rate of 0 (here at ``lr / warmup_steps``)",
    ("optax", "contrib.schedule_free_sgd"): "``momentum`` is ``b1``; the same to 3e-15 over 12 "
    "steps, but for a warm-up, which begins at a rate of 0 (here at ``lr / warmup_steps``)",
    ("optax", "contrib.prodigy"): "``use_bias_correction=True``: the same to 1e-15 over 12 steps",
    ("keras", "Adafactor"): "``epsilon_1`` is 1e-30 (here ``eps[0]``, the machine's)",
    ("optax", "nadam"): "Nesterov's step without Dozat's schedule of the momentum",
    ("optax", "contrib.muon"): "Adam takes what is no matrix by itself",
    ("keras", "SGD"): "``momentum_form='classical'``",
    ("keras", "ScheduleFreeAdamW"): "``weight_lr_power=0``: in a warm-up, too, each step counts "
    "alike (by its formula; on torch, in 3.15.1, it takes new weights for old ones: others by 4e-3 "
    "after 12 steps)",
    ("keras", "Adagrad"): "eps stands within the root",
    ("keras", "RMSprop"): "eps stands within the root",
    ("keras", "Adam"): "``eps_form='raw'``",
    ("keras", "AdamW"): "``eps_form='raw'``",
    ("keras", "Nadam"): "the momentum's schedule is that of ``momentum_decay=1``",
    ("keras", "Muon"): "``adjust_lr_fn='match_rms_adamw'``; Adam takes what is no matrix by itself",
}


def default_of(rule: Rule, library: str, name: str) -> tuple[str, Any] | None:
    """Find a rule's own name and default for a library's argument; None: it has none."""
    ours, place = OURS.get(name, (name, None))
    if (rule.name, name) == ("rmsprop", "rho"):
        ours = "alpha"
    if ours in rule.settings:
        return ours, rule.settings[ours].default
    if ours not in rule.hyperparameters:
        return None
    value = rule.hyperparameters[ours]
    return (ours, value) if place is None else (f"{ours}[{place}]", value[place])


def differences(rule: Rule, library: str) -> str:
    """Say in a line what differs."""
    name = rule.names[library]
    if library == "torch":
        return "nothing but ``foreach``, ``fused`` and their like, which are its own"
    recorded = RECORDED[library].get(name)
    if recorded is None:
        return "not compared"
    found = []
    for theirs, value in recorded.items():
        own = default_of(rule, library, theirs)
        if own is not None and own[1] != value:
            found.append(f"``{own[0]}`` is {value:g} by default (here {own[1]:g})")
    if (library, name) in WORDS:
        found.append(WORDS[library, name])
    if "weight_decay" not in recorded and rule.hyperparameters.get("decay_form") == "l2":
        apart = {
            "keras": "``weight_decay`` is decoupled",
            "optax": "decay is a transformation of its own",
        }
        found.append(apart[library])
    return "; ".join(found) or "no default"
