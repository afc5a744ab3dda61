"""What tasks compute, by formula; how they are named."""

import math

import pytest
import torch
from torch import nn

from lana.data.split import from_arrays
from lana.errors import UserError
from lana.evaluation.metrics import evaluate_module
from lana.evaluation.task import Classification, Segmentation, load_task


def test_the_distance_is_the_divergence_from_the_teacher():
    ours, theirs = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    p, q = theirs.softmax(1), ours.softmax(1)
    torch.testing.assert_close(Classification().distance(ours, theirs), (p * (p / q).log()).sum(1))


def test_of_maps_it_is_the_mean_over_pixels():
    ours, theirs = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    pixels = [Classification().distance(ours[..., y, x], theirs[..., y, x]) for y in range(4) for x in range(5)]
    torch.testing.assert_close(Segmentation().distance(ours, theirs), torch.stack(pixels).mean(0))


def test_loss_and_metric_of_classes():
    logits, labels = torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])
    expected = [torch.log1p(torch.exp(torch.tensor(sign * 2.0))) for sign in (-1, 1)]
    torch.testing.assert_close(Classification().loss(logits, labels), torch.stack(expected))
    assert Classification().metric(logits, labels).tolist() == [1.0, 0.0]
    assert Classification().chance(logits) == 0.5


def test_pixels_of_255_count_for_nothing():
    logits, labels = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    labels[:, :2] = 255
    for judge in (Segmentation().loss, Segmentation().metric):
        torch.testing.assert_close(judge(logits, labels), judge(logits[:, :, 2:], labels[:, 2:]))


def test_an_image_of_255_alone_does_not_lower_the_accuracy():
    images, labels = torch.randn(3, 2, 4, 4), torch.randint(0, 2, (3, 4, 4))
    labels[1] = 255
    whole, shown = (
        evaluate_module(nn.Identity(), from_arrays(images[chosen], labels[chosen], None), Segmentation()).metric
        for chosen in ([0, 1, 2], [0, 2])
    )
    assert whole == pytest.approx(shown)


def test_what_a_network_does_not_compute_is_not_left_out():
    class Nearness(Classification):
        def metric(self, output, labels):
            return -self.loss(output, labels)

    logits, labels = torch.tensor([[2.0, 0.0], [float("nan"), 0.0]]), torch.tensor([0, 1])
    found = evaluate_module(nn.Identity(), from_arrays(logits, labels, None), Nearness())
    assert math.isnan(found.metric)


def test_the_metric_of_a_whole_set_reads_the_records_of_all_batches():
    class Span(Classification):
        def metric(self, output, labels):
            return [{"largest": float(row.max())} for row in output]

        def figure(self, records):
            return max(record["largest"] for record in records) - min(record["largest"] for record in records)

    logits = torch.arange(10.0).view(5, 2)
    found = evaluate_module(nn.Identity(), from_arrays(logits, torch.zeros(5).long(), None), Span(), batch_size=2)
    assert found.metric == 8
    assert found.records[1] == {"largest": 3.0}


def test_an_unknown_task_is_refused():
    with pytest.raises(UserError, match="Did you mean: segmentation"):
        load_task("segmentaton")


def test_a_task_without_all_members_is_refused(tmp_path):
    (tmp_path / "own.py").write_text(
        "class Half:\n    metric_name = 'error'\n    def loss(self, output, labels): ...\n"
    )
    with pytest.raises(UserError, match="lacks a member of a task"):
        load_task(f"{tmp_path / 'own.py'}:Half")
