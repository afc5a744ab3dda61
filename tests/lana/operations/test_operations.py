"""What every operation promises over a grid of layers: shape, gradients, export, variance; what derived ones keep."""

import logging
from typing import get_args

import pytest
import torch
from kinds_of_layer import LAYERS, Block, Gated, layer_of, made
from torch import nn
from torch.nn import functional as F

from lana.exporters.onnx_export import export_onnx
from lana.exporters.parity import onnx_parity
from lana.networks.layers import Layer, find_layers
from lana.operations.channel_groups import candidate_groups
from lana.operations.closed_form import LinearMap
from lana.operations.convolution import SqueezeExcite
from lana.operations.families import FAMILIES, parse_operation
from lana.operations.presets import offered, pool_names
from lana.operations.pruning import why_not_pruned

FEATURE_MAPS = (
    *("same", "odd size", "stride", "stride, odd size", "no padding", "channels", "gated", "channels last"),
    *("span", "span, stride"),
)
SINGLE = tuple(kind for kind in LAYERS if not kind.startswith("span"))
APPLIES_TO = {  # family → the kinds of layer that it applies to
    **dict.fromkeys(["teacher", "linear"], tuple(LAYERS)),
    **dict.fromkeys(["cb_stack", "cb_bottle", "cb_res", "repvgg", "conv_cs"], FEATURE_MAPS),
    **dict.fromkeys(["efn", "efnv2", "bot_trans", "lambda"], FEATURE_MAPS),
    "identity": tuple(kind for kind, (_, ins, outs, _) in LAYERS.items() if ins == outs and kind != "vectors"),
    "pruned": tuple(kind for kind in SINGLE if kind not in ("no padding", "vectors")),
    "low_rank": SINGLE,
    "fewer_heads": ("tokens",),
    "no_se": ("gated",),
    "halved": ("same", "stride", "stride, odd size", "channels", "gated"),
    "merged": ("span", "span, stride"),
    "vit": (*FEATURE_MAPS, "tokens"),
    "mlp": ("channels last", "video, channels last", "tokens", "vectors"),
}


def representative(family, layer, module):
    """The smallest and the largest of a family's grid that fit a layer; of transformers one of middling size."""
    if family == "vit":
        return [parse_operation("vit_d2_w64_h8")]
    names = [name for name in pool_names("all") if parse_operation(name).family == family]
    why_not = FAMILIES[family].why_not_with
    fit = [name for name in names if not why_not(layer, module, dict(parse_operation(name).parameters))]
    return [parse_operation(name) for name in dict.fromkeys([fit[0], fit[-1]])]


EXPORTED = (
    *("stride, odd size", "no padding", "gated", "channels last", "tokens", "vectors"),
    *("sequence, stride", "volume, stride", "video, channels last"),
)
CASES = [(family, kind) for family, kinds in APPLIES_TO.items() for kind in kinds]


@pytest.fixture(scope="module")
def features():
    """Inputs and outputs of each layer, as distilling would have them."""
    found = {}
    for kind in LAYERS:
        layer, module = layer_of(kind)
        inputs = torch.randn(64, *layer.input_shape, generator=torch.Generator().manual_seed(1)).relu()
        with torch.no_grad():
            found[kind] = (inputs, module(inputs))
    return found


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_an_operation_replaces_the_layers_it_applies_to(family, kind, features, tmp_path):
    layer, module = layer_of(kind)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    inputs, target = features[kind]
    for operation in representative(family, layer, module):
        built = made(0, lambda operation=operation: operation.build(layer, module, features[kind]))
        with torch.no_grad():
            output = built(inputs)
        assert tuple(output.shape[1:]) == layer.output_shape
        assert torch.isfinite(output).all()
        ratio = float(output.var() / target.var())
        assert 0.5 <= ratio <= 2.0 or family == "identity", f"{operation.name}: variance {ratio:.2f} of the teacher's"
        again = operation.build(layer, module)
        assert [p.shape for p in again.state_dict().values()] == [p.shape for p in built.state_dict().values()]
        gradients_reach_every_parameter(built.train(), inputs)
    if kind in EXPORTED:
        assert onnx_parity(built, export_onnx(built, inputs[:1], tmp_path / "o.onnx"), [inputs[:1]]) < 1e-4
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_applies_to_these_kinds_of_layer(family):
    applies = {kind for kind in LAYERS if not FAMILIES[family].why_not(*layer_of(kind))}
    assert applies == set(APPLIES_TO[family])


