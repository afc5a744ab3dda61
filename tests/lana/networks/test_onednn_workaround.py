import copy

import pytest
import torch
from torch import nn

from lana.networks.onednn_workaround import strides_as_slices


def gradients(module, inputs):
    module.zero_grad()
    module(inputs).square().sum().backward()
    return [parameter.grad for parameter in module.parameters()]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_gradients_of_strided_1x1_convolutions_are_exact(channels):
    """In this order, and without the slices, the process dies, or the gradients are wrong."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(channels, 24, 1, 2), nn.ReLU())
    inputs = torch.randn(32, channels, 16, 16).contiguous(memory_format=torch.channels_last)
    expected = gradients(copy.deepcopy(module).double(), inputs.contiguous().double())
    with strides_as_slices([module]):
        for _ in range(20):
            found = gradients(module, inputs)
    for ours, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [2, 3, (1, 2)])
def test_slices_give_the_same_outputs(stride, groups, bias):
    module, inputs = nn.Conv2d(4, 8, 1, stride, groups=groups, bias=bias), torch.randn(2, 4, 9, 11)
    before = module(inputs)
    with strides_as_slices([module]):
        assert "_conv_forward" in vars(module)
        torch.testing.assert_close(module(inputs), before)
    assert "_conv_forward" not in vars(module)


@pytest.mark.parametrize(
    "module", [nn.Conv2d(16, 8, 1, 2), nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 3, 2), nn.Conv2d(3, 8, 1, 2, padding=1)]
)
def test_other_convolutions_are_left_alone(module):
    with strides_as_slices([module]):
        assert "_conv_forward" not in vars(module)
