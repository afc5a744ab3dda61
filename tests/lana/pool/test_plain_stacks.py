"""Plain stacks: convolutions, norms and activations side by side are spanned, and pruned between."""

import dataclasses
import json

import pytest
import torch
from torch import nn

from lana.config.recipe import Recipe
from lana.data.split import from_arrays
from lana.evaluation.distance import DistanceToTeacher
from lana.evaluation.task import Classification
from lana.models.student import assemble, build_operation, own_module
from lana.models.teacher import Teacher
from lana.networks.layers import Layer, find_layers
from lana.networks.mixed_precision import CPU_FP32
from lana.operations.presets import offered
from lana.pool.explanation import without_pruned
from lana.pool.scoring import Scorer
from lana.runs.context import layers_of

EXAMPLE = torch.randn(2, 8, 12, 12, generator=torch.Generator().manual_seed(0))


class Stack(nn.Module):
    """Pointwise, depthwise, pointwise, as in MobileNetV1; `tap` reads what the second activation gives."""

    def __init__(self, tap=False):
        super().__init__()
        torch.manual_seed(0)
        self.tap = tap
        maps = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 8, 1)
        self.features = nn.Sequential(
            *(part for one in maps for part in (one, nn.BatchNorm2d(one.out_channels), nn.ReLU(inplace=True)))
        )
        self.head = nn.Linear(8, 3)
        for part in self.features:
            if isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.bias)
                nn.init.uniform_(part.running_var, 0.5, 2)

    def forward(self, x):
        for number, part in enumerate(self.features):
            x = part(x)
            if number == 5:
                middle = x
        x = self.head(x.mean((2, 3)))
        return x + middle.mean() if self.tap else x


@pytest.fixture(scope="module")
def stack():
    return Stack().eval()


@pytest.fixture(scope="module")
def scan(stack):
    return find_layers(stack, (EXAMPLE,), max_span=3)


def test_spans_hold_what_runs_between_their_maps(scan):
    assert [layer.members for layer in scan.spans] == [
        ("features.0", "features.3"),
        ("features.0", "features.3", "features.6"),
        ("features.3", "features.6"),
    ]
    assert scan.spans[1].parts == tuple(f"features.{number}" for number in range(7))
    assert scan.spans[2].parts == tuple(f"features.{number}" for number in range(3, 7))
    assert Layer.from_json(json.loads(json.dumps(dataclasses.asdict(scan.spans[1])))) == scan.spans[1]


def test_what_is_read_elsewhere_is_no_inside():
    scan = find_layers(Stack(tap=True).eval(), (EXAMPLE,), max_span=3)
    assert [span.name for span in scan.spans] == ["features.0+features.3"]
    (unlinked,) = (one for one in scan.unlinked if one.name == "features.3 and features.6")
    assert unlinked.reason == "the output of the first goes elsewhere too"


def test_channels_between_two_maps_are_pruned(stack, scan):
    """The student is the teacher whose pruned channels nobody reads."""
    span = scan.spans[1]
    student = assemble(stack, scan.layers + scan.spans, {span.name: "pruned_w0.5"})
    block = student.features[0]
    assert [part.out_channels for part in block if isinstance(part, nn.Conv2d)] == [8, 8, 8]
    kept = [
        next(i for i in range(16) if torch.equal(stack.features[0].weight[i], weight)) for weight in block[0].weight
    ]
    unread = Stack().eval()
    with torch.no_grad():
        unread.features[6].weight[:, [i for i in range(16) if i not in kept]] = 0
        assert torch.allclose(student(EXAMPLE), unread(EXAMPLE), atol=1e-5)


def test_operations_at_a_stack(stack, scan):
    names = {
        span.name: {one.family for one in offered(span, own_module(stack, span), "default")} for span in scan.spans
    }
    assert "pruned" in names["features.0+features.3+features.6"]
    assert "pruned" not in names["features.3+features.6"]  # the depthwise channels are the input's
    merged = build_operation(scan.spans[0], stack, "merged_w1")
    assert isinstance(merged, nn.Conv2d)
    teacher = Teacher(module=stack, reference="test", weights=None, input_shape=(8, 12, 12), preprocessing=None)
    unpruned = without_pruned(teacher, scan)
    assert unpruned.keys() >= {"features.0", "features.3", "features.6"}
    assert all(reason.endswith("spans with its neighbours are pruned") for reason in list(unpruned.values())[:3])


def test_a_span_of_a_stack_is_scored_as_the_student_that_it_makes(stack, scan, tmp_path):
    span = scan.spans[1]
    split = from_arrays(torch.randn(20, 8, 12, 12), torch.arange(20) % 3, None)
    operations = {(span.name, "pruned_w0.25"): build_operation(span, stack, "pruned_w0.25")}
    pool = [*((layer, "teacher") for layer in scan.layers), (span, "pruned_w0.25")]
    scores = Scorer(teacher=stack, split=split, task=Classification(), compute=CPU_FP32).score(
        pool, operations, path=tmp_path / "scores.csv"
    )
    (found,) = (one for one in scores if one.operation == "pruned_w0.25")
    student = assemble(stack, scan.layers + scan.spans, {span.name: "pruned_w0.25"}, operations)
    expected = DistanceToTeacher(stack, split, Classification()).measure(student).mean()
    assert found.score == pytest.approx(float(expected), rel=1e-3, abs=1e-6)


def test_a_span_without_channels_inside_is_not_offered(stack):
    teacher = Teacher(module=stack, reference="test", weights=None, input_shape=(8, 12, 12), preprocessing=None)
    spans = layers_of(teacher, Recipe().profiling).spans
    assert [span.name for span in spans] == ["features.0+features.3+features.6"]


def test_a_pruned_span_is_solved_again_on_features(stack, scan):
    span, inputs = scan.spans[1], torch.randn(40, 8, 12, 12)
    with torch.no_grad():
        target = own_module(stack, span)(inputs)
        errors = [
            float((build_operation(span, stack, "pruned_w0.5", features).eval()(inputs) - target).square().mean())
            for features in (None, (inputs, target))
        ]
    assert errors[1] < 0.8 * errors[0]
