"""The check of algorithms."""

from typing import Any

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_algorithm as check_is_algorithm
from unroll_jax._checks import check_count, check_state
from unroll_jax._types import Algorithm, Array, Params, Problem, PyTree, estimate_of
from unroll_jax.testing._trees import check_close, check_no_weak_types, is_finite, tolerance_for


def check_algorithm(
    algorithm: Algorithm,
    params: Params,
    problem: Problem,
    *,
    num_steps: int = 3,
    tolerance: float | None = None,
) -> None:
    """Raise unless `algorithm` has what the loops of this library need to solve, unroll and train it.

    The state keeps its structure, shapes and types, and nothing in it or in `params` is weakly typed; compiled steps
    give what single ones do; a batch by `jax.vmap` gives what each problem gives by itself; gradients in `params` and
    in the problem are finite; a second step does not compile again.

    Args:
        algorithm: an algorithm.
        params: the parameters of one layer.
        problem: one problem.
        num_steps: how many steps are taken.
        tolerance: of compiled and batched states, relative to the largest entry; by default 1e-4 in single and 1e-9 in
            double precision.

    Raises:
        AssertionError: if any of this does not hold; it names the leaf.
        ValueError: for what is no algorithm.

    >>> import unroll_jax as uj
    >>> operator = uj.operators.Dense(jnp.eye(2))
    >>> problem = uj.objectives.LeastSquares(operator, jnp.array([3.0, 0.5]))
    >>> params = uj.algorithms.proximal_gradient_params(operator, strength=1.0)
    >>> check_algorithm(uj.algorithms.proximal_gradient(), params, problem)
    """
    check_is_algorithm(algorithm)
    check_count("num_steps", num_steps)
    check_no_weak_types("params", params)
    state = algorithm.init(problem)
    check_no_weak_types("state", state)
    tolerance = tolerance_for(tolerance, state, 1e-4, 1e-9)
    states = [state]
    for _ in range(num_steps):
        states.append(algorithm.step(params, states[-1], problem))
        try:
            check_state(state, states[-1])
        except ValueError as error:
            raise AssertionError(str(error)) from None
        check_no_weak_types("state", states[-1])

    num_traces = 0

    def counted(params: Params, state: PyTree, problem: Problem) -> PyTree:
        nonlocal num_traces
        num_traces += 1
        return algorithm.step(params, state, problem)

    compiled, ahead = jax.jit(counted), jax.jit(algorithm.init)(problem)
    for expected in states[1:]:
        ahead = compiled(params, ahead, problem)
        check_close("the compiled step", ahead, expected, tolerance)
    if num_traces > 1:
        raise AssertionError(f"`step` was compiled {num_traces} times for {num_steps} steps; it must be once.")

    def run(params: Params, problem: Problem) -> PyTree:
        state = algorithm.init(problem)
        for _ in range(num_steps):
            state = algorithm.step(params, state, problem)
        return state

    batch = jax.tree.map(lambda leaf: jnp.stack([jnp.asarray(leaf)] * 2), problem)
    both = jax.jit(jax.vmap(run, in_axes=(None, 0)))(params, batch)
    for one in (jax.tree.map(lambda leaf: leaf[0], both), jax.tree.map(lambda leaf: leaf[1], both)):
        check_close("a batch by jax.vmap", one, states[-1], tolerance)

    leaves, structure = jax.tree.flatten((params, problem))
    is_inexact = [jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) for leaf in leaves]

    def loss(inexact: list[Any]) -> Array:
        own = iter(inexact)
        merged = [next(own) if is_one else leaf for is_one, leaf in zip(is_inexact, leaves, strict=True)]
        estimate = estimate_of(run(*structure.unflatten(merged)))
        return sum((jnp.sum(jnp.abs(leaf) ** 2) for leaf in jax.tree.leaves(estimate)), jnp.zeros(()))

    gradients = iter(jax.jit(jax.grad(loss))([leaf for is_one, leaf in zip(is_inexact, leaves, strict=True) if is_one]))
    gradients = structure.unflatten([next(gradients) if is_one else 0.0 for is_one in is_inexact])
    for name, tree in zip(("params", "problem"), gradients, strict=True):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if not is_finite(leaf):
                where = f"`{name}{jax.tree_util.keystr(path)}`"
                raise AssertionError(f"the gradient of ||x||^2 after {num_steps} steps in {where} is not finite.")
