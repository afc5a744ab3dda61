"""Two processes that train as a group: they end alike, and as one process would."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from group_worker import train

from lana.config.recipe import Recipe
from lana.errors import UserError
from lana.training.distributed import SingleProcess
from lana.training.launch import finetune_in_group


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """What each of two processes ended with: weights and curves of three trainings."""
    pytest.importorskip("accelerate", reason="DID NOT RUN: Accelerate is not installed")
    folder = tmp_path_factory.mktemp("group")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = Path(__file__).with_name("group_worker.py")
    command = [sys.executable, *launch, str(script), str(folder), json.dumps({"epochs": 3})]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{index}of2.pt") for index in range(2)]


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_both_end_with_the_same_weights_and_curve(ended):
    for name, (weights, curve) in ended[0].items():
        others, other_curve = ended[1][name]
        assert same(weights, others), name
        assert str(curve) == str(other_curve)
        assert curve[-1]["validation_metric"] > curve[0]["validation_metric"]


def test_interrupted_and_resumed_they_end_the_same(ended):
    assert same(ended[0]["whole"][0], ended[0]["resumed"][0])


def test_they_end_where_one_process_does(ended, tmp_path):
    """Without BatchNorm and dropout the mean of two half batches' gradients is the gradient of the batch."""
    weights, curve = train(SingleProcess(), tmp_path, plain=True, epochs=3)
    of_group, their_curve = ended[0]["plain"]
    for name, value in weights.items():
        assert torch.allclose(value, of_group[name], atol=1e-4), name
    assert curve[-1]["train_loss"] == pytest.approx(their_curve[-1]["train_loss"], rel=1e-3)


def test_shares_of_a_batch_are_the_batch(digits_data):
    whole = list(digits_data.train.epoch(64, seed=3))
    shares = [list(digits_data.train.epoch(64, seed=3, share=(part, 2))) for part in range(2)]
    for (inputs, labels), *parts in zip(whole, *shares, strict=True):
        for part, (own_inputs, own_labels) in enumerate(parts):
            assert torch.equal(own_inputs, inputs[part::2])
            assert torch.equal(own_labels, labels[part::2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"processes": 3, "finetune_batch": 64}, "cannot be divided among --processes 3. Give a multiple, such as 66"),
        ({"processes": 64, "device": "cuda"}, "each process needs one"),
    ],
)
def test_what_cannot_be_done_together_is_told(tmp_path, options, message):
    pytest.importorskip("accelerate", reason="DID NOT RUN: Accelerate is not installed")
    with pytest.raises(UserError, match=message):
        finetune_in_group(tmp_path, Recipe(**options))


def test_without_accelerate_the_remedy_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[gpu\]'"):
        finetune_in_group(tmp_path, Recipe(processes=2))
