"""`equilibrium`: an algorithm run to its fixed point, which is differentiable in parameters and data."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.extend
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import bicgstab, cg, gmres

from unroll_jax._checks import check_algorithm, check_count, check_non_negative
from unroll_jax._solve import Solution, solve
from unroll_jax._tree import tree_norm, tree_sub
from unroll_jax._types import Algorithm, Array, Params, Problem, PyTree, State, estimate_of
from unroll_jax.stopping import relative_change

LinearSolver: TypeAlias = Callable[[Callable[[PyTree], PyTree], PyTree], PyTree]
"""`(matvec, right-hand side) -> x` with matvec(x) equal to the right-hand side."""


class ImplicitGradient(NamedTuple):
    """The derivative of a fixed point by the implicit function theorem.

    With J the Jacobian of a step in the state, the state's derivative is (I - J)^-1 times that of one step. The linear
    system is solved without its matrix; backward memory does not grow with the iterations.

    Attributes:
        solver: `"gmres"` for any algorithm; `"bicgstab"` for less memory, though it may break down and give NaN;
            `"cg"` where J is symmetric and I - J positive definite (gradient descent on a convex objective); or a
            function `(matvec, right-hand side) -> x`.
        tolerance: of the linear system's residual, relative to the right-hand side.
        max_steps: the largest number of products with J; GMRES makes 20 at a time.
    """

    solver: Literal["gmres", "bicgstab", "cg"] | LinearSolver = "gmres"
    tolerance: float = 1e-6
    max_steps: int = 200


class JacobianFree(NamedTuple):
    """The derivative of the last `num_steps` steps alone, at the fixed point: cheap, and not exact.

    With one step it replaces (I - J)^-1 by the identity (Fung et al. 2022, "JFB"); the error falls with more steps as
    the powers of J do.

    Attributes:
        num_steps: at least 1; these are made after convergence, and backward memory grows with them.
    """

    num_steps: int = 1


def equilibrium(
    algorithm: Algorithm,
    params: Params,
    problem: Problem,
    *,
    tolerance: float,
    max_steps: int,
    prepare: Callable[[Params, Problem], Params] | None = None,
    residual: Callable[[State, State, Problem], Array] = relative_change,
    check_every: int = 1,
    gradient: ImplicitGradient | JacobianFree = ImplicitGradient(),  # noqa: B008 - a tuple of constants
    monitor: Array | None = None,
) -> Solution:
    """`solve`, with a state that is differentiable in `params` and `problem` as the fixed point it is near to.

    The state s solves s = step(params, s, problem), so ds = (I - J)^-1 d step, whatever way led there (Bai, Kolter and
    Koltun 2019, "Deep equilibrium models"). Forward and backward mode, and with `ImplicitGradient` any number of times.
    The derivative is that of the fixed point, so it is as good as `tolerance` is small. It exists where I - J can be
    inverted: one fixed point, near which steps contract. Nothing is kept of the iterations. Schedules in the state,
    numbers made of parameters and schedules alone, are taken at their last values.

    A method whose steps adapt has no smooth step at its fixed point: run it by `solve`, and start an algorithm with the
    same fixed point there, `proximal_gradient(start=lambda problem: jax.lax.stop_gradient(x))`.

    Args:
        algorithm: as in `solve`, like all arguments not named here. Its step must not draw random numbers.
        params: one layer's parameters.
        problem: one problem; a batch goes through `jax.vmap`, where every example stops on its own.
        tolerance: of the forward iteration.
        max_steps: of the forward iteration.
        prepare: `(params, problem) -> params`, differentiated as well.
        residual: the stopping rule.
        check_every: steps between two values of the residual.
        gradient: how derivatives are found.
        monitor: a zero, `()`, through which the backward pass tells how well it did: **the gradient in it is the
            relative residual** of the adjoint's linear system. For `ImplicitGradient` and backward mode only.

    Returns:
        As `solve`: `residual` and `converged` say how the forward iteration ended.

    Raises:
        ValueError: as `solve`; for another `gradient`, or a `monitor` that is no zero of shape ().

    >>> import unroll_jax as uj
    >>> operator = uj.operators.Dense(jnp.array([[2.0, 0.0], [0.0, 1.0]]))
    >>> params = uj.algorithms.proximal_gradient_params(operator, strength=0.5)
    >>> def smallest(strength, monitor):
    ...     problem = uj.objectives.LeastSquares(operator, jnp.array([2.0, 3.0]))
    ...     found = equilibrium(uj.algorithms.proximal_gradient(), params._replace(strength=strength), problem,
    ...         tolerance=1e-7, max_steps=1000, monitor=monitor)
    ...     return found.state.x[0]
    >>> slope, adjoint_residual = jax.grad(smallest, argnums=(0, 1))(0.5, 0.0)  # x[0] = (4 - strength) / 4
    >>> bool(jnp.isclose(slope, -0.25)), bool(adjoint_residual < 1e-5)
    (True, True)
    """
    check_algorithm(algorithm)
    _check_gradient(gradient)
    _check_monitor(monitor, gradient)
    if prepare is not None:
        params = prepare(params, problem)
    constants = jax.lax.stop_gradient((params, problem))
    solution = solve(
        algorithm, *constants, tolerance=tolerance, max_steps=max_steps, residual=residual, check_every=check_every
    )
    solution = jax.lax.stop_gradient(solution)
    if isinstance(gradient, JacobianFree):
        last = lambda state, _: (algorithm.step(params, state, problem), None)
        state, _ = jax.lax.scan(last, solution.state, length=gradient.num_steps)
        return solution._replace(state=state)

    parts, rebuild = _real_parts(solution.state)

    def step_parts(parts: list[Array], params: Params = params, problem: Problem = problem) -> list[Array]:
        return _real_parts(algorithm.step(params, rebuild(parts), problem))[0]

    others = {id(leaf) for leaf in jax.tree.leaves(solution.state)}
    others -= {id(leaf) for leaf in jax.tree.leaves(estimate_of(solution.state))}
    candidates = {index for index, part in enumerate(parts) if id(part) in others and part.shape == ()}
    held = _run_by_themselves(step_parts, parts, params, problem, candidates)
    is_held = [index in held for index in range(len(parts))]

    def merged(moving: list[Array]) -> list[Array]:
        own = iter(moving)
        return [part if held else next(own) for part, held in zip(parts, is_held, strict=True)]

    def step(moving: list[Array]) -> list[Array]:
        return [part for part, held in zip(step_parts(merged(moving)), is_held, strict=True) if not held]

    found = [part for part, held in zip(parts, is_held, strict=True) if not held]
    attached = _implicit(step, found, gradient) if monitor is None else _monitored(step, found, gradient, monitor)
    return solution._replace(state=rebuild(merged(attached)))


def _implicit(step: Callable[[list[Array]], list[Array]], found: list[Array], gradient: ImplicitGradient) -> Any:
    """The fixed point `found` of `step`, with its derivatives in whatever `step` has closed over."""
    linear_solve = _solver(gradient)

    def tangent_solve(matvec: Any, right: Any) -> Any:
        # as one vector: parts that depend on nothing would have no cotangent, which the transpose does not take
        right, unravel = ravel_pytree(right)
        flat_matvec = lambda vector: ravel_pytree(matvec(unravel(vector)))[0]
        return unravel(jax.lax.custom_linear_solve(flat_matvec, right, linear_solve, linear_solve))

    return jax.lax.custom_root(lambda parts: tree_sub(parts, step(parts)), found, lambda _, parts: parts, tangent_solve)


def _monitored(
    step: Callable[[list[Array]], list[Array]], found: list[Array], gradient: ImplicitGradient, monitor: Array
) -> Any:
    """`_implicit` for backward mode, where the gradient in `monitor` is the relative residual of the adjoint."""
    linear_solve = _solver(gradient)
    once, pullback = jax.vjp(step, found)

    # the pullback is a pytree of what it needs, and an argument: a batch's arrays may not be closed over
    @jax.custom_vjp
    def attach(once: list[Array], monitor: Array, pullback: Any) -> list[Array]:
        del once, monitor, pullback
        return found

    def forward(once: list[Array], monitor: Array, pullback: Any) -> tuple[list[Array], Any]:
        return attach(once, monitor, pullback), (monitor, pullback)

    def backward(kept: Any, cotangent: list[Array]) -> tuple[list[Array], Array, None]:
        monitor, pullback = kept
        matvec = lambda parts: tree_sub(parts, pullback(parts)[0])
        adjoint = linear_solve(matvec, cotangent)
        size = tree_norm(cotangent)
        error = tree_norm(tree_sub(cotangent, matvec(adjoint))) / jnp.where(size == 0, 1, size)
        return adjoint, error.astype(monitor.dtype), None

    attach.defvjp(forward, backward)
    return attach(once, jnp.asarray(monitor, float), jax.lax.stop_gradient(pullback))


def _solver(gradient: ImplicitGradient) -> LinearSolver:
    if callable(gradient.solver):
        return gradient.solver
    tolerance, max_steps = gradient.tolerance, gradient.max_steps
    if gradient.solver == "gmres":
        restart = min(20, max_steps)
        count = -(-max_steps // restart)
        return lambda matvec, right: gmres(matvec, right, tol=tolerance, restart=restart, maxiter=count)[0]
    iterate, count = (cg, max_steps) if gradient.solver == "cg" else (bicgstab, -(-max_steps // 2))
    return lambda matvec, right: iterate(matvec, right, tol=tolerance, maxiter=count)[0]


def _real_parts(state: State) -> tuple[list[Array], Callable[[list[Array]], State]]:
    """The real and imaginary parts of the numbers in `state`, and the function that puts others in their place.

    Steps on complex numbers are linear over the real numbers only: a threshold on the modulus is no complex
    derivative.
    """
    leaves, structure = jax.tree.flatten(state)
    kinds = [jnp.result_type(leaf) for leaf in leaves]

    def rebuild(parts: list[Array]) -> State:
        own = iter(parts)
        rebuilt = []
        for leaf, kind in zip(leaves, kinds, strict=True):
            if jnp.issubdtype(kind, jnp.complexfloating):
                rebuilt.append(jax.lax.complex(next(own), next(own)))
            else:
                rebuilt.append(next(own) if jnp.issubdtype(kind, jnp.floating) else leaf)
        return structure.unflatten(rebuilt)

    parts = []
    for leaf, kind in zip(leaves, kinds, strict=True):
        if jnp.issubdtype(kind, jnp.complexfloating):
            parts += [jnp.real(leaf), jnp.imag(leaf)]
        elif jnp.issubdtype(kind, jnp.floating):
            parts.append(leaf)
    return parts, rebuild


def _run_by_themselves(
    step: Callable[..., list[Array]], parts: list[Array], params: Any, problem: Any, candidates: set[int]
) -> set[int]:
    """Which `candidates` are schedules, such as a growing penalty: numbers made of parameters and schedules alone.

    They rest at no fixed point, or at any, and would make the linear system singular.
    """
    jaxpr = jax.make_jaxpr(step)(parts, params, problem).jaxpr
    num_parts, num_params = len(parts), len(jax.tree.leaves(params))
    # what a variable is made of: the indices of parts, and -1 for the problem and what was closed over
    sources: dict[Any, set[int]] = {variable: {-1} for variable in (*jaxpr.constvars, *jaxpr.invars)}
    sources.update({variable: {index} for index, variable in enumerate(jaxpr.invars[:num_parts])})
    sources.update({variable: set() for variable in jaxpr.invars[num_parts : num_parts + num_params]})
    of = lambda variable: sources.get(variable, set()) if isinstance(variable, jax.extend.core.Var) else set()
    for equation in jaxpr.eqns:
        made_of = set().union(*map(of, equation.invars))
        sources.update(dict.fromkeys(equation.outvars, made_of))
    made_of = [of(variable) for variable in jaxpr.outvars]
    held = candidates
    while not all(made_of[index] <= held for index in held):
        held = {index for index in held if made_of[index] <= held}
    return held


def _check_gradient(gradient: Any) -> None:
    if isinstance(gradient, JacobianFree):
        check_count("gradient.num_steps", gradient.num_steps)
        return
    if not isinstance(gradient, ImplicitGradient):
        raise ValueError(
            f"`gradient` must be an ImplicitGradient(...) or a JacobianFree(...), got {type(gradient).__name__}."
        )
    names = get_args(get_args(ImplicitGradient.__annotations__["solver"])[0])
    if not callable(gradient.solver) and gradient.solver not in names:
        raise ValueError(
            f"`gradient.solver` must be one of {names} or a function (matvec, right-hand side) -> x, "
            f"got {gradient.solver!r}."
        )
    check_non_negative("gradient.tolerance", gradient.tolerance)
    check_count("gradient.max_steps", gradient.max_steps)


def _check_monitor(monitor: Any, gradient: Any) -> None:
    if monitor is None:
        return
    if isinstance(gradient, JacobianFree):
        raise ValueError("`monitor` needs an ImplicitGradient: a JacobianFree one solves no linear system.")
    if jnp.shape(monitor) != () or not jnp.issubdtype(jnp.result_type(monitor), jnp.floating):
        raise ValueError(
            f"`monitor` must be a real number of shape (), such as jnp.zeros(()), got shape {jnp.shape(monitor)} of "
            f"type {jnp.result_type(monitor)}. It only receives a gradient; map over one per example by jax.vmap."
        )
