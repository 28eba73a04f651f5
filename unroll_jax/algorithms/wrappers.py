"""Wrappers, algorithm -> algorithm: the same layers under other circumstances."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unroll_jax._checks import check_algorithm, check_attributes, check_function, check_key
from unroll_jax._types import Algorithm, Array, Estimate, Params, Problem, State, estimate_of


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
        if "x" not in getattr(inner, "_fields", ()):
            raise ValueError(
                f"`algorithm` must have a NamedTuple with a field `x` as its state, got {type(inner).__name__}: "
                "the noise is added to `x`."
            )
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
