import json
from types import SimpleNamespace

import pytest

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
