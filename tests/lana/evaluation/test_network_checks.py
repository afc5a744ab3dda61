"""Networks that measure as one and run as another, or cannot learn: told before there is work to lose."""

import copy
import dataclasses
import logging

import pytest
import torch
from torch import nn

from lana.config.options import FineTuning
from lana.data.split import Data, from_arrays
from lana.errors import UserError
from lana.evaluation.checks import check_labels
from lana.evaluation.network_checks import check_batches, check_gradients, check_layers, check_logits
from lana.evaluation.task import Classification, Segmentation
from lana.models.teacher import Teacher


class OverWholeInput(nn.Module):
    def forward(self, x):
        return (x - x.mean()) / x.std()


class AcrossExamples(nn.Module):
    def forward(self, x):
        return nn.functional.cosine_similarity(x[:, None], x[None], dim=2).softmax(1) @ x


class Memory(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        self.seen += x.abs().mean()
        return x + self.seen


class AlwaysTrains(nn.Sequential):
    def train(self, mode=True):
        return super().train(True)


class Dropping(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x)


class FixedBatch(nn.Module):
    def forward(self, x):
        return x.view(1, 10)


def ending_in(teacher, *parts):
    return dataclasses.replace(teacher, module=nn.Sequential(teacher.module, *parts).eval())


@pytest.fixture
def of_its_batch(digits_teacher):
    """The digits network without running statistics."""
    module = copy.deepcopy(digits_teacher.module)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.track_running_stats, part.running_mean, part.running_var = False, None, None
    return dataclasses.replace(digits_teacher, module=module)


def test_an_example_counts_by_itself(digits_teacher, digits_data, of_its_batch):
    check_batches(digits_teacher, digits_data)
    with pytest.raises(UserError, match=r"digits-resnet gives an example another output within a batch than alone"):
        check_batches(of_its_batch, digits_data)


@pytest.mark.parametrize("part", [OverWholeInput(), AcrossExamples()])
def test_whatever_looks_at_other_examples_is_refused(digits_teacher, digits_data, part):
    with pytest.raises(UserError, match=r"another output within a batch than alone"):
        check_batches(ending_in(digits_teacher, part), digits_data)


def test_a_part_that_stays_in_training_mode_is_named(digits_teacher, digits_data):
    module = nn.Sequential(AlwaysTrains(nn.BatchNorm2d(1)), digits_teacher.module)
    with pytest.raises(UserError, match=r"within a batch .* After eval\(\) these are in training mode: 0, 0\.0\. See"):
        check_batches(dataclasses.replace(digits_teacher, module=module), digits_data)


@pytest.mark.parametrize("part", [Memory(), Dropping(), AlwaysTrains(nn.Dropout())])
def test_an_output_that_changes_from_call_to_call_is_refused(digits_teacher, digits_data, part):
    before = copy.deepcopy(part.state_dict())
    with pytest.raises(UserError, match=r"other outputs when it is called again on the same examples"):
        check_batches(ending_in(digits_teacher, part), digits_data)
    assert part.state_dict() == before


def test_a_network_of_one_batch_alone_is_told(digits_teacher, digits_data):
    with pytest.raises(UserError, match=r"fails on 4 real examples \(RuntimeError: shape .*batches of any size"):
        check_batches(ending_in(digits_teacher, FixedBatch()), digits_data)


class OwnTask(Classification):
    """Reads probabilities."""


def test_logits_and_logarithms_of_probabilities_pass(digits_teacher, digits_data):
    check_logits(digits_teacher, digits_data, Classification())
    check_logits(ending_in(digits_teacher, nn.LogSoftmax(1)), digits_data, Classification())
    check_logits(ending_in(digits_teacher, nn.Softmax(1)), digits_data, OwnTask())
    inputs, _ = next(digits_data.test.batches(8))
    logits = digits_teacher.module(inputs)
    other = logits.roll(1, 1)
    distance = Classification().distance
    assert torch.allclose(distance(other, logits), distance(other.log_softmax(1), logits.log_softmax(1)), atol=1e-4)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([nn.Softmax(1)], r"between 0 and 1 and sum to 1 on real .*Leave out the softmax .*return the logarithm"),
        ([nn.Sigmoid()], r"between 0 and 1 on real examples: .*Leave out the sigmoid or softmax at its end\. Other"),
    ],
)
def test_probabilities_are_not_taken_for_logits(digits_teacher, digits_data, parts, message):
    with pytest.raises(UserError, match=message):
        check_logits(ending_in(digits_teacher, *parts), digits_data, Classification())