def gradients_reach_every_parameter(module, inputs):
    output = module(inputs)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(2))
    if not list(module.parameters()):
        return
    (output * weights).sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", ["same", "stride", "channels", "sequence, stride", "volume, stride"])
def test_a_pruned_copy_at_full_width_is_the_teachers_block(kind, features):
    layer, module = layer_of(kind)
    whole = parse_operation("pruned_w1").build(layer, module, features[kind])
    with torch.no_grad():
        assert torch.equal(whole(features[kind][0]), module(features[kind][0]))


@pytest.mark.parametrize("kind", ["same", "stride", "gated", "sequence, stride", "volume, stride", "tokens", "vectors"])
def test_at_full_rank_a_factored_block_is_the_teachers(kind, features):
    layer, module = layer_of(kind)
    inputs = torch.randn(8, *layer.input_shape, generator=torch.Generator().manual_seed(5))
    for given in (features[kind], None):
        whole = parse_operation("low_rank_r1").build(layer, module, given)
        with torch.no_grad():
            expected = module(inputs)
            error = (whole(inputs) - expected).abs().max() / expected.abs().max()
        maps = get_args(LinearMap)
        assert sum(type(p) in maps for p in whole.modules()) > sum(type(p) in maps for p in module.modules())
        assert float(error) < 1e-5


def test_the_rank_is_of_the_activations():
    """Inputs that lie in a plane need rank two, whatever the weight's spectrum is."""
    layer = Layer(name="layer", input_shape=(32,), output_shape=(32,), layout="nc", macs=1, members=("layer",))
    truth = made(4, lambda: nn.Sequential(nn.Linear(32, 32)))
    inputs = torch.randn(256, 2) @ torch.randn(2, 32)
    with torch.no_grad():
        target = truth(inputs)
        informed, blind = (
            parse_operation("low_rank_r0.0625").build(layer, truth, given)(inputs) for given in ((inputs, target), None)
        )
    power = target.square().mean()
    assert float((informed - target).square().mean() / power) < 1e-6
    assert float((blind - target).square().mean() / power) > 1e-2


@pytest.mark.parametrize(("kind", "member"), [("span", 0), ("span, stride", 1)])
def test_a_merged_block_starts_as_the_member_that_fits(kind, member, features):
    layer, module = layer_of(kind)
    merged = parse_operation("merged_w1").build(layer, module)
    inputs = features[kind][0]
    with torch.no_grad():
        assert torch.equal(merged(inputs), module[member](inputs))
    half = parse_operation("merged_w0.5").build(layer, module, features[kind])
    assert half.body[0].out_channels == merged.body[0].out_channels // 2


