"""The stable rates that rows claim: below them an oscillation dies, above it grows."""

import numpy as np
import pytest

import optkern
from optkern.rules import RULES

CURVATURE = np.array([1.0, 3.0, 20.0])
CLAIMING = [rule for rule in RULES if rule.name in ("adopt", "adabelief", "laprop")]


@pytest.mark.parametrize("rule", CLAIMING, ids=lambda rule: rule.name)
def test_an_oscillation_dies_below_the_claimed_rate_and_grows_above(rule):
    """Long after the first step, with second moments that stay as they are for a while."""
    hyper = {**rule.hyperparameters, "betas": (0.9, 1 - 1e-9)}
    moment = np.array([0.5, 2.0, 0.1])
    name = rule.state[1]
    divided = rule.preconditioner({name: moment**2, "step": 10**11}, hyper)
    limit = rule.stable_factor(hyper) / (CURVATURE / divided).max()
    for share, grows in ((0.98, False), (1.02, True)):
        x, m, v, sizes = np.full(3, 1e-6), np.zeros(3), moment**2, []
        for k in range(600):
            getattr(optkern.kernels, rule.name)(
                x, CURVATURE * x, m, v, lr=share * limit, betas=hyper["betas"], step=10**11 + k
            )
            sizes.append(np.abs(x).max())
        assert (max(sizes) > 1e-4) == grows  # until the second moments answer


# ----------------------------------------------------------------- every rule, as users step it

HESSIAN = np.linalg.qr(np.random.default_rng(7).standard_normal((3, 3)))[0]
HESSIAN = (HESSIAN * [20.0, 3.0, 1.0]) @ HESSIAN.T
FROZEN = {"betas": None, "alpha": 1.0, "rho": 1.0}  # second moments that stay as they are
SETTINGS = {
    "momentum": [0.0, 0.9],
    "dampening": [0.0, 0.3],
    "nesterov": [False, True],
    "momentum_form": ["torch", "classical", "average"],
    "amsgrad": [False, True],
    "centered": [False, True],
    "eps_form": ["corrected", "raw"],
    "lr_decay": [0.0, 1e-6],
    "beta1": [0.9, 0.0, 0.6],
    "decay": [
        ("l2", 0.0), ("l2", 2.0), ("decoupled", 0.1), ("independent", 0.3), ("corrected", 0.02),
    ],
    "maximize": [False, True],
}  # fmt: skip


def choices():
    """Yield each rule of the table with each of its settings alone, and some at random."""
    rng = np.random.default_rng(0)
    for rule in RULES:
        own = set(rule.hyperparameters) | {"decay"}
        own |= {"beta1"} if "betas" in own else set()
        names = [name for name in SETTINGS if name in own]
        first = {name: SETTINGS[name][0] for name in names}
        several = [first] + [{**first, n: v} for n in names for v in SETTINGS[n][1:]]
        if rule.stable_factor is not None:
            several += [
                {n: SETTINGS[n][rng.integers(len(SETTINGS[n]))] for n in names} for _ in range(6)
            ]
        for settings in several if rule.stable_factor is not None else [first]:
            yield pytest.param(rule, settings, id=f"{rule.name}-{len(names)}-{settings}")


def far_into_training(rule, settings, lr):
    """An optimizer whose second moments no longer move, at a place beside the minimum."""
    options = {name: v for name, v in settings.items() if name not in ("decay", "beta1")}
    form, decay = settings["decay"]
    options |= {"decay_form": form, "weight_decay": decay}
    if form == "corrected":
        options["max_lr"] = 4.0
    if options.get("nesterov") and not options.get("momentum"):
        options["momentum"] = 0.5
    if options.get("nesterov") or options.get("momentum_form", "torch") != "torch":
        options["dampening"] = 0.0
    for name, value in FROZEN.items():
        if name == "betas" and name in rule.hyperparameters:
            betas = rule.hyperparameters["betas"]
            options["betas"] = (settings["beta1"], *betas[1:-1], 1 - 1e-12)
        elif name in rule.hyperparameters and rule.name in ("rmsprop", "adadelta"):
            options[name] = value
    p = np.full(3, 1e-9)
    opt = getattr(optkern, rule.class_name)([p], lr=lr, **options)
    opt.step([np.zeros(3)])
    state = opt.state_dict()
    entry, steps = state["state"][0], 10**6
    kept = 1 - (1 - 1e-12) ** steps if "betas" in options else 1.0
    for slot in entry:
        if slot in rule.nonnegative:
            entry[slot] = np.array([4.0, 1.0, 0.25]) * kept
        elif isinstance(entry[slot], np.ndarray):
            entry[slot] = np.zeros(3)
    entry["step"] = steps
    opt.load_state_dict(state)
    opt.params[0][:] = 1e-9
    return opt


@pytest.mark.slow
@pytest.mark.parametrize("rule, settings", list(choices()))
def test_a_rule_is_stable_below_its_edge_and_not_above_or_says_that_none_is_known(rule, settings):
    lr = 1e-3  # "corrected" decay's own part depends on it
    if rule.stable_factor is None:
        opt = getattr(optkern, rule.class_name)([np.ones((3, 1))])
        with pytest.raises(ValueError, match="no stability limit is known"):
            optkern.curvature.max_stable_lr(opt, HESSIAN)
        return
    h = -HESSIAN if settings["maximize"] else HESSIAN
    found = optkern.curvature.max_stable_lr(far_into_training(rule, settings, lr), h, tol=1e-9)
    sizes = []
    for share in (0.985, 1.015):
        opt, path = far_into_training(rule, settings, share * found.estimate), []
        p = opt.params[0]
        for _ in range(2500):
            opt.step([h @ p])
            path.append(float(np.abs(p).max()))
            if not path[-1] < 1e-5:
                break
        sizes.append(path)
    assert sizes[0][-1] < 1e-9 and max(sizes[0]) < 1e-7, str(found)
    assert max(sizes[1]) > 1e-6, str(found)


def test_what_no_limit_is_known_of_is_said():
    """Slow weights take back every other growth; a sum of parts may be any multiple of a mean."""
    sizes = []
    for lookahead in (None, (5, 0.5)):
        p = np.full(3, 1e-9)
        opt = optkern.SGD([p], lr=1.05 * 2 / 20, lookahead=lookahead)
        for _ in range(500):
            opt.step([HESSIAN @ p])
        sizes.append(np.abs(p).max())
    assert sizes[0] > 1e-6 and sizes[1] < 1e-9  # beyond the plain rule's edge it is stable
    for options in ({"lookahead": (5, 0.5)}, {"accumulate": 4, "accumulate_form": "sum"}):
        opt = optkern.SGD([np.ones(3)], lr=0.01, **options)
        with pytest.raises(
            ValueError, match=f"no stability limit is known .*{next(iter(options))}"
        ):
            optkern.curvature.max_stable_lr(opt, HESSIAN)
