import pytest
from pictures import picture_teacher

from lana.data.loading import load_data
from lana.errors import UserError
from lana.evaluation.metrics import evaluate_module
from lana.evaluation.task import Classification


@pytest.fixture
def teacher():
    return picture_teacher()


def test_a_label_beyond_the_classes_is_told_wherever_it_is_met(tmp_path, teacher):
    (tmp_path / "mine.py").write_text(
        "import torch\ndef both():\n"
        "    part = [(torch.ones(3, 8, 8), n % 12) for n in range(40)]\n    return part, part\n"
    )
    data = load_data(f"{tmp_path}/mine.py:both", teacher)
    with pytest.raises(UserError, match=r"outside the model's classes .*out of bounds"):
        evaluate_module(teacher.module, data.test, Classification())