@pytest.mark.parametrize("last", [nn.Softmax(1), nn.Softmax(-1), nn.Sigmoid()])
def test_nor_are_maps_of_probabilities(last):
    split = from_arrays(torch.randn(8, 1, 6, 6), torch.zeros(8, 6, 6, dtype=torch.long), None)
    module = nn.Sequential(nn.Conv2d(1, 3, 1), last)
    teacher = Teacher(module=module, reference="maps", weights=None, input_shape=(1, 6, 6), preprocessing=None)
    with pytest.raises(UserError, match=r"The outputs of maps lie between 0 and 1"):
        check_logits(teacher, Data(train=split, validation=split, test=split, classes=None), Segmentation())


def test_a_single_sigmoid_is_told_what_to_give(digits_teacher, digits_data):
    with pytest.raises(UserError, match=r"one number an example, as of a single sigmoid\. Expected a logit for each"):
        check_labels(ending_in(digits_teacher, nn.Linear(10, 1), nn.Sigmoid()), digits_data, Classification())


class NoGradients(nn.Sequential):
    forward = torch.no_grad()(nn.Sequential.forward)


class Inference(nn.Sequential):
    forward = torch.inference_mode()(nn.Sequential.forward)


class FailsInTraining(nn.Module):
    def forward(self, x):
        if self.training:
            raise RuntimeError("no targets")
        return x


def check(module, digits_teacher, data):
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    try:
        check_gradients(dataclasses.replace(digits_teacher, module=module), data, Classification(), FineTuning())
    finally:
        after = module.state_dict()
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
        assert all(parameter.grad is None for parameter in module.parameters())


def test_a_network_that_trains_passes_and_stays_as_it_is(digits_teacher, digits_data, caplog):
    with caplog.at_level(logging.INFO):
        check(digits_teacher.module, digits_teacher, digits_data)
    assert not caplog.records


@pytest.mark.parametrize("kind", [NoGradients, Inference])
def test_a_forward_without_gradients_is_told_before_the_work(digits_teacher, digits_data, kind):
    with pytest.raises(UserError, match=r"cannot be fine-tuned: its outputs carry no gradients"):
        check(kind(digits_teacher.module).eval(), digits_teacher, digits_data)


def test_a_network_that_fails_in_training_mode_is_tuned_in_evaluation_mode(digits_teacher, digits_data, caplog):
    with caplog.at_level(logging.INFO):
        check(nn.Sequential(digits_teacher.module, FailsInTraining()).eval(), digits_teacher, digits_data)
    assert "returns something else in training mode. It is tuned in evaluation mode" in caplog.text


def test_what_no_gradient_reaches_is_told(digits_teacher, digits_data, caplog):
    module = nn.Sequential(NoGradients(digits_teacher.module), nn.Linear(10, 10)).eval()
    count = sum(parameter.numel() for parameter in digits_teacher.module.parameters())
    with caplog.at_level(logging.INFO):
        check(module, digits_teacher, digits_data)
    assert f"Fine-tuning leaves {count} of the {count + 110} parameters of digits-resnet as they are" in caplog.text


def test_a_layer_that_stops_gradients_is_named(digits_teacher, digits_data):
    module = copy.deepcopy(digits_teacher.module)
    module.blocks[1] = NoGradients(module.blocks[1]).eval()
    teacher = dataclasses.replace(digits_teacher, module=module)
    with pytest.raises(UserError, match=r"^blocks\.1 of digits-resnet cannot be trained"):
        check_gradients(teacher, digits_data, Classification(), FineTuning(), ["blocks.0", "blocks.1", "blocks.2"])
    with pytest.raises(UserError, match=r"^blocks\.1 of digits-resnet cannot be trained"):  # nor distilled
        check_layers(teacher, digits_data, ["blocks.0", "blocks.1", "blocks.2"])
    check_layers(teacher, digits_data, ["blocks.0", "blocks.2"])
