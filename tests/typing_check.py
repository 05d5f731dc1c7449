"""What a user's program looks like to a type checker; checked by mypy --strict, never run."""

from typing import Any

import numpy as np

import optkern
from optkern import kernels, reference
from optkern.integrations import (
    autograd,
    cs231n,
    dl_from_scratch,
    evolution_strategies,
    sklearn,
    thinc,
    torch,
)

p = np.zeros(3, np.float32)
g = np.ones(3, np.float32)

adam = optkern.Adam(p, lr=1e-3, betas=(0.9, 0.999), eps_form="raw")
applied: bool = adam.step(g)
sgd = optkern.SGD({"w": p, "b": p}, lr=lambda step: 0.1 / (step + 1), momentum=0.9)
sgd.step({"w": g, "b": None})
groups: list[dict[str, Any]] = [{"params": [p], "lr": 1e-4}, {"params": {"w": p}}]
lion = optkern.Lion(groups)
lion.step([[g], {"w": g}])
routed = optkern.groups({"w": p, "b": p}, muon={"rule": "Lion", "lr": 0.02}, lr=1e-3, head=())
mixed = optkern.Mixed(routed, clip_norm=1.0)
stepped: bool = mixed.step({"w": g, "b": None})
mixed.step_rows({"w": [0, 2], "b": ...}, {"w": g, "b": g})
optkern.Mixed([{"params": p, "rule": optkern.AdamW}]).step([g])
lion.param_groups[0]["lr"] = 1e-5
adam.load_state_dict(adam.state_dict())
adam.step_rows([0, 2, 0], g)
sgd.step_rows({"w": np.array([1]), "b": None}, {"w": g[:1], "b": None})
kernels.adam_rows(p, [0, 1], g, p, p, step=1, num_threads=1)
reference.adagrad_rows([p, p], [[0], None], [g, None], [p, p])
include: str = optkern.get_include()
lamb = optkern.LAMB(
    p, clip_norm=1.0, grad_scale=lambda step: 2.0, lookahead=(5, 0.5), ema_decay=0.9
)
lamb.clip_norm = None
norm: float | None = lamb.last_grad_norm
with lamb.averaged():
    averages_are_in: bool = lamb.averages_are_in
total, norms = reference.gradient_norms([p], [g])
kernels.adam(p, g, p, p, lr=1e-3, step=1, num_threads=1)
reference.sgd([p, p], [g, None], lr=0.1)
names: list[str] = [rule.name for rule in optkern.RULES]
threads: int = optkern.get_num_threads()

cosine = optkern.schedules.Cosine(1e-3, T_max=1000)
scheduled = optkern.schedules.warmup(100, then=0.5 * cosine + 1e-5).clamp(high=1e-3)
rate: float = scheduled(10)
optkern.AdamW(p, lr=scheduled, betas=optkern.schedules.Pair(0.9, optkern.schedules.Constant(0.99)))
plateau = optkern.schedules.Plateau(0.1, patience=3)
reduced: bool = plateau.observe(0.5)
optkern.save("adam.npz", adam, extra={"epoch": 3})
report = optkern.load("adam.npz", adam, params=False, strict=False)
left_out: tuple[str, ...] = report.missing_keys + report.unexpected_keys + report.mismatched_keys
solved: optkern.solvers.Report = optkern.LBFGS(p, line_search_fn="strong_wolfe").step(
    lambda: (0.0, g), callback=lambda so_far: so_far.iterations > 5
)
newton = optkern.NewtonLanczos({"w": p}, radius=2.0)
final: float = newton.step(lambda: (0.0, {"w": g}), hvp=lambda v: v).value
sam = optkern.SAM(adam, rho=0.05, adaptive=True)
optkern.save("sam.npz", sam)
restored: optkern.checkpoint.Report = optkern.load("sam.npz", sam)
sam.load_state_dict(sam.state_dict())
print(sam.step(lambda: (0.0, g)).status)

monitor = optkern.Monitor(every=5)
monitor.record(1.0, g, adam, val_loss=2.0)
diagnosis: optkern.diagnose.Diagnosis = monitor.diagnose(p, grad=lambda x: x, loss=lambda x: 0.0)
print(diagnosis.kind, diagnosis.max_stable_lr, diagnosis.verdict)
remedies: tuple[str, ...] = optkern.compare_fits([1.0, 0.5], 0.7, target=0.1).remedies
fits: optkern.diagnose.FitComparison = optkern.diagnose.compare_fits(1.0, 2.0)
vector, views = optkern.flatten({"W": p, "b": p})
flat: optkern.Flat = optkern.flatten([p, p])
optkern.SGD(flat.vector).step(g)

with sklearn.accelerate("adamw", lr=1e-3, weight_decay=0.1) as context:
    context.optimizer("adam", {"lr": 1e-3}).update_params([p], [p])
current: float = sklearn.MLPOptimizer("lion", schedule=lambda step: 0.1).learning_rate
x, loss, grad = sklearn.objective(None, p, p)
with thinc.accelerate():
    rated = thinc.Optimizer(scheduled, rule="lion", L2=0.01, grad_clip=1.0)
    weights, zeros = rated((1, "W"), p, g, lr_scale=0.5)
thinc.Adam(1e-3, use_averages=False).step_schedules()
_, loss, _ = thinc.objective(None, [p], [p], L2=0.1, batch_size=32)
at = autograd.objective(lambda x: x, {"W": p})
at.loss(autograd.adam(lambda x, i: at.grad(x), at.x, num_iters=3, step_size=0.1))
w, config = cs231n.adam(p, g, None)
dl_from_scratch.Adam(lr=0.1).update({"W": p}, {"W": p})
ratio: float = evolution_strategies.Adam(None, stepsize=0.1).update(p)
population = evolution_strategies.Population(
    evolution_strategies.SGD(None, 0.1), lambda pi, rng: float(rng.random()), pairs=4, comm=None
)
returns: np.ndarray = population.step().returns
tensors = torch.AdamW([p], lr=1e-3, clip_norm=1.0)
tensors.step()
tensors.load_state_dict(tensors.state_dict())
print(tensors.optimizer.last_grad_norm)
double = torch.objective(None, p, p, lambda output, target: output, batch_size=32)
slope: float = double.loss(double.x)
small = optkern.AdamW(p, state_dtype="int8", seed=1)
half = optkern.Adam(np.zeros(3, np.float16), state_dtype="bfloat16", master_weights=True)
half.step(np.ones(3, np.float16))
stored: str | None = small.state_dtype
why: str = adam.thread_report().reason
