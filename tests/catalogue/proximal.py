"""Every proximal operator, with its penalty in NumPy and a minimizer by other means."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from helpers import REAL

from catalogue import minimizers
from catalogue.rows import ProxRow
from unroll_jax import prox

Penalty = Callable[[np.ndarray], Any]

RNG = np.random.default_rng(5)
MATRIX, MEASUREMENT = RNG.standard_normal((3, 6)), RNG.standard_normal(3)
TALL, TALL_MEASUREMENT = RNG.standard_normal((8, 6)), RNG.standard_normal(8)
FACTOR, LINEAR, NORMAL = RNG.standard_normal((6, 4)), RNG.standard_normal(6), RNG.standard_normal(6)
GRAM = FACTOR @ FACTOR.T


def row(
    name: str, penalty: Penalty, dtypes: Any = None, *, bound: dict[str, Any] | None = None, **more: Any
) -> ProxRow:
    """The row of a public name, the first word of `name`, with parameters `bound` to it and to its value."""
    public = name.split()[0]
    value = functools.partial(getattr(prox, f"{'l1' if public == 'soft_threshold' else public}_value"), **bound or {})
    if "num_steps" in value.keywords:  # accuracy, which is no parameter of the value
        value = functools.partial(value.func, **{k: v for k, v in value.keywords.items() if k != "num_steps"})
    options = {**more, **({} if dtypes is None else {"dtypes": dtypes})}
    return ProxRow(name, functools.partial(getattr(prox, public), **bound or {}), value, penalty, **options)


def inside(holds: Callable[[np.ndarray], Any]) -> Penalty:
    return lambda z: np.where(holds(z), 0.0, np.inf)


def sizes(z: np.ndarray) -> np.ndarray:
    """Singular values."""
    return np.linalg.svd(z, compute_uv=False)


def where_positive(function: Penalty, at_zero: float = np.inf) -> Penalty:
    """`function` for positive numbers, infinite for negative ones."""
    return lambda z: np.where(z > 0, function(np.where(z > 0, z, 1)), np.where(z == 0, at_zero, np.inf))


def mcp(width: float) -> Penalty:
    return lambda z: np.where(np.abs(z) < width, np.abs(z) - np.abs(z) ** 2 / (2 * width), width / 2)


def scad(knee: float, width: float) -> Penalty:
    def penalty(z: np.ndarray) -> np.ndarray:
        size = np.abs(z)
        middle = (2 * width * size - size**2 - knee**2) / (2 * (width - knee))
        return np.where(size <= knee, size, np.where(size <= width, middle, (knee + width) / 2))

    return penalty


def log_sum(width: float) -> Penalty:
    return lambda z: width * np.log(1 + np.abs(z) / width)


def huber(z: np.ndarray) -> np.ndarray:
    return np.where(np.abs(z) <= 0.4, np.abs(z) ** 2 / 0.8, np.abs(z) - 0.2)


def variation(isotropic: bool) -> Penalty:
    def penalty(z: np.ndarray) -> float:
        differences = minimizers.difference_matrix(z.shape) @ z.ravel()
        return np.sum(np.linalg.norm(differences, axis=0)) if isotropic else np.sum(np.abs(differences))

    return penalty


def semidefinite(z: np.ndarray) -> np.ndarray:
    return np.all(np.abs(z - z.conj().T) < 1e-9) & (np.linalg.eigvalsh(z)[0] > -1e-9)


SHRINKAGE = (
    row("soft_threshold", np.abs),
    row("l1", lambda z: 0.6 * np.abs(z), bound={"weights": 0.6}),
    row("elastic_net", lambda z: np.abs(z) + 0.25 * np.abs(z) ** 2, bound={"ratio": 0.5}),
    row("squared_l2", lambda z: np.abs(z) ** 2 / 2),
    row("huber", huber, bound={"width": 0.4}),
)

NON_CONVEX = (
    row("l0", lambda z: (z != 0) * 1.0, is_convex=False),
    row("mcp", mcp(2.0), bound={"width": 2.0}, is_convex=False),
    row("mcp that jumps", mcp(0.2), bound={"width": 0.2}, is_convex=False),
    row("scad", scad(0.5, 2.5), bound={"knee": 0.5, "width": 2.5}, is_convex=False),
    row("scad that jumps", scad(0.1, 0.3), bound={"knee": 0.1, "width": 0.3}, is_convex=False),
    row("log_sum", log_sum(2.0), bound={"width": 2.0}, is_convex=False),
    row("log_sum that jumps", log_sum(0.2), bound={"width": 0.2}, is_convex=False),
)

LIKELIHOODS = (
    row("poisson", where_positive(lambda z: z - 2 * np.log(z)), REAL, bound={"counts": 2.0}),
    row("poisson without a count", where_positive(lambda z: z, 0.0), REAL, bound={"counts": 0.0}),
    row("entropy", where_positive(lambda z: z * np.log(z), 0.0), REAL),
    row("log_barrier", where_positive(lambda z: -np.log(z)), REAL),
    row("logistic", lambda z: np.log(1 + np.exp(z)), REAL, bound={"labels": -1.0}),
    row("hinge", lambda z: np.maximum(1 + z, 0), REAL, bound={"labels": -1.0}),
    row("quantile", lambda z: np.where(z > 0, 0.8 * z, -0.2 * z), REAL, bound={"level": 0.8}),
)

QUADRATICS = (
    row(
        "quadratic of a diagonal",
        lambda z: 0.7 * np.abs(z) ** 2 + 0.3 * np.real(z),
        bound={"matrix": 1.4, "linear": 0.3},
    ),
    row(
        "quadratic",
        lambda z: np.real(np.vdot(z, GRAM @ z)) / 2 + LINEAR @ np.real(z),
        bound={"matrix": GRAM, "linear": LINEAR},
        minimizer=lambda x, s: minimizers.stacked_least_squares(x - s * LINEAR, s, FACTOR.T, np.zeros(4)),
    ),
    row(
        "least_squares of few rows",
        lambda z: np.sum(np.abs(MATRIX @ z - MEASUREMENT) ** 2) / 2,
        bound={"matrix": MATRIX, "measurement": MEASUREMENT},
        minimizer=lambda x, s: minimizers.stacked_least_squares(x, s, MATRIX, MEASUREMENT),
    ),
    row(
        "least_squares",
        lambda z: np.sum(np.abs(TALL @ z - TALL_MEASUREMENT) ** 2) / 2,
        bound={"matrix": TALL, "measurement": TALL_MEASUREMENT},
        minimizer=lambda x, s: minimizers.stacked_least_squares(x, s, TALL, TALL_MEASUREMENT),
    ),
)

NORMS = (
    row("l2", np.linalg.norm, minimizer=minimizers.of_dual_ball(minimizers.in_l2_ball)),
    row(
        "group_l21",
        lambda z: np.sum(np.linalg.norm(z, axis=1)),
        shape=(2, 3),
        minimizer=minimizers.of_groups(minimizers.of_dual_ball(minimizers.in_l2_ball)),
    ),
    row("linf", lambda z: np.max(np.abs(z)), minimizer=minimizers.of_dual_ball(minimizers.in_l1_ball)),
)

VARIATION = (
    row(
        "total_variation",
        variation(True),
        bound={"num_steps": 300},
        shape=(3, 3),
        minimizer=minimizers.of_isotropic_variation,
        tolerance=1e-6,
    ),
    row(
        "total_variation that is anisotropic",
        variation(False),
        bound={"isotropic": False, "num_steps": 300},
        shape=(3, 3),
        minimizer=minimizers.of_anisotropic_variation,
        tolerance=1e-6,
    ),
    row("total_variation_1d", variation(False), REAL, shape=(8,), minimizer=minimizers.of_anisotropic_variation),
)

SPECTRA = (
    row("nuclear", lambda z: np.sum(sizes(z)), shape=(4, 3), minimizer=minimizers.of_nuclear_norm),
    row("spectral_norm", lambda z: sizes(z)[0], shape=(3, 3), minimizer=minimizers.of_spectral_norm),
    row(
        "nuclear_ball",
        inside(lambda z: np.sum(sizes(z)) < 1.5 + 1e-9),
        bound={"radius": 1.5},
        shape=(3, 4),
        minimizer=lambda x, _: minimizers.in_nuclear_ball(x, 1.5),
        is_set=True,
    ),
    row(
        "spectral_ball",
        inside(lambda z: sizes(z)[0] < 1 + 1e-9),
        shape=(3, 4),
        minimizer=lambda x, _: x - minimizers.of_nuclear_norm(x, 1.0),
        is_set=True,
    ),
    row(
        "positive_semidefinite",
        inside(semidefinite),
        shape=(3, 3),
        minimizer=lambda x, _: minimizers.semidefinite(x),
        is_set=True,
    ),
)

SETS = (
    row("non_negative", inside(lambda z: z >= 0), REAL, is_set=True),
    row("box", inside(lambda z: (z >= 0) & (z <= 1)), REAL, is_set=True),
    row(
        "box off center",
        inside(lambda z: (z >= -0.5) & (z <= 2)),
        REAL,
        bound={"lower": -0.5, "upper": 2.0},
        is_set=True,
    ),
    row(
        "linf_ball",
        inside(lambda z: np.max(np.abs(z)) < 0.8 + 1e-9),
        bound={"radius": 0.8},
        minimizer=lambda x, _: minimizers.in_linf_ball(x, 0.8),
        is_set=True,
    ),
    row(
        "l1_ball",
        inside(lambda z: np.sum(np.abs(z)) < 1.5 + 1e-9),
        bound={"radius": 1.5},
        minimizer=lambda x, _: minimizers.in_l1_ball(x, 1.5),
        is_set=True,
    ),
    row(
        "l2_ball",
        inside(lambda z: np.linalg.norm(z) < 1.5 + 1e-9),
        bound={"radius": 1.5},
        minimizer=lambda x, _: minimizers.in_l2_ball(x, 1.5),
        is_set=True,
    ),
    row(
        "simplex",
        inside(lambda z: (np.abs(np.sum(z) - 2) < 1e-9) & np.all(z >= 0)),
        REAL,
        bound={"total": 2.0},
        minimizer=lambda x, _: minimizers.in_simplex(x, 2.0),
        is_set=True,
    ),
    row(
        "half_space",
        inside(lambda z: NORMAL @ np.real(z) < -0.5 + 1e-9),
        bound={"normal": NORMAL, "offset": -0.5},
        minimizer=lambda x, _: minimizers.in_half_space(x, NORMAL, -0.5),
        is_set=True,
    ),
    row(
        "affine",
        inside(lambda z: np.all(np.abs(MATRIX @ z - MEASUREMENT) < 1e-9)),
        bound={"matrix": MATRIX, "measurement": MEASUREMENT},
        minimizer=lambda x, _: minimizers.least_norm(x, MATRIX, MEASUREMENT),
        is_set=True,
    ),
    row(
        "second_order_cone",
        inside(lambda z: np.linalg.norm(z[1:]) <= 0.5 * z[0] + 1e-9),
        REAL,
        bound={"slope": 0.5},
        shape=(3,),
        minimizer=lambda x, _: minimizers.in_cone(x, 0.5),
        is_set=True,
    ),
)

PROXES = (*SHRINKAGE, *NON_CONVEX, *LIKELIHOODS, *QUADRATICS, *NORMS, *VARIATION, *SPECTRA, *SETS)
