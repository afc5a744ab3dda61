import copy
import json
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lana.common.importing import import_torchvision
from lana.config.options import FineTuning
from lana.errors import UserError
from lana.models.student import assemble, count_parameters
from lana.models.teacher import load_teacher
from lana.networks.layers import find_layers
from lana.training.optimizers import make_optimizer

NET = """
import torch
from torch import nn

def small(channels=4):
    return nn.Sequential(nn.Conv2d(3, channels, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5))

def not_a_module():
    return 3

def of_a_neighbour():
    from beside_net import CHANNELS
    return small(CHANNELS)
"""


@pytest.fixture
def net(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(NET)
    (tmp_path / "beside_net.py").write_text("CHANNELS = 6\n")
    return path


def test_the_bundled_teacher_is_good(digits_teacher, digits_data, accuracy):
    assert accuracy(digits_teacher.module, digits_data.test) >= 0.98


def test_a_file_with_its_arguments_and_weights(net, tmp_path):
    first = load_teacher(f"{net}:small", image_size=8, model_args="channels=6")
    save_file(first.module.state_dict(), tmp_path / "w.safetensors")
    again = load_teacher(f"{net}:small", image_size=8, model_args="channels=6", weights=str(tmp_path / "w.safetensors"))
    assert torch.equal(again.module(first.example()), first.module(first.example()))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("digits-resent", "Did you mean: digits-resnet"),
        ("nowhere.py:net", "there is no file"),
        ("{net}:smal", "Did you mean: small"),
        ("{net}:not_a_module", "returned int; expected a torch.nn.Module"),
        ("timm:resnet81", "Did you mean: .*resnet"),
        ("torchvision:resnet81", "Did you mean: .*resnet18"),
    ],
)
def test_unknown_models_are_refused(net, model, expected):
    with pytest.raises(UserError, match=expected):
        load_teacher(model.format(net=net))


@pytest.mark.parametrize("made", ["torch.nn.DataParallel(NET)", "torch.compile(NET)", "NET.half()", "NET.double()"])
def test_what_a_network_is_wrapped_or_kept_in_is_no_part_of_it(tmp_path, made):
    file = tmp_path / "net.py"
    conv = "torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))"
    file.write_text(f"import torch\n\ndef net():\n    return {made.replace('NET', conv)}\n")
    teacher = load_teacher(f"{file}:net", image_size=8)
    assert type(teacher.module) is torch.nn.Sequential
    assert teacher.module(teacher.example()).dtype is torch.float32


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ("torch.jit.script(torch.nn.Conv2d(3, 4, 3))", r"returned TorchScript \("),
        (
            "torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.jit.script(torch.nn.SiLU()))",
            "holds TorchScript as '1'",
        ),
    ],
)
def test_torchscript_is_refused(network, expected, tmp_path):
    file = tmp_path / "net.py"
    file.write_text(f"import torch\n\ndef net():\n    return {network}\n")
    with pytest.raises(UserError, match=f"{expected}.*Return the torch.nn.Module that it was made of"):
        load_teacher(f"{file}:net", image_size=8)


def test_a_function_imports_its_neighbours_when_it_is_called(net):
    assert load_teacher(f"{net}:of_a_neighbour", image_size=8).example().shape == (1, 3, 8, 8)
    assert str(net.parent) not in sys.path


@pytest.mark.parametrize(
    ("model", "model_args", "expected"),
    [
        ("{net}:small", "width=3", "cannot be called with"),
        ("digits-resnet", "num_classes=10", "cannot be built with {'num_classes': 10}.*Check --model-args"),
        ("timm:resnet10t", "foo=1", "cannot be built with {'foo': 1}.*'foo'"),
        ("torchvision:resnet18", "num_classes=10", "expected value 1000 but got 10.*--weights"),
        ("digits-resnet", "num_classes", "expected NAME=VALUE pairs"),
        ("digits-resnet", "a=1,b", "expected NAME=VALUE pairs"),
        ("digits-resnet", "a=[1", "expected NAME=VALUE pairs"),
    ],
)
def test_wrong_arguments_are_refused(net, model, model_args, expected):
    with pytest.raises(UserError, match=expected):
        load_teacher(model.format(net=net), model_args=model_args)


def test_a_wrong_size_is_told_with_the_options_to_check(net):
    with pytest.raises(UserError, match=r"fails on one example .*--image-size"):
        load_teacher(f"{net}:small", image_size=2)


def test_torchvision_and_timm_load_without_compiled_operators():
    models = import_torchvision().models
    assert models.get_model("resnet18", weights=None).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)
    teacher = load_teacher("timm:resnet10t", pretrained=False, image_size=32)
    assert teacher.preprocessing.mean == (0.485, 0.456, 0.406)


