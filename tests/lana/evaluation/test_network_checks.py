"""Networks that measure as one and run as another, or cannot learn: told before there is work to lose."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from lana.errors import UserError
from lana.evaluation.network_checks import check_batches


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
