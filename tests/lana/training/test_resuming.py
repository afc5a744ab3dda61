import copy

import pytest
import torch
from small_training import network, setup_of

from lana.config.options import FineTuning
from lana.training.finetuning import finetune


def test_interrupted_and_resumed_ends_with_the_same_weights(teacher, data, tmp_path):
    settings = FineTuning(epochs=4, lr=1e-2, batch_size=50)
    whole = network(1)
    finetune(whole, setup_of(teacher, data, settings), checkpoint=tmp_path / "whole.pt")

    class Killed(Exception):
        pass

    def kill(share, _):
        if share > 0.6:
            raise Killed

    broken = network(1)
    with pytest.raises(Killed):
        finetune(broken, setup_of(teacher, data, settings), checkpoint=tmp_path / "broken.pt", on_progress=kill)
    resumed = network(1)
    curve = finetune(resumed, setup_of(teacher, data, settings), checkpoint=tmp_path / "broken.pt")
    assert [row.epoch for row in curve] == [0, 1, 2, 3, 4]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_resumed_with_mixing_and_sgd_it_has_the_same_weights(teacher, data, tmp_path):
    options = {"lr": 1e-2, "batch_size": 50, "mixup": 0.4, "optimizer": "sgd", "feature_weight": 0.5}
    whole, resumed = network(1), network(1)

    def run(student, name, **more):
        finetune(
            student,
            setup_of(teacher, data, FineTuning(epochs=3, **options), tmp_path / "outputs"),
            checkpoint=tmp_path / name,
            **more,
        )

    def kill(share, _):
        if share > 0.5:
            raise KeyboardInterrupt

    run(whole, "whole.pt")
    with pytest.raises(KeyboardInterrupt):
        run(network(1), "broken.pt", on_progress=kill)
    run(resumed, "broken.pt")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_ruined_student_goes_back_and_on_at_a_lower_rate(teacher, data, tmp_path):
    settings = FineTuning(epochs=8, lr=3.0, batch_size=50)

    def tune(stop_at=2.0):
        def stop(share, _):
            if share > stop_at:
                raise InterruptedError

        student = copy.deepcopy(teacher)
        curve = finetune(student, setup_of(teacher, data, settings), checkpoint=tmp_path / "c.pt", on_progress=stop)
        return student, [row.validation_metric for row in curve]

    with pytest.raises(InterruptedError):
        tune(stop_at=0.6)
    resumed, metrics = tune()
    (tmp_path / "c.pt").unlink()
    whole, again = tune()
    assert min(metrics) < 0.7 * metrics[0]
    assert metrics[-1] > 0.9 * metrics[0]
    assert metrics == again
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize("other", [{"lr": 2e-2}, {"optimizer": "sgd"}, {"epochs": 1}])
def test_a_checkpoint_of_other_settings_is_ignored(teacher, data, tmp_path, other):
    def run(name, on_progress=lambda share, _: None, **options):
        student = network(1)
        settings = FineTuning(**{"epochs": 2, "lr": 1e-2, "batch_size": 50, **options})
        checkpoint = tmp_path / name
        finetune(student, setup_of(teacher, data, settings), checkpoint=checkpoint, on_progress=on_progress)
        return student.state_dict()

    def kill(share, _):
        if share > 0.7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("killed.pt", kill)
    assert (tmp_path / "killed.pt").is_file()
    expected = run("fresh.pt", **other)
    assert all(torch.equal(value, expected[name]) for name, value in run("killed.pt", **other).items())
