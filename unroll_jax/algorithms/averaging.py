"""Wrappers, algorithm -> algorithm: steps made shorter or longer, and the mean of what they lead to."""

from typing import NamedTuple

import jax.numpy as jnp

from unroll_jax._checks import check_algorithm, check_attributes, check_positive
from unroll_jax._tree import tree_add_scaled, tree_sub
from unroll_jax._types import Algorithm, Array, Estimate, Params, Problem, State, estimate_of
from unroll_jax.algorithms._defaults import as_float, real_dtype
from unroll_jax.algorithms._fields import check_fields, fields_of


class RelaxedParams(NamedTuple):
    """Parameters of a `relaxed` algorithm.

    Attributes:
        inner: the wrapped algorithm's.
        relaxation: `()`, how much of each step is made: 1 for all of it, more to go beyond; in (0, 2) for the averaged
            (firmly non-expansive) maps of convex optimization.
    """

    inner: Params
    relaxation: Array


def relaxed_params(params: Params, relaxation: Array | float) -> RelaxedParams:
    """The wrapped algorithm's `params` with a relaxation.

    Raises:
        ValueError: for a relaxation that is not positive.
    """
    check_positive("relaxation", relaxation)
    return RelaxedParams(params, as_float(relaxation))


def relaxed(algorithm: Algorithm, fields: tuple[str, ...] = ("x",)) -> Algorithm:
    """`algorithm` with its steps shortened or lengthened, x+ = x + relaxation * (T x - x) for a step T.

    The iteration of Krasnoselskii and Mann; with per-layer parameters the relaxations can be learned.

    Args:
        algorithm: its states are NamedTuples.
        fields: of the state, those that are relaxed; the others are as the step left them. For a method whose steps
            are maps of more than its estimate, name all that they are maps of.

    Returns:
        An algorithm with `RelaxedParams`, and the state of `algorithm`.

    Raises:
        ValueError: for what is no algorithm; from `init`, if its state has no such fields.

    >>> import unroll_jax as uj
    >>> operator = uj.operators.Dense(jnp.eye(2))
    >>> problem = uj.objectives.LeastSquares(operator, jnp.array([3.0, 0.5]))
    >>> params = relaxed_params(uj.algorithms.proximal_gradient_params(operator, 1.0), relaxation=0.5)
    >>> uj.unroll(relaxed(uj.algorithms.proximal_gradient()), 2, params)(problem).x
    Array([1.5, 0. ], dtype=float32)
    """
    check_algorithm(algorithm)

    def init(problem: Problem) -> State:
        inner = algorithm.init(problem)
        check_fields(inner, fields, "these are relaxed")
        return inner

    def step(params: RelaxedParams, state: State, problem: Problem) -> State:
        check_attributes("params", params, RelaxedParams._fields, "RelaxedParams, as relaxed_params makes them")
        stepped = algorithm.step(params.inner, state, problem)
        old, new = fields_of(state, fields), fields_of(stepped, fields)
        return stepped._replace(**tree_add_scaled(old, params.relaxation, tree_sub(new, old)))

    return Algorithm(init, step)


class AveragedState(NamedTuple):
    """State of an `averaged` algorithm.

    Attributes:
        inner: the wrapped algorithm's state, which the average does not touch.
        x: the mean of the estimates after every step so far; the start, before the first one.
        count: `()`, the steps made.
    """

    inner: State
    x: Estimate
    count: Array


def averaged(algorithm: Algorithm) -> Algorithm:
    """`algorithm` with the mean of its estimates as its estimate: x = (x_1 + ... + x_k) / k.

    The ergodic mean, for which subgradient and primal-dual methods have their guarantees. The iteration itself goes on
    as it was.

    Args:
        algorithm: what is run; its states carry their estimate as `.x`.

    Returns:
        An algorithm with the same parameters, and `AveragedState`.

    Raises:
        ValueError: for what is no algorithm.

    >>> import unroll_jax as uj
    >>> descent = uj.algorithms.gradient_descent(lambda params, x, problem: x - problem, start=jnp.zeros_like)
    >>> uj.unroll(averaged(descent), 4, None).trajectory(jnp.asarray(2.0), lambda state: state.x)
    Array([0., 2., 2., 2., 2.], dtype=float32)
    """
    check_algorithm(algorithm)

    def init(problem: Problem) -> AveragedState:
        inner = algorithm.init(problem)
        return AveragedState(inner, estimate_of(inner), jnp.zeros((), real_dtype(estimate_of(inner))))

    def step(params: Params, state: AveragedState, problem: Problem) -> AveragedState:
        inner = algorithm.step(params, state.inner, problem)
        count = state.count + 1
        change = tree_sub(estimate_of(inner), state.x)
        return AveragedState(inner, tree_add_scaled(state.x, 1 / count, change), count)

    return Algorithm(init, step)
