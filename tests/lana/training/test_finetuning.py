import copy
import gc
import weakref

import pytest
import torch
from small_training import network, setup_of
from torch import nn

from lana.config.options import FineTuning
from lana.config.recipe import FINETUNING, OPTIONS, Recipe
from lana.training import finetuning
from lana.training.finetuning import epoch_batches, finetune


def test_a_student_learns_from_the_teacher_without_labels(teacher, data, tmp_path):
    settings = FineTuning(epochs=15, lr=1e-2, distillation=1.0, batch_size=50)
    student = network(1)
    curve = finetune(student, setup_of(teacher, data, settings), checkpoint=tmp_path / "c.pt")
    assert len(curve) == 16
    assert curve[-1].validation_metric > curve[0].validation_metric + 0.3


def test_the_best_epoch_is_kept_even_if_it_is_the_start(teacher, data, tmp_path):
    student = copy.deepcopy(teacher)
    settings = FineTuning(epochs=1, lr=50.0, batch_size=50)  # a rate that ruins it
    finetune(student, setup_of(teacher, data, settings), checkpoint=tmp_path / "c.pt")
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, student.state_dict()[name]), name


def test_the_teacher_is_not_changed(teacher, data, tmp_path):
    before = copy.deepcopy(teacher.state_dict())
    finetune(network(2), setup_of(teacher, data, FineTuning(epochs=1)), checkpoint=tmp_path / "c.pt")
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


@pytest.mark.slow
def test_compiled_it_learns_the_same(teacher, data, tmp_path):
    found = []
    for compiled in (False, True):
        student = network(1)
        settings = FineTuning(epochs=1, batch_size=50, precision="fp32", compile=compiled)
        finetune(student, setup_of(teacher, data, settings), checkpoint=tmp_path / f"{compiled}")
        found.append(student[0].weight)
    assert torch.allclose(*found, atol=0.02)


def test_without_distillation_the_teacher_is_not_run(teacher, data, tmp_path):
    calls = []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    settings = FineTuning(epochs=5, lr=1e-2, batch_size=50, distillation=0.0)
    curve = finetune(network(1), setup_of(teacher, data, settings), checkpoint=tmp_path / "c")
    assert not calls
    assert curve[-1].validation_metric > curve[0].validation_metric


def tuned(teacher, data, tmp_path, **options):
    settings = FineTuning(**{"epochs": 2, "lr": 1e-2, "batch_size": 50, **options})
    student = network(1)
    name = "-".join(f"{key}{value}" for key, value in options.items()) or "plain"
    curve = finetune(student, setup_of(teacher, data, settings), checkpoint=tmp_path / name)
    return student.state_dict(), curve


@pytest.fixture(scope="module")
def plain(trained, data, tmp_path_factory):
    """A student's weights after tuning by the defaults."""
    return tuned(copy.deepcopy(trained), data, tmp_path_factory.mktemp("plain"))[0]


@pytest.mark.parametrize(
    "augmentation", [{"augmentation": "none"}, {"augmentation": "shift"}, {"augmentation": "crop"}, {"cutmix": 1.0}]
)
def test_what_a_student_sees_is_what_was_asked_for(digits_data, augmentation):
    def seen(**asked):
        return next(iter(epoch_batches(setup_of(None, digits_data, FineTuning(distillation=0, **asked)), 0)))[0]

    others = [one for one in ("none", "shift", "crop") if one != augmentation.get("augmentation")]
    assert not any(torch.equal(seen(**augmentation), seen(augmentation=other)) for other in others)


@pytest.mark.parametrize(
    "option",
    [
        {"temperature": 4.0},
        {"optimizer": "sgd"},
        {"warmup": 0.5},
        {"weight_decay": 0.5},
        {"feature_weight": 1.0},
        {"mixup": 0.4},
        {"ema_epochs": 0.0},
        {"clip_norm": 0.01},
        {"distillation": 0.3},
    ],
    ids=str,
)
def test_every_option_has_an_effect_and_still_learns(teacher, plain, data, tmp_path, option):
    other, curve = tuned(teacher, data, tmp_path, **option)
    assert any(not torch.equal(value, other[name]) for name, value in plain.items() if value.is_floating_point())
    assert all(torch.isfinite(value).all() for value in other.values())
    if option.get("clip_norm") != 0.01:
        assert curve[-1].train_loss < curve[1].train_loss


def test_the_recipe_has_the_defaults_of_fine_tuning():
    assert Recipe().finetuning == FineTuning()
    assert {OPTIONS[name].field for name in FINETUNING} | {"seed"} == set(vars(FineTuning()))


def test_features_of_the_teacher_are_approached(teacher, data, tmp_path):
    def features(state):
        student = network(1)
        student.load_state_dict(state)
        inputs = data.test.read(data.test.indices)[0]
        return (student.eval()[:3](inputs) - teacher.eval()[:3](inputs)).square().mean()

    plain, _ = tuned(teacher, data, tmp_path, epochs=8)
    led, _ = tuned(teacher, data, tmp_path, epochs=8, feature_weight=3.0)
    assert features(led) < 0.8 * features(plain)


