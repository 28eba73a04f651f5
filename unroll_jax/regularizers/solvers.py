"""What a ridge regularizer is for: denoising, which is its proximal operator, and inverse problems."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from unroll_jax._checks import check_non_negative, check_positive
from unroll_jax._equilibrium import ImplicitGradient, JacobianFree, equilibrium
from unroll_jax._solve import Solution, solve
from unroll_jax._tree import tree_add_scaled
from unroll_jax._types import Array, LinearOperator, PyTree
from unroll_jax.algorithms import (
    SafeguardedAGDState,
    accelerated_gradient,
    accelerated_gradient_params,
    gradient_descent,
    safeguarded_agd,
    safeguarded_agd_params,
)
from unroll_jax.objectives import LeastSquares
from unroll_jax.operators import norm_bound, operator_norm
from unroll_jax.prox import non_negative
from unroll_jax.regularizers.ridge import Ridge, RidgeParams, check_image, prepare_ridge, ridge_gradient


class _Prox(NamedTuple):
    """What a fixed point of the denoiser is differentiable in."""

    ridge: Ridge
    strength: Array


def ridge_prox(
    ridge: Ridge,
    x: Array,
    strength: Array | float = 1.0,
    *,
    tolerance: float = 1e-4,
    max_steps: int = 500,
    gradient: ImplicitGradient | JacobianFree = ImplicitGradient("cg", tolerance=1e-3, max_steps=100),  # noqa: B008
    monitor: Array | None = None,
) -> Solution:
    """The minimizer over z of  ||z - x||^2 / 2 + strength * R(z), by accelerated gradient descent.

    The objective is convex for strength * rho <= 1, so it has one minimum, whatever the start. For strength * rho < 1
    the minimizer is Lipschitz continuous in `x` with the constant 1 / (1 - strength * rho). It is differentiable in
    `ridge`, `x` and `strength` by the implicit function theorem, whatever the number of iterations.

    Args:
        ridge: of `prepare_ridge`.
        x: `(height, width, 1)`, an image in [0, 1].
        strength: `()`, in [0, 1 / rho].
        tolerance: the relative change of the image at which to stop.
        max_steps: the most iterations.
        gradient: how derivatives are found. The linear system is symmetric, and positive definite for
            strength * rho < 1.
        monitor: as in `equilibrium`: its gradient is the relative residual of the adjoint's linear system.

    Returns:
        `Solution`; the image is `solution.state.x`.

    Raises:
        ValueError: if `x` is not one gray image without NaN, or `strength` is not in its range.

    >>> import unroll_jax as uj
    >>> ridge = prepare_ridge(uj.regularizers.ridge_params(jax.random.key(0)), 25 / 255)
    >>> solution = ridge_prox(ridge, jnp.full((8, 8, 1), 0.5), 0.9)
    >>> solution.state.x.shape, bool(solution.converged)
    ((8, 8, 1), True)
    """
    check_image("x", x)
    _check_finite("x", x)
    _check_strength(strength, ridge.rho)
    strength = jnp.asarray(strength, x.dtype)
    fixed, start = jax.lax.stop_gradient((_Prox(ridge, strength), x))

    def slope(params: _Prox, z: Array, x: Array) -> Array:
        return z - x + params.strength * ridge_gradient(params.ridge, z)

    def direction(params: _Prox, z: Array, x: Array) -> Array:
        return slope(params, z, x) / (1 + params.strength * params.ridge.mu)

    accelerated = accelerated_gradient(lambda z, x: slope(fixed, z, x), start=lambda x: x)
    convexity = jnp.maximum(1 - fixed.strength * fixed.ridge.rho, 0)
    constants = accelerated_gradient_params(1 + fixed.strength * fixed.ridge.mu, convexity)
    solution = solve(accelerated, constants, start, tolerance=tolerance, max_steps=max_steps)
    plain = gradient_descent(direction, start=lambda _: jax.lax.stop_gradient(solution.state.x))
    attached = equilibrium(
        plain, _Prox(ridge, strength), x, tolerance=0.0, max_steps=1, gradient=gradient, monitor=monitor
    )
    return solution._replace(state=attached.state)


def ridge_denoise(params: RidgeParams, noisy: Array, sigma: Array | float, **options: Any) -> Solution:
    """The image without noise of standard deviation `sigma`: `ridge_prox` of the regularizer at that noise level.

    Args:
        params: such as `pretrained("wcrr")`.
        noisy: `(height, width, 1)`, in [0, 1] but for the noise.
        sigma: `()`, the standard deviation of the noise in the same unit.
        options: of `ridge_prox`.

    Returns:
        `Solution`; the image is `solution.state.x`.

    Raises:
        ValueError: as `prepare_ridge` and `ridge_prox`.

    Warns:
        UserWarning: as `prepare_ridge`.

    >>> import unroll_jax as uj
    >>> params = uj.regularizers.ridge_params(jax.random.key(0))
    >>> ridge_denoise(params, jnp.full((8, 8, 1), 0.5), 25 / 255).state.x.shape
    (8, 8, 1)
    """
    check_image("noisy", noisy)
    _check_finite("noisy", noisy)
    return ridge_prox(prepare_ridge(params, sigma), noisy, **options)


def ridge_reconstruct(
    ridge: Ridge,
    problem: LeastSquares,
    start: Array,
    strength: Array | float,
    *,
    lipschitz: Array | float | None = None,
    tolerance: float = 1e-5,
    max_steps: int = 1000,
    check_every: int = 1,
    record: Callable[[SafeguardedAGDState], PyTree] | None = None,
) -> Solution:
    """A critical point of  ||A x - b||^2 / 2 + strength * R(x)  over images without negative values.

    By accelerated gradient descent with a safeguard (Goujon, Neumayer, Unser 2024, arXiv 2308.10542), for which the
    objective falls along the points its steps start from; it need not be convex.

    Args:
        ridge: of `prepare_ridge`; its noise level is a parameter to tune, beside `strength`.
        problem: the operator A, which takes gray images `(height, width, 1)`, and the measurement b.
        start: `(height, width, 1)`, such as `operator.adjoint(measurement)` or a filtered backprojection.
        strength: `()`, positive, in the unit of ||A||^2.
        lipschitz: `()`, an upper bound of ||A||^2. By default the rigorous `norm_bound` where A's structure gives one,
            else 1.05 times what power iteration finds; give it where many problems share A.
        tolerance: the relative change of the image at which to stop.
        max_steps: the most iterations.
        check_every: iterations between two values of the relative change.
        record: what to keep of each state, as in `solve`; the objective falls along their `.base`.

    Returns:
        `Solution`; the image is `solution.state.x`, and `solution.state` a `SafeguardedAGDState`.

    Raises:
        ValueError: if `start` is not one gray image without NaN, or numbers are not positive.

    >>> import unroll_jax as uj
    >>> ridge = prepare_ridge(uj.regularizers.ridge_params(jax.random.key(0)), 5 / 255)
    >>> blur = uj.operators.CircularBlur(uj.operators.gaussian_kernel(3, 1.0))
    >>> problem = LeastSquares(blur, jnp.full((8, 8, 1), 0.5))
    >>> ridge_reconstruct(ridge, problem, problem.measurement, 0.01).state.x.shape
    (8, 8, 1)
    """
    check_image("start", start)
    _check_finite("start", start)
    check_positive("strength", strength)
    if lipschitz is None:
        lipschitz = _squared_norm(problem.operator, start)
    check_positive("lipschitz", lipschitz)
    strength = jnp.asarray(strength, start.dtype)

    def slope(x: Array, problem: LeastSquares) -> Array:
        return tree_add_scaled(problem.gradient(x), strength, ridge_gradient(ridge, x))

    algorithm = safeguarded_agd(slope, lambda x, _: non_negative(x, 1.0), lambda _: start)
    params = safeguarded_agd_params(lipschitz + strength * ridge.mu, strength * ridge.rho)
    return solve(
        algorithm,
        params,
        problem,
        tolerance=tolerance,
        max_steps=max_steps,
        check_every=check_every,
        record=record,
    )


def _squared_norm(operator: LinearOperator, like: Array) -> Array:
    try:
        return norm_bound(operator, like) ** 2
    except ValueError:  # no bound is known
        return 1.05 * operator_norm(operator, like) ** 2


def _check_strength(strength: Any, rho: Any) -> None:
    check_non_negative("strength", strength)
    if jnp.shape(strength) != ():
        raise ValueError(f"`strength` must have shape (), got {jnp.shape(strength)}. Map over strengths by jax.vmap.")
    if not isinstance(strength, Tracer) and not isinstance(rho, Tracer) and float(strength) * float(rho) > 1 + 1e-6:
        raise ValueError(
            f"`strength` must be at most 1 / rho = {1 / float(rho):g}, got {float(strength):g}: beyond, the objective "
            "is not convex and may have several minima. Denoise with a larger sigma instead."
        )


def _check_finite(name: str, image: Any) -> None:
    if isinstance(image, Tracer):
        return
    if not np.all(np.isfinite(np.asarray(image))):
        raise ValueError(
            f"`{name}` must hold finite numbers, but some are NaN or infinite. Fill them in first, or treat them as "
            "missing: LeastSquares(operators.mask(known), image) in ridge_reconstruct."
        )
