import copy
import dataclasses
import math
import statistics

import pytest
import torch
from torch import nn

from lana.models.student import build_operation, own_module
from lana.networks.mixed_precision import CPU_FP32, Compute
from lana.operations.presets import offered
from lana.pool.block_training import (
    LEARNING_RATES,
    BlockTraining,
    Distillation,
    errors_of,
    search_learning_rates,
    stop_dominated,
    train,
)
from lana.pool.distillation import distill, groups_of, load_pool, read_results

ON_CPU = Distillation(batch_size=32, compute=CPU_FP32)
AUTO = Compute("cpu", "auto")


@pytest.fixture(scope="module")
def pool(digits_scan):
    layer = next(layer for layer in digits_scan.layers if layer.input_shape == layer.output_shape)
    return [(layer, name) for name in ("cb_res_k3_w0.5", "cb_bottle_k3_w0.5", "linear_k1", "pruned_w0.5")]


def block(layer, name, loss, latency_ms, **more):
    return BlockTraining(layer=layer, operation=name, module=nn.Identity(), loss=loss, latency_ms=latency_ms, **more)


def test_every_operation_learns_its_layer_and_is_loaded_again(digits_teacher, digits_data, pool, tmp_path):
    settings = Distillation(epochs=2, images=256, batch_size=16, compute=AUTO)
    results = distill(digits_teacher.module, pool, digits_data, tmp_path, settings)
    assert all(r.end_error <= r.start_error and not r.dropped for r in results)
    assert sum(r.end_error < 0.9 * r.start_error for r in results) >= 2
    operations = load_pool(digits_teacher.module, pool, tmp_path)
    blocks = [BlockTraining(layer=layer, operation=name, module=operations[layer.name, name]) for layer, name in pool]
    again = errors_of(digits_teacher.module, blocks, digits_data.validation.subset(256, 0), "cpu")
    for found, one in zip(results, blocks, strict=True):
        assert again[one.name] == pytest.approx(found.end_error, rel=1e-3)


@pytest.mark.gpu
def test_a_gpu_begins_where_the_cpu_does_and_learns_as_well(digits_teacher, digits_data, digits_scan, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("DID NOT RUN: there is no CUDA device")
    at = {**{layer.name: layer for layer in digits_scan.layers}, **{span.name: span for span in digits_scan.spans}}
    pool = [
        (layer, operation.name)
        for layer in at.values()
        for operation in offered(layer, own_module(digits_teacher.module, layer), "default")
        if operation.name not in ("teacher", "identity")
    ]
    settings = Distillation(epochs=1, images=256, batch_size=32, compute=CPU_FP32)
    on_cuda = dataclasses.replace(settings, compute=Compute("cuda"))
    here = distill(digits_teacher.module, pool, digits_data, tmp_path / "cpu", settings)
    there = distill(digits_teacher.module, pool, digits_data, tmp_path / "cuda", on_cuda)
    for ours, theirs in zip(here, there, strict=True):
        assert theirs.start_error == pytest.approx(ours.start_error, rel=0.02, abs=1e-4)
        assert theirs.end_error <= theirs.start_error
    both = [(ours.end_error, theirs.end_error) for ours, theirs in zip(here, there, strict=True)]
    assert statistics.median(theirs / ours for ours, theirs in both if ours > 0) == pytest.approx(1, abs=0.1)


def test_a_short_training_is_not_taken_for_a_converged_one(digits_teacher, digits_data, pool, tmp_path):
    layer, name = pool[3]
    module = build_operation(layer, digits_teacher.module, name)
    block = BlockTraining(
        layer=layer, operation=name, module=module, start_error=1.0, started_from=copy.deepcopy(module.state_dict())
    )
    train(digits_teacher.module, [block], digits_data.train, 40, ON_CPU, checkpoint=tmp_path / "at")
    assert not block.converged
    assert block.loss < 0.9 * block.first_loss


def test_an_operation_that_is_added_later_trains_alone(digits_teacher, digits_data, pool, tmp_path):
    settings = Distillation(epochs=0.5, images=128, batch_size=32, compute=AUTO)
    first = distill(digits_teacher.module, pool[:2], digits_data, tmp_path, settings)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    both = distill(digits_teacher.module, pool[:3], digits_data, tmp_path, settings)
    assert both[:2] == first
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_the_teacher_is_not_changed(digits_teacher, digits_data, pool, tmp_path):
    before = {name: value.clone() for name, value in digits_teacher.module.state_dict().items()}
    settings = Distillation(epochs=0.5, images=128, batch_size=32, compute=AUTO)
    distill(digits_teacher.module, pool[:2], digits_data, tmp_path, settings)
    assert all(torch.equal(value, before[name]) for name, value in digits_teacher.module.state_dict().items())


def test_a_killed_training_ends_with_the_same_weights(digits_teacher, digits_data, pool, tmp_path, monkeypatch):
    monkeypatch.setattr("lana.pool.block_training.CHECKPOINT_EVERY_S", 0.0)
    layer, name = pool[0]

    def trained(checkpoint, killed_at=None):
        torch.manual_seed(0)
        made = BlockTraining(layer=layer, operation=name, module=build_operation(layer, digits_teacher.module, name))
        made.start_error = 1.0
        split = digits_data.train.subset(128, 0)

        def on_step(step):
            if step == killed_at:
                raise KeyboardInterrupt

        train(digits_teacher.module, [made], split, 8, ON_CPU, checkpoint=checkpoint, on_step=on_step)
        return made.module.state_dict()

    whole = trained(tmp_path / "whole.pt")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "killed.pt", killed_at=5)
    resumed = trained(tmp_path / "killed.pt")
    assert all(torch.equal(resumed[key], value) for key, value in whole.items())


