import copy
import dataclasses
import math

import pytest
import torch
from torch import nn

from lana.common.files import write_records
from lana.errors import UserError
from lana.evaluation.distance import DistanceToTeacher
from lana.evaluation.task import Classification
from lana.models.student import assemble, build_operation
from lana.networks.layers import find_layers
from lana.networks.mixed_precision import CPU_FP32, Compute
from lana.pool.scoring import Score, Scorer, losses_of, read_scores


def score(teacher, pool, operations, split, path, compute=CPU_FP32):
    scorer = Scorer(teacher=teacher.module, split=split, task=Classification(), compute=compute)
    return scorer.score(pool, operations, path=path)


@pytest.fixture(scope="module")
def layers(digits_scan):
    return [layer for layer in digits_scan.layers if layer.input_shape == layer.output_shape][:2]


@pytest.fixture(scope="module")
def operations(digits_teacher, layers):
    names = ("identity", "linear_k1")
    return {(layer.name, n): build_operation(layer, digits_teacher.module, n) for layer in layers for n in names}


@pytest.fixture(scope="module")
def scored(digits_teacher, digits_data, layers, operations, tmp_path_factory):
    path = tmp_path_factory.mktemp("scores") / "scores.csv"
    pool = [(layer, name) for layer in layers for name in ("teacher", "identity", "linear_k1")]
    split = digits_data.train.subset(100, 0)
    scores = score(digits_teacher, pool, operations, split, path)
    return scores, split, path, pool


def test_a_score_is_the_distance_of_the_network_with_that_operation(scored, digits_teacher, layers, operations):
    scores, split, _, _ = scored
    distance = DistanceToTeacher(digits_teacher.module, split, Classification())
    for found in scores:
        student = assemble(digits_teacher.module, layers, {found.layer: found.operation}, operations)
        distances = distance.measure(student)
        assert found.score == pytest.approx(float(distances.mean()), rel=1e-3, abs=1e-6)
        expected_error = float(distances.std() / len(split) ** 0.5)
        assert found.standard_error == pytest.approx(expected_error, rel=1e-3, abs=1e-6)


def test_a_score_at_a_span_is_that_of_the_network_without_its_members(digits_teacher, digits_data, tmp_path):
    module = digits_teacher.module
    scan = find_layers(module, (digits_teacher.example(),), include="blocks.[0-2]", max_span=2)
    span = scan.spans[0]
    assert len(span.members) == 2
    operations = {(span.name, "linear_k1"): build_operation(span, module, "linear_k1")}
    pool = [*((layer, "teacher") for layer in scan.layers), (span, "linear_k1")]
    split = digits_data.train.subset(100, 0)
    found = score(digits_teacher, pool, operations, split, tmp_path / "s.csv")[-1]
    student = assemble(module, [*scan.layers, span], {span.name: "linear_k1"}, operations)
    distances = DistanceToTeacher(module, split, Classification()).measure(student)
    assert found.pair == (span.name, "linear_k1")
    assert found.score == pytest.approx(float(distances.mean()), rel=1e-3)


def test_a_teacher_whose_outputs_do_not_fit_runs_again(digits_teacher, digits_data, monkeypatch):
    inputs, _ = next(digits_data.train.batches(1))
    split, student = digits_data.train.subset(100, 0), nn.Sequential(nn.Flatten(), nn.Linear(inputs.numel(), 10))
    kept = DistanceToTeacher(digits_teacher.module, split, Classification())
    monkeypatch.setattr("lana.evaluation.distance.MAX_OUTPUT_BYTES", 1000)
    again = DistanceToTeacher(digits_teacher.module, split, Classification())
    assert len(kept.outputs) == 2
    assert again.outputs == []
    assert torch.equal(kept.measure(student), again.measure(student))


def test_scores_at_half_precision_are_nearly_the_same(scored, digits_teacher, operations, tmp_path):
    scores, split, _, pool = scored
    again = score(digits_teacher, pool, operations, split, tmp_path / "s.csv", Compute("cpu", "bf16"))
    for full, half in zip(scores, again, strict=True):
        assert half.score == pytest.approx(full.score, rel=0.03, abs=2e-3)
        assert half.feature_error == pytest.approx(full.feature_error, rel=0.03, abs=2e-3)
    assert any(full.score != half.score for full, half in zip(scores, again, strict=True))
    assert all(p.dtype == torch.float32 and p.is_contiguous() for p in digits_teacher.module.parameters())


def test_the_teachers_own_scores_zero_by_every_kind(scored):
    for kind in ("distance", "task", "feature"):
        losses = losses_of(scored[0], kind)
        assert all(losses[layer, name] == 0.0 for layer, name in losses if name == "teacher")
        assert any(loss > 0.0 for loss in losses.values())


def test_the_feature_error_is_that_of_the_layers_output(scored, digits_teacher, layers):
    scores, split, _, _ = scored
    inputs = torch.cat([batch for batch, _ in split.batches(250)])
    kept = {}
    module = copy.deepcopy(digits_teacher.module).eval()
    place = module.get_submodule(layers[0].name)
    place.register_forward_hook(lambda _, args, output: kept.update(given=args[0].clone(), output=output.clone()))
    with torch.no_grad():
        module(inputs)
    skipped = float((kept["given"] - kept["output"]).square().sum() / kept["output"].square().sum())
    found = next(s for s in scores if s.layer == layers[0].name and s.operation == "identity")
    assert found.feature_error == pytest.approx(skipped, rel=1e-3)


def test_scores_that_are_there_are_not_taken_again(scored, digits_teacher, digits_data):
    scores, split, path, pool = scored
    before = path.read_bytes()
    again = score(digits_teacher, pool, {}, split, path)  # no operation to run
    assert [one.score for one in again] == pytest.approx([one.score for one in scores])
    assert path.read_bytes() == before


def test_a_kind_that_was_not_taken_is_told(scored):
    from dataclasses import replace

    without = [replace(one, task_loss=math.nan) for one in read_scores(scored[2])]
    with pytest.raises(UserError, match="--score-by task: this run has no task_loss"):
        losses_of(without, "task")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--refine", "-1"), "--refine -1: expected at least 0"),
        (("--score-by", "none"), "--score-by"),
    ],
)
def test_how_to_score_is_told_on_the_command_line(options, message, tmp_path):
    from click.testing import CliRunner

    from lana.cli import main

    arguments = ("compress", "digits-resnet", "--data", "digits", "--budget", "0.5x", "--out", str(tmp_path / "run"))
    refused = CliRunner().invoke(main, [*arguments, *options])
    assert refused.exit_code == 2
    assert message in refused.output
    assert "No such option" not in refused.output


def test_an_operation_that_makes_the_outputs_no_numbers_is_left_out(scored):
    scores = scored[0]
    broken = dataclasses.replace(scores[1], score=math.nan)
    losses = losses_of([scores[0], broken, *scores[2:]], "distance")
    assert broken.pair not in losses
    assert len(losses) == len(scores) - 1


@pytest.mark.parametrize("name", ["null", "NA", "None", "0", "nan"])
def test_a_layer_may_be_called_as_if_it_were_nothing(name, tmp_path):
    score = Score(layer=name, operation="identity", score=0.5, standard_error=math.nan, task_loss=0.1, images=1)
    write_records(tmp_path / "scores.csv", [vars(score)])
    (found,) = read_scores(tmp_path / "scores.csv")
    assert (found.layer, found.score) == (name, 0.5)
    assert math.isnan(found.standard_error)
