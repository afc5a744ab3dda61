import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from lana.common.importing import function_from_file
from lana.errors import UserError
from lana.models.plain_modules import compute_weights, unwrap_parts
from lana.models.student import assemble
from lana.models.student_files import load_student, save_student
from lana.models.teacher import load_teacher
from lana.networks.layers import find_layers
from lana.operations.presets import offered

NET = """
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

class Block(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.first, self.second = wrap(nn.Conv2d(16, 32, 3, padding=1)), wrap(nn.Conv2d(32, 16, 3, padding=1))

    def forward(self, x):
        return x + self.second(self.first(x).relu())

def residual(wrap):
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        Block(wrap), Block(wrap), Block(wrap), Block(wrap),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    )

def plain():
    return residual(lambda conv: conv)

def weight_normed():
    return residual(parametrizations.weight_norm)

def weight_normed_of_old():
    return residual(weight_norm)

def spectral_normed():
    return residual(parametrizations.spectral_norm)

def spectral_normed_of_old():
    return residual(spectral_norm)

def masked():
    return residual(lambda conv: prune.l1_unstructured(conv, "weight", 0.3))

def compiled_inside():
    net = plain()
    net[1] = torch.compile(net[1])
    return net

def several_gpus_inside():
    net = plain()
    net[1] = nn.DataParallel(net[1])
    return net

class Prepared(nn.Sequential):
    preprocessing = {"image_size": 8, "mean": (0.5,), "std": (0.25,)}

def prepared(wrap=""):
    net = Prepared(nn.Conv2d(1, 4, 3))
    return {"": lambda net: net, "parallel": nn.DataParallel, "compiled": torch.compile,
            "averaged": torch.optim.swa_utils.AveragedModel}[wrap](net)

def on_the_wrapper():
    net = nn.DataParallel(nn.Conv2d(1, 4, 3))
    net.preprocessing = Prepared.preprocessing
    return net

def misspelt():
    net = nn.Conv2d(1, 4, 3)
    net.preprocessing = {"size": 8}
    return net
"""


@pytest.fixture
def net(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    return tmp_path / "net.py"


@pytest.mark.parametrize(
    "kind",
    [
        "plain",
        "weight_normed",
        "weight_normed_of_old",
        "spectral_normed",
        "spectral_normed_of_old",
        "masked",
        "compiled_inside",
        "several_gpus_inside",
    ],
)
def test_layers_of_computed_weights_are_offered_what_plain_ones_are(net, kind):
    teacher = load_teacher(f"{net}:{kind}", image_size=8)
    assert [type(part) for part in teacher.module[1].children()] == [nn.Conv2d, nn.Conv2d]
    layer = next(layer for layer in find_layers(teacher.module, (teacher.example(),)).layers if layer.name == "1")
    assert "pruned_w0.5" in [operation.name for operation in offered(layer, teacher.module[1], "pruned")]


def test_a_student_of_computed_weights_is_loaded_again(net, tmp_path):
    teacher = load_teacher(f"{net}:spectral_normed", image_size=8)
    layers = find_layers(teacher.module, (teacher.example(),)).layers
    selection = {"1": "pruned_w0.5"}
    student = assemble(teacher.module, layers, selection)
    assert student[1].first.out_channels == 16
    save_student(student, tmp_path / "student", teacher, layers, selection)
    assert torch.equal(load_student(tmp_path / "student")(teacher.example()), student(teacher.example()))


@pytest.mark.parametrize("kind", ["weight_normed", "weight_normed_of_old"])
def test_weights_are_loaded_into_what_computes_others(net, tmp_path, kind):
    module = function_from_file(str(net), "weight_normed_of_old", what="a model")().eval()
    torch.save(module.state_dict(), tmp_path / "w.pt")
    teacher = load_teacher(f"{net}:{kind}", image_size=8, weights=str(tmp_path / "w.pt"))
    assert torch.allclose(teacher.module(teacher.example()), module(teacher.example()), atol=1e-6)


@pytest.mark.parametrize(
    "wrap",
    [
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
        weight_norm,
        spectral_norm,
        lambda linear: prune.l1_unstructured(linear, "weight", 0.3),
        lambda linear: prune.random_structured(prune.l1_unstructured(linear, "bias", 0.3), "weight", 0.5, 0),
        lambda linear: weight_norm(parametrizations.orthogonal(linear), "bias"),
    ],
)
def test_computed_weights_give_the_same_outputs(wrap):
    network, example = nn.Sequential(wrap(nn.Linear(6, 6)), nn.ReLU(), wrap(nn.Linear(6, 6))), torch.randn(4, 6)
    network(example)  # a step of training, which some count
    expected = network.eval()(example)
    compute_weights(network)
    assert torch.allclose(network(example), expected, atol=1e-6)
    assert sorted(network.state_dict()) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in network.parameters())
    copy.deepcopy(network)


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


def test_layers_that_share_what_their_weights_are_computed_from():
    first, second, third = (nn.Linear(3, 3, bias=False) for _ in range(3))
    second.weight = third.weight = first.weight
    parametrize.register_parametrization(first, "weight", Doubled())
    parametrize.register_parametrization(second, "weight", Doubled())
    network, example = nn.Sequential(first, second, third), torch.randn(2, 3)
    expected = network(example)
    compute_weights(network)
    assert torch.allclose(network(example), expected)
    assert first.weight is second.weight
    assert first.weight is not third.weight


def test_frozen_weights_stay_frozen():
    network = parametrizations.weight_norm(nn.Linear(3, 3)).requires_grad_(False)
    compute_weights(network)
    assert not network.weight.requires_grad


class Compiled(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.helper = torch.compile(self.own)

    def own(self, x):
        return self.linear(x)

    @torch.compile
    def forward(self, x):
        return self.helper(x)


def test_what_was_compiled_inside_is_called_as_it_was_written():
    network = nn.Sequential(Compiled(), torch.compile(nn.DataParallel(nn.Linear(3, 3))))
    network[1].compile()
    unwrap_parts(network)
    assert type(network[1]) is nn.Linear
    changed = copy.deepcopy(network)
    nn.init.zeros_(changed[0].linear.weight)
    nn.init.zeros_(changed[0].linear.bias)
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert torch.equal(changed[0](torch.ones(1, 3)), torch.zeros(1, 3))
    assert not hasattr(Compiled.forward, "_torchdynamo_orig_callable")


@pytest.mark.parametrize("wrap", ["", "parallel", "compiled", "averaged"])
def test_a_wrapped_network_keeps_its_preprocessing(net, wrap):
    teacher = load_teacher(f"{net}:prepared", model_args=f"wrap='{wrap}'")
    assert type(teacher.module).__name__ == "Prepared"
    assert teacher.preprocessing.mean == (0.5,)
    assert teacher.input_shape == (1, 8, 8)


def test_preprocessing_on_a_wrapper_is_the_networks(net):
    teacher = load_teacher(f"{net}:on_the_wrapper")
    assert type(teacher.module) is nn.Conv2d
    assert (teacher.input_shape, teacher.preprocessing.std) == ((1, 8, 8), (0.25,))


def test_preprocessing_of_unknown_names_is_refused(net):
    with pytest.raises(UserError, match="preprocessing holds 'size'"):
        load_teacher(f"{net}:misspelt")
