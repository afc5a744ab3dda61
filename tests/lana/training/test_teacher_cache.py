import dataclasses
from typing import NamedTuple

import pytest
import torch
from small_training import network, setup_of
from torch import nn

from lana.config.options import FineTuning
from lana.training.finetuning import epoch_batches, finetune


def test_the_teacher_computes_its_outputs_once(teacher, data, tmp_path):
    calls = []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    settings = FineTuning(epochs=2, lr=1e-2, batch_size=50)

    def tuned(name, cached):
        student = network(1)
        finetune(student, setup_of(teacher, data, settings, cached), checkpoint=tmp_path / name)
        return student.state_dict(), len(calls)

    plain, _ = tuned("a", None)
    first, before = tuned("b", tmp_path / "outputs")
    second, after = tuned("c", tmp_path / "outputs")
    assert before == after > 0
    for name, value in plain.items():
        assert torch.equal(value, first[name]), name
        assert torch.equal(value, second[name]), name


@pytest.mark.parametrize("limit", ["MAX_EPOCH_BYTES", "MAX_FOLDER_BYTES"])
def test_outputs_that_are_too_large_are_not_kept(teacher, data, tmp_path, monkeypatch, limit):
    monkeypatch.setattr(f"lana.training.teacher_cache.{limit}", 100)
    settings = FineTuning(epochs=1, batch_size=50)
    finetune(network(1), setup_of(teacher, data, settings, tmp_path / "outputs"), checkpoint=tmp_path / "c")
    assert not (tmp_path / "outputs").exists()


def test_outputs_are_kept_while_there_is_room(teacher, data, tmp_path, monkeypatch):
    """Room for one epoch's file and half of the next."""
    folder = tmp_path / "outputs"

    def kept(name, epochs):
        settings = FineTuning(epochs=epochs, batch_size=50)
        finetune(network(1), setup_of(teacher, data, settings, folder), checkpoint=tmp_path / name)
        return list(folder.glob("*.pt"))

    (only,) = kept("a", 1)
    monkeypatch.setattr("lana.training.teacher_cache.MAX_FOLDER_BYTES", int(1.5 * only.stat().st_size))
    assert kept("b", 3) == [only]


class Result(NamedTuple):
    logits: torch.Tensor


class Named(nn.Module):
    """A teacher that returns a record of a class of its own."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return Result(self.network(x))


def test_outputs_of_a_class_of_their_own_are_not_cached(teacher, data, tmp_path):
    settings = FineTuning(epochs=1, batch_size=50)
    for name in ("a", "b"):
        finetune(network(1), setup_of(Named(teacher), data, settings, tmp_path / "outputs"), checkpoint=tmp_path / name)
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("change", [{"labels": None}, {"varies": True}])
def test_outputs_on_splits_that_may_vary_are_not_cached(teacher, data, tmp_path, change):
    varying = dataclasses.replace(data, train=dataclasses.replace(data.train, **change))
    settings = FineTuning(epochs=1, batch_size=50)
    for given, kept in ((varying, False), (data, True)):
        for _ in epoch_batches(setup_of(teacher, given, settings, tmp_path / "outputs"), 0):
            pass
        assert (tmp_path / "outputs").exists() == kept
