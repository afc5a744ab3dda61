"""Distances saturate at that of a network that ignores its input: what is as far is offered to no selection."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from lana.data.split import from_arrays
from lana.evaluation.task import Classification
from lana.networks.mixed_precision import CPU_FP32
from lana.pool.scoring import CONSTANT, Score, Scorer, losses_of, saturation


def score(layer, operation, value):
    return Score(layer=layer, operation=operation, score=value, standard_error=0.0, task_loss=value, images=8)


def test_the_distance_of_a_constant_is_that_of_the_mean_logits():
    logits = torch.from_numpy(np.random.default_rng(0).normal(size=(300, 5))).float()
    split = from_arrays(logits, torch.zeros(300).long(), None)
    row = Scorer(teacher=nn.Identity(), split=split, task=Classification(), compute=CPU_FP32).constant()
    shown = logits.split(64)[:4]
    each = [Classification().distance(batch.mean(0, keepdim=True).expand_as(batch), batch) for batch in shown]
    assert row.score == pytest.approx(float(torch.cat(each).mean()))
    assert row.pair == CONSTANT
    assert row.images == 256


def test_what_is_as_far_is_left_out():
    rows = [score("a", "teacher", 0.0), score("a", "half", 0.5), score("a", "identity", 2.5), score("b", "half", 2.0)]
    rows.append(Score(layer="", operation="constant", score=2.0, standard_error=math.nan, task_loss=math.nan, images=8))
    assert losses_of(rows, "distance") == {("a", "teacher"): 0.0, ("a", "half"): 0.5}
    assert losses_of(rows, "task") == {("a", "teacher"): 0.0, ("a", "half"): 0.5}
    assert saturation(rows) == 2.0
    assert len(losses_of(rows[:-1], "distance")) == 4
    assert saturation(rows[:-1]) == math.inf
