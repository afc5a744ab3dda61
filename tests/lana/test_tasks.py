"""Networks that give more than a vector of logits, from end to end: maps of classes, a dict with a task of its own."""

import contextlib
import json
import types

import numpy as np
import pytest
import torch
from torch import nn

import lana
from lana.config.recipe import Recipe
from lana.data.loading import load_data
from lana.errors import UserError
from lana.evaluation.checks import check_teacher
from lana.evaluation.metrics import Evaluation

NETWORK = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x):
        return x + self.two(torch.relu(self.one(x)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1)
        self.blocks = nn.Sequential(Block(), Block(), Block())
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x):
        features = self.blocks(self.stem(x))
        return {"out": self.head(features), "levels": [features, features.mean((2, 3))]}


def build():
    return Net()


class Levels:
    \"\"\"The feature maps themselves are what counts.\"\"\"

    metric_name = "correlation"

    def loss(self, output, labels):
        return self.distance(output, {"levels": [torch.zeros_like(level) for level in output["levels"]]})

    def metric(self, output, labels):
        return (output["out"].argmax(1) == labels).float().flatten(1).mean(1)

    def distance(self, output, teacher_output):
        pairs = zip(output["levels"], teacher_output["levels"])
        return sum((ours - theirs).square().flatten(1).mean(1) for ours, theirs in pairs)

    def chance(self, output):
        return 0.5
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A network trained to find bright places, and its data: which pixels belong to a bright patch."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "net.py").write_text(NETWORK)
    generator = np.random.default_rng(0)
    labels = np.kron(generator.integers(0, 2, (160, 4, 4)), np.ones((1, 3, 3))).astype(np.int64)
    images = (labels + 0.5 * generator.standard_normal(labels.shape)).astype(np.float32)[:, None]
    np.savez(folder / "data.npz", x_train=images[:120], y_train=labels[:120], x_test=images[120:], y_test=labels[120:])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = lana.load_teacher(f"{folder}/net.py:build", input_shape=(1, 12, 12)).module.train()
        optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
        for _ in range(40):
            out = network(torch.from_numpy(images[:120]))["out"]
            loss = nn.functional.cross_entropy(out, torch.from_numpy(labels[:120]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.save(network.state_dict(), folder / "net.pt")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("task", ["segmentation", "net.py:Levels"])
def test_from_end_to_end(task, place):
    out = place / task.replace(":", "-")
    recipe = Recipe(
        model=f"{place}/net.py:build",
        weights=f"{place}/net.pt",
        input_shape=(1, 12, 12),
        data=f"npz:{place}/data.npz",
        task=task if task == "segmentation" else f"{place}/{task}",
        budget="0.8x",
        layers="blocks.*",
        pool="linear_k3,pruned_w0.5",
        distill_images=64,
        calibrate=8,
        distill_epochs=1.0,
        score_images=32,
        proposals=1,
        epochs=1.0,
    )
    summary = lana.compress(recipe, out=out, quiet=True)
    assert summary.changed
    assert summary.metric == ("pixel accuracy" if task == "segmentation" else "correlation")
    assert summary.student_accuracy > 0.8
    folder = out / "students" / "0.8x"
    output = lana.load_student(folder)(torch.randn(2, 1, 12, 12))
    assert output["out"].shape == (2, 2, 12, 12)
    assert [level.shape for level in output["levels"]] == [(2, 16, 12, 12), (2, 16)]
    assert json.loads((folder / "summary.json").read_text())["onnx_max_relative_error"] < 1e-4
    program = torch.export.load(folder / "model.pt2").module()
    assert torch.allclose(
        program(torch.ones(1, 1, 12, 12))["out"], lana.load_student(folder)(torch.ones(1, 1, 12, 12))["out"], atol=1e-5
    )


@pytest.mark.parametrize(
    ("metric", "chance", "good"),
    [
        (0.9, 0.1, True),
        (0.12, 0.1, False),
        (0.6, 0.5, True),  # of two classes, on a thousand examples
        (0.54, 0.5, False),
        (-0.3, -1.0, True),
        (-1.2, -1.0, False),
        (31.0, 5.0, True),
        (4.0, 5.0, False),
    ],
)
def test_a_teacher_is_better_than_a_guess_by_any_metric(place, metric, chance, good):
    teacher = lana.load_teacher(f"{place}/net.py:build", input_shape=(1, 12, 12))
    data = load_data(f"npz:{place}/data.npz", teacher)
    task = types.SimpleNamespace(chance=lambda output: chance, metric_name="metric")
    expected = contextlib.nullcontext() if good else pytest.raises(UserError, match="a guess has")
    with expected:
        check_teacher(Evaluation(metric=metric, loss=0.0, examples=1000), teacher, data, task)
