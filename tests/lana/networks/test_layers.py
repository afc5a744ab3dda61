"""Finding layers: what a block is, what is passed over and why, and that looking changes nothing."""

import pytest
import torch
from torch import nn

from lana.networks.layers import find_layers


class Residual(nn.Module):
    def __init__(self, channels=8):
        super().__init__()
        self.one = nn.Conv2d(channels, channels, 3, padding=1)
        self.two = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return x + self.two(torch.relu(self.one(x)))


class Network(nn.Module):
    """A stem, parts that a test chooses, a head."""

    def __init__(self, *parts, run=None):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.parts = nn.ModuleList(parts)
        self.head = nn.Linear(8, 5)
        self.run = run or self._in_order

    @staticmethod
    def _in_order(parts, x):
        for part in parts:
            x = part(x)
        return x

    def forward(self, x):
        return self.head(self.run(self.parts, self.stem(x)).mean((2, 3)))


EXAMPLE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def scan_of(*parts, run=None, **options):
    return find_layers(Network(*parts, run=run).eval(), (EXAMPLE,), **options)


def names(scan):
    return [layer.name for layer in scan.layers]


def reasons(scan):
    return {passed.name: passed.reason for passed in scan.skipped}


def test_residual_blocks_in_a_list_are_layers_as_a_whole():
    scan = scan_of(Residual(), Residual(), Residual())
    assert names(scan) == ["stem", "parts.0", "parts.1", "parts.2"]
    block = scan.layers[1]
    assert block.input_shape == block.output_shape == (8, 16, 16)
    assert block.layout == "nchw"
    assert block.macs == 2 * 8 * 8 * 9 * 256  # two convolutions, by hand, for one example


def test_stages_are_searched_inside():
    class Stage(nn.Module):
        def __init__(self):
            super().__init__()
            self.down = nn.Conv2d(8, 8, 1)
            self.blocks = nn.Sequential(Residual(), Residual())

        def forward(self, x):
            return self.blocks(self.down(x))

    assert "parts.0.blocks.0" in names(scan_of(Stage(), Stage()))


def test_fine_granularity_goes_inside_blocks():
    assert "parts.0.one" in names(scan_of(Residual(), Residual(), granularity="fine"))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.gate = nn.Parameter(torch.ones(1))

    def forward(self, x, y):
        return self.conv(x) + self.gate * y


class TupleOutput(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8, 3, 3))

    def forward(self, x):
        return torch.conv2d(x, self.weight, padding=1), x.shape[2]


@pytest.mark.parametrize(
    ("parts", "run", "name", "reason"),
    [
        ([Residual()], lambda p, x: p[0](p[0](x)), "parts.0.one", "called 2 times"),
        ([TupleOutput()], lambda p, x: p[0](x)[0], "parts.0", "returns something other than one tensor"),
    ],
)
def test_skipped_modules_have_a_reason(parts, run, name, reason):
    scan = scan_of(*parts, run=run)
    assert name not in names(scan)
    assert reason in reasons(scan)[name]


def test_a_block_of_two_inputs_is_searched_inside():
    scan = scan_of(TwoInputs(), run=lambda p, x: p[0](x, x))
    assert "parts.0" not in names(scan)
    assert "parts.0.conv" in names(scan)


class Masked(Residual):
    def forward(self, x, mask=None, *, scale=1.0):
        y = self.two(torch.relu(self.one(x))) * scale
        return x + (y if mask is None else y * mask)


@pytest.mark.parametrize(
    ("run", "whole"),
    [
        (lambda p, x: p[0](x, None), True),
        (lambda p, x: p[0](scale=1.0, x=x, mask=None), True),
        (lambda p, x: p[0](x, scale=0.5), False),
        (lambda p, x: p[0](x, torch.ones(())), False),
        (lambda p, x: p[0](x, x), False),
    ],
)
def test_arguments_matter_where_they_are_not_the_defaults(run, whole):
    scan = scan_of(Masked(), Masked(), run=lambda p, x: p[1](run(p, x)))
    assert ("parts.0" in names(scan)) is whole
    assert ("parts.0.one" in names(scan)) is not whole


def test_more_than_volumes_are_no_layers():
    scan = find_layers(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)), (torch.zeros(1, 2, 2, 2, 2, 6),))
    assert scan.layers == ()
    assert reasons(scan)["2"] == "works on 6 dimensions, the batch one of them; a layer has 2 to 5"


def test_shared_parameters_are_left_alone():
    one, other = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
    other.weight = one.weight
    scan = scan_of(one, other)
    assert names(scan) == ["stem"]
    assert set(reasons(scan).values()) >= {"shares parameters with another submodule"}
    passed = next(one for one in scan.skipped if one.name == "parts.0")
    assert passed.macs == 8 * 8 * 3 * 3 * 16 * 16  # of one example, though two were looked at


def test_a_module_under_two_names_is_skipped():
    block = Residual()
    scan = scan_of(block, block)
    assert names(scan) == ["stem"]


def test_globs_include_and_exclude():
    assert names(scan_of(Residual(), Residual(), include="parts.*", exclude=["*.1"])) == ["parts.0"]


def test_spans_where_each_feeds_only_the_next():
    scan = scan_of(Residual(), Residual(), Residual(), include="parts.*", max_span=3)
    assert [span.name for span in scan.spans] == [
        "parts.0+parts.1",
        "parts.0+parts.1+parts.2",
        "parts.1+parts.2",
    ]
    apart = scan_of(Residual(), Residual(), run=lambda p, x: p[1](p[0](x) * 2), include="parts.*", max_span=2)
    assert apart.spans == ()


