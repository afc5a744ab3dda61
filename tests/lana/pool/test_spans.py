"""A whole run in which operations may stand for two layers; nothing in it changes the teacher."""

import pytest
import torch
from torch import nn

import lana
from lana import pipeline
from lana.config.recipe import Recipe
from lana.errors import UserError
from lana.runs import context as context

RECIPE = Recipe(
    model="digits-resnet",
    data="digits",
    budget="0.9x",
    layers="blocks.[0-3]",
    exclude="blocks.3",
    max_span=2,
    pool="linear_k3,pruned_w0.5,cb_stack_k3_w0.5",
    distill_images=64,
    distill_epochs=1.0,
    score_images=50,
    refine=0,
    calibrate=0,
    proposals=1,
    epochs=0.0,
)
SPAN = "blocks.0+blocks.1"


pytestmark = pytest.mark.slow  # its run takes a minute


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The run's folder, and the teacher's state before and after."""
    found, load = [], context.teacher_of

    def keep(*args, **kwargs):
        teacher = load(*args, **kwargs)
        found.append((teacher.module, {name: value.clone() for name, value in teacher.module.state_dict().items()}))
        return teacher

    folder = tmp_path_factory.mktemp("spans") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context, "teacher_of", keep)
        lana.compress(RECIPE, out=folder, quiet=True)
    return folder, found


def test_no_operation_changes_the_teacher(run):
    ((module, before),) = run[1]
    after = module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not any(part.training or part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_a_span_is_distilled_scored_and_can_be_selected(run):
    summary = pipeline.select(run[0], "0.95x", pins={SPAN: "linear_k3"}, name="pinned", verify=False, quiet=True)
    assert summary.selection[SPAN] == "linear_k3"
    assert not {"blocks.0", "blocks.1"} & set(summary.selection)
    student = lana.load_student(run[0] / "students" / "pinned")
    assert isinstance(student.blocks[1], nn.Identity)
    assert student(torch.randn(2, 1, 16, 16)).shape == (2, 10)


def test_operations_of_a_span_are_judged_by_its_members(run):
    from lana.pool.candidates import read_candidates

    candidates = read_candidates(run[0] / "pool" / "candidates.csv")
    own = {candidate.layer.name: candidate.latency_ms for candidate in candidates if candidate.operation == "teacher"}
    here = [candidate for candidate in candidates if candidate.layer.name == SPAN]
    assert set(own) == {"blocks.0", "blocks.1", "blocks.2"}
    assert "pruned" not in {candidate.family for candidate in here}
    assert all(candidate.latency_ms < own["blocks.0"] + own["blocks.1"] for candidate in here if candidate.kept)


def test_another_span_is_another_recipe(run):
    with pytest.raises(UserError, match="max_span: 2 there, 1 now"):
        lana.compress(RECIPE.replace(max_span=1), out=run[0], quiet=True)
