import contextlib
import copy

import pytest
import torch
from torch import nn

from lana.training.cuda_graphs import recorded


class Waits(nn.Module):
    """Looks at a result of its own before it goes on."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        y = torch.nn.functional.dropout(self.body(x), 0.1, self.training)
        return y if float(y.detach().sum()) > 0 else -y


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))


def adamw(module):
    return torch.optim.AdamW(module.parameters(), lr=0.1, fused=True, capturable=True)


def sgd(module):
    return torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, nesterov=True, fused=True)


def step_of(module, optimizer):
    """A training step, and what it needs to be run without a trace."""

    def step(inputs, rate):
        optimizer.param_groups[0]["lr"] = rate
        loss = module(inputs).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    @contextlib.contextmanager
    def preserved():
        before = copy.deepcopy(module.state_dict())
        yield
        module.load_state_dict(before)
        for state in optimizer.state.values():
            for tensor in state.values():
                tensor.zero_()

    return step, preserved


def batches(device, count=6):
    for seed in range(count):
        yield torch.randn((4, 3, 8, 8), generator=torch.Generator().manual_seed(seed)).to(device), 0.1 / (seed + 1)


def test_on_the_cpu_nothing_is_recorded():
    step, preserved = step_of(module := network(), torch.optim.SGD(module.parameters(), lr=0.1))
    assert recorded(step, next(batches("cpu")), preserved) is step


@pytest.mark.gpu
class TestOnAGpu:
    @pytest.fixture(autouse=True)
    def _there(self):
        if not torch.cuda.is_available():
            pytest.skip("DID NOT RUN: there is no CUDA device")

    @pytest.mark.parametrize("optimizer", [adamw, sgd])
    def test_a_recorded_training_is_the_same(self, optimizer):
        found = []
        for record in (True, False):
            module = network().cuda()
            step, preserved = step_of(module, optimizer(module))
            if record:
                plain, step = step, recorded(step, next(batches("cuda")), preserved)
                assert step is not plain
            found.append(([step(*batch).item() for batch in batches("cuda")], module.state_dict()))
        (losses, weights), (expected, expected_weights) = found
        assert losses == pytest.approx(expected, rel=1e-3)
        for name, value in weights.items():
            torch.testing.assert_close(value, expected_weights[name], rtol=1e-3, atol=1e-4)

    def test_a_batch_of_another_form_is_run_as_ever(self):
        module = network().cuda()
        step, preserved = step_of(module, adamw(module))
        step = recorded(step, next(batches("cuda")), preserved)
        before = module[0].weight.detach().clone()
        assert step(torch.randn(3, 3, 8, 8, device="cuda"), 0.1).shape == ()
        assert not torch.equal(before, module[0].weight)

    def test_a_network_that_waits_for_its_own_result_trains_without(self):
        module = Waits().cuda()
        step, preserved = step_of(module, adamw(module))
        assert recorded(step, next(batches("cuda")), preserved) is step
        before = module.body.weight.detach().clone()
        step(*next(batches("cuda")))
        assert not torch.equal(before, module.body.weight)
