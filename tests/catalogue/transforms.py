"""Operators by a transform: Fourier, MRI, cosine, wavelets, tomography."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from helpers import draw

from catalogue.rows import OperatorRow, Size
from unroll_jax import operators

IMAGE_SIZES = ((4, 6), (5, 3, 2), (1, 8, 1))
COIL_SIZES = ((2, 4, 6), (3, 5, 3), (1, 4, 4))
QUADRUPLE_SIZES = ((8, 12, 1), (4, 8), (4, 4, 2))
# height, width, detectors, angles
SCAN_SIZES = ((5, 6, 8, 3), (4, 4, 4, 1), (7, 3, 9, 4))


def _real(dtype: str) -> str:
    return str(np.finfo(dtype).dtype)


def _complex(dtype: str) -> str:
    return str(np.result_type(dtype, np.complex64))


def _image(size: Size, dtype: str) -> Any:
    return jax.ShapeDtypeStruct(size, jnp.dtype(dtype))


def _real_image(size: Size, dtype: str) -> Any:
    return _image(size, _real(dtype))


def _complex_image(size: Size, dtype: str) -> Any:
    return _image(size, _complex(dtype))


def _mask(rng: np.random.Generator, size: Size, dtype: str) -> jax.Array:
    # weights are real, whatever they are applied to
    return draw(rng, size[:2], _real(dtype))


def _subsampled(rng: np.random.Generator, size: Size, dtype: str) -> operators.SubsampledFourier:
    return operators.SubsampledFourier(_mask(rng, size, dtype))


def _real_subsampled(rng: np.random.Generator, size: Size, dtype: str) -> operators.SubsampledFourier:
    return operators.SubsampledFourier(_mask(rng, size, dtype), is_real=True)


def _multi_coil(rng: np.random.Generator, size: Size, dtype: str) -> operators.MultiCoilMRI:
    return operators.MultiCoilMRI(_mask(rng, size[1:], dtype), draw(rng, size, _complex(dtype)))


def _tomograph(rng: np.random.Generator, size: Size, dtype: str) -> operators.ParallelBeamCT:
    height, width, num_detectors, num_angles = size
    angles = jnp.asarray(rng.uniform(-4, 7, num_angles), _real(dtype))
    return operators.ParallelBeamCT(angles, (height, width), num_detectors, detector_spacing=0.9)


OPERATORS = (
    OperatorRow("Fourier", IMAGE_SIZES, lambda *_: operators.Fourier(), _complex_image),
    OperatorRow("SubsampledFourier", IMAGE_SIZES, _subsampled, _complex_image),
    OperatorRow("SubsampledFourier of real images", IMAGE_SIZES, _real_subsampled, _real_image),
    OperatorRow("MultiCoilMRI", COIL_SIZES, _multi_coil, lambda size, dtype: _complex_image(size[1:], dtype)),
    OperatorRow("CosineTransform", IMAGE_SIZES, lambda *_: operators.CosineTransform(), _image),
    OperatorRow("Wavelets", QUADRUPLE_SIZES, lambda *_: operators.Wavelets("db2", 2), _image),
    OperatorRow("ParallelBeamCT", SCAN_SIZES, _tomograph, lambda size, dtype: _image(size[:2], dtype)),
)
