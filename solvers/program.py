"""The linear and the integer program over some of the choices, built with PuLP and solved by any of its solvers."""

import functools
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import TypedDict

import numpy as np
import pulp

from .cover import Cover
from .errors import SolverUnavailable
from .modelling import Pairs, expression, solve_model
from .rows import Rows
from .solution import Termination

# PuLP's names by the names people use; the first that is installed is taken (CBC left PuLP's own package in 4.0).
ALIASES = {"CBC": ("COIN_CMD", "PULP_CBC_CMD"), "GLPK": ("GLPK_CMD",), "SCIP": ("SCIP_PY", "SCIP_CMD")}

# HiGHS accepts 1e-6 by default, in rows scaled to coefficients of 1; the final check accepts 1e-9 (verify.py).
FEASIBILITY = 1e-9


class Options(TypedDict, total=False):
    """The options of `solvers.solve`; `frontier` and `solve_diverse` pass them on."""

    solver: str
    time_limit_s: float
    gap: float
    seed: int


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the integer program is solved: see `solvers.solve`."""

    solver: str = "HiGHS"
    time_limit_s: float = 60.0
    gap: float = 1e-4
    seed: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """The result of a program: a linear one has multipliers, an integer one has `bound`."""

    termination: Termination
    chosen: list[int] = field(default_factory=list)
    value: float = inf
    bound: float = -inf
    layer_multipliers: np.ndarray = field(default_factory=lambda: np.zeros(0))
    row_multipliers: np.ndarray = field(default_factory=lambda: np.zeros(0))
    message: str = ""


def available_solvers() -> list[str]:
    """Names that `solve(solver=…)` accepts on this machine."""
    installed = pulp.listSolvers(onlyAvailable=True)
    return sorted({*installed, *(alias for alias, names in ALIASES.items() if set(names) & set(installed))})


def require_solver(name: str) -> str:
    """PuLP's own name of a solver that is installed.

    Raises:
        SolverUnavailable: the name is unknown, or the solver is not installed.
    """
    for candidate in ALIASES.get(name, (name,)):
        if candidate in pulp.listSolvers() and pulp.getSolver(candidate, msg=False).available():
            return candidate
    hint = " Install it with: pip install highspy." if name == "HiGHS" else ""
    raise SolverUnavailable(
        f"The solver {name!r} cannot be used here.{hint} Solvers available: {', '.join(available_solvers())}."
    )


@functools.cache
def _swallow_banner() -> None:
    """HiGHS prints a banner on the standard output at its first use in a process, which other programs may read."""
    try:
        import highspy
    except ImportError:
        return
    if sys.stdout is None:
        return
    sys.stdout.flush()
    try:
        kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    except OSError:  # it was closed
        return
    os.dup2(nowhere, 1)
    try:
        highspy.Highs()
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _make_solver(settings: Settings, *, integer: bool) -> pulp.LpSolver:
    name = require_solver(settings.solver)
    common = {"msg": False, "timeLimit": max(settings.time_limit_s, 0.01)}
    if name == "HiGHS":
        _swallow_banner()
    if not integer:
        return pulp.getSolver(name, **common)
    common["gapRel"] = settings.gap
    if name == "HiGHS":
        exact = {
            "mip_feasibility_tolerance": FEASIBILITY,
            "primal_feasibility_tolerance": FEASIBILITY,
            "random_seed": settings.seed % 2**31,
            "gapAbs": 1e-9,
        }
        return pulp.getSolver(name, **common, **exact)
    if name in ALIASES["CBC"]:
        seeds = [f"randomSeed {settings.seed % 2**31}", f"randomCbcSeed {settings.seed % 2**31}"]
        return pulp.getSolver(name, **common, options=seeds)
    return pulp.getSolver(name, **common)


def run_program(
    cover: Cover,
    loss: np.ndarray,
    rows: Rows,
    columns: np.ndarray,
    settings: Settings,
    *,
    cuts: Sequence[Sequence[int]] = (),
    penalty: float | None = None,
) -> Outcome:
    """Solve the program restricted to `columns`.

    Args:
        cuts: selections that must not come out again.
        penalty: None for the integer program, a number for the linear one. Every row of the linear program may be
            violated at this price per unit, so it always has a solution and multipliers.
    """
    integer = penalty is None
    scale = float(np.abs(loss[columns]).max(initial=0.0)) or 1.0
    model = pulp.LpProblem("selection", pulp.LpMinimize)
    z = _variables(model, cover, columns, integer=integer)
    objective = [(z[c], weight) for c, weight in zip(z, (loss[columns] / scale).tolist(), strict=True)]
    bounded = _bounds(model, rows, z, columns, None if penalty is None else penalty / scale, objective)
    model += expression(objective)
    for constraint in [*_covered_once(cover, columns, z), *(constraint for _, constraint in bounded)]:
        model += constraint
    for cut in cuts:
        terms = [(z[c], 1.0) for c in cut if c in z]
        model += expression(terms) <= len(cut) - 1

    try:
        termination = solve_model(model, _make_solver(settings, integer=integer))
    except (pulp.PulpSolverError, IndexError, OSError) as error:
        return Outcome(termination=Termination.error, message=f"{settings.solver}: {error}")
    if termination not in (Termination.optimal, Termination.feasible_at_limit):
        return Outcome(termination=termination)
    if not integer:
        numbers = [number for number, _ in bounded]
        return _linear_outcome(model, termination, cover.layers, len(rows), numbers, scale)
    chosen = [c for c, variable in z.items() if (variable.varValue or 0.0) > 0.5]
    value = float(loss[chosen].sum())
    return Outcome(
        termination=termination,
        chosen=chosen,
        value=value,
        bound=_proven_bound(model, scale, value, settings.gap, termination),
    )


def _variables(
    model: pulp.LpProblem, cover: Cover, columns: np.ndarray, *, integer: bool
) -> dict[int, pulp.LpVariable]:
    """One a column. In the linear program its layers bound a choice by 1 already, but nothing bounds a credit."""
    category = pulp.LpInteger if integer else pulp.LpContinuous
    bounded = integer | (cover.end == cover.first)[columns]
    return {
        column: model.add_variable(f"z{column}", 0, 1 if most else None, category)
        for column, most in zip(columns.tolist(), bounded.tolist(), strict=True)
    }


def _covered_once(cover: Cover, columns: np.ndarray, z: Mapping[int, pulp.LpVariable]) -> list[pulp.LpConstraint]:
    """A constraint a layer."""
    covering: list[Pairs] = [[] for _ in range(cover.layers)]
    for choice, low, high in zip(z, cover.first[columns].tolist(), cover.end[columns].tolist(), strict=True):
        for layer in range(low, high):
            covering[layer].append((z[choice], 1.0))
    return [expression(pairs) == 1 for pairs in covering]


def _bounds(
    model: pulp.LpProblem,
    rows: Rows,
    z: Mapping[int, pulp.LpVariable],
    columns: np.ndarray,
    price: float | None,
    objective: Pairs,
) -> list[tuple[int, pulp.LpConstraint]]:
    """The bounds of the rows, each with its row's number; at a `price` they may be violated, which `objective` pays."""
    terms: list[Pairs] = [[] for _ in range(len(rows))]
    inside = np.zeros(rows.columns, dtype=bool)
    inside[columns] = True
    entries = inside[rows.column]
    for r, c, v in zip(
        rows.row[entries].tolist(), rows.column[entries].tolist(), rows.value[entries].tolist(), strict=True
    ):
        terms[r].append((z[c], v))

    bounded: list[tuple[int, pulp.LpConstraint]] = []
    for number, (row, low, high) in enumerate(zip(terms, rows.lower.tolist(), rows.upper.tolist(), strict=True)):
        for sign, bound in ((1.0, high), (-1.0, low)):
            if not isfinite(bound) or (price is None and not row and sign * bound >= 0):
                continue
            slack = []
            if price is not None:
                over = model.add_variable(f"s{number}{'u' if sign > 0 else 'l'}", 0)
                objective.append((over, price))
                slack = [(over, -sign)]
            total = expression(row + slack)
            bounded.append((number, total <= bound if sign > 0 else total >= bound))
    return bounded


def _linear_outcome(
    model: pulp.LpProblem, termination: Termination, layers: int, rows: int, numbers: list[int], scale: float
) -> Outcome:
    # Only the constraints that the model hands out hold multipliers in PuLP 4.
    multipliers = np.array([constraint.pi or 0.0 for constraint in model.constraints()]) * scale
    row_multipliers = np.zeros(rows)
    np.add.at(row_multipliers, numbers, multipliers[layers : layers + len(numbers)])
    return Outcome(
        termination=termination,
        value=(pulp.value(model.objective) or 0.0) * scale,
        layer_multipliers=multipliers[:layers],
        row_multipliers=row_multipliers,
    )


def _proven_bound(model: pulp.LpProblem, scale: float, value: float, gap: float, termination: Termination) -> float:
    """The solver's own bound where PuLP hands it over (HiGHS); else what its gap implies, if it claims optimality."""
    engine = getattr(model, "solverModel", None)
    if engine is not None and hasattr(engine, "getInfo"):
        return float(engine.getInfo().mip_dual_bound) * scale
    return value - gap * abs(value) if termination is Termination.optimal else -inf
