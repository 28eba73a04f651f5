"""Minimizers of strength * g(z) + ||z - x||^2 / 2 by SciPy's solvers, from a start that does not know the answer."""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.optimize

Minimizer = Callable[[np.ndarray, float], np.ndarray]


def nearest(x: np.ndarray, constraints: list[dict[str, Any]], bounds: Any = None, lift: Any = None) -> np.ndarray:
    """The point nearest to `x` under smooth constraints, by sequential quadratic programming from a fixed point.

    With a matrix `lift`, the point is lift @ variables.
    """
    lift = np.eye(x.size) if lift is None else lift
    found = scipy.optimize.minimize(
        lambda v: np.sum((lift @ v - x.ravel()) ** 2) / 2,
        np.linspace(0.1, 0.2, lift.shape[1]),
        jac=lambda v: lift.T @ (lift @ v - x.ravel()),
        method="SLSQP",
        bounds=bounds,
        constraints=constraints,
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    assert found.status in (0, 8), found.message  # 8: no descent above rounding
    return (lift @ found.x).reshape(x.shape)


def at_least_zero(function: Callable[[np.ndarray], Any], slope: Callable[[np.ndarray], Any]) -> dict[str, Any]:
    return {"type": "ineq", "fun": function, "jac": slope}


def in_simplex(x: np.ndarray, total: float) -> np.ndarray:
    sums = {"type": "eq", "fun": lambda v: np.sum(v) - total, "jac": np.ones_like}
    return nearest(x, [sums], [(0, None)] * x.size)


def in_l1_ball(x: np.ndarray, radius: float) -> np.ndarray:
    """z = u - v with u, v >= 0 whose sum is at most `radius`."""
    lift = np.hstack([np.eye(x.size), -np.eye(x.size)])
    sums = at_least_zero(lambda v: radius - np.sum(v), lambda v: -np.ones_like(v))
    return nearest(x, [sums], [(0, None)] * (2 * x.size), lift)


def in_l2_ball(x: np.ndarray, radius: float) -> np.ndarray:
    if radius == 0:  # no inner point, which the solver needs
        return np.zeros_like(x)
    return nearest(x, [at_least_zero(lambda v: radius**2 - v @ v, lambda v: -2 * v)])


def in_linf_ball(x: np.ndarray, radius: float) -> np.ndarray:
    return nearest(x, [], [(-radius, radius)] * x.size)


def in_half_space(x: np.ndarray, normal: np.ndarray, offset: float) -> np.ndarray:
    return nearest(x, [at_least_zero(lambda v: offset - normal @ v, lambda v: -normal)])


def in_cone(x: np.ndarray, slope: float) -> np.ndarray:
    """A combination of many directions on the boundary of the cone in three dimensions, and of more near the best."""
    angles = np.linspace(0, 2 * np.pi, 1000, endpoint=False)
    for spacing in (7e-3, 3e-5, 1e-7):
        directions = np.stack([np.ones_like(angles), slope * np.cos(angles), slope * np.sin(angles)])
        weights = scipy.optimize.nnls(directions, x)[0]
        best = angles[weights > 0]
        angles = np.unique(np.add.outer(best, np.linspace(-spacing, spacing, 401)))
    return directions @ weights


def least_norm(x: np.ndarray, matrix: np.ndarray, measurement: np.ndarray) -> np.ndarray:
    return x + np.linalg.lstsq(matrix, measurement - matrix @ x)[0]


def of_dual_ball(project: Minimizer) -> Minimizer:
    """The minimizer for a norm, from the projection on the unit ball of its dual, by Moreau's decomposition."""
    return lambda x, strength: x - project(x, strength)


def of_groups(minimizer: Minimizer) -> Minimizer:
    """Each row by itself."""
    return lambda x, strength: np.stack([minimizer(row, strength) for row in x])


def stacked_least_squares(x: np.ndarray, strength: float, matrix: np.ndarray, measurement: np.ndarray) -> np.ndarray:
    root = strength**0.5
    return np.linalg.lstsq(np.vstack([np.eye(x.size), root * matrix]), np.append(x, root * measurement))[0]


def of_nuclear_norm(x: np.ndarray, strength: float) -> np.ndarray:
    """The nuclear norm is the least (||A||^2 + ||B||^2) / 2 with z = A B: a smooth problem, without poor minima."""
    if strength == 0:
        return x
    rows, columns = x.shape
    rank = min(x.shape)

    def value(v: np.ndarray) -> tuple[float, np.ndarray]:
        left, right = v[: rows * rank].reshape(rows, rank), v[rows * rank :].reshape(rank, columns)
        residual = left @ right - x
        slopes = residual @ right.T + strength * left, left.T @ residual + strength * right
        return np.sum(residual**2) / 2 + strength * (v @ v) / 2, np.concatenate([slope.ravel() for slope in slopes])

    v = _descend(value, rank * (rows + columns))
    return v[: rows * rank].reshape(rows, rank) @ v[rows * rank :].reshape(rank, columns)


def semidefinite(x: np.ndarray) -> np.ndarray:
    """The nearest B B^T."""

    def value(v: np.ndarray) -> tuple[float, np.ndarray]:
        factor = v.reshape(x.shape)
        residual = factor @ factor.T - (x + x.T) / 2
        return np.sum(residual**2) / 2, (2 * residual @ factor).ravel()

    factor = _descend(value, x.size).reshape(x.shape)
    return factor @ factor.T


def in_nuclear_ball(x: np.ndarray, radius: float) -> np.ndarray:
    """The minimizer for the nuclear norm at the strength that its norm is `radius` at."""
    left, values, right = np.linalg.svd(x, full_matrices=False)
    if np.sum(values) <= radius:
        return x
    level = scipy.optimize.brentq(lambda t: np.sum(np.maximum(values - t, 0)) - radius, 0, values[0], xtol=1e-14)
    return (left * np.maximum(values - level, 0)) @ right


def of_spectral_norm(x: np.ndarray, strength: float) -> np.ndarray:
    """The best level to cut singular values at."""
    left, values, right = np.linalg.svd(x, full_matrices=False)
    found: Any = scipy.optimize.minimize_scalar(
        lambda t: strength * t + np.sum(np.maximum(values - t, 0) ** 2) / 2,
        bounds=(0, values[0]),
        method="bounded",
        options={"xatol": 1e-12},
    )
    return (left * np.minimum(values, found.x)) @ right


def difference_matrix(shape: tuple[int, ...]) -> np.ndarray:
    """Forward differences along every axis, `(num_axes, size, size)`, zero at the far ends."""
    matrices = []
    for axis in range(len(shape)):
        steps = [np.eye(length) for length in shape]
        steps[axis] = np.eye(shape[axis], k=1) - np.eye(shape[axis])
        steps[axis][-1] = 0
        product = np.ones((1, 1))
        for step in steps:
            product = np.kron(product, step)
        matrices.append(product)
    return np.stack(matrices)


def of_anisotropic_variation(x: np.ndarray, strength: float) -> np.ndarray:
    """The dual problem, a least-squares problem in a box."""
    if strength == 0:
        return x
    matrix = np.concatenate(difference_matrix(x.shape)).T
    found = scipy.optimize.lsq_linear(matrix, x.ravel(), (-strength, strength), method="bvls", tol=1e-15)
    return (x.ravel() - matrix @ found.x).reshape(x.shape)


def of_isotropic_variation(x: np.ndarray, strength: float) -> np.ndarray:
    """The dual problem, a least-squares problem in a product of discs."""
    if strength == 0:
        return x
    pairs = difference_matrix(x.shape)

    def in_discs(v: np.ndarray) -> np.ndarray:
        return strength**2 - np.sum(v.reshape(2, -1) ** 2, axis=0)

    def slopes(v: np.ndarray) -> np.ndarray:
        return np.hstack([np.diag(-2 * part) for part in v.reshape(2, -1)])

    projection = nearest(x, [at_least_zero(in_discs, slopes)], lift=np.concatenate(pairs).T)
    return x - projection


def _descend(value: Callable[[np.ndarray], tuple[float, np.ndarray]], size: int) -> np.ndarray:
    start = np.random.default_rng(1).standard_normal(size)
    options = {"ftol": 1e-16, "gtol": 1e-9, "maxiter": 5000, "maxfun": 20000}
    return scipy.optimize.minimize(value, start, jac=True, method="L-BFGS-B", options=options).x