class Odd(nn.Module):
    """A dict in, a dict out, a keyword argument, work in place, a hook."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), Residual(), Residual())
        self.calls = 0
        self.body[2].register_forward_hook(self._count)

    def _count(self, *_):
        self.calls += 1

    def forward(self, batch, scale=2.0):
        x = self.body(batch["image"])
        x += scale
        return {"features": [x, x.mean()], "size": x.shape}


def test_dicts_hooks_and_work_in_place_are_left_alone():
    network = Odd().train()
    scan = find_layers(network, ({"image": EXAMPLE},))
    assert [layer.name for layer in scan.layers] == ["body.0", "body.2", "body.3"]
    assert network.training
    assert network.calls == 1  # watched once; once more every layer runs without its hooks
    assert len(network.body[2]._forward_hooks) == 1


def test_looking_changes_nothing():
    network = Network(Residual(), nn.BatchNorm2d(8), nn.Dropout(0.5), Residual()).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    find_layers(network, (EXAMPLE,))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks for module in network.modules())
    assert all(module.training for module in network.modules())


def test_a_span_of_blocks_that_end_in_place():
    class InPlace(Residual):
        def forward(self, x):
            return super().forward(x).relu_()

    scan = scan_of(InPlace(), InPlace(), include="parts.*", max_span=2)
    assert [span.name for span in scan.spans] == ["parts.0+parts.1"]


@pytest.mark.parametrize(
    "run",
    [
        lambda p, x: p[1](p[0](x).relu_()),  # worked on in place between them
        lambda p, x: (y := p[0](x), p[1](y) + y)[1],  # read again behind the second
    ],
)
def test_no_span_where_the_middle_is_used_elsewhere(run):
    assert scan_of(Residual(), Residual(), run=run, include="parts.*", max_span=2).spans == ()


def test_no_span_over_outputs_of_the_network():
    class Pyramid(nn.Sequential):
        def forward(self, x):
            return [x := part(x) for part in self]

    scan = find_layers(Pyramid(Residual(3), Residual(3)), (EXAMPLE,), max_span=2)
    assert len(scan.layers) == 2
    assert scan.spans == ()


def test_layers_with_weights_read_from_outside_are_skipped():
    """Of the block around it the other parts are layers still."""
    scan = scan_of(Residual(), Residual(), run=lambda p, x: p[1](p[0](x.to(p[0].one.weight.dtype))))
    assert names(scan) == ["stem", "parts.0.two", "parts.1"]
    assert reasons(scan)["parts.0.one"] == "other code reads its parts"


def test_layers_with_parts_read_by_number_are_skipped():
    scan = scan_of(
        nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
        Residual(),
        run=lambda p, x: p[1](p[0](x.to(p[0][0].weight.dtype))),
    )
    assert not any(name.startswith("parts.0") for name in names(scan))
    assert reasons(scan)["parts.0.0"] == "other code reads its parts"


class Windows(nn.Module):
    """Works on the four quarters of a map as if they were examples."""

    def __init__(self):
        super().__init__()
        self.inside = nn.Sequential(Residual(), Residual())
        self.after = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        n, c, h, w = x.shape
        quarters = x.reshape(n, c, 2, h // 2, 2, w // 2).permute(0, 2, 4, 1, 3, 5).reshape(4 * n, c, h // 2, w // 2)
        back = self.inside(quarters).reshape(n, 2, 2, c, h // 2, w // 2).permute(0, 3, 1, 4, 2, 5)
        return x + self.after(back.reshape(n, c, h, w))


def test_blocks_on_parts_of_examples_are_no_layers():
    assert names(scan_of(Windows(), Windows())) == ["stem", "parts.0", "parts.1"]
    fine = scan_of(Windows(), Windows(), granularity="fine")
    assert names(fine) == ["stem", "parts.0.after", "parts.1.after"]
    assert reasons(fine)["parts.0.inside.0.one"] == "has 8 along its first dimension for a batch of 2"


def test_blocks_dispatched_on_by_class_are_searched_inside():
    def run(parts, x):
        for part in parts:
            if not isinstance(part, Residual):
                raise ValueError(f"unknown kind of block {type(part).__name__}")
            x = part(x)
        return x

    scan = scan_of(Residual(), Residual(), run=run)
    assert names(scan) == ["stem", "parts.0.one", "parts.0.two", "parts.1.one", "parts.1.two"]
    assert "parts.0" not in reasons(scan)


def test_an_unused_part_is_named():
    scan = scan_of(Residual(), Residual(), run=lambda p, x: p[0](x))
    assert names(scan) == ["stem", "parts.0"]
    assert reasons(scan)["parts.1"] == "never called in a forward pass"
    assert "parts.1.one" not in reasons(scan)


def test_parts_looked_up_by_class_are_skipped():
    """As Transformers does, which records what blocks of a class give by hooks and goes on with that."""

    class Recorded(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.parts = nn.Conv2d(3, 8, 1), nn.ModuleList([Residual(), Residual()])
            self.last = nn.Conv2d(16, 4, 1)
            self.given = []
            for part in self.modules():
                if isinstance(part, Residual):
                    part.register_forward_hook(lambda _, args, output: self.given.append(output))

        def forward(self, x):
            self.given.clear()
            x = self.stem(x)
            for part in self.parts:
                x = part(x)
            return self.last(torch.cat(self.given, 1))

    scan = find_layers(Recorded(), (EXAMPLE,))
    assert names(scan) == ["stem", "parts.0.one", "parts.0.two", "parts.1.one", "parts.1.two", "last"]
