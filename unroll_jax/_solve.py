"""`solve`: an algorithm run until it has converged."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_algorithm, check_count, check_function, check_non_negative, check_state
from unroll_jax._tree import tree_is_finite, tree_where
from unroll_jax._types import Algorithm, Array, Params, Problem, PyTree, State, estimate_of
from unroll_jax.stopping import relative_change


class Solution(NamedTuple):
    """What `solve` found.

    Attributes:
        state: the algorithm's last state.
        num_steps: `()`, the iterations made.
        residual: `()`, the stopping rule's last value; not finite if the iterates were not.
        converged: `()`, whether the residual reached the tolerance, with a finite estimate.
        is_finite: `()`, whether the estimate is finite; where it is not, the iteration stopped.
        records: what `record` kept of the start and of the state at each check, on a leading axis; None without it.
    """

    state: State
    num_steps: Array
    residual: Array
    converged: Array
    is_finite: Array
    records: PyTree = None


def solve(
    algorithm: Algorithm,
    params: Params,
    problem: Problem,
    *,
    tolerance: float,
    max_steps: int,
    prepare: Callable[[Params, Problem], Params] | None = None,
    residual: Callable[[State, State, Problem], Array] = relative_change,
    check_every: int = 1,
    record: Callable[[State], PyTree] | None = None,
) -> Solution:
    """`algorithm` run until its residual is at most `tolerance`, or for `max_steps`.

    Under `jax.vmap` every example stops on its own and keeps its own count of steps. An estimate or a residual that is
    not a number stops it too, as not converged.

    Args:
        algorithm: what is run.
        params: one layer's parameters, used in every iteration.
        problem: one problem.
        tolerance: non-negative, the unit of the residual.
        max_steps: at least 1; a whole number of checks is made, so that at most `check_every - 1` steps come on top.
        prepare: `(params, problem) -> params`, run once before the first iteration.
        residual: `(previous state, state, problem) -> ()`, the stopping rule: the relative change of the estimate
            by default; `unroll_jax.stopping` has others, such as the duality gap.
        check_every: steps between two values of the residual, at least 1; more where the residual is expensive.
        record: `state -> pytree`, kept of the start and at every check: `(1 + ceil(max_steps / check_every), ...)`.
            After the last check it is repeated to the end. It costs memory for `max_steps`, so keep little.

    Raises:
        ValueError: for a negative tolerance, counts below 1, a residual that is no number, or a step that changes its
            state's shape.

    >>> import unroll_jax as uj
    >>> operator = uj.operators.Dense(jnp.array([[2.0, 0.0], [0.0, 1.0]]))
    >>> problem = uj.objectives.LeastSquares(operator, jnp.array([2.0, 3.0]))
    >>> params = uj.algorithms.proximal_gradient_params(operator, strength=0.0)
    >>> solution = solve(uj.algorithms.fista(), params, problem, tolerance=1e-6, max_steps=500)
    >>> bool(solution.converged), bool(jnp.allclose(solution.state.x, jnp.array([1.0, 3.0])))
    (True, True)
    """
    check_algorithm(algorithm)
    check_non_negative("tolerance", tolerance)
    check_count("max_steps", max_steps)
    check_count("check_every", check_every)
    check_function("residual", residual, "unroll_jax.stopping.relative_change")
    if prepare is not None:
        check_function("prepare", prepare, "lambda params, problem: params")
    if record is not None:
        check_function("record", record, "lambda state: state.x")
    if prepare is not None:
        params = prepare(params, problem)

    def step(_: int, state: State) -> State:
        new_state = algorithm.step(params, state, problem)
        check_state(state, new_state)
        return new_state

    def check(solution: Solution) -> Solution:
        previous = solution.state
        if check_every > 1:
            previous = jax.lax.fori_loop(0, check_every - 1, step, previous)
        state = step(0, previous)
        value = residual(previous, state, problem)
        is_finite = tree_is_finite(estimate_of(state))
        num_steps = solution.num_steps + check_every
        records = solution.records
        if record is not None:
            put = lambda kept, new: kept.at[num_steps // check_every].set(new)
            records = jax.tree.map(put, records, record(state))
        return Solution(state, num_steps, value, (value <= tolerance) & is_finite, is_finite, records)

    def is_running(solution: Solution) -> Array:
        # a NaN is not above the tolerance, so it ends the loop
        return (solution.num_steps < max_steps) & (solution.residual > tolerance) & solution.is_finite

    start = algorithm.init(problem)
    shape = jax.eval_shape(lambda: residual(start, start, problem))
    if getattr(shape, "shape", None) != ():
        raise ValueError(
            f"`residual` must return one number, got {getattr(shape, 'shape', type(shape).__name__)}: take its norm."
        )
    num_checks = -(-max_steps // check_every)
    repeat = lambda leaf: jnp.broadcast_to(leaf, (num_checks + 1, *jnp.shape(leaf)))
    records = None if record is None else jax.tree.map(repeat, record(start))
    unknown = jnp.full(shape.shape, jnp.inf, shape.dtype)
    no, yes = jnp.asarray(False), jnp.asarray(True)
    solution = jax.lax.while_loop(is_running, check, Solution(start, jnp.zeros((), int), unknown, no, yes, records))
    if record is None:
        return solution
    last = solution.num_steps // check_every
    is_kept = jnp.arange(num_checks + 1) <= last
    fill = lambda leaf: jax.vmap(tree_where, (0, 0, None))(is_kept, leaf, leaf[last])
    return solution._replace(records=jax.tree.map(fill, solution.records))