def test_it_stops_when_nothing_better_comes(teacher, data, tmp_path):
    settings = FineTuning(epochs=9, lr=50.0, batch_size=50, patience=2)  # a rate that ruins it
    student = copy.deepcopy(teacher)
    curve = finetune(student, setup_of(teacher, data, settings), checkpoint=tmp_path / "c.pt")
    assert [row.epoch for row in curve] == [0, 1, 2]


def test_batchnorm_is_re_estimated_where_it_is_not_worse(teacher, data, tmp_path, monkeypatch):
    state, _ = tuned(teacher, data, tmp_path)
    monkeypatch.setattr("lana.training.finetuning.reestimate_batchnorm", lambda *_, **__: 0)
    left, _ = tuned(teacher, data, tmp_path, batch_size=50)
    assert not torch.equal(state["1.running_mean"], left["1.running_mean"])
    assert torch.equal(state["0.weight"], left["0.weight"])


def test_half_precision_follows_the_weights_of_every_step(teacher, data, tmp_path):
    (_, full), (_, half) = (tuned(teacher, data, tmp_path, epochs=3, precision=one) for one in ("fp32", "bf16"))
    assert [row.train_loss for row in half[1:]] == pytest.approx([row.train_loss for row in full[1:]], rel=0.05)


class SkipsAtFirst(nn.Module):
    """A layer that has no gradient in the first steps."""

    def __init__(self):
        super().__init__()
        self.body, self.late, self.calls = network(1), nn.Linear(3, 3), 0
        self.body[0].bias.requires_grad_(False)

    def forward(self, x):
        self.calls += self.training
        x = self.body(x)
        return x + self.late(x) if self.calls > 3 else x


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_gradient_may_come_later(teacher, data, tmp_path, optimizer):
    settings, student = FineTuning(epochs=1, optimizer=optimizer, lr=1e-2, batch_size=50), SkipsAtFirst()
    before = student.late.weight.detach().clone()
    finetune(student, setup_of(teacher, data, settings), checkpoint=tmp_path / "c.pt", start_share=0.0)
    assert not torch.equal(before, student.late.weight)


def test_nothing_is_left_of_a_training(teacher, data, tmp_path, monkeypatch):
    made = []

    class Watched(finetuning.TrainingState):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(weakref.ref(self))

    monkeypatch.setattr("lana.training.finetuning.TrainingState", Watched)
    gc.collect()
    gc.disable()
    try:
        settings = FineTuning(epochs=1, batch_size=50)
        finetune(network(1), setup_of(teacher, data, settings), checkpoint=tmp_path / "c.pt")
        assert made[0]() is None
    finally:
        gc.enable()


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_recorded_on_a_gpu_it_is_the_same(teacher, data, tmp_path, optimizer, monkeypatch):
    if not torch.cuda.is_available():
        pytest.skip("DID NOT RUN: there is no CUDA device")
    settings = FineTuning(epochs=3, optimizer=optimizer, lr=1e-2, batch_size=50, mixup=1.0)
    recorded, steps = finetuning.recorded, []

    def watched(step, batch, preserved):
        steps.append((step, recorded(step, batch, preserved)))
        return steps[-1][1]

    found = []
    for record in (watched, lambda step, batch, preserved: step):
        monkeypatch.setattr("lana.training.finetuning.recorded", record)
        student = network(1)
        student[3].p = 0.0  # what is dropped is drawn otherwise in a recorded step
        file = tmp_path / f"{len(found)}.pt"
        found.append((finetune(student, setup_of(teacher, data, settings, device="cuda"), checkpoint=file), student))
    assert [plain is not taken for plain, taken in steps] == [True]
    (curve, ours), (expected, theirs) = found
    assert [row.train_loss for row in curve[1:]] == pytest.approx([row.train_loss for row in expected[1:]], rel=0.01)
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[name], rtol=0.02, atol=0.01)


class KeepsTensors(nn.Module):
    """As positions and masks are kept by the shapes they are for."""

    def __init__(self):
        super().__init__()
        self.linear, self.kept = nn.Linear(6, 3), {}

    def forward(self, x):
        if x.shape not in self.kept:
            self.kept[x.shape] = torch.full(x.shape, 0.5)
        return self.linear(x) * self.kept[x.shape][:, :3]


def test_a_network_may_keep_tensors_from_when_it_was_evaluated(teacher, data, tmp_path):
    settings = FineTuning(epochs=1, lr=1e-2, batch_size=64)  # as many as in evaluating
    curve = finetune(KeepsTensors(), setup_of(teacher, data, settings), checkpoint=tmp_path / "c.pt")
    assert curve[-1].validation_metric > curve[0].validation_metric