def saved_by_timm(folder, **changed):
    import_torchvision()
    import timm

    folder.mkdir()
    module = timm.create_model("resnet10t", num_classes=5).eval()
    config = {"architecture": "resnet10t", "num_classes": 5, "pretrained_cfg": {"input_size": [3, 32, 32]}, **changed}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(module.state_dict(), folder / "model.safetensors")
    return module


def test_a_folder_that_timm_saved_is_a_model(tmp_path, monkeypatch):
    module = saved_by_timm(tmp_path / "a:b")
    monkeypatch.chdir(tmp_path)
    teacher = load_teacher("timm:local-dir:a:b")
    assert teacher.reference == f"timm:local-dir:{tmp_path}/a:b"
    assert teacher.input_shape == (3, 32, 32)
    assert torch.equal(teacher.module(teacher.example()), module(teacher.example()))


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"architecture": "resnet81"}, r"cannot build local-dir:.*resnet81.*Expected a config\.json"),
        ({"num_classes": 7}, r"cannot build local-dir:.*size mismatch.*weights that fit"),
    ],
)
def test_a_folder_of_another_kind_is_refused(tmp_path, changed, expected):
    saved_by_timm(tmp_path / "saved", **changed)
    with pytest.raises(UserError, match=f"(?s){expected}"):
        load_teacher(f"timm:local-dir:{tmp_path}/saved")
    with pytest.raises(UserError, match=r"there is no file .*config\.json\. Expected a folder as timm saves it"):
        load_teacher(f"timm:local-dir:{tmp_path}")


def test_a_model_of_the_hub_is_timms_to_load(monkeypatch):
    import_torchvision()
    import timm

    network = timm.create_model("resnet10t")
    monkeypatch.setattr(timm, "create_model", lambda name, **kwargs: network if name == "hf-hub:me/mine" else None)
    assert load_teacher("timm:hf-hub:me/mine", image_size=32).module is network

    def unreachable(*args, **kwargs):
        raise OSError("network is unreachable")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(UserError, match=r"could not be downloaded.*timm:local-dir:PATH"):
        load_teacher("timm:hf-hub:me/mine")


def test_a_colon_in_a_folders_name_is_no_separator(net, tmp_path):
    (tmp_path / "a:b").mkdir()
    file = (tmp_path / "a:b" / "net.py").absolute()
    file.write_text(NET)
    assert load_teacher(f"{file}:small", image_size=8).reference == f"{file}:small"
    with pytest.raises(UserError, match="names no function"):
        load_teacher(str(file))


def test_weights_that_cannot_be_downloaded_are_told(monkeypatch):
    import timm

    def unreachable(*args, **kwargs):
        raise OSError("network is unreachable")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(UserError, match=r"could not be downloaded.*--weights"):
        load_teacher("timm:resnet18")


def test_a_teacher_that_was_frozen_can_teach_students_that_learn(tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef frozen():\n    return nn.Conv2d(3, 4, 3).requires_grad_(False)\n"
        "def half():\n    net = nn.Conv2d(3, 4, 3)\n    net.bias.requires_grad = False\n    return net\n"
    )
    for name in ("frozen", "half"):
        teacher = load_teacher(f"{tmp_path}/net.py:{name}", image_size=8)
        assert all(parameter.requires_grad for parameter in teacher.module.parameters())


def test_a_backbone_that_transfer_learning_froze_learns_in_fine_tuning(tmp_path):
    (tmp_path / "net.py").write_text(
        "from lana.models.teacher import load_teacher\n"
        "def net():\n    net = load_teacher('digits-resnet').module.requires_grad_(False)\n"
        "    net.classifier.requires_grad_(True)\n    return net\n"
    )
    teacher = load_teacher(f"{tmp_path}/net.py:net", image_size=16, mean=(0.305,), std=(0.345,))
    scan = find_layers(teacher.module, (teacher.example(),))
    student = assemble(teacher.module, scan.layers, {scan.layers[0].name: "identity"})
    groups = make_optimizer(student, FineTuning()).param_groups
    assert sum(p.numel() for group in groups for p in group["params"]) == count_parameters(student)


def test_torchvision_builds_the_same_network_without_weights(monkeypatch):
    models, asked = import_torchvision().models, []

    def get_model(name, weights, **kwargs):
        asked.append(kwargs)
        module = nn.Conv2d(3, 4, 3)
        module.aux_classifier = nn.Conv2d(3, 4, 3) if weights else None
        return module

    monkeypatch.setattr(models, "get_model", get_model)
    assert load_teacher("torchvision:fcn_resnet50").module.aux_classifier is None
    teacher = load_teacher("torchvision:googlenet")
    again = teacher.to_json()
    load_teacher(again["reference"], model_args=again["model_args"], pretrained=False)
    assert asked[-1] == asked[-2] == {"transform_input": True, "aux_logits": False}
    assert load_teacher("torchvision:retinanet_resnet50_fpn").preprocessing.mean == (0.485, 0.456, 0.406)


