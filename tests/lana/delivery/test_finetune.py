import json
from types import SimpleNamespace

import pytest
from torch import nn

from lana.config.recipe import Recipe
from lana.delivery import finetune


@pytest.mark.parametrize(
    ("option", "again"), [({}, False), ({"device": "cuda", "compile": True}, False), ({"lr": 0.1}, True)]
)
def test_only_other_settings_tune_a_student_again(tmp_path, monkeypatch, option, again):
    """Earlier runs keep the device among the settings."""
    recipe, trained = Recipe(epochs=2), []
    kept = {"settings": {**vars(recipe.finetuning), "device": "cpu"}, "seconds": 1}
    (tmp_path / "finetuned.json").write_text(json.dumps(kept))
    monkeypatch.setattr(finetune, "train_student", lambda *args: trained.append(args))
    finetune.finetune_student(SimpleNamespace(recipe=recipe.replace(**option)), tmp_path)
    assert bool(trained) == again


@pytest.mark.parametrize(
    ("before", "after", "replace_better", "replaced"),
    [(0.98, 0.97, False, False), (0.98, 0.97, True, True), (0.98, 0.98, False, True), (None, 0.1, False, True)],
)
def test_a_better_student_is_kept(tmp_path, monkeypatch, caplog, before, after, replace_better, replaced):
    caplog.set_level("INFO")
    (tmp_path / "model.safetensors").write_text("old")
    if before is not None:
        (tmp_path / "summary.json").write_text("{}")
        (tmp_path / "finetuned.json").write_text(json.dumps({"settings": vars(Recipe(epochs=9).finetuning)}))
    monkeypatch.setattr(finetune, "metric_before", lambda _: before)
    monkeypatch.setattr(finetune, "load_student_as_teacher", lambda *_: SimpleNamespace(module=nn.Linear(1, 1)))
    monkeypatch.setattr(finetune, "finetune", lambda *_, **__: [])
    monkeypatch.setattr(finetune, "evaluate_module", lambda *_, **__: SimpleNamespace(metric=after))
    parts = SimpleNamespace(metric_name="accuracy", module=None, test=None, pool=tmp_path)
    context = SimpleNamespace(recipe=Recipe(epochs=2), teacher=parts, data=parts, task=parts, run=parts)
    finetune.finetune_student(context, tmp_path, replace_better=replace_better)
    assert ((tmp_path / "model.safetensors").read_bytes() != b"old") == replaced
    assert (tmp_path / "summary.json").exists() == (not replaced)
    assert json.loads((tmp_path / "finetuned.json").read_text())["settings"]["epochs"] == (2 if replaced else 9)
    assert ("97.00%, and it had 98.00%: the better one is kept" in caplog.text) == (not replaced)
    monkeypatch.setattr(finetune, "train_student", None)  # the same command does not tune again
    finetune.finetune_student(context, tmp_path)
    assert ("was tuned with these settings before, and was worse" in caplog.text) == (not replaced)