def test_dominated_operations_are_stopped_with_a_reason(digits_scan):
    layer = digits_scan.layers[1]
    good, slow, bad = block(layer, "good", 0.1, 1.0), block(layer, "slow", 0.3, 1.0), block(layer, "fast", 0.3, 0.5)
    stop_dominated([good, slow, bad], ratio=1.5)
    assert not good.dropped
    assert "good is no slower and learns better" in slow.dropped
    assert not bad.dropped  # it is faster: a step of its own


def test_what_is_worse_than_skipping_is_stopped(digits_scan):
    layer = digits_scan.layers[1]
    poor, fine = block(layer, "poor", 0.5, 1.0, skip_error=0.2), block(layer, "fine", 0.25, 2.0, skip_error=0.2)
    stop_dominated([poor, fine], ratio=1.5)
    assert "skipping the layer has a lower error" in poor.dropped
    assert not fine.dropped


def test_operations_of_unknown_latency_dominate_nothing(digits_scan):
    layer = digits_scan.layers[1]
    blocks = [block(layer, "one", 0.1, math.nan), block(layer, "other", 0.9, math.nan)]
    stop_dominated(blocks, ratio=1.2)
    assert not any(one.dropped for one in blocks)


def test_the_rate_is_found_for_each_operation(digits_teacher, digits_data, pool):
    layer = pool[0][0]
    scratch = BlockTraining(
        layer=layer, operation="a", module=build_operation(layer, digits_teacher.module, "cb_res_k3_w0.5")
    )
    at_its_optimum = BlockTraining(
        layer=layer, operation="b", module=build_operation(layer, digits_teacher.module, "teacher")
    )
    for one in (scratch, at_its_optimum):
        one.start_error, one.started_from = 1.0, one.module.state_dict()
    split = digits_data.train.subset(256, 0)
    search_learning_rates(digits_teacher.module, [scratch, at_its_optimum], split, ON_CPU)
    assert scratch.peak_lr > at_its_optimum.peak_lr == min(LEARNING_RATES)


def test_a_diverging_operation_is_restarted_then_dropped(digits_teacher, digits_data, pool, tmp_path):
    class Explodes(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1e6))

        def forward(self, x):
            return x * self.scale

    module = Explodes()
    made = BlockTraining(
        layer=pool[0][0], operation="wild", module=module, start_error=1.0, started_from=module.state_dict()
    )
    train(digits_teacher.module, [made], digits_data.train.subset(128, 0), 4, ON_CPU)
    assert made.restarts == 3
    assert made.dropped == "its training diverged three times"


def test_dropped_operations_have_no_file_and_say_why(digits_teacher, digits_data, pool, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "lana.pool.block_training.DOMINANCE_RATIOS", (0.0, 0.0)
    )  # whatever is no faster than another is stopped
    latency = {(layer.name, name): float(place) for place, (layer, name) in enumerate(pool)}
    settings = Distillation(epochs=1, images=128, batch_size=32, compute=AUTO)
    results = distill(digits_teacher.module, pool, digits_data, tmp_path, settings, latency_ms=latency)
    dropped = [r for r in results if r.dropped]
    assert dropped
    assert len(list(tmp_path.rglob("*.safetensors"))) == len(pool) - len(dropped)
    assert read_results(tmp_path)[dropped[0].layer, dropped[0].operation].dropped == dropped[0].dropped


def test_groups_count_the_features_of_a_layer_that_a_border_divides(digits_teacher, pool):
    """What is in one group fits, whichever layer it begins within: a call that is repeated makes the same groups."""
    batch = 64

    def bytes_of(group):
        layers = {layer.name: layer for layer, _ in group}
        features = sum(4 * batch * (math.prod(o.input_shape) + 9 * math.prod(o.output_shape)) for o in layers.values())
        built = [build_operation(layer, digits_teacher.module, name) for layer, name in group]
        return features + 16 * sum(p.numel() for module in built for p in module.parameters())

    limit = bytes_of(pool) - 1
    settings = Distillation(batch_size=batch, group_bytes=limit, compute=CPU_FP32)
    groups = groups_of(digits_teacher.module, pool, settings)
    assert [pair for group in groups for pair in group] == list(pool)
    assert len(groups) > 1
    assert all(bytes_of(group) <= limit for group in groups)
