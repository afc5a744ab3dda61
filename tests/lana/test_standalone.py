import logging

import pytest
import torch

import lana
from lana.models.student_files import load_student, save_student
from lana.models.teacher import load_teacher


@pytest.fixture
def damaged(digits_teacher, tmp_path):
    """Files of the bundled network's weights with one number changed."""

    def save(name, value):
        state = {key: tensor.clone() for key, tensor in digits_teacher.module.state_dict().items()}
        state[name].view(-1)[0] = value
        torch.save(state, tmp_path / "w.pt")
        return str(tmp_path / "w.pt")

    return save


def _parts(module):
    last = [name for name, _ in module.named_parameters()][-1]
    mean = next(name for name, _ in module.named_buffers() if name.endswith("running_mean"))
    return {"parameter": last, "buffer": mean}


@pytest.mark.parametrize(("part", "value"), [("parameter", "nan"), ("parameter", "inf"), ("buffer", "nan")])
def test_weights_that_are_no_numbers_are_told(digits_teacher, damaged, caplog, part, value):
    name = _parts(digits_teacher.module)[part]
    evaluation = lana.evaluate("digits-resnet", "digits", weights=damaged(name, float(value)))
    assert f"1 tensor holds no numbers (NaN or infinite): {name}." in caplog.text
    assert ("The loss of" in caplog.text) == (evaluation.loss != evaluation.loss)


def test_good_weights_are_evaluated_without_a_word(caplog):
    with caplog.at_level(logging.WARNING):
        assert lana.evaluate("digits-resnet", "digits").metric > 0.98
    assert not caplog.records


def test_a_student_whose_weights_are_no_numbers_is_told(tmp_path, caplog):
    teacher = load_teacher("digits-resnet")
    next(teacher.module.parameters()).data.fill_(float("nan"))
    save_student(teacher.module, tmp_path / "s", teacher, [], {})
    (tmp_path / "s" / "selection.json").write_text("{}")
    load_student(tmp_path / "s")
    assert "model.safetensors: 1 tensor holds no numbers" in caplog.text
