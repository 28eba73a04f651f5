"""The inverse problems: what is measured of an image, and a first guess from it."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

import unroll_jax as uj
from experiments.reconstruction.settings import Settings
from unroll_jax.objectives import LeastSquares


class Measured(NamedTuple):
    """One image as it was measured.

    Attributes:
        problem: the operator and the measurement.
        start: `(height, width, 1)`, the plain reconstruction that the others are compared with and start from.
        truth: `(height, width, 1)`.
        lipschitz: `()`, an upper bound of the operator's squared norm.
    """

    problem: LeastSquares
    start: jax.Array
    truth: jax.Array
    lipschitz: jax.Array


Make = Callable[[jax.Array, jax.Array, Settings], Measured]
"""`(truth (height, width, 1), key, settings) -> Measured`."""


def _deblurring(truth: jax.Array, key: jax.Array, settings: Settings) -> Measured:
    blur = uj.operators.CircularBlur(uj.operators.gaussian_kernel(settings.blur_size, settings.blur_std))
    blurred = _with_noise(blur(truth), settings.blur_sigma / 255, key)
    return _measured(blur, blurred, blurred, truth)


def _super_resolution(truth: jax.Array, key: jax.Array, settings: Settings) -> Measured:
    kernel = uj.operators.gaussian_kernel(2 * math.ceil(3 * settings.factor_blur_std) + 1, settings.factor_blur_std)
    operator = uj.operators.Downsampling(settings.factor, kernel)
    small = _with_noise(operator(truth), settings.factor_sigma / 255, key)
    return _measured(operator, small, jax.image.resize(small, truth.shape, "cubic"), truth)


def _mri(truth: jax.Array, key: jax.Array, settings: Settings) -> Measured:
    mask_key, noise_key = jax.random.split(key)
    mask = uj.operators.cartesian_mask(
        mask_key,
        (truth.shape[0], truth.shape[1]),
        acceleration=settings.acceleration,
        center_fraction=settings.center_fraction,
    )
    operator = uj.operators.SubsampledFourier(mask, is_real=True)
    noise = settings.spectrum_noise * mask[..., None] * _complex_noise(noise_key, truth.shape)
    spectrum = operator(truth) + noise
    return _measured(operator, spectrum, operator.adjoint(spectrum), truth)


def _multi_coil_mri(truth: jax.Array, key: jax.Array, settings: Settings) -> Measured:
    mask_key, noise_key = jax.random.split(key)
    mask = uj.operators.cartesian_mask(
        mask_key,
        (truth.shape[0], truth.shape[1]),
        acceleration=2 * settings.acceleration,
        center_fraction=settings.center_fraction / 2,
    )
    coils = uj.operators.coil_sensitivities((truth.shape[0], truth.shape[1]), settings.num_coils)
    scanner = uj.operators.MultiCoilMRI(mask, coils, is_real=True)
    operator = uj.operators.compose(scanner, uj.operators.from_function(_without_channel, truth))
    noise = settings.spectrum_noise * mask[None] * _complex_noise(noise_key, coils.shape)
    spectra = operator(truth) + noise
    return _measured(operator, spectra, operator.adjoint(spectra), truth, uj.operators.norm_bound(scanner))


def _ct(truth: jax.Array, key: jax.Array, settings: Settings) -> Measured:
    angles = jnp.pi * jnp.arange(settings.num_angles) / settings.num_angles
    num_detectors = math.ceil(math.hypot(*truth.shape[:2]))
    operator = uj.operators.ParallelBeamCT(angles, truth.shape, num_detectors)
    sinogram = _with_noise(operator(truth), settings.sinogram_noise, key)
    start = uj.operators.filtered_backprojection(operator, sinogram, filter="hann")
    return _measured(operator, sinogram, start, truth)


def _inpainting(truth: jax.Array, key: jax.Array, settings: Settings) -> Measured:
    mask_key, noise_key = jax.random.split(key)
    known = jax.random.bernoulli(mask_key, settings.known_share, truth.shape)
    operator = uj.operators.mask(known)
    noisy = known * _with_noise(truth, settings.inpainting_sigma / 255, noise_key)
    mean = jnp.sum(noisy) / jnp.sum(known)
    return _measured(operator, noisy, jnp.where(known, noisy, mean), truth)


PROBLEMS: Mapping[str, Make] = {
    "deblurring": _deblurring,
    "super-resolution": _super_resolution,
    "mri": _mri,
    "multi-coil-mri": _multi_coil_mri,
    "ct": _ct,
    "inpainting": _inpainting,
}


def describe(name: str, settings: Settings) -> str:
    """What is measured, in a few words."""
    return {
        "deblurring": f"Gaussian blur of {settings.blur_std:g} pixels, noise of {settings.blur_sigma:g}/255",
        "super-resolution": f"every {settings.factor}nd pixel behind a blur of {settings.factor_blur_std:g} pixels, "
        f"noise of {settings.factor_sigma:g}/255",
        "mri": f"one coil, {settings.acceleration:g} times fewer columns of frequencies, "
        f"noise of {settings.spectrum_noise:g}",
        "multi-coil-mri": f"{settings.num_coils} coils, {2 * settings.acceleration:g} times fewer columns, "
        f"noise of {settings.spectrum_noise:g}",
        "ct": f"{settings.num_angles} angles of parallel beams, noise of {settings.sinogram_noise:g} pixels",
        "inpainting": f"{100 * settings.known_share:g} % of the pixels, noise of {settings.inpainting_sigma:g}/255",
    }[name]


def _measured(
    operator: uj.LinearOperator,
    measurement: jax.Array,
    start: jax.Array,
    truth: jax.Array,
    norm: jax.Array | None = None,
) -> Measured:
    norm = uj.operators.norm_bound(operator, truth) if norm is None else norm
    return Measured(LeastSquares(operator, measurement), start, truth, norm**2)


def _without_channel(x: jax.Array) -> jax.Array:
    return x[..., 0]


def _with_noise(measurement: jax.Array, std: float, key: jax.Array) -> jax.Array:
    return measurement + std * jax.random.normal(key, measurement.shape)


def _complex_noise(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    real, imaginary = jax.random.normal(key, (2, *shape))
    return jax.lax.complex(real, imaginary)
