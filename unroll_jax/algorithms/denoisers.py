"""Algorithms whose regularizer is a denoiser: plug-and-play methods and MoDL. A denoiser is `(params, x) -> x`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from unroll_jax._checks import check_attributes, check_function, check_inside, check_positive
from unroll_jax._tree import cast_like, tree_add_scaled, tree_sub
from unroll_jax._types import Algorithm, Array, Estimate, LinearOperator, Params, Problem
from unroll_jax.algorithms._defaults import problem_gradient, slope_at
from unroll_jax.algorithms._parts import called, check_shape, floats, problem_prox, scalars_like
from unroll_jax.algorithms.alternating_direction import ADMMParams, ADMMState, admm
from unroll_jax.algorithms.proximal import zero_start
from unroll_jax.operators import operator_norm

_FORM = "lambda params, x: x"
Denoiser = Callable[[Params, Estimate], Estimate]


class PlugAndPlayParams(NamedTuple):
    """Parameters of `plug_and_play`.

    Attributes:
        denoiser: what the denoiser takes as its params: any pytree, an nnx module among them.
        step_size: `()`, positive, below 2 / L for a gradient with Lipschitz constant L.
        relaxation: `()`, in (0, 2), how much of the denoiser is taken. Below 1 a non-expansive denoiser, and below 2
            a firmly non-expansive one, becomes an averaged one, with which the iteration converges where it has a
            fixed point.
    """

    denoiser: Params
    step_size: Array
    relaxation: Array


class PlugAndPlayState(NamedTuple):
    """State of `plug_and_play`: the estimate `x`, the last output of the (relaxed) denoiser."""

    x: Estimate


class PlugAndPlayADMMParams(NamedTuple):
    """Parameters of `plug_and_play_admm`.

    Attributes:
        denoiser: what the denoiser takes as its params: any pytree, an nnx module among them.
        penalty: `()`, positive; the unit of f's curvature. It moves the fixed point, as a denoiser has no strength.
        relaxation: `()`, in (0, 2); 1 is the plain method.
    """

    denoiser: Params
    penalty: Array
    relaxation: Array


class MoDLParams(NamedTuple):
    """Parameters of `modl`.

    Attributes:
        denoiser: what the denoiser takes as its params: any pytree, an nnx module among them.
        penalty: `()`, positive, lambda of the paper, how much the denoiser counts; the unit of f's curvature.
    """

    denoiser: Params
    penalty: Array


class MoDLState(NamedTuple):
    """State of `modl`.

    Attributes:
        x: the estimate, the last output of `prox_data`.
        denoised: the last output of the denoiser; the shape of `x`.
    """

    x: Estimate
    denoised: Estimate


def adjoint_start(problem: Problem) -> Estimate:
    """`problem.operator.adjoint(problem.measurement)`: the back-projection, or the zero-filled image.

    Raises:
        ValueError: for a problem without these two, or of whole numbers.

    >>> import unroll_jax as uj
    >>> operator = uj.operators.Diagonal(jnp.array([2.0, 0.0]))
    >>> adjoint_start(uj.objectives.LeastSquares(operator, jnp.array([3.0, 4.0])))
    Array([6., 0.], dtype=float32)
    """
    zero_start(problem)  # for its checks; it computes nothing
    return problem.operator.adjoint(problem.measurement)


def plug_and_play_params(
    operator: LinearOperator, denoiser: Params, like: Any = None, *, relaxation: Array | float = 1.0
) -> PlugAndPlayParams:
    """Parameters of `plug_and_play` for least squares with `operator`: step size 1 / ||operator||^2.

    Args:
        operator: the operator of the least-squares term.
        denoiser: what the denoiser takes as its params.
        like: what the operator takes; see `operator_norm`, which needs it for operators without a closed form.
        relaxation: in (0, 2).

    Raises:
        ValueError: for a relaxation that is not.
    """
    check_inside("relaxation", relaxation, 0, 2)
    step_size = 1 / operator_norm(operator, like) ** 2
    return PlugAndPlayParams(denoiser, *scalars_like(step_size, step_size, relaxation))


def plug_and_play(
    denoiser: Denoiser = called,
    gradient: Callable[[Estimate, Problem], Estimate] = problem_gradient,
    start: Callable[[Problem], Estimate] = zero_start,
) -> Algorithm:
    """Plug-and-play forward-backward splitting (Venkatakrishnan et al. 2013; Sreehari et al. 2016).

    A gradient step and a denoiser in place of the proximal operator:
        v  = x - step_size * gradient(x)
        x+ = relaxation * denoiser(v) + (1 - relaxation) * v

    Args:
        denoiser: `(params.denoiser, x) -> x`; by default the params are themselves what is called, an nnx module say.
            A noise level is one more entry of its params.
        gradient: `(x, problem) -> gradient of f`; the problem's own by default.
        start: `problem -> x` before the first iteration.

    Returns:
        An algorithm with `PlugAndPlayParams` and `PlugAndPlayState`.

    >>> import unroll_jax as uj
    >>> problem = uj.objectives.LeastSquares(uj.operators.Dense(jnp.eye(2)), jnp.array([3.0, 0.5]))
    >>> algorithm = plug_and_play(lambda threshold, x: uj.prox.soft_threshold(x, threshold))
    >>> params = plug_and_play_params(problem.operator, denoiser=jnp.array(1.0))
    >>> uj.solve(algorithm, params, problem, tolerance=1e-6, max_steps=100).state.x
    Array([2., 0.], dtype=float32)
    """
    check_function("denoiser", denoiser, _FORM)

    def init(problem: Problem) -> PlugAndPlayState:
        return PlugAndPlayState(start(problem))

    def step(params: PlugAndPlayParams, state: PlugAndPlayState, problem: Problem) -> PlugAndPlayState:
        fields = PlugAndPlayParams._fields
        check_attributes("params", params, fields, "PlugAndPlayParams, as plug_and_play_params makes them")
        step_size, relaxation = scalars_like(state.x, params.step_size, params.relaxation)
        forward = tree_add_scaled(state.x, -step_size, slope_at(gradient, state.x, problem))
        change = tree_sub(_denoised(denoiser, params.denoiser, forward), forward)
        return PlugAndPlayState(tree_add_scaled(forward, relaxation, change))

    return Algorithm(init, step)


def plug_and_play_admm_params(
    denoiser: Params, *, penalty: Array | float = 1.0, relaxation: Array | float = 1.0
) -> PlugAndPlayADMMParams:
    """Parameters of `plug_and_play_admm`.

    Args:
        denoiser: what the denoiser takes as its params.
        penalty: positive.
        relaxation: in (0, 2).

    Raises:
        ValueError: for values out of these ranges.
    """
    check_positive("penalty", penalty)
    check_inside("relaxation", relaxation, 0, 2)
    return PlugAndPlayADMMParams(denoiser, *floats(penalty, relaxation))


def plug_and_play_admm(
    denoiser: Denoiser = called,
    prox_data: Callable[[Estimate, Array, Problem], Estimate] = problem_prox,
    start: Callable[[Problem], Estimate] = zero_start,
) -> Algorithm:
    """Plug-and-play ADMM (Venkatakrishnan et al. 2013): `admm` with a denoiser in place of its `prox`.

    Args:
        denoiser: as in `plug_and_play`.
        prox_data: `(x, strength, problem) -> x`, the proximal operator of f; the problem's own by default.
        start: `problem -> x` before the first iteration.

    Returns:
        An algorithm with `PlugAndPlayADMMParams` and `ADMMState`.

    >>> import unroll_jax as uj
    >>> problem = uj.objectives.LeastSquares(uj.operators.Dense(jnp.eye(2)), jnp.array([3.0, 0.5]))
    >>> algorithm = plug_and_play_admm(lambda threshold, x: uj.prox.soft_threshold(x, threshold))
    >>> params = plug_and_play_admm_params(jnp.array(1.0))
    >>> uj.solve(algorithm, params, problem, tolerance=1e-6, max_steps=100).state.x.round(3)
    Array([2., 0.], dtype=float32)
    """
    check_function("denoiser", denoiser, _FORM)

    def step(params: PlugAndPlayADMMParams, state: ADMMState, problem: Problem) -> ADMMState:
        fields = PlugAndPlayADMMParams._fields
        check_attributes("params", params, fields, "PlugAndPlayADMMParams, as plug_and_play_admm_params makes them")
        classical = admm(lambda x, strength: _denoised(denoiser, params.denoiser, x), prox_data, start)
        return classical.step(ADMMParams(params.penalty, jnp.ones(()), params.relaxation), state, problem)

    return Algorithm(admm(start=start).init, step)


def modl_params(denoiser: Params, *, penalty: Array | float = 1.0) -> MoDLParams:
    """Parameters of `modl`.

    Args:
        denoiser: what the denoiser takes as its params.
        penalty: positive.

    Raises:
        ValueError: for a penalty that is not.
    """
    check_positive("penalty", penalty)
    return MoDLParams(denoiser, *floats(penalty))


def modl(
    denoiser: Denoiser = called,
    prox_data: Callable[[Estimate, Array, Problem], Estimate] = problem_prox,
    start: Callable[[Problem], Estimate] = adjoint_start,
) -> Algorithm:
    """Model-based deep learning (Aggarwal, Mani and Jacob 2019), x+ = prox_data(denoiser(x), 1 / penalty).

    For least squares x+ minimizes ||A x - b||^2 + penalty * ||x - denoiser(x)||^2, in closed form where the operator
    has one, else by conjugate gradients, with exact derivatives in either case. The paper's network shares its weights:
    `unroll(modl(), 10, params, layer_axes=None)`. With a fixed denoiser and a penalty of its own per layer it is
    plug-and-play half-quadratic splitting (Zhang et al. 2017).

    Args:
        denoiser: as in `plug_and_play`; the paper's is x minus a network's estimate of the noise in it.
        prox_data: `(x, strength, problem) -> x`, the proximal operator of f; the problem's own by default.
        start: `problem -> x` before the first iteration; the back-projection by default, as in the paper.

    Returns:
        An algorithm with `MoDLParams` and `MoDLState`.

    >>> import unroll_jax as uj
    >>> problem = uj.objectives.LeastSquares(uj.operators.Dense(jnp.eye(2)), jnp.array([3.0, 0.5]))
    >>> network = uj.unroll(modl(lambda scale, x: scale * x), 10, modl_params(jnp.array(0.0)), layer_axes=None)
    >>> network(problem).x.round(2)
    Array([1.5 , 0.25], dtype=float32)
    """
    check_function("denoiser", denoiser, _FORM)

    def init(problem: Problem) -> MoDLState:
        x = start(problem)
        return MoDLState(x, x)

    def step(params: MoDLParams, state: MoDLState, problem: Problem) -> MoDLState:
        check_attributes("params", params, MoDLParams._fields, "MoDLParams, as modl_params makes them")
        (penalty,) = scalars_like(state.x, params.penalty)
        denoised = _denoised(denoiser, params.denoiser, state.x)
        return MoDLState(prox_data(denoised, 1 / penalty, problem), denoised)

    return Algorithm(init, step)


def _denoised(denoiser: Denoiser, params: Params, x: Estimate) -> Estimate:
    found = denoiser(params, x)
    check_shape("denoiser", found, x)
    return cast_like(found, x)  # a network may compute in another precision than the data's
