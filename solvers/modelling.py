"""PuLP 3 and PuLP 4 behind the same names; they differ in how expressions are made and how the outcome is reported."""

import pulp

from .solution import Termination

Pairs = list[tuple[pulp.LpVariable, float]]


def expression(pairs: Pairs) -> pulp.LpAffineExpression:
    """The sum of variables times numbers."""
    make = getattr(pulp.LpAffineExpression, "from_list", pulp.LpAffineExpression)
    return make(pairs)


def solve_model(model: pulp.LpProblem, solver: pulp.LpSolver) -> Termination:
    """Solve, and report whether the solution was proven.

    PuLP 3's `status` is Optimal even after a time limit, for CBC and for HiGHS; `sol_status` is right. PuLP 4 returns
    why the solver stopped and whether it has a solution. It distinguishes a reached gap from optimality.
    """
    ended = model.solve(solver)
    if hasattr(ended, "has_solution"):
        names = pulp.LpSolveStatus
        found, proven = ended.has_solution, ended.status in (names.Optimal, names.GapLimit)
        infeasible = ended.status == names.Infeasible
    else:
        proven = model.status == pulp.LpStatusOptimal and model.sol_status == pulp.LpSolutionOptimal
        found = proven or model.sol_status == pulp.LpSolutionIntegerFeasible
        infeasible = model.status == pulp.LpStatusInfeasible and model.sol_status == pulp.LpSolutionInfeasible
    if found:
        return Termination.optimal if proven else Termination.feasible_at_limit
    return Termination.infeasible if infeasible else Termination.no_solution
