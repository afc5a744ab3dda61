import copy

import pytest
import torch
from small_training import network, setup_of

from lana.config.options import FineTuning
from lana.data.split import Data, from_arrays
from lana.training.finetuning import finetune


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(600, 6, generator=generator)
    labels = inputs[:, :3].argmax(1)
    parts = [from_arrays(inputs[i:j], labels[i:j], None) for i, j in ((0, 400), (400, 500), (500, 600))]
    return Data(train=parts[0], validation=parts[1], test=parts[2], classes=None)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    module = network(0)
    settings = FineTuning(epochs=20, lr=1e-2, distillation=0.0, batch_size=50)
    checkpoint = tmp_path_factory.mktemp("teacher") / "teacher.pt"
    finetune(module, setup_of(copy.deepcopy(module), data, settings), checkpoint=checkpoint)
    return module


@pytest.fixture
def teacher(trained):
    torch.manual_seed(0)
    return copy.deepcopy(trained)
