"""The distance of candidates, by formula."""

import pytest
import torch

from lana.detection.decoders import Decoded
from lana.detection.distance import BOX_WEIGHT, distance
from lana.detection.geometry import generalized_overlap
from lana.detection.suppression import detections


def candidates(seed=0, *, bins=False, known=True):
    random = torch.Generator().manual_seed(seed)
    corner = 50 * torch.rand(2, 6, 2, generator=random)
    boxes = torch.cat((corner, corner + 5 + 20 * torch.rand(2, 6, 2, generator=random)), 2)
    logits = torch.randn(2, 6, 3, generator=random)
    sides = torch.randn(2, 6, 4, 5, generator=random) if bins else None
    return Decoded(boxes=boxes, scores=logits.sigmoid(), logits=logits if known else None, bins=sides)


@pytest.mark.parametrize("bins", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_equal_candidates_have_none_and_others_have_some(bins, known):
    ours, theirs = (candidates(seed, bins=bins, known=known) for seed in (0, 1))
    assert distance(theirs, theirs).tolist() == pytest.approx([0, 0], abs=1e-5)
    assert (distance(ours, theirs) > 0.1).all()


def test_it_is_the_weighted_excess_of_the_cross_entropy_and_the_lacking_overlap():
    ours, theirs = candidates(0), candidates(1)
    p, q = theirs.scores.double(), ours.scores.double()
    excess = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(2)
    score = p.amax(2)
    boxes = 1 - generalized_overlap(ours.boxes, theirs.boxes).double()
    whole = torch.maximum(score, q.amax(2)) * excess + BOX_WEIGHT * score * boxes
    torch.testing.assert_close(
        distance(ours, theirs).double(), whole.sum(1) / score.sum(1).clamp(min=1), rtol=1e-4, atol=0
    )


def test_scores_alone_give_the_same_as_their_logits():
    ours, theirs = candidates(0), candidates(1)
    alone = [Decoded(boxes=one.boxes, scores=one.scores) for one in (ours, theirs)]
    torch.testing.assert_close(distance(*alone), distance(ours, theirs), rtol=1e-4, atol=1e-5)


def test_gradients_reach_boxes_and_scores():
    ours, theirs = candidates(0), candidates(1)
    boxes, logits = ours.boxes.requires_grad_(), ours.logits.requires_grad_()
    distance(Decoded(boxes=boxes, scores=logits.sigmoid(), logits=logits), theirs).sum().backward()
    assert boxes.grad.abs().sum() > 0
    assert logits.grad.isfinite().all()


def test_the_generalised_overlap():
    one = torch.tensor([[0.0, 0, 2, 2]])
    for other, expected in (([0.0, 0, 2, 2], 1), ([1.0, 0, 3, 2], 1 / 3), ([4.0, 0, 6, 2], -1 / 3)):
        assert generalized_overlap(one, torch.tensor([other])).item() == pytest.approx(expected, abs=1e-6)


def test_the_better_of_two_boxes_of_a_class_stays():
    boxes = torch.tensor([[0.0, 0, 10, 10], [1.0, 0, 11, 10], [0.0, 0, 10, 10], [40.0, 40, 50, 50], [0.0, 0, 1, 1]])
    scores = torch.tensor([[0.6, 0.0], [0.9, 0.0], [0.0, 0.7], [float("nan"), 0.3], [float("nan"), 0.0]])
    found = detections(boxes, scores, 0.45)
    assert found.scores.tolist() == pytest.approx([0.9, 0.7, 0.3])
    assert found.classes.tolist() == [0, 1, 1]
    assert len(detections(boxes, scores, None).scores) == 4
