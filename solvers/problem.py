"""The problem: choices that cover layers, what they lose, what they cost, and what a selection must respect."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite, isnan
from typing import Self

import numpy as np

from .errors import InvalidProblem


def _check_bounds(what: str, lower: float | None, upper: float | None) -> None:
    if any(value is not None and isnan(value) for value in (lower, upper)):
        raise InvalidProblem(f"{what}: a bound is NaN. Give a number, or None for no bound.")
    if lower is not None and upper is not None and lower > upper:
        raise InvalidProblem(f"{what}: lower bound {lower:g} exceeds upper bound {upper:g}.")


@dataclass(frozen=True, kw_only=True)
class Limit:
    """Bounds on the sum of a cost over the selection, in the cost's own unit; None means unbounded.

    >>> Limit(upper=4.2)
    Limit(lower=None, upper=4.2)
    """

    lower: float | None = None
    upper: float | None = None

    def __post_init__(self) -> None:
        _check_bounds("Limit", self.lower, self.upper)


@dataclass(frozen=True, kw_only=True)
class CountLimit:
    """How many of `choices` a selection may hold: at least `lower`, at most `upper`."""

    choices: tuple[int, ...]
    lower: int | None = None
    upper: int | None = None
    name: str = "count"

    def __post_init__(self) -> None:
        _check_bounds(f"CountLimit {self.name!r}", self.lower, self.upper)
        if len(set(self.choices)) != len(self.choices):
            raise InvalidProblem(f"CountLimit {self.name!r} names a choice twice: {self.choices}.")


@dataclass(frozen=True, kw_only=True)
class DistanceLimit:
    """At least `minimum` layers must be covered by another choice than in the earlier selection `chosen`.

    Layers are counted, so a choice that spans three layers and is given up counts three. The paper's overlap limit
    O (section 3.3 there: O = 0.7 N) is `minimum = N − floor(O)`.
    """

    chosen: tuple[int, ...]
    minimum: int

    def __post_init__(self) -> None:
        if self.minimum < 0 or len(set(self.chosen)) != len(self.chosen):
            raise InvalidProblem(f"Expected distinct choices and minimum >= 0, got {self}.")


@dataclass(frozen=True, kw_only=True)
class Credit:
    """A saving that a selection has once, if it holds one of `producers` and one of `consumers`.

    Example: an int8 operation's cost includes a quantise at its input and a dequantise at its output. Between two int8
    neighbours neither happens, so the pair costs less than its parts. The two sides may lie anywhere in the network.

    Attributes:
        producers, consumers: choices. Those of one side share a layer, so a selection holds one of them at most.
        amounts: name of a cost → by how much its sum falls, in the cost's unit, at least 0.
        loss: by how much the summed loss falls, at least 0.
        name: for messages only.

    >>> Credit(producers=(0, 2), consumers=(5,), amounts={"ms": 0.1}).loss
    0.0
    """

    producers: tuple[int, ...]
    consumers: tuple[int, ...]
    amounts: Mapping[str, float] = field(default_factory=dict)
    loss: float = 0.0
    name: str = "credit"

    def __post_init__(self) -> None:
        for name in ("producers", "consumers"):
            object.__setattr__(self, name, tuple(int(choice) for choice in getattr(self, name)))
        object.__setattr__(self, "amounts", {name: float(amount) for name, amount in self.amounts.items()})
        members = [*self.producers, *self.consumers]
        if len(set(members)) != len(members):
            twice = next(choice for choice in members if members.count(choice) > 1)
            raise InvalidProblem(
                f"Credit {self.name!r} names choice {twice} twice. Name each once; what a choice saves alone belongs "
                f"in its own cost."
            )
        for name, amount in {"loss": self.loss, **self.amounts}.items():
            if not (isfinite(amount) and amount >= 0):
                raise InvalidProblem(
                    f"Credit {self.name!r} lowers {name} by {amount:g}; expected a finite number of at least 0."
                )


@dataclass(frozen=True, kw_only=True, eq=False)
class SelectionProblem:
    """Cover `layers` positions exactly once with choices of least total loss, within limits.

    Choice c covers the layers `first[c] … first[c] + span[c] − 1`. All arrays have shape (n,), n the number of
    choices; a choice is known by its index everywhere.

    Attributes:
        loss: what the network loses with the choice, any real number (negative where it helps).
        costs: name → what the choice costs, in any unit; units may differ by many orders of magnitude.
        limits: name of a cost → bounds on its sum over the selection.
        fixed, forbidden: choices that a selection must, or must not, hold.
        ties: groups of choices taken together or not at all.
        counts, distances, credits: see `CountLimit`, `DistanceLimit` and `Credit`.
        names: one name per choice, for messages only.

    Raises:
        InvalidProblem: shapes, indices or numbers that contradict each other.

    >>> problem = SelectionProblem(
    ...     layers=2, loss=[0.0, 0.5, 0.0, 0.1], first=[0, 0, 1, 1], span=[1, 1, 1, 1],
    ...     costs={"ms": [2.0, 1.0, 2.0, 1.0]}, limits={"ms": Limit(upper=3.0)})
    >>> problem.size
    4
    """

    layers: int
    loss: np.ndarray
    first: np.ndarray
    span: np.ndarray
    costs: Mapping[str, np.ndarray] = field(default_factory=dict)
    limits: Mapping[str, Limit] = field(default_factory=dict)
    fixed: tuple[int, ...] = ()
    forbidden: tuple[int, ...] = ()
    ties: tuple[tuple[int, ...], ...] = ()
    counts: tuple[CountLimit, ...] = ()
    distances: tuple[DistanceLimit, ...] = ()
    credits: tuple[Credit, ...] = ()
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name, kind in (("loss", np.float64), ("first", np.int64), ("span", np.int64)):
            object.__setattr__(self, name, _frozen_array(name, getattr(self, name), kind))
        costs = {name: _frozen_array(f"costs[{name!r}]", values, np.float64) for name, values in self.costs.items()}
        object.__setattr__(self, "costs", costs)
        for name in ("fixed", "forbidden", "ties", "counts", "distances", "credits"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check_arrays()
        self._check_indices()
        self._check_credits()

    @property
    def size(self) -> int:
        """Number of choices."""
        return len(self.loss)

    def require_cost(self, name: str) -> None:
        """Raise InvalidProblem unless there is a cost of this name."""
        if name not in self.costs:
            raise InvalidProblem(f"No cost {name!r}; the costs are: {', '.join(self.costs) or 'none'}.")

    def name_of(self, choice: int) -> str:
        """A choice's name for messages."""
        return self.names[choice] if self.names else f"choice {choice}"

    @classmethod
    def from_tables(cls, loss: np.ndarray, costs: Mapping[str, np.ndarray], **rest: object) -> Self:
        """A problem from tables of shape (layers, operations), NaN or infinite loss meaning "not offered".

        Choices are numbered along the rows: choice c is the entry `np.argwhere(np.isfinite(loss))[c]`.

        >>> table = np.array([[0.0, 0.5, np.nan], [0.0, np.inf, 0.1]])
        >>> SelectionProblem.from_tables(table, {"ms": np.ones((2, 3))}).first
        array([0, 0, 1, 1])
        """
        loss = np.asarray(loss, dtype=np.float64)
        if loss.ndim != 2:
            raise InvalidProblem(f"Expected a loss table of shape (layers, operations), got shape {loss.shape}.")
        offered = np.isfinite(loss)
        for name, table in costs.items():
            if np.shape(table) != loss.shape:
                raise InvalidProblem(f"Expected costs[{name!r}] of shape {loss.shape}, got {np.shape(table)}.")
        first = np.nonzero(offered)[0]
        return cls(
            layers=loss.shape[0],
            loss=loss[offered],
            first=first,
            span=np.ones_like(first),
            costs={name: np.asarray(table)[offered] for name, table in costs.items()},
            **rest,  # type: ignore[arg-type]
        )

    def _check_arrays(self) -> None:
        if self.layers < 1:
            raise InvalidProblem(f"Expected at least one layer, got layers={self.layers}.")
        for name, values in {"first": self.first, "span": self.span, **self.costs}.items():
            if values.shape != self.loss.shape:
                raise InvalidProblem(f"Expected {name} of shape {self.loss.shape} like loss, got {values.shape}.")
        for name, values in {"loss": self.loss, **self.costs}.items():
            if not np.isfinite(values).all():
                culprit = self.name_of(int(np.argmin(np.isfinite(values))))
                raise InvalidProblem(
                    f"{name} of {culprit} is not a finite number. Leave out a choice that cannot be used."
                )
        outside = (self.first < 0) | (self.span < 1) | (self.first + self.span > self.layers)
        if outside.any():
            wrong = int(np.argmax(outside))
            raise InvalidProblem(
                f"{self.name_of(wrong)} covers layers {self.first[wrong]} to "
                f"{self.first[wrong] + self.span[wrong] - 1}; expected a span inside 0 to {self.layers - 1}."
            )
        for name in self.limits:
            if name not in self.costs:
                raise InvalidProblem(f"A limit on {name!r}, but the costs are: {', '.join(self.costs) or 'none'}.")
        if self.names is not None and len(self.names) != self.size:
            raise InvalidProblem(f"Expected {self.size} names, one per choice, got {len(self.names)}.")

    def _check_indices(self) -> None:
        groups: list[tuple[str, Sequence[int]]] = [("fixed", self.fixed), ("forbidden", self.forbidden)]
        groups += [("ties", tie) for tie in self.ties]
        groups += [("counts", count.choices) for count in self.counts]
        groups += [("distances", distance.chosen) for distance in self.distances]
        groups += [(f"Credit {credit.name!r}", credit.producers + credit.consumers) for credit in self.credits]
        for name, indices in groups:
            wrong = [index for index in indices if not 0 <= index < self.size]
            if wrong:
                raise InvalidProblem(f"{name} names the choice {wrong[0]}; expected 0 to {self.size - 1}.")
        both = set(self.fixed) & set(self.forbidden)
        if both:
            raise InvalidProblem(f"{self.name_of(min(both))} is both fixed and forbidden.")

    def _check_credits(self) -> None:
        for credit in self.credits:
            for name in credit.amounts:
                if name not in self.costs:
                    raise InvalidProblem(
                        f"Credit {credit.name!r} lowers {name!r}, but the costs are: {', '.join(self.costs) or 'none'}."
                    )
            for side, choices in (("producers", credit.producers), ("consumers", credit.consumers)):
                members = list(choices)
                if members and self.first[members].max() >= (self.first + self.span)[members].min():
                    raise InvalidProblem(
                        f"The {side} of credit {credit.name!r} share no layer; expected choices that cover the same "
                        "one. Split the credit."
                    )


def _frozen_array(name: str, values: object, kind: type) -> np.ndarray:
    raw = np.asarray(values)
    if raw.ndim != 1:
        raise InvalidProblem(f"Expected {name} of shape (n,), got shape {raw.shape}.")
    array: np.ndarray = raw.astype(kind)
    if kind is np.int64 and not np.array_equal(array, raw):
        raise InvalidProblem(f"Expected whole numbers in {name}, got {raw.dtype} values with fractions.")
    array.flags.writeable = False
    return array


def bounds_of(limit: Limit | CountLimit) -> tuple[float, float]:
    """Lower and upper bound as floats, infinite where there is none."""
    lower = -inf if limit.lower is None else float(limit.lower)
    upper = inf if limit.upper is None else float(limit.upper)
    return lower, upper
