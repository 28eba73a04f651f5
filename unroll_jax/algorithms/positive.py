"""Methods whose estimates are positive because every step multiplies, and SIRT, for non-negative operators."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_attributes, check_operator, check_positive, check_real_array
from unroll_jax._types import Algorithm, Array, Estimate, LinearOperator, Problem
from unroll_jax.algorithms._defaults import as_float, problem_gradient, slope_at
from unroll_jax.algorithms.gradient import GradientDescentParams, GradientDescentState
from unroll_jax.algorithms.proximal import zero_start


class MLEMParams(NamedTuple):
    """Parameters of `mlem`.

    Attributes:
        sensitivity: the shape of the estimate, non-negative; classically A* 1, how much of each entry is counted.
    """

    sensitivity: Estimate


class MLEMState(NamedTuple):
    """State of `mlem`: the estimate `x`."""

    x: Estimate


class SIRTParams(NamedTuple):
    """Parameters of `sirt`.

    Attributes:
        relaxation: `()`, in (0, 2).
        row_weights: the shape of the measurement, non-negative; classically 1 / A 1, one over the sums of the rows.
        column_weights: the shape of the estimate, non-negative; classically 1 / A* 1.
    """

    relaxation: Array
    row_weights: Any
    column_weights: Estimate


class SIRTState(NamedTuple):
    """State of `sirt`: the estimate `x`."""

    x: Estimate


def one_start(problem: Problem) -> Estimate:
    """Ones in the shape of `problem.operator.adjoint(problem.measurement)`.

    Raises:
        ValueError: for a problem without these two, or of whole numbers.
    """
    return jax.tree.map(jnp.ones_like, zero_start(problem))


def mirror_descent(
    gradient: Callable[[Estimate, Problem], Estimate] = problem_gradient,
    start: Callable[[Problem], Estimate] = one_start,
    *,
    simplex: bool = False,
) -> Algorithm:
    """Entropic mirror descent (Beck and Teboulle 2003): x+ = x exp(-step_size * gradient(x)), which stays positive.

    It is the minimizer over z >= 0 of  step_size <gradient(x), z> + sum_i (z_i log(z_i / x_i) - z_i + x_i). On a
    simplex the result is scaled back to the sum of x, so all estimates keep the sum of the start (exponentiated
    gradient, Kivinen and Warmuth 1997). Entries that are zero at the start stay zero. The classical step size is 1 / L
    with L the Lipschitz constant of the gradient **from the l1 norm to the maximum norm**, on a simplex of sum 1: for
    least squares the largest entry of |A* A|.

    Args:
        gradient: `(x, problem) -> gradient of the objective`, real; the problem's own by default.
        start: `problem -> x` before the first iteration, positive; ones by default.
        simplex: keep the sum of all entries.

    Returns:
        An algorithm with `GradientDescentParams` and `GradientDescentState`.

    >>> import unroll_jax as uj
    >>> thirds = mirror_descent(lambda x, problem: problem, lambda problem: jnp.ones(3) / 3, simplex=True)
    >>> params = uj.algorithms.gradient_descent_params(1.0)
    >>> uj.unroll(thirds, 10, params)(jnp.array([1.0, 0.0, 1.0])).x.round(3)
    Array([0., 1., 0.], dtype=float32)
    """

    def init(problem: Problem) -> GradientDescentState:
        return GradientDescentState(_checked_real(start(problem)))

    def step(params: GradientDescentParams, state: GradientDescentState, problem: Problem) -> GradientDescentState:
        fields = GradientDescentParams._fields
        check_attributes("params", params, fields, "GradientDescentParams, as gradient_descent_params makes them")
        slope = slope_at(gradient, state.x, problem)
        if simplex:
            # a constant cancels in the scaling; this one keeps the largest factor at 1
            lowest = jax.lax.stop_gradient(
                _reduced(jnp.minimum, lambda x, g: jnp.min(jnp.where(x > 0, g, jnp.inf)), state.x, slope)
            )
            slope = jax.tree.map(lambda g: g - lowest.astype(g.dtype), slope)
        x = jax.tree.map(lambda x, g: x * jnp.exp(-jnp.asarray(params.step_size).astype(x.dtype) * g), state.x, slope)
        if simplex:
            scale = _reduced(jnp.add, jnp.sum, state.x) / _reduced(jnp.add, jnp.sum, x)
            x = jax.tree.map(lambda x: scale.astype(x.dtype) * x, x)
        return GradientDescentState(x)

    return Algorithm(init, step)


def mlem_params(operator: LinearOperator, measurement: Any) -> MLEMParams:
    """The classical parameters of `mlem`: the sensitivity A* 1.

    Args:
        operator: A, without negative entries.
        measurement: what it makes, or its shape and dtype as `jax.ShapeDtypeStruct`.

    Raises:
        ValueError: for what is no operator.

    >>> from unroll_jax.operators import Dense
    >>> mlem_params(Dense(jnp.array([[1.0, 2.0], [3.0, 4.0]])), jnp.ones(2)).sensitivity
    Array([4., 6.], dtype=float32)
    """
    check_operator("operator", operator)
    return MLEMParams(operator.adjoint(_ones(measurement)))


def mlem(start: Callable[[Problem], Estimate] = one_start) -> Algorithm:
    """Maximum-likelihood expectation maximization for Poisson data, also known as Richardson-Lucy.

    x+ = x / sensitivity * A*(b / (A x + background)), which raises the likelihood of counts b with the mean
    A x + background in every step and keeps x non-negative (Shepp and Vardi 1982; with a background, Fessler and Hero
    1995). Without a background the sum of sensitivity * x is that of the counts after every step.

    A problem has `.operator`, without negative entries, and `.measurement`, the counts; a `.background`, non-negative
    and in the shape of the measurement, if it has one. A measurement where nothing is expected says nothing, and an
    entry that no measurement sees stays as it is.

    Args:
        start: `problem -> x` before the first iteration, positive; ones by default.

    Returns:
        An algorithm with `MLEMParams` and `MLEMState`.

    >>> import unroll_jax as uj
    >>> operator = uj.operators.Dense(jnp.array([[1.0, 2.0], [3.0, 1.0]]))
    >>> problem = uj.objectives.LeastSquares(operator, jnp.array([5.0, 5.0]))
    >>> params = mlem_params(operator, problem.measurement)
    >>> uj.solve(mlem(), params, problem, tolerance=1e-6, max_steps=500).state.x.round(3)
    Array([1., 2.], dtype=float32)
    """

    def init(problem: Problem) -> MLEMState:
        return MLEMState(_checked_real(start(problem)))

    def step(params: MLEMParams, state: MLEMState, problem: Problem) -> MLEMState:
        check_attributes("params", params, MLEMParams._fields, "MLEMParams, as mlem_params makes them")
        expected = problem.operator(state.x)
        background = getattr(problem, "background", None)
        if background is not None:
            expected = jax.tree.map(jnp.add, expected, background)
        ratio = jax.tree.map(_ratio, problem.measurement, expected)
        factor = jax.tree.map(_ratio, problem.operator.adjoint(ratio), params.sensitivity)
        x = jax.tree.map(lambda x, f, s: jnp.where(s > 0, x * f, x), state.x, factor, params.sensitivity)
        return MLEMState(x)

    return Algorithm(init, step)


def sirt_params(operator: LinearOperator, measurement: Any, relaxation: Array | float = 1.0) -> SIRTParams:
    """The classical parameters of `sirt`: one over the sums of the operator's rows and columns, 0 for empty ones.

    Args:
        operator: A, without negative entries.
        measurement: what it makes, or its shape and dtype as `jax.ShapeDtypeStruct`.
        relaxation: `()`, in (0, 2).

    Raises:
        ValueError: for what is no operator, or a relaxation that is not positive.

    >>> from unroll_jax.operators import Dense
    >>> sirt_params(Dense(jnp.array([[1.0, 3.0], [0.0, 0.0]])), jnp.ones(2)).row_weights
    Array([0.25, 0.  ], dtype=float32)
    """
    check_operator("operator", operator)
    check_positive("relaxation", relaxation)
    columns = operator.adjoint(_ones(measurement))
    rows = operator(_ones(columns))
    inverse = functools.partial(jax.tree.map, lambda sums: _ratio(jnp.ones_like(sums), sums))
    return SIRTParams(as_float(relaxation), inverse(rows), inverse(columns))


def sirt(
    start: Callable[[Problem], Estimate] = zero_start, project: Callable[[Estimate], Estimate] | None = None
) -> Algorithm:
    """The simultaneous iterative reconstruction technique, x+ = x + relaxation * C A*(R (b - A x)).

    R and C are the row and the column weights, so that each ray spreads its residual over the pixels it crosses
    (Gregor and Benson 2008). For an operator without negative entries it converges for relaxations in (0, 2), to a
    minimizer of <b - A x, R (b - A x)>. No norm of A is needed.

    Args:
        start: `problem -> x` before the first iteration; zeros by default.
        project: `x -> x`, onto a box, after every step: `prox.non_negative` or `prox.box`, say.

    Returns:
        An algorithm with `SIRTParams` and `SIRTState`.

    >>> import unroll_jax as uj
    >>> operator = uj.operators.Dense(jnp.array([[1.0, 2.0], [3.0, 1.0]]))
    >>> problem = uj.objectives.LeastSquares(operator, jnp.array([5.0, 5.0]))
    >>> params = sirt_params(operator, problem.measurement)
    >>> uj.solve(sirt(), params, problem, tolerance=1e-6, max_steps=500).state.x.round(3)
    Array([1., 2.], dtype=float32)
    """

    def init(problem: Problem) -> SIRTState:
        return SIRTState(start(problem))

    def step(params: SIRTParams, state: SIRTState, problem: Problem) -> SIRTState:
        check_attributes("params", params, SIRTParams._fields, "SIRTParams, as sirt_params makes them")
        predicted = problem.operator(state.x)
        weighted = jax.tree.map(lambda r, b, y: r * (b - y), params.row_weights, problem.measurement, predicted)
        x = jax.tree.map(
            lambda x, c, d: x + jnp.asarray(params.relaxation).astype(x.dtype) * c * d,
            state.x,
            params.column_weights,
            problem.operator.adjoint(weighted),
        )
        return SIRTState(x if project is None else project(x))

    return Algorithm(init, step)


def _ratio(numerator: Array, denominator: Array) -> Array:
    """`numerator / denominator`, 0 where nothing is positive below, in value and derivative."""
    is_positive = denominator > 0
    return jnp.where(is_positive, numerator / jnp.where(is_positive, denominator, 1), 0)


def _ones(like: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), like)


def _reduced(combine: Callable[[Array, Array], Array], reduce: Callable[..., Array], *trees: Any) -> Array:
    return functools.reduce(combine, jax.tree.leaves(jax.tree.map(reduce, *trees)))


def _checked_real(x: Estimate) -> Estimate:
    for leaf in jax.tree.leaves(x):
        check_real_array("x", leaf)
    return x
