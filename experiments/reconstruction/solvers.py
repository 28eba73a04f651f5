"""The reconstructions: by a ridge regularizer, and by total variation."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

import unroll_jax as uj
from experiments.denoising.measuring import psnr, ssim
from experiments.reconstruction.problems import Measured
from unroll_jax.regularizers import Ridge, RidgeParams, prepare_ridge, ridge_reconstruct, ridge_value

CHECK_EVERY = 5


class Restored(NamedTuple):
    """One image, restored.

    Attributes:
        image: `(height, width, 1)`.
        psnr: in dB, without clipping.
        ssim: the structural similarity.
        num_steps: iterations made.
        converged: whether the relative change reached the tolerance.
    """

    image: np.ndarray
    psnr: float
    ssim: float
    num_steps: int
    converged: bool


@functools.partial(jax.jit, static_argnames="steps")
def _by_ridge(params: RidgeParams, measured: Measured, strength: Any, sigma: Any, tolerance: Any, steps: int) -> Any:
    ridge = prepare_ridge(params, sigma / 255)
    return ridge_reconstruct(
        ridge,
        measured.problem,
        measured.start,
        strength * measured.lipschitz,
        lipschitz=measured.lipschitz,
        tolerance=tolerance,
        max_steps=steps,
        check_every=CHECK_EVERY,
    )


def by_ridge(
    params: RidgeParams, measured: Measured, strength: float, sigma: float, tolerance: float, max_steps: int
) -> Restored:
    """The reconstruction by a ridge regularizer at the noise level `sigma`, in 8-bit units.

    Args:
        params: the regularizer.
        measured: what was measured.
        strength: its weight, in units of ||A||^2.
        sigma: decides its scales.
        tolerance: the relative change at which to stop.
        max_steps: the most iterations.
    """
    return _restored(_by_ridge(params, measured, strength, sigma, tolerance, max_steps), measured)


@functools.partial(jax.jit, static_argnames="steps")
def _by_variation(measured: Measured, strength: Any, tolerance: Any, steps: int) -> Any:
    differences = uj.operators.FiniteDifferences()
    algorithm = uj.algorithms.condat_vu(
        lambda _: differences,
        lambda x, weight, _: uj.prox.non_negative(x, weight),
        lambda y, weight, _: uj.prox.group_l21(y, weight, axis=-1),
        start=lambda _: measured.start,
    )
    params = uj.algorithms.condat_vu_params(
        differences, measured.lipschitz, measured.start, dual_strength=strength * measured.lipschitz
    )
    return uj.solve(
        algorithm,
        params,
        measured.problem,
        tolerance=tolerance,
        max_steps=steps,
        residual=uj.stopping.state_change,
        check_every=CHECK_EVERY,
    )


def by_variation(measured: Measured, strength: float, tolerance: float, max_steps: int) -> Restored:
    """The reconstruction by isotropic total variation without negative values, with the method of Condat and Vu.

    Args:
        measured: what was measured.
        strength: the weight of the total variation, in units of ||A||^2.
        tolerance: the relative change, of the multipliers too, at which to stop.
        max_steps: the most iterations.
    """
    return _restored(_by_variation(measured, strength, tolerance, max_steps), measured)


def plain(measured: Measured) -> Restored:
    """The start of the others: a zero-filled image, a filtered backprojection, ..."""
    return _compared(np.asarray(measured.start), measured, 0, True)


def objective_of_ridge(
    params: RidgeParams, measured: Measured, strength: float, sigma: float, num_steps: int
) -> np.ndarray:
    """The objective at the points that the steps start from: `(num_steps + 1,)`. The safeguard makes it fall."""
    weight = strength * measured.lipschitz

    @jax.jit  # the regularizer is an argument: XLA would take seconds over the tables of a constant
    def objectives(ridge: Ridge, measured: Measured) -> jax.Array:
        return ridge_reconstruct(
            ridge,
            measured.problem,
            measured.start,
            weight,
            lipschitz=measured.lipschitz,
            tolerance=0.0,
            max_steps=num_steps,
            record=lambda state: measured.problem.value(state.base) + weight * ridge_value(ridge, state.base),
        ).records

    return np.asarray(objectives(prepare_ridge(params, sigma / 255), measured))


def _restored(solution: uj.Solution, measured: Measured) -> Restored:
    image = np.asarray(solution.state.x)
    return _compared(image, measured, int(solution.num_steps), bool(solution.converged))


def _compared(image: np.ndarray, measured: Measured, num_steps: int, converged: bool) -> Restored:
    truth = np.asarray(measured.truth)
    return Restored(image, psnr(image, truth), ssim(image[..., 0], truth[..., 0]), num_steps, converged)
