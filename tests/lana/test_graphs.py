import copy

import pytest
import torch
from torch import nn

from lana.graphs import recorded


class Waits(nn.Module):
    """Looks at a result of its own before it goes on."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        y = self.body(x)
        return y if float(y.sum()) > 0 else -y


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))


def trained(module, example, *, record):
    """The losses of some steps, and the weights and statistics after them."""
    optimiser, losses = torch.optim.SGD(module.parameters(), lr=0.1), []
    inputs = [
        torch.randn(example.shape, generator=torch.Generator().manual_seed(i)).to(example.device) for i in range(5)
    ]
    with recorded(module, example, "fp32") if record else torch.enable_grad() as could:
        assert could or not record
        module.train()
        for batch in inputs:
            loss = module(batch).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
    return losses, module.state_dict()


def test_on_the_cpu_nothing_is_recorded():
    module, example = network(), torch.zeros(2, 3, 8, 8)
    with recorded(module, example, "auto") as could:
        assert not could
        assert module(example).shape == (2, 5)


@pytest.mark.gpu
class TestOnAGpu:
    @pytest.fixture(autouse=True)
    def _there(self):
        if not torch.cuda.is_available():
            pytest.skip("DID NOT RUN: there is no CUDA device")

    def test_a_recorded_training_is_the_same(self):
        module = network().cuda()
        example = torch.randn(4, 3, 8, 8, device="cuda")
        losses, weights = trained(copy.deepcopy(module), example, record=True)
        expected, expected_weights = trained(copy.deepcopy(module), example, record=False)
        assert losses == pytest.approx(expected, rel=1e-4)
        for name, value in weights.items():
            torch.testing.assert_close(value, expected_weights[name], rtol=1e-3, atol=1e-5)

    def test_evaluation_runs_as_ever_and_afterwards_everything_does(self):
        module, example = network().cuda(), torch.randn(4, 3, 8, 8, device="cuda")
        with recorded(module, example, "fp32"):
            assert module.eval()(example[:1]).shape == (1, 5)
        assert "forward" not in vars(module)
        assert module.train()(example[:3]).shape == (3, 5)

    def test_a_network_that_waits_for_its_own_result_trains_without(self):
        module, example = Waits().cuda(), torch.randn(4, 3, 8, 8, device="cuda")
        with recorded(module, example, "fp32") as could:
            assert not could
            module(example).sum().backward()
        assert module.body.weight.grad is not None
