"""Wrappers, algorithm -> algorithm: the same layers under noise, and without the steps that raise an objective."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_algorithm, check_attributes, check_function, check_key
from unroll_jax._tree import tree_where
from unroll_jax._types import Algorithm, Array, Estimate, Params, Problem, State, estimate_of
from unroll_jax.algorithms._defaults import problem_value
from unroll_jax.algorithms._fields import check_fields


class NoisyProblem(NamedTuple):
    """A problem and the randomness with which it is solved.

    Attributes:
        problem: what the wrapped algorithm takes.
        key: `()`, a random key; give each example of a batch its own.
    """

    problem: Problem
    key: Array


class PerturbedState(NamedTuple):
    """State of a `perturbed` algorithm.

    Attributes:
        inner: the wrapped algorithm's state, as its step left it, without noise.
        key: `()`, the randomness left.
        is_start: `()`, whether no step has been made yet.
    """

    inner: State
    key: Array
    is_start: Array

    @property
    def x(self) -> Estimate:
        """The estimate, without noise."""
        return estimate_of(self.inner)


def perturbed(algorithm: Algorithm, noise_norm: Callable[[Estimate, Problem], Array]) -> Algorithm:
    """`algorithm` with Gaussian noise between its layers, as in stochastic descent (arXiv 2312.15788).

    Every layer but the first receives the estimate x of the layer before as x + n, where n is Gaussian with
    E||n||^2 = noise_norm(x, problem)^2. What a layer puts out is recorded as it is, so the start and the last output
    carry no noise of their own. No gradient flows through the noise's size.

    Args:
        algorithm: its states are NamedTuples with the estimate as their field `x`, an array or a pytree of arrays.
            Only `x` is moved: what else a step starts from, such as FISTA's extrapolated point, is not.
        noise_norm: `(x, problem) -> ()`, the root mean square of the noise's norm; for noise as large as the
            gradient, its norm.

    Returns:
        An algorithm with the same parameters, on `NoisyProblem(problem, key)`, with `PerturbedState`.

    Raises:
        ValueError: for what is no algorithm or no function; from `init`, for a problem without a key, or if the
            algorithm's state has no field `x`.

    >>> import unroll_jax as uj
    >>> ista = uj.algorithms.proximal_gradient()
    >>> noisy = perturbed(ista, lambda x, problem: jnp.linalg.norm(problem.gradient(x)))
    """
    check_algorithm(algorithm)
    check_function("noise_norm", noise_norm, "lambda x, problem: 0.1")

    def init(problem: NoisyProblem) -> PerturbedState:
        check_attributes("problem", problem, NoisyProblem._fields, "NoisyProblem(problem, key)")
        check_key("key", problem.key)
        inner = algorithm.init(problem.problem)
        check_fields(inner, ("x",), "the noise is added to `x`")
        return PerturbedState(inner, problem.key, jnp.asarray(True))

    def step(params: Params, state: PerturbedState, problem: NoisyProblem) -> PerturbedState:
        key, noise_key = jax.random.split(state.key)
        x = state.inner.x
        norm = noise_norm(x, problem.problem)
        if jnp.shape(norm) != ():
            raise ValueError(f"`noise_norm` must return one number, got shape {jnp.shape(norm)}: take a norm.")
        norm = jnp.where(state.is_start, 0, jax.lax.stop_gradient(norm))
        noisy = state.inner._replace(x=_add_noise(noise_key, x, norm))
        return PerturbedState(algorithm.step(params, noisy, problem.problem), key, jnp.asarray(False))

    return Algorithm(init, step)


class MonotoneState(NamedTuple):
    """State of a `monotone` algorithm.

    Attributes:
        inner: the wrapped algorithm's state, with the estimate that was kept as its `x`.
        value: `()`, the objective at `x`.
        accepted: `()`, whether the last step was taken; else it would have raised the objective, and `x` stayed.
    """

    inner: State
    value: Array
    accepted: Array

    @property
    def x(self) -> Estimate:
        """The estimate, the best one so far."""
        return estimate_of(self.inner)


def monotone(
    algorithm: Algorithm,
    value: Callable[[Estimate, Problem], Array] = problem_value,
    fields: tuple[str, ...] = ("x",),
) -> Algorithm:
    """`algorithm` without the steps that raise an objective, or make it NaN: there the estimate stays.

    What else the state holds is as the step left it, so learned layers have another try in the next layer. A method
    without memory would make the same step again, and rest. To `solve` an estimate that stays looks converged; count it
    as not, by the residual
    `lambda *states: jnp.where(states[1].accepted, uj.stopping.relative_change(*states), jnp.inf)`.

    Args:
        algorithm: its states are NamedTuples with the estimate as their field `x`.
        value: `(x, problem) -> ()`, the objective; the problem's own by default, which for `Lasso` is all of it, and
            for `LeastSquares` the data term alone.
        fields: of the state, those that are set to the estimate that stays; `("x", "extrapolated")` for `fista` and
            `accelerated_gradient`, which then go on from it without momentum (the function scheme of O'Donoghue and
            Candes 2015) in place of extrapolating from a point that was not taken.

    Returns:
        An algorithm with the same parameters, and `MonotoneState`.

    Raises:
        ValueError: for what is no algorithm or no function; from `init`, if its state has no field `x`.

    >>> import unroll_jax as uj
    >>> too_long = uj.algorithms.gradient_descent(lambda params, x, problem: 3 * x, start=lambda problem: problem)
    >>> safe = monotone(too_long, lambda x, problem: x**2)
    >>> uj.unroll(safe, 2, None)(jnp.asarray(1.0)).x
    Array(1., dtype=float32)
    """
    check_algorithm(algorithm)
    check_function("value", value, "lambda x, problem: problem.value(x)")

    def init(problem: Problem) -> MonotoneState:
        inner = algorithm.init(problem)
        check_fields(inner, ("x", *fields), "the estimate stays where a step is not taken")
        return MonotoneState(inner, value(inner.x, problem), jnp.asarray(True))

    def step(params: Params, state: MonotoneState, problem: Problem) -> MonotoneState:
        inner = algorithm.step(params, state.inner, problem)
        new_value = value(inner.x, problem)
        accepted = new_value <= state.value
        kept = inner._replace(**dict.fromkeys(("x", *fields), state.inner.x))
        return MonotoneState(tree_where(accepted, inner, kept), jnp.where(accepted, new_value, state.value), accepted)

    return Algorithm(init, step)


def _add_noise(key: Array, x: Estimate, norm: Array) -> Estimate:
    leaves, structure = jax.tree.flatten(x)
    size = sum(leaf.size for leaf in leaves)
    keys = jax.random.split(key, len(leaves))
    return structure.unflatten(
        [
            leaf + (norm / size**0.5).astype(leaf.dtype) * jax.random.normal(k, leaf.shape, leaf.dtype)
            for k, leaf in zip(keys, leaves, strict=True)
        ]
    )
