"""Names of torch.optim and of optkern that are no optimizer of tensors here: where they are."""

import re

import pytest

torch = pytest.importorskip("torch", reason="extra `torch`")

import optkern  # noqa: E402
from optkern import solvers  # noqa: E402
from optkern.integrations import torch as ours  # noqa: E402

SCHEDULERS, AVERAGES = torch.optim.lr_scheduler, torch.optim.swa_utils
THEIRS = [name for name in torch.optim.__all__ if name not in ours.__all__]


def said(name):
    with pytest.raises(AttributeError, match=f"no attribute {name!r}; ") as caught:
        getattr(ours, name)
    return str(caught.value)


@pytest.mark.parametrize("name", THEIRS)
def test_every_name_of_torch_optim_is_here_or_said(name):
    assert f"torch.optim.{name} " in said(name)
    assert not hasattr(ours, name)


@pytest.mark.parametrize("name", [*SCHEDULERS.__all__, *AVERAGES.__all__])
def test_what_works_with_the_optimizers_is_said(name):
    assert re.search(rf"torch\.optim\.(lr_scheduler|swa_utils)\.{name} ", said(name))


def test_names_that_are_nowhere_say_no_more():
    with pytest.raises(AttributeError, match=r"no attribute 'Sophia'$"):
        ours.Sophia  # noqa: B018
    with pytest.raises(AttributeError, match="did you mean RMSprop"):
        ours.RMSProp  # noqa: B018


@pytest.mark.parametrize("name", ("LBFGS", "SAM", "NewtonLanczos"))
def test_a_solver_is_advised_in_words_that_run(name):
    assert name in solvers.__all__
    advice = said(name)
    made, step = re.search(r"at = (objective\(.*?\)): (optkern\..*\)\))$", advice).groups()
    torch.manual_seed(0)
    scope = {
        "optkern": optkern,
        "objective": ours.objective,
        "model": torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)),
        "X": torch.randn(20, 3),
        "y": torch.randn(20, 1),
        "loss_fn": torch.nn.functional.mse_loss,
    }
    scope["at"] = at = eval(made, scope)
    before = at.loss(at.x)
    eval(step, scope)
    assert at.loss(at.x) < before


@pytest.mark.parametrize("name", ("SparseAdam", "LBFGS"))
def test_torchs_own_class_trains_a_model_as_is_said(name):
    assert "trains a model's parameters itself" in said(name)
    torch.manual_seed(0)
    model = torch.nn.Embedding(4, 2, sparse=name == "SparseAdam")
    opt = getattr(torch.optim, name)(model.parameters(), lr=0.1)

    def closure():
        opt.zero_grad()
        loss = (model(torch.arange(4)) ** 2).sum()
        loss.backward()
        return loss

    assert opt.step(closure) > closure()
