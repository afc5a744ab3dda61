import math

import pytest
import torch
from torch import nn

from lana.errors import LanaError
from lana.training.state import TrainingState


def state_of(*metrics, epochs=1):
    """A state whose student has weight i after epoch i."""
    student = nn.Linear(1, 1, bias=False)
    state = TrainingState(student, torch.optim.SGD(student.parameters(), lr=0.1), epochs=epochs)
    with torch.no_grad():
        for module in (student, state.average):
            module.weight.fill_(0)
        state.best = {"weight": torch.zeros(1, 1)}
        state.start(metrics[0])
        for epoch, metric in enumerate(metrics[1:], start=1):
            state.average.weight.fill_(epoch)
            state.record(0.5, metric)
    return state


@pytest.mark.parametrize(
    ("metrics", "best"),
    [
        ([0.9, 0.8, 0.85], 0),
        ([0.9, 0.88, 0.89], 2),  # within what a start that knows the images by heart is ahead by
        ([0.9, 0.95, 0.92], 1),
        ([0.9, 0.95, 0.95], 2),
        ([-1.0, -1.01, -1.5], 1),
        ([0.0, 0.0], 1),
    ],
)
def test_the_best_epoch_and_the_start_only_where_none_comes_near(metrics, best):
    state = state_of(*metrics)
    assert state.best["weight"].item() == best
    assert state.start_is_best == (best == 0)


@pytest.mark.parametrize(
    ("metrics", "best"),
    [
        ([0.952, 0.956, 0.95, 0.954, 0.955], 4),  # what the first epoch still knows by heart is less than it is ahead
        ([0.8, 0.99, 0.8, 0.8, 0.8], 1),
        ([0.9, 0.88, 0.88, 0.88, 0.881], 0),
        ([0.5, 0.8, 0.9, 0.91, 0.905], 3),
    ],
)
def test_an_early_epoch_counts_for_less_than_a_late_one(metrics, best):
    assert state_of(*metrics, epochs=4).best["weight"].item() == best


def test_part_of_an_epoch_counts_in_full():
    assert state_of(0.9, 0.89, epochs=0.5).best["weight"].item() == 1


def test_patience_counts_from_the_best_whichever_it_is():
    assert state_of(0.9, 0.8, 0.8).stopped(2)
    assert not state_of(0.9, 0.8, 0.89).stopped(2)
    assert state_of(0.9, 0.95, 0.8, 0.9).stopped(2)
    assert not state_of(0.9, 0.8, 0.8).stopped(None)


def test_an_epoch_that_ruins_it_is_told_and_undone():
    state = state_of(0.9, 0.3)
    assert state.diverged
    state.restore_best()
    assert state.student.weight.item() == 0
    assert state.rate_share == 0.25
    assert not state_of(0.9, 0.8).diverged
    state.record(math.nan, 0.9)
    assert state.diverged


@pytest.mark.parametrize(
    ("metrics", "diverged"),
    [([0.9, 0.6], True), ([0.9, 0.65], False), ([-0.5, -0.2], False), ([-0.5, -5.0], True), ([0.0, 0.0], False)],
)
def test_a_loss_of_much_of_the_best_metric_is_divergence(metrics, diverged):
    assert state_of(*metrics).diverged == diverged


def test_what_the_best_epoch_reached_is_told_in_full():
    state = state_of(0.9, 0.95, 0.85, epochs=2)
    assert state.best["weight"].item() == 1
    assert state.metric_of_best == 0.95
    assert state.best_metric < 0.95


@pytest.mark.parametrize("remembers", [False, True])
def test_a_preserved_step_leaves_no_trace(remembers):
    student = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    state = TrainingState(student, torch.optim.AdamW(student.parameters(), lr=0.1))

    def step():
        state.student(torch.randn(4, 2)).square().sum().backward()
        state.optimizer.step()
        state.update_average(0.5)

    if remembers:
        step()
    kept = [*student.state_dict().values(), *state.average.state_dict().values()]
    before, momenta = [tensor.clone() for tensor in kept], state.momenta()
    before_momenta = [tensor.clone() for tensor in momenta]
    with state.preserved():
        step()
        assert not torch.equal(kept[0], before[0])
    assert all(map(torch.equal, kept, before))
    assert all(map(torch.equal, momenta, before_momenta))
    assert all(p.grad is None for p in student.parameters())
    if not remembers:
        assert state.momenta()
        assert not any(tensor.any() for tensor in state.momenta())


def test_a_share_may_be_a_tensor():
    for share in (0.25, torch.tensor(0.25)):
        state = state_of(0.9)
        with torch.no_grad():
            state.student.weight.fill_(2)
        state.update_average(share)
        assert state.average.weight.item() == 0.5


class Counts(nn.Module):
    """Replaces its buffer instead of changing it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.body = nn.Linear(1, 1)

    def forward(self, x):
        self.seen = self.seen + 1
        return self.body(x)


def test_a_buffer_that_is_replaced_comes_back_and_is_told():
    student = Counts()
    state, before = TrainingState(student, torch.optim.SGD(student.parameters(), lr=0.1)), student.seen
    with pytest.raises(LanaError, match="replaced"), state.preserved():
        student(torch.zeros(1, 1))
    assert student.seen is before
    assert before == 0


def test_momenta_are_laid_out_as_the_weights_they_are_of(tmp_path):
    def state(layout):
        torch.manual_seed(0)
        student = nn.Conv2d(3, 4, 3).to(memory_format=layout)
        return TrainingState(student, torch.optim.AdamW(student.parameters(), lr=0.1, fused=True))

    def step(state):
        state.optimizer.zero_grad()
        state.student(torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))).square().sum().backward()
        state.optimizer.step()
        return state.student.weight.detach().clone()

    there, here = state(torch.channels_last), state(torch.contiguous_format)
    step(there)
    there.save(tmp_path / "c.pt", {})
    here.resume(tmp_path / "c.pt", {})
    torch.testing.assert_close(step(here), step(there))
