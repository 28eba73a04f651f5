"""Plug-and-play with a denoiser: deblurring, and what its iteration does step by step."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import unroll_jax as uj
from experiments.data import Image, middle
from experiments.lipschitz_denoiser.measuring import psnr, with_noise
from experiments.lipschitz_denoiser.settings import Settings

_NOISE_INDEX = 10_000  # other noise than the denoisers met

# one object, so that denoisers share their compiled programs
_PLUG_AND_PLAY = uj.algorithms.plug_and_play(start=lambda problem: problem.measurement)


class Blurred(NamedTuple):
    """An image and what is seen of it.

    Attributes:
        truth: `(height, width, 1)`.
        problem: `LeastSquares` with a circular blur and noise; the measurement has the shape of `truth`.
    """

    truth: jax.Array
    problem: uj.objectives.LeastSquares


class Recorded(NamedTuple):
    """State of `recorded`.

    Attributes:
        inner: the algorithm's own state.
        changes: `(max_steps,)`, ||x_k+1 - x_k|| after every step, NaN where none was made.
        num_steps: `()`.
    """

    inner: Any
    changes: jax.Array
    num_steps: jax.Array

    @property
    def x(self) -> Any:
        """The estimate."""
        return self.inner.x


class Parameters(NamedTuple):
    """How the iteration is run: steps in units of 1 / ||blur||^2, and how much of the denoiser is taken."""

    step_size: float
    relaxation: float


class Restoration(NamedTuple):
    """One run of plug-and-play.

    Attributes:
        parameters: of the iteration.
        image: `(height, width)`, the last iterate.
        psnr: its PSNR in dB.
        changes: `(num_steps,)`, ||x_k+1 - x_k||.
        converged: whether the relative change reached the tolerance.
        largest_growth: the largest ratio of two changes after each other, above what rounding makes.
    """

    parameters: Parameters
    image: np.ndarray
    psnr: float
    changes: np.ndarray
    converged: bool
    largest_growth: float


def recorded(algorithm: uj.Algorithm, max_steps: int) -> uj.Algorithm:
    """`algorithm` with a record of how far every step goes; its state is `Recorded`."""

    def init(problem: Any) -> Recorded:
        inner = algorithm.init(problem)
        return Recorded(inner, jnp.full(max_steps, jnp.nan, inner.x.dtype), jnp.zeros((), jnp.int32))

    def step(params: Any, state: Recorded, problem: Any) -> Recorded:
        inner = algorithm.step(params, state.inner, problem)
        change = jnp.linalg.norm(inner.x - state.inner.x)
        return Recorded(inner, state.changes.at[state.num_steps].set(change), state.num_steps + 1)

    return uj.Algorithm(init, step)


def make_blurred(image: Image, size: int, settings: Settings, index: int) -> Blurred:
    """The middle of an image, blurred and with noise of number `index`."""
    truth = jnp.asarray(middle(image.pixels, size))[..., None]
    operator = uj.operators.CircularBlur(uj.operators.gaussian_kernel(settings.blur_size, settings.blur_std))
    noise = with_noise(np.zeros(truth.shape[:2], np.float32), settings.measurement_sigma, _NOISE_INDEX + index)
    return Blurred(truth, uj.objectives.LeastSquares(operator, operator(truth) + noise))


def restore(
    denoiser: nnx.Sequential, blurred: Blurred, parameters: Parameters, *, tolerance: float, max_steps: int
) -> Restoration:
    """What plug-and-play makes of the measurement."""
    solution = _solve(denoiser, blurred.problem, *map(jnp.float32, parameters), tolerance, max_steps)
    state = solution.state
    changes = np.asarray(state.changes)[: int(state.num_steps)]
    return Restoration(
        parameters=parameters,
        image=np.asarray(state.x[..., 0]),
        psnr=float(psnr(state.x, blurred.truth)),
        changes=changes,
        converged=bool(solution.converged),
        largest_growth=_largest_growth(changes, float(jnp.linalg.norm(blurred.truth))),
    )


def best_parameters(denoiser: nnx.Sequential, examples: Sequence[Blurred], settings: Settings) -> Parameters:
    """Those of the settings' parameters with the highest mean PSNR on `examples`, after few steps."""

    def score(parameters: Parameters) -> float:
        runs = [restore(denoiser, e, parameters, tolerance=0.0, max_steps=settings.tuning_steps) for e in examples]
        mean = np.mean([run.psnr for run in runs])
        return float(mean) if np.isfinite(mean) else -np.inf

    return max((Parameters(*pair) for pair in itertools.product(settings.step_sizes, settings.relaxations)), key=score)


def boldest_parameters(settings: Settings) -> Parameters:
    """The largest step, and the most of the denoiser."""
    return Parameters(max(settings.step_sizes), max(settings.relaxations))


@functools.partial(jax.jit, static_argnums=(4, 5))
def _solve(
    denoiser: nnx.Sequential,
    problem: uj.objectives.LeastSquares,
    step_size: jax.Array,
    relaxation: jax.Array,
    tolerance: float,
    max_steps: int,
) -> uj.Solution:
    norm = uj.operators.operator_norm(problem.operator, problem.measurement)
    params = uj.algorithms.PlugAndPlayParams(denoiser, step_size / norm**2, relaxation)
    algorithm = recorded(_PLUG_AND_PLAY, max_steps)
    return uj.solve(algorithm, params, problem, tolerance=tolerance, max_steps=max_steps)


def _largest_growth(changes: np.ndarray, size: float) -> float:
    """The largest ratio of a change to the one before, of changes that are not rounding of an estimate of this size."""
    matters = changes[:-1] > 1e-5 * size
    ratios = changes[1:][matters] / changes[:-1][matters]
    return float(np.max(ratios, initial=0.0))
