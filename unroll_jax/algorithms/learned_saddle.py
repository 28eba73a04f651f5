"""The learned primal-dual method: updates of both variables are networks, which have memory."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_attributes, check_count, check_function
from unroll_jax._tree import cast_like
from unroll_jax._types import Algorithm, Estimate, LinearOperator, Params, Problem
from unroll_jax.algorithms._parts import (
    called,
    check_operator_function,
    check_shape,
    checked_operator,
    problem_operator,
    zeros_of,
)
from unroll_jax.algorithms.proximal import zero_start


class LearnedPrimalDualParams(NamedTuple):
    """Parameters of one layer of `learned_primal_dual`.

    Attributes:
        primal: what `primal_update` takes as its params: any pytree, an nnx module among them.
        dual: what `dual_update` takes as its params.
    """

    primal: Params
    dual: Params


class LearnedPrimalDualState(NamedTuple):
    """State of `learned_primal_dual`.

    Attributes:
        x: the estimate, the first primal channel.
        memory: `(*shape of x, num_primal - 1)`, the other primal channels.
        dual: `(*shape of K x, num_dual)`.
    """

    x: Estimate
    memory: Any
    dual: Any


def learned_primal_dual(
    primal_update: Callable[[Params, Any, Any], Any] = called,
    dual_update: Callable[[Params, Any, Any, Any], Any] = called,
    operator: Callable[[Problem], LinearOperator] = problem_operator,
    start: Callable[[Problem], Estimate] = zero_start,
    *,
    num_primal: int = 5,
    num_dual: int = 5,
) -> Algorithm:
    """Learned primal-dual reconstruction (Adler and Oktem 2018).

    With the channels of memory on the last axis, counted from 0:
        dual+   = dual + dual_update(dual, K primal[..., 1], measurement)
        primal+ = primal + primal_update(primal, K* dual+[..., 0])

    The estimate is primal[..., 0]. With one primal channel, K is applied to that. The method of Chambolle and Pock is
    the case of two primal channels, x and x_bar, and one dual channel.

    Args:
        primal_update: `(params.primal, memory, back-projection) -> change of the memory`, from `(*shape, num_primal)`
            and `shape` to `(*shape, num_primal)`; by default the params are themselves what is called, an nnx module
            say, which sees the other two.
        dual_update: `(params.dual, memory, projection, measurement) -> change of the memory`.
        operator: `problem -> K`; the problem's own by default.
        start: `problem -> x`, which fills every primal channel; the dual ones start at zero.
        num_primal: channels of the primal memory, at least 1.
        num_dual: channels of the dual memory, at least 1.

    Returns:
        An algorithm with `LearnedPrimalDualParams` and `LearnedPrimalDualState`, on problems with `.measurement`.

    Raises:
        ValueError: for an `operator` that is no function of the problem, or counts below 1; from `step`, for updates
            of another shape than the memory's.

    >>> import unroll_jax as uj
    >>> problem = uj.objectives.LeastSquares(uj.operators.Dense(jnp.eye(2)), jnp.array([3.0, 0.5]))
    >>> algorithm = learned_primal_dual(
    ...     lambda step_size, memory, image: -step_size * image[..., None],
    ...     lambda step_size, memory, data, measurement: (data - measurement)[..., None] - memory,
    ...     num_primal=1, num_dual=1)
    >>> network = uj.unroll(algorithm, 30, LearnedPrimalDualParams(jnp.array(0.5), jnp.array(0.5)))
    >>> network(problem).x.round(1)
    Array([3. , 0.5], dtype=float32)
    """
    check_operator_function(operator)
    check_function("primal_update", primal_update, "lambda params, memory, image: change")
    check_function("dual_update", dual_update, "lambda params, memory, projection, measurement: change")
    check_count("num_primal", num_primal)
    check_count("num_dual", num_dual)

    def init(problem: Problem) -> LearnedPrimalDualState:
        x = start(problem)
        dual = zeros_of(checked_operator(operator, problem), x)
        return LearnedPrimalDualState(x, _repeated(x, num_primal - 1), _repeated(dual, num_dual))

    def step(
        params: LearnedPrimalDualParams, state: LearnedPrimalDualState, problem: Problem
    ) -> LearnedPrimalDualState:
        check_attributes("params", params, LearnedPrimalDualParams._fields, "LearnedPrimalDualParams(primal, dual)")
        check_attributes("problem", problem, ("measurement",), "LeastSquares(operator, measurement), say")
        linear = checked_operator(operator, problem)
        primal = jax.tree.map(lambda a, b: jnp.concatenate([a[..., None], b], axis=-1), state.x, state.memory)
        projection = linear(_channel(primal, min(1, num_primal - 1)))
        dual = _moved("dual_update", state.dual, dual_update(params.dual, state.dual, projection, problem.measurement))
        change = primal_update(params.primal, primal, linear.adjoint(_channel(dual, 0)))
        primal = _moved("primal_update", primal, change)
        return LearnedPrimalDualState(_channel(primal, 0), jax.tree.map(lambda leaf: leaf[..., 1:], primal), dual)

    return Algorithm(init, step)


def _channel(memory: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[..., index], memory)


def _repeated(x: Any, num_channels: int) -> Any:
    return jax.tree.map(lambda leaf: jnp.repeat(leaf[..., None], num_channels, axis=-1), x)


def _moved(name: str, memory: Any, change: Any) -> Any:
    check_shape(name, change, memory)

    return jax.tree.map(jnp.add, memory, cast_like(change, memory))
