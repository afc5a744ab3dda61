"""Detectors as they come: their work lies in layers, students of theirs export, reload and train."""

import numpy as np
import pytest
import torch
from detector_networks import Conv, yolo
from torch import nn

import lana
from lana.common.importing import import_torchvision
from lana.config.options import FineTuning
from lana.data.split import Data, from_arrays
from lana.detection.decoders import make_decoder
from lana.evaluation.detection import Detection
from lana.evaluation.examples import make_task
from lana.exporters.onnx_export import export_onnx
from lana.exporters.parity import onnx_session, run_onnx
from lana.models.student import assemble, own_module
from lana.networks.layers import find_layers
from lana.networks.predictors import last_predictors
from lana.networks.structure import flat_tensors
from lana.operations.presets import offered
from lana.training.distributed import SingleProcess
from lana.training.finetuning import TrainingSetup, finetune


def some_selection(layers, teacher, seed=0):
    """A random operation of the cheap families at every second layer."""
    random, chosen = np.random.default_rng(seed), {}
    for layer in layers[::2]:
        names = [one.name for one in offered(layer, own_module(teacher, layer), "pruned,linear_k3,identity")]
        if others := [name for name in names if name != "teacher"]:
            chosen[layer.name] = str(random.choice(others))
    return chosen


@pytest.fixture(scope="module")
def detector():
    network, example = yolo(), torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return network, example


def test_blocks_of_a_yolo_are_layers_though_their_f_and_i_are_read(detector):
    network, example = detector
    scan = find_layers(network, (example,))
    names = {layer.name for layer in scan.layers}
    assert {"model.2", "model.7", "model.10"} <= names  # C2f and SPPF
    assert {"model.4.m.0", "model.4.m.1"} <= names  # of several blocks in a row, the blocks
    assert sum(layer.macs for layer in scan.layers) >= 0.95 * scan.total_macs
    assert last_predictors(network, example) == [
        *(f"model.14.cv2.{i}.2" for i in range(2)), *(f"model.14.cv3.{i}.2" for i in range(2)), "model.14.dfl.conv",
    ]  # fmt: skip


def test_a_student_of_it_exports_reloads_and_trains(detector, tmp_path):
    network, example = detector
    scan = find_layers(network, (example,), predictors=last_predictors(network, example))
    chosen = some_selection(scan.layers, network)
    assert len(chosen) >= 5
    student = assemble(network, scan.layers, chosen)
    assert student.model[4].f == -1
    session = onnx_session(export_onnx(student, example, tmp_path / "model.onnx"))
    with torch.no_grad():
        expected = [tensor.numpy() for tensor in flat_tensors(student(example))]
    for ours, theirs in zip(run_onnx(session, example), expected, strict=True):
        assert np.allclose(ours, theirs, atol=1e-3 * np.abs(theirs).max())
    again = assemble(network, scan.layers, chosen)
    again.load_state_dict(student.state_dict())
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    images = torch.randn(40, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    split = from_arrays(images, torch.zeros(40, 0, 6), None)
    data = Data(train=split.part(np.arange(32)), validation=split.part(np.arange(32, 36)), test=split, classes=None)
    task = Detection(make_decoder("yolo", (64, 64)), labelled=False)
    setup = TrainingSetup(
        teacher=network, data=data, task=task, settings=FineTuning(epochs=2.5, batch_size=8), group=SingleProcess()
    )
    curve = finetune(student, setup, checkpoint=tmp_path / "training.pt")  # ten steps, in evaluation mode
    assert all(np.isfinite(row.train_loss) for row in curve[1:])
    assert curve[-1].train_loss < curve[1].train_loss
    assert before.keys() == student.state_dict().keys()


@pytest.mark.parametrize(
    ("name", "decode", "share"),
    [
        ("ssdlite320_mobilenet_v3_large", "ssd", 0.95),
        pytest.param("retinanet_resnet50_fpn", "retinanet", 0.95, marks=pytest.mark.slow),
    ],
)
def test_torchvisions_detectors_give_what_their_heads_give(name, decode, share):
    import_torchvision()
    size = {"image_size": 128} if decode == "retinanet" else {}
    teacher = lana.load_teacher(f"torchvision:{name}", pretrained=False, **size)
    task = make_task("detection", teacher, decode)
    with torch.no_grad():
        decoded = task.decoder(teacher.module(teacher.example()))
    assert decoded.boxes.shape == (1, decoded.scores.shape[1], 4)
    assert decoded.scores.shape[2] == (90 if decode == "ssd" else 91)
    assert decoded.boxes.isfinite().all()
    scan = find_layers(teacher.module, (teacher.example(),))
    assert sum(layer.macs for layer in scan.layers) >= share * scan.total_macs


class Transformer(nn.Module):
    """DETR in small: a convolutional trunk, an encoder, queries that a decoder turns into classes and boxes."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 32, 8, 8), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1))
        self.encoder = nn.Sequential(*(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True) for _ in range(2)))
        self.decoder = nn.TransformerDecoderLayer(32, 4, 64, batch_first=True)
        self.queries = nn.Parameter(torch.randn(1, 12, 32))
        self.classes, self.boxes = nn.Linear(32, 6), nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, x):
        memory = self.encoder(self.trunk(x).flatten(2).transpose(1, 2))
        found = self.decoder(self.queries.expand(len(x), -1, -1), memory)
        return {"pred_logits": self.classes(found), "pred_boxes": self.boxes(found).sigmoid()}


def test_a_detr_has_layers_and_its_outputs_keep_their_names(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, example = Transformer().eval(), torch.randn(2, 3, 64, 64)
    predictors = last_predictors(network, example)
    assert predictors == ["boxes.2", "classes"]
    scan = find_layers(network, (example,), predictors=predictors)
    assert {"encoder.0", "encoder.1"} <= {layer.name for layer in scan.layers}
    student = assemble(network, scan.layers, some_selection(scan.layers, network))
    session = onnx_session(export_onnx(student, example, tmp_path / "model.onnx"))
    assert [output.name for output in session.get_outputs()] == ["pred_logits", "pred_boxes"]
    decoded = make_decoder("detr", (64, 64))(student(example))
    assert (decoded.boxes.shape, decoded.scores.shape) == ((2, 12, 4), (2, 12, 5))


class Wrapped(nn.Module):
    """A residual block as Transformers writes it: one working child, a chain, and the shortcut around it."""

    def __init__(self, channels):
        super().__init__()
        self.shortcut = nn.Identity()
        self.layer = nn.Sequential(Conv(channels, channels, 3), Conv(channels, channels, 3, act=False))
        self.activation = nn.ReLU()

    def forward(self, x):
        return self.activation(self.layer(x) + self.shortcut(x))


class Stage(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.layers = nn.Sequential(Wrapped(channels), Wrapped(channels))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


def test_stages_of_blocks_with_one_working_child_are_looked_into():
    network = nn.Sequential(Conv(3, 8, 3), Stage(8), Conv(8, 16, 3, 2), Stage(16), nn.Conv2d(16, 4, 1)).eval()
    scan = find_layers(network, (torch.randn(1, 3, 16, 16),))
    assert [layer.name for layer in scan.layers] == [
        "0", "1.layers.0", "1.layers.1", "2", "3.layers.0", "3.layers.1", "4",
    ]  # fmt: skip
