import numpy as np
import pytest
from scipy.stats import kendalltau

from lana.selection.loss_model import MIN_MEASURED_STUDENTS, corrected

LAYERS, OPERATIONS = 10, ("half", "quarter", "none")
SINGLES = {
    (f"block{layer}", name): float((1 + layer % 3) * (1 + index))
    for layer in range(LAYERS)
    for index, name in enumerate(OPERATIONS)
}


def draw(random, count):
    return [
        {f"block{i}": str(random.choice(OPERATIONS)) for i in range(LAYERS) if random.random() < 0.6}
        for _ in range(count)
    ]


def true_loss(truth, selection):
    """Some operations lose three times what they lose alone, others a third, and all together a constant more."""
    return 2.0 + 1.5 * sum(truth[pair] * SINGLES[pair] for pair in selection.items())


@pytest.fixture(scope="module")
def measured():
    random = np.random.default_rng(0)
    truth = {pair: float(random.choice([1 / 3, 1.0, 3.0])) for pair in SINGLES}
    selections = draw(random, 120)
    return [(selection, true_loss(truth, selection)) for selection in selections]


def tau(losses, students):
    expected = [sum(losses[pair] for pair in selection.items()) for selection, _ in students]
    return kendalltau(expected, [loss for _, loss in students]).statistic


def test_measured_students_make_the_ranking_of_others_truer(measured):
    known, others = measured[:80], measured[80:]
    found = corrected(SINGLES, known, [0.0] * len(known))
    assert tau(found.of, others) > tau(SINGLES, others) + 0.1


def test_students_are_expected_to_lose_what_was_measured(measured):
    """Not only their order: a constant that they share belongs to the expectation."""
    shifted = [(selection, loss + 25.0) for selection, loss in measured]
    found = corrected(SINGLES, shifted[:80], [0.0] * 80)
    errors = [found.total(selection.items()) - loss for selection, loss in shifted[80:]]
    losses = [loss for _, loss in shifted[80:]]
    assert abs(sum(errors) / len(errors)) < 0.05 * sum(losses) / len(losses)


def test_few_students_change_nothing(measured):
    assert corrected(SINGLES, measured[: MIN_MEASURED_STUDENTS - 1], [0.0] * (MIN_MEASURED_STUDENTS - 1)).of == SINGLES


def test_scores_that_add_up_keep_their_order(measured):
    exact = [(selection, sum(SINGLES[pair] for pair in selection.items())) for selection, _ in measured]
    found = corrected(SINGLES, exact, [0.0] * len(exact))
    assert tau(found.of, exact) > 0.99


def test_far_students_count_less(measured):
    """What is true far away may be wrong here: the same wrong losses move the scores less from far than from near."""
    wrong = [(selection, 50.0 - loss) for selection, loss in measured[:40]]
    right = [(selection, loss) for selection, loss in measured[40:]]
    near = corrected(SINGLES, wrong + right, [0.0] * len(measured))
    far = corrected(SINGLES, wrong + right, [2.0] * len(wrong) + [0.0] * len(right))
    assert tau(far.of, right) > tau(near.of, right)


def test_nothing_loses_less_than_the_teachers_own(measured):
    singles = {**SINGLES, ("block0", "teacher"): 0.0}
    found = corrected(singles, measured, [0.0] * len(measured))
    assert found.of["block0", "teacher"] == 0.0
    assert min(found.of.values()) >= 0.0


def test_few_students_against_the_sum_make_no_operation_free(measured):
    against = [(s, 60.0 - sum(SINGLES[pair] for pair in s.items())) for s, _ in measured[:12]]
    found = corrected(SINGLES, against, [0.0] * len(against))
    untouched = [pair for pair in SINGLES if not any(s.get(pair[0]) == pair[1] for s, _ in against)]
    assert untouched
    assert sum(found.of[pair] for pair in untouched) >= 0.19 * sum(SINGLES[pair] for pair in untouched)
