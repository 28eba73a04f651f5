"""Gradient methods for smooth objectives: descent along a direction, and with constant momentum."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_attributes, check_ordered, check_positive
from unroll_jax._tree import tree_add_scaled, tree_sub
from unroll_jax._types import Algorithm, Array, Estimate, Params, Problem
from unroll_jax.algorithms._defaults import as_float, problem_gradient, slope_at
from unroll_jax.algorithms.proximal import zero_start


class GradientDescentParams(NamedTuple):
    """Parameters of `gradient_descent` with its default direction, and of `mirror_descent`.

    Attributes:
        step_size: `()`, positive, below 2 / L for a gradient with Lipschitz constant L.
    """

    step_size: Array


class GradientDescentState(NamedTuple):
    """State of `gradient_descent` and `mirror_descent`: the estimate `x`."""

    x: Estimate


class MomentumParams(NamedTuple):
    """Parameters of `heavy_ball` and `nesterov`.

    Attributes:
        step_size: `()`, positive; with L the Lipschitz constant of the gradient, below 2 (1 + momentum) / L for
            `heavy_ball`, and at most 1 / L for `nesterov`.
        momentum: `()`, in [0, 1): the share of the last step that is made again.
    """

    step_size: Array
    momentum: Array


class MomentumState(NamedTuple):
    """State of `heavy_ball` and `nesterov`.

    Attributes:
        x: the estimate.
        velocity: the last step; the shape of `x`.
    """

    x: Estimate
    velocity: Estimate


def gradient_descent_params(lipschitz: Array | float) -> GradientDescentParams:
    """The classical parameter: step size 1 / lipschitz.

    Args:
        lipschitz: `()`, the Lipschitz constant of the gradient, positive; for `LeastSquares` with the operator A it
            is `operator_norm(A) ** 2`.

    Raises:
        ValueError: for a constant that is not positive.

    >>> gradient_descent_params(4.0).step_size
    Array(0.25, dtype=float32)
    """
    check_positive("lipschitz", lipschitz)
    return GradientDescentParams(1 / as_float(lipschitz))


def heavy_ball_params(lipschitz: Array | float, strong_convexity: Array | float) -> MomentumParams:
    """The best constant parameters of `heavy_ball` for quadratic objectives (Polyak 1964).

    With a = sqrt(L) and b = sqrt(mu), step_size = 4 / (a + b)^2 and momentum = (a - b)^2 / (a + b)^2. For objectives
    that are not quadratic the iteration may cycle (Lessard, Recht, Packard 2016); that of `nesterov` does not.

    Args:
        lipschitz: `()`, L, the largest eigenvalue of the Hessian, positive.
        strong_convexity: `()`, mu, the smallest one, in (0, L].

    Raises:
        ValueError: for constants outside these ranges.

    >>> heavy_ball_params(9.0, 1.0)
    MomentumParams(step_size=Array(0.25, dtype=float32), momentum=Array(0.25, dtype=float32))
    """
    top, bottom = _square_roots(lipschitz, strong_convexity)
    return MomentumParams(4 / (top + bottom) ** 2, ((top - bottom) / (top + bottom)) ** 2)


def nesterov_params(lipschitz: Array | float, strong_convexity: Array | float) -> MomentumParams:
    """The classical parameters of `nesterov` for strongly convex objectives (Nesterov 2004, section 2.2).

    With L and mu, step_size = 1 / L and momentum = (sqrt(L) - sqrt(mu)) / (sqrt(L) + sqrt(mu)).

    Args:
        lipschitz: `()`, L, the Lipschitz constant of the gradient, positive.
        strong_convexity: `()`, mu, in (0, L]: the objective minus mu ||x||^2 / 2 is convex.

    Raises:
        ValueError: for constants outside these ranges.

    >>> nesterov_params(4.0, 1.0).momentum.round(3)
    Array(0.333, dtype=float32)
    """
    top, bottom = _square_roots(lipschitz, strong_convexity)
    return MomentumParams(1 / top**2, (top - bottom) / (top + bottom))


def _scaled_gradient(params: GradientDescentParams, x: Estimate, problem: Problem) -> Estimate:
    _check_fields(params, GradientDescentParams, "gradient_descent_params")
    slope = problem_gradient(x, problem)
    return jax.tree.map(lambda a: jnp.asarray(params.step_size).astype(a.dtype) * a, slope)


def gradient_descent(
    direction: Callable[[Params, Estimate, Problem], Estimate] = _scaled_gradient,
    start: Callable[[Problem], Estimate] = zero_start,
) -> Algorithm:
    """Descent along a direction, x+ = x - direction(params, x, problem).

    By default the direction is step_size * problem.gradient(x). A direction of one's own takes parameters of one's
    own: those of a learned regularizer, say.

    Args:
        direction: `(params, x, problem) -> what is subtracted from x`, in the dtype of `x`.
        start: `problem -> x` before the first iteration.

    Returns:
        An algorithm with `GradientDescentParams`, or whatever `direction` takes, and `GradientDescentState`.

    >>> import unroll_jax as uj
    >>> toward = gradient_descent(lambda share, x, noisy: share * (x - noisy), start=jnp.zeros_like)
    >>> uj.unroll(toward, 2, jnp.asarray(0.5))(jnp.array([4.0, 8.0])).x
    Array([3., 6.], dtype=float32)
    >>> operator = uj.operators.Dense(jnp.eye(2))
    >>> problem = uj.objectives.LeastSquares(operator, jnp.array([3.0, 0.5]))
    >>> uj.solve(gradient_descent(), gradient_descent_params(1.0), problem, tolerance=1e-6, max_steps=9).state.x
    Array([3. , 0.5], dtype=float32)
    """

    def init(problem: Problem) -> GradientDescentState:
        return GradientDescentState(start(problem))

    def step(params: Params, state: GradientDescentState, problem: Problem) -> GradientDescentState:
        return GradientDescentState(tree_sub(state.x, direction(params, state.x, problem)))

    return Algorithm(init, step)


def heavy_ball(
    gradient: Callable[[Estimate, Problem], Estimate] = problem_gradient,
    start: Callable[[Problem], Estimate] = zero_start,
) -> Algorithm:
    """Gradient descent with momentum (Polyak 1964), x+ = x - step_size * gradient(x) + momentum * (x - x_previous).

    Args:
        gradient: `(x, problem) -> gradient of the objective`; the problem's own by default.
        start: `problem -> x` before the first iteration, which has no momentum yet.

    Returns:
        An algorithm with `MomentumParams` and `MomentumState`.

    >>> import unroll_jax as uj
    >>> ball = heavy_ball(lambda x, problem: x - problem, start=jnp.zeros_like)
    >>> params = MomentumParams(jnp.asarray(0.5), jnp.asarray(0.5))
    >>> uj.unroll(ball, 3, params).trajectory(jnp.asarray(8.0), lambda state: state.x)
    Array([ 0.,  4.,  8., 10.], dtype=float32)
    """
    return _with_momentum(gradient, start, looks_ahead=False)


def nesterov(
    gradient: Callable[[Estimate, Problem], Estimate] = problem_gradient,
    start: Callable[[Problem], Estimate] = zero_start,
) -> Algorithm:
    """Nesterov's gradient method with constant momentum, for strongly convex objectives.

    x+ = y - step_size * gradient(y) with y = x + momentum * (x - x_previous): the gradient is taken where the momentum
    leads. With `nesterov_params` the error of the objective falls by the factor 1 - sqrt(mu / L) a step. Where the
    strong convexity mu is not known, `accelerated_gradient` has a momentum that grows, and restarts it.

    Args:
        gradient: as in `heavy_ball`.
        start: as in `heavy_ball`.

    Returns:
        An algorithm with `MomentumParams` and `MomentumState`.

    >>> import unroll_jax as uj
    >>> ahead = nesterov(lambda x, problem: x - problem, start=jnp.zeros_like)
    >>> params = MomentumParams(jnp.asarray(0.5), jnp.asarray(0.5))
    >>> uj.unroll(ahead, 3, params).trajectory(jnp.asarray(8.0), lambda state: state.x)
    Array([0.  , 4.  , 7.  , 8.25], dtype=float32)
    """
    return _with_momentum(gradient, start, looks_ahead=True)


def _with_momentum(
    gradient: Callable[[Estimate, Problem], Estimate], start: Callable[[Problem], Estimate], *, looks_ahead: bool
) -> Algorithm:
    def init(problem: Problem) -> MomentumState:
        x = start(problem)
        return MomentumState(x, jax.tree.map(jnp.zeros_like, x))

    def step(params: MomentumParams, state: MomentumState, problem: Problem) -> MomentumState:
        _check_fields(params, MomentumParams, "heavy_ball_params or nesterov_params")
        carried = jax.tree.map(lambda v: jnp.asarray(params.momentum).astype(v.dtype) * v, state.velocity)
        point = tree_add_scaled(state.x, 1, carried) if looks_ahead else state.x
        velocity = tree_add_scaled(carried, -params.step_size, slope_at(gradient, point, problem))
        return MomentumState(tree_add_scaled(state.x, 1, velocity), velocity)

    return Algorithm(init, step)


def _check_fields(params: Params, kind: type, makers: str) -> None:
    fields = kind._fields  # pyright: ignore[reportAttributeAccessIssue]
    check_attributes("params", params, fields, f"{kind.__name__}, as {makers} makes them")


def _square_roots(lipschitz: Array | float, strong_convexity: Array | float) -> tuple[Array, Array]:
    check_positive("lipschitz", lipschitz)
    check_positive("strong_convexity", strong_convexity)
    check_ordered("strong_convexity", strong_convexity, "lipschitz", lipschitz)
    top = jnp.sqrt(as_float(lipschitz))
    return top, jnp.sqrt(jnp.asarray(strong_convexity, top.dtype))
