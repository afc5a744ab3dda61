"""Every family of a pool is explained at every layer: by its operations, or by reasons."""

import torch
from kinds_of_layer import Block
from torch import nn

from lana.models.teacher import Teacher
from lana.networks.layers import find_layers
from lana.pool.candidates import planned_candidates
from lana.pool.explanation import explain


def test_explanations_offer_the_operations_of_the_plan():
    network = nn.Sequential(Block(16, 16), Block(16, 32, 2)).eval()
    teacher = Teacher(module=network, reference="none", weights=None, input_shape=(16, 8, 8), preprocessing=None)
    scan = find_layers(network, (torch.randn(1, 16, 8, 8),), max_span=2)
    explanations = explain(teacher, scan, "default")
    offered = [(one.layer, name) for one in explanations for name in one.offered]
    assert sorted(offered) == sorted(
        (layer.name, one.name) for layer, one in planned_candidates(teacher, scan, "default")
    )
    assert {one.layer for one in explanations} == {"0", "1", "0+1"}
    assert all(one.offered or one.refused for one in explanations)
    assert all(all(one.refused.values()) for one in explanations)
