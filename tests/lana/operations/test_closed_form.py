import pytest
import torch
from torch import nn

from lana.operations.closed_form import rows, solve


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv1d(4, 6, 5, stride=2, padding=3, dilation=2),
        nn.Conv2d(4, 6, (3, 2), stride=(1, 2), padding=(0, 2)),
        nn.Conv3d(4, 6, (1, 3, 2), stride=(2, 1, 3), padding=(1, 2, 0), dilation=(1, 2, 1)),
    ],
)
def test_rows_are_the_inputs_of_a_convolution(convolution):
    inputs = torch.randn(3, 4, *[11, 9, 12][: len(convolution.kernel_size)])
    with torch.no_grad():
        seen, given = rows(convolution, inputs, convolution(inputs))
        expected = seen @ convolution.weight.flatten(1).T + convolution.bias
    assert len(seen) >= 3 * 5
    assert torch.allclose(given, expected, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_a_solved_map_has_the_least_error(bias):
    torch.manual_seed(0)
    inputs = torch.randn(64, 4, 6, 6).relu() + 0.5  # means that a bias would take upon itself
    outputs = nn.Conv2d(4, 8, 3, padding=1)(inputs).detach() + 0.1 * torch.randn(64, 8, 6, 6)
    found = nn.Conv2d(4, 8, 1, bias=bias)
    solve(found, inputs, outputs)
    columns = inputs.movedim(1, -1).reshape(-1, 4)
    if bias:
        columns = torch.cat([columns, torch.ones(len(columns), 1)], 1)
    target = outputs.movedim(1, -1).reshape(-1, 8)
    best = columns @ torch.linalg.lstsq(columns, target).solution
    with torch.no_grad():
        given = found(inputs).movedim(1, -1).reshape(-1, 8)
    shrunk = float((given - target).square().mean()) / float((best - target).square().mean())
    assert shrunk < 1.5  # of it a part is variance that is given back on purpose (LEAST_VARIANCE)