@pytest.mark.parametrize("last", [nn.Identity, nn.ReLU])
def test_halving_keeps_inputs_without_fine_detail(last):
    """A block that works place by place, on a map of 2×2 equal places."""
    layer = Layer(
        name="layer", input_shape=(4, 6, 8), output_shape=(4, 6, 8), layout="nchw", macs=1, members=("layer",)
    )
    block = made(0, lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), last()))
    inputs = torch.randn(3, 4, 3, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    with torch.no_grad():
        assert torch.allclose(parse_operation("halved_w1").build(layer, block)(inputs), block(inputs), atol=1e-6)


def test_a_halved_strided_block_gets_detail_by_a_shortcut(features):
    """What the block leaves at half the resolution is solved for: with it the output is nearer to the layer's."""
    layer, module = layer_of("stride")
    inputs, target = features["stride"]
    with torch.no_grad():
        built = parse_operation("halved_w1").build(layer, module, (inputs, target)).eval()
        alone, whole = ((output - target).square().mean() for output in (built.added(inputs), built(inputs)))
    assert whole < 0.9 * alone


def test_all_heads_are_the_teachers_block(features):
    layer, module = layer_of("tokens")
    whole = parse_operation("fewer_heads_h1").build(layer, module, features["tokens"])
    with torch.no_grad():
        assert torch.allclose(whole(features["tokens"][0]), module(features["tokens"][0]), atol=1e-5)


def test_a_gate_that_never_changes_can_be_left_out(features):
    layer, module = layer_of("gated")
    inputs = features["gated"][0]
    plain = parse_operation("no_se").build(layer, module, features["gated"])
    assert not any(isinstance(part, SqueezeExcite) for part in plain.modules())
    constant = made(0, lambda: Gated(16))
    with torch.no_grad():
        constant.gate.up.weight.mul_(1e-4)
        folded = parse_operation("no_se").build(layer, constant, (inputs, constant(inputs)))
        assert torch.allclose(folded(inputs), constant(inputs), atol=1e-3)
    kinds = [type(part).__name__ for part in folded.modules()]
    assert "Scale" not in kinds  # its factors went into the convolution behind it


def test_grouped_convolutions_lose_the_same_channels_a_group(features):
    """In a block of grouped convolutions, what is pruned is what nobody reads."""

    def build():
        return nn.Sequential(
            nn.Conv2d(16, 32, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, 1, 1, groups=4), nn.ReLU(),
            nn.Conv2d(32, 16, 1),
        )  # fmt: skip

    layer, _ = layer_of("same")
    module = made(6, build)
    with torch.no_grad():
        module[3].weight[:, 4:] = 0.0  # half of the channels of each group are not read
    inputs = features["same"][0]
    pruned = parse_operation("pruned_w0.5").build(layer, module)
    assert pruned[0].out_channels == 16
    with torch.no_grad():
        read = [8 * group + channel for group in range(4) for channel in range(4)]
        assert torch.allclose(pruned[:3](inputs), module[:3](inputs)[:, read], atol=1e-6)


class Focal(nn.Module):
    """A block that splits its channels unequally and multiplies the parts, as FocalNets do, before its MLP."""

    def __init__(self, channels):
        super().__init__()
        self.into, self.out = nn.Conv2d(channels, 2 * channels + 3, 1), nn.Conv2d(channels, channels, 1)
        self.context = nn.ModuleList(nn.Conv2d(channels, channels, 3, 1, 1, groups=channels) for _ in range(2))
        self.mlp = nn.Sequential(nn.Conv2d(channels, 4 * channels, 1), nn.GELU(), nn.Conv2d(4 * channels, channels, 1))

    def forward(self, x):
        query, context, gates = torch.split(self.into(x), [x.shape[1], x.shape[1], 3], 1)
        total = 0
        for level, convolution in enumerate(self.context):
            context = convolution(context)
            total = total + context * gates[:, level : level + 1]
        x = x + self.out(query * (total + context.mean((2, 3), keepdim=True) * gates[:, 2:]))
        return x + self.mlp(x)


def test_endless_groups_leave_the_other_parts_to_prune(features):
    """Torch-Pruning would follow the channels of such a block for hours."""
    layer, _ = layer_of("same")
    module = made(8, lambda: Focal(16))
    inputs = features["same"][0]
    pruned = parse_operation("pruned_w0.5").build(layer, module, (inputs, module(inputs).detach()))
    assert pruned.mlp[0].out_channels == 32
    assert pruned.into.out_channels == 35
    assert pruned(inputs).shape == inputs.shape


class Standardised(nn.Conv2d):
    """Its weights depend on all channels that it reads."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, padding=self.padding)


def test_a_convolution_that_computes_its_weights_is_named_where_nothing_is_pruned():
    block = nn.Sequential(*(Standardised(16, 16, 3, padding=1) for _ in range(2)))
    layer = Layer(name="1", members=("1",), input_shape=(16, 8, 8), output_shape=(16, 8, 8), layout="nchw", macs=1)
    assert "Standardised may compute weights from all channels" in why_not_pruned(layer, block)


def test_pruning_keeps_what_matters(features):
    """Channels that give nothing are the first to go: without them the block is the same."""
    layer, module = layer_of("channels")
    with torch.no_grad():
        module.body[1].weight[:8] = 0.0
        module.body[1].bias[:8] = 0.0
    inputs = features["channels"][0]
    with torch.no_grad():
        target = module(inputs)
        found = parse_operation("pruned_w0.8").build(layer, module, (inputs, target))(inputs)
    assert float((found - target).square().mean() / target.square().mean()) < 1e-4


def test_a_linear_layer_is_recovered_in_closed_form():
    layer = Layer(
        name="layer", input_shape=(8, 6, 6), output_shape=(12, 6, 6), layout="nchw", macs=1, members=("layer",)
    )
    truth = made(3, lambda: nn.Conv2d(8, 12, 3, padding=1))
    inputs = torch.randn(256, 8, 6, 6)
    with torch.no_grad():
        found = parse_operation("linear_k3").build(layer, truth, (inputs, truth(inputs)))
        error = (found(inputs) - truth(inputs)).square().mean() / truth(inputs).square().mean()
    assert float(error) < 1e-4


def test_closed_forms_beat_operations_from_nothing(features):
    layer, module = layer_of("same")
    inputs, target = features["same"]

    def error(name):
        with torch.no_grad():
            output = parse_operation(name).build(layer, module, (inputs, target)).eval()(inputs)
        return float((output - target).square().mean() / target.square().mean())

    assert error("linear_k3") < error("cb_stack_k3_w0.5")
    assert error("pruned_w0.5") < error("cb_res_k3_w0.5")


def test_identity_is_not_offered_where_the_shape_changes():
    network = nn.Sequential(Block(16, 16), Block(16, 32, 2)).eval()
    scan = find_layers(network, (torch.randn(1, 16, 8, 8),))
    held = {layer.name: pool_names_at(layer, network) for layer in scan.layers}
    assert "identity" in held["0"]
    assert "identity" not in held["1"]


def pool_names_at(layer, network):
    return [operation.name for operation in offered(layer, network.get_submodule(layer.name), "skip")]


class PadsItself(nn.Conv2d):
    """Pads in its own forward, as timm's Conv2dSame does."""

    def forward(self, x):
        return torch.nn.functional.conv2d(torch.nn.functional.pad(x, (1, 1, 1, 1)), self.weight, self.bias)


@pytest.mark.parametrize("operation", ["pruned_w0.5", "low_rank_r0.5", "linear_k3"])
@pytest.mark.parametrize(
    "conv",
    [
        lambda: nn.Conv2d(8, 8, 3, padding="same"),
        lambda: nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
        lambda: PadsItself(8, 8, 3),
    ],
)
def test_blocks_of_unusual_padding_are_replaced(conv, operation):
    block = made(0, lambda: nn.Sequential(conv(), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)))
    layer = Layer(name="b", input_shape=(8, 6, 6), output_shape=(8, 6, 6), layout="nchw", macs=1, members=("b",))
    inputs = torch.randn(16, 8, 6, 6)
    with torch.no_grad():
        features = (inputs, block(inputs))
    assert operation in [found.name for found in offered(layer, block, operation)]
    built = parse_operation(operation).build(layer, block, features)
    assert built(inputs).shape == inputs.shape
    assert torch.isfinite(built(inputs)).all()


def test_finding_channels_leaves_the_users_logging_alone():
    layer, module = layer_of("channels")
    logging.disable(logging.INFO)
    try:
        assert candidate_groups(module, torch.randn(1, *layer.input_shape))
        assert logging.root.manager.disable == logging.INFO
    finally:
        logging.disable(logging.NOTSET)
