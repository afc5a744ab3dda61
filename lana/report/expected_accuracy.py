"""The accuracy that an expected loss stands for: a curve through the teacher, fitted on delivered students."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ExpectedAccuracy:
    """The teacher's accuracy times exp(-`decay` · loss); `error` is the mean distance of the fit's own students."""

    teacher: float
    decay: float
    students: int
    error: float

    def at(self, loss: float) -> float:
        """The accuracy at an expected loss."""
        return self.teacher * math.exp(-self.decay * loss)


def fit_accuracy(students: Sequence[tuple[float, float, float]]) -> ExpectedAccuracy | None:
    """The fit to (expected loss, accuracy, the teacher's accuracy) of students; None where there are none.

    One number is fitted, by least squares of the logarithms: few students decide no more. Metrics that are no shares
    are not fitted.

    >>> round(fit_accuracy([(0.5, 0.8 * math.exp(-0.1), 0.8)]).decay, 6)
    0.2
    """
    known = [
        row for row in students if row[0] > 0 and math.isfinite(row[0]) and all(0 < share <= 1 for share in row[1:])
    ]
    if not known:
        return None
    falls = sum(loss * math.log(teacher / accuracy) for loss, accuracy, teacher in known)
    decay, teacher = max(0.0, falls / sum(loss**2 for loss, _, _ in known)), known[0][2]
    fitted = ExpectedAccuracy(teacher=teacher, decay=decay, students=len(known), error=0.0)
    error = sum(abs(fitted.at(loss) - accuracy) for loss, accuracy, _ in known) / len(known)
    return ExpectedAccuracy(teacher=teacher, decay=decay, students=len(known), error=error)
