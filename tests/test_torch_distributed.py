"""torch's wrappers around a model or an optimizer: data parallel, sharded, a step in a hook."""

import pytest

torch = pytest.importorskip("torch", reason="extra `torch`")

from optkern.integrations import torch as ours  # noqa: E402

if not torch.distributed.is_available():
    pytest.skip("this torch has no distributed", allow_module_level=True)

torch.manual_seed(1)
X, Y = torch.randn(16, 5, dtype=torch.float64), torch.randint(0, 3, (16,))


def model(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)
    ).double()


def backward(net):
    for p in net.parameters():
        p.grad = None
    torch.nn.functional.cross_entropy(net(X), Y).backward()


def train(net, opt, steps=3):
    for _ in range(steps):
        backward(net)
        opt.step()
    return [p.detach().clone() for p in net.parameters()]


@pytest.fixture
def group():
    """One process, which is a group by itself."""
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def data_parallel(where):
    net = torch.nn.parallel.DistributedDataParallel(model())
    return train(net, where.Adam(net.parameters(), lr=0.05))


def sharded(where):
    from torch.distributed.optim import ZeroRedundancyOptimizer

    net = model()
    opt = ZeroRedundancyOptimizer(net.parameters(), where.Adam, lr=0.05)
    train(net, opt)
    opt.consolidate_state_dict()
    saved = opt.state_dict()
    opt.load_state_dict(saved)
    return train(net, opt)


def saved_by_name(where):
    from torch.distributed.checkpoint import state_dict as by_name

    net = model()
    opt = where.AdamW(net.parameters(), lr=0.05)
    train(net, opt)
    saved = by_name.get_optimizer_state_dict(net, opt)
    other = model(seed=3)
    other.load_state_dict(net.state_dict())
    more = where.AdamW(other.parameters(), lr=0.1)
    by_name.set_optimizer_state_dict(other, more, saved)
    return train(other, more)


def step_in_a_hook(where):
    """Each parameter by an optimizer of its own, as its gradient comes."""
    net = model()
    opts = {p: where.Adam([p], lr=0.05) for p in net.parameters()}

    def step(p):
        opts[p].step()
        opts[p].zero_grad()

    for p in net.parameters():
        p.register_post_accumulate_grad_hook(step)
    for _ in range(3):
        torch.nn.functional.cross_entropy(net(X), Y).backward()
    return [p.detach() for p in net.parameters()]


def assigned_weights(where):
    net = model()
    opt = where.Adam(net.parameters(), lr=0.05)
    train(net, opt)
    net.load_state_dict(model(seed=2).state_dict(), assign=True)
    return train(net, opt)


@pytest.mark.parametrize(
    "use", (data_parallel, sharded, saved_by_name, step_in_a_hook, assigned_weights)
)
def test_it_is_torchs(use, group):
    for found, expected in zip(use(ours), use(torch.optim), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)
