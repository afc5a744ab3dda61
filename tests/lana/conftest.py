"""The bundled example, loaded once."""

import pytest
import torch

from lana.data.loading import load_data
from lana.evaluation.metrics import evaluate_module
from lana.evaluation.task import Classification
from lana.models.teacher import load_teacher
from lana.networks.layers import find_layers

torch.set_num_threads(1)  # a second worker has the other processor


@pytest.fixture(scope="session")
def digits_teacher():
    return load_teacher("digits-resnet")


@pytest.fixture(scope="session")
def digits_data(digits_teacher):
    return load_data("digits", digits_teacher)


@pytest.fixture(scope="session")
def digits_scan(digits_teacher):
    return find_layers(digits_teacher.module, (digits_teacher.example(),))


@pytest.fixture(scope="session")
def accuracy():
    return lambda module, split: evaluate_module(module, split, Classification()).metric
