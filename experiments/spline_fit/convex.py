"""The exact solution of the constrained fit, by an interior-point method: what training is compared with."""

from typing import Any, NamedTuple

import clarabel
import numpy as np
from scipy import sparse

from experiments.spline_fit.problem import Task

_SOLVER: Any = clarabel  # compiled, without types


class Optimum(NamedTuple):
    """The best splines with knots at the data sites.

    Attributes:
        coefficients: `(num_fits, num_sites)`, their values at the sites.
        objective: `(num_fits,)`, as `Task.objectives`.
        num_kinks: `(num_fits,)`, the sites at which their slope changes.
    """

    coefficients: np.ndarray
    objective: np.ndarray
    num_kinks: np.ndarray


def optimum_of(task: Task) -> Optimum:
    """The minimizers of all fits of `task`."""
    coefficients = np.stack(
        [
            convex_fit(task.sites, values, lower, upper, weight)
            for values, (lower,), (upper,), weight in zip(
                task.values, task.lower, task.upper, task.weights, strict=True
            )
        ]
    )
    return Optimum(coefficients, task.objectives(coefficients), count_kinks(task, coefficients))


def count_kinks(task: Task, coefficients: np.ndarray) -> np.ndarray:
    """The sites at which the slope changes by more than 1e-5: `(num_fits,)`."""
    return np.sum(np.abs(np.diff(task.slopes(coefficients), axis=1)) > 1e-5, axis=1)


def convex_fit(
    sites: np.ndarray, targets: np.ndarray, lower_slope: float, upper_slope: float, tv2_weight: float
) -> np.ndarray:
    """The minimizer over all functions f of  mean (f(x) - y)^2 / 2 + tv2_weight * TV2(f),  lower <= f' <= upper.

    By the representer theorem (arXiv 2408.13114) a linear spline with knots at the inner sites is among the minimizers,
    which makes it a quadratic program in the values at the sites.

    Args:
        sites: `(num_sites,)`, increasing, at least 3.
        targets: `(num_sites,)`.
        lower_slope: may be -inf.
        upper_slope: may be inf.
        tv2_weight: non-negative.

    Returns:
        `(num_sites,)`, its values at the sites.

    Raises:
        RuntimeError: if the solver stops before it has the optimum.
    """
    num_sites, num_kinks = len(sites), len(sites) - 2
    slopes = np.diff(np.eye(num_sites), axis=0) / np.diff(sites)[:, None]
    kinks = np.diff(slopes, axis=0)
    # variables: the values, and a bound of every kink's size
    quadratic = np.diag(np.repeat([1 / num_sites, 0.0], [num_sites, num_kinks]))
    linear = np.concatenate([-targets / num_sites, np.full(num_kinks, tv2_weight)])
    bound = np.eye(num_kinks)
    rows = [np.hstack([kinks, -bound]), np.hstack([-kinks, -bound])]
    limits = [np.zeros(2 * num_kinks)]
    for sign, limit in ((1, upper_slope), (-1, -lower_slope)):
        if np.isfinite(limit):
            rows.append(np.hstack([sign * slopes, np.zeros((num_sites - 1, num_kinks))]))
            limits.append(np.full(num_sites - 1, limit))
    matrix, limit = sparse.csc_matrix(np.vstack(rows)), np.concatenate(limits)

    settings = _SOLVER.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-11
    cones = [_SOLVER.NonnegativeConeT(len(limit))]
    solver = _SOLVER.DefaultSolver(sparse.csc_matrix(quadratic), linear, matrix, limit, cones, settings)
    solution = solver.solve()
    if str(solution.status) != "Solved":
        raise RuntimeError(f"The quadratic program was not solved: {solution.status}.")
    return np.array(solution.x[:num_sites])