def test_a_preprocessing_that_is_a_function_says_nothing_to_us(tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef net():\n"
        "    net = nn.Conv2d(3, 4, 3)\n    net.preprocessing = print\n    return net\n"
    )
    assert load_teacher(f"{tmp_path}/net.py:net").preprocessing.image_size == 224


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("raises", {}, r"net\.py:raises failed: RuntimeError: boom inside \(.*net\.py, line \d+\)"),
        ("silent", {}, r"Silent of .*net\.py:silent overrides eval\(\) and does not return itself"),
        ("two", {}, "Wrap a network that takes more than one tensor"),
        ("plain", {"input_shape": (3, 8, 8), "mean": (0.5,)}, "--input-shape is for inputs that are not images"),
        ("plain", {"mean": (124.0, 116.0, 104.0), "std": (58.0, 57.0, 57.0)}, "expected means of images in 0…1"),
    ],
)
def test_what_cannot_work_is_told(tmp_path, name, options, message):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def raises():\n    raise RuntimeError('boom inside')\n"
        "def plain():\n    return nn.Conv2d(3, 4, 3)\n"
        "def two():\n    return nn.Bilinear(3, 3, 4)\n"
        "class Silent(nn.Identity):\n    def eval(self):\n        super().eval()\n"
        "def silent():\n    return nn.Sequential(Silent(), nn.Conv2d(3, 4, 3))\n"
    )
    with pytest.raises(UserError, match=message):
        load_teacher(f"{tmp_path}/net.py:{name}", **options)


def test_a_part_whose_train_returns_nothing_is_used(tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "class Cached(nn.Identity):\n    def train(self, mode=True):\n        super().train(mode)\n"
        "def net():\n    return nn.Sequential(Cached(), nn.Conv2d(3, 4, 3))\n"
    )
    part = copy.deepcopy(load_teacher(f"{tmp_path}/net.py:net").module[0])
    assert part.train() is part
    assert part.training
    assert part.eval() is part
    assert not part.training


@pytest.mark.parametrize(
    ("network", "options", "mean"),
    [
        ("nn.Conv2d(3, 4, 3)", {"mean": (0.5,), "std": (0.25,)}, (0.5, 0.5, 0.5)),
        ("nn.Conv2d(1, 4, 3)", {"mean": (0.5,), "std": (0.25,)}, (0.5,)),
        ("nn.Conv2d(3, 4, 3)", {"mean": (0.5,)}, (0.5, 0.5, 0.5)),  # ImageNet's deviations are three
        ("nn.Sequential(nn.Flatten(), nn.Linear(192, 4))", {"mean": (0.5,), "std": (0.25,)}, (0.5, 0.5, 0.5)),
        ("carrying(nn.Conv2d(3, 4, 3))", {}, (0.5, 0.5, 0.5)),
        ("carrying(nn.AdaptiveAvgPool2d(1))", {}, (0.5,)),  # takes both: what it carries is meant
    ],
)
def test_one_mean_stands_for_all_channels_that_the_network_takes(tmp_path, network, options, mean):
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef carrying(net):\n"
        "    net.preprocessing = {'mean': [0.5], 'std': [0.25]}\n    return net\n"
        f"def net():\n    return {network}\n"
    )
    found = load_teacher(f"{tmp_path}/net.py:net", image_size=8, **options).preprocessing
    assert (found.mean, len(found.std)) == (mean, len(mean))


def test_one_mean_for_a_network_that_takes_grey_and_rgb_is_asked_about(tmp_path):
    (tmp_path / "net.py").write_text("from torch import nn\ndef net():\n    return nn.AdaptiveAvgPool2d(1)\n")
    with pytest.raises(UserError, match=r"--mean 0\.5 --std 0\.25 give one value.*Give three values each for RGB"):
        load_teacher(f"{tmp_path}/net.py:net", mean=(0.5,), std=(0.25,))


@pytest.mark.parametrize(
    "inputs",
    [{"std": (0.0,)}, {"std": (float("inf"),)}, {"mean": (-1001.0,)}, {"image_size": 0}, {"image_size": 70_000}],
)
def test_inputs_out_of_their_bounds_are_refused(inputs):
    """Also where no recipe holds them."""
    with pytest.raises(UserError, match=f"^--{next(iter(inputs)).replace('_', '-')} .*: expected "):
        load_teacher("digits-resnet", **inputs)
