import pytest
import torch
from pictures import picture_teacher

from lana.data.loading import load_data
from lana.evaluation.distance import DistanceToTeacher
from lana.evaluation.task import Classification

AUGMENTING = """
import random, numpy, torch
from torch.utils.data import Dataset

class Noisy(Dataset):
    def __init__(self, noise=None):
        self.noise = noise
    def __len__(self):
        return 40
    def __getitem__(self, index):
        if index >= 40:
            raise IndexError
        level = torch.full((3, 8, 8), index / 40)
        return level if self.noise is None else level + self.noise(), index % 3

def plain():
    return Noisy()
def by_torch():
    return Noisy(lambda: torch.randn(3, 8, 8))
def by_numpy():
    return Noisy(lambda: torch.as_tensor(numpy.random.normal(size=(3, 8, 8))))
def now_and_then():
    return Noisy(lambda: 9 * (random.random() < 0.5))
def train_alone():
    return by_torch(), Noisy(), Noisy()
def not_a_number():
    return Noisy(lambda: float("nan"))
"""


@pytest.fixture
def load(tmp_path):
    (tmp_path / "mine.py").write_text(AUGMENTING)
    return lambda name: load_data(f"{tmp_path}/mine.py:{name}", picture_teacher())


@pytest.mark.parametrize("name", ["plain", "by_torch", "by_numpy", "now_and_then"])
def test_a_teacher_is_at_no_distance_from_itself(load, name):
    teacher, split = picture_teacher().module, load(name).validation
    distance = DistanceToTeacher(teacher, split, Classification())
    assert float(distance.measure(teacher).mean()) == pytest.approx(0, abs=1e-6)
    assert bool(distance.outputs) == (name == "plain")


@pytest.mark.parametrize(
    ("name", "levels", "advice"),
    [
        ("plain", [], False),
        ("not_a_number", [], False),
        ("by_torch", ["WARNING"], True),
        ("train_alone", ["INFO"], False),
    ],
)
def test_examples_that_vary_are_told_with_what_to_return(load, caplog, name, levels, advice):
    with caplog.at_level("INFO"):
        data = load(name)
    assert [record.levelname for record in caplog.records] == levels
    assert ("augment train alone" in caplog.text) == advice
    assert data.train.varies == bool(levels)
    assert data.validation.varies == advice


def test_reading_twice_leaves_the_random_numbers_as_they_were(load, monkeypatch):
    drawn = []
    for examples in (0, 32):
        monkeypatch.setattr("lana.data.readers.function.READ_TWICE", examples)
        torch.manual_seed(0)
        load("by_torch")
        drawn.append(float(torch.rand(1)))
    assert drawn[0] == drawn[1]
