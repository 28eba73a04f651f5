"""Operators on images in space: convolution, blur, resampling, finite differences."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from helpers import draw

from catalogue.rows import OperatorRow, Size
from unroll_jax import operators

# height, width, and the channels where there are some
COLOR_SIZES = ((6, 4, 2), (5, 7, 1), (3, 8, 2))
EVEN_SIZES = ((6, 4, 2), (4, 8, 1), (4, 4, 2))
IMAGE_SIZES = ((6, 4), (5, 7, 2), (3, 8, 1))
RESAMPLED_SIZES = ((6, 4), (4, 8, 2), (2, 6, 1))

Make = Callable[[np.random.Generator, Size, str], Any]


def _kernel(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> jax.Array:
    # kernels are real, whatever they are applied to
    return draw(rng, shape, str(np.finfo(dtype).dtype))


def _convolution(boundary: Any, kernel_size: tuple[int, int] = (3, 5), stride: int = 1) -> Make:
    def make(rng: np.random.Generator, size: Size, dtype: str) -> operators.Convolution:
        return operators.Convolution(_kernel(rng, (*kernel_size, size[2], 3), dtype), boundary, stride)

    return make


def _blur(rng: np.random.Generator, size: Size, dtype: str) -> operators.CircularBlur:
    del size
    return operators.CircularBlur(_kernel(rng, (3, 5), dtype))


def _downsampling(rng: np.random.Generator, size: Size, dtype: str) -> operators.Downsampling:
    del size
    return operators.Downsampling(2, _kernel(rng, (3, 5), dtype))


def _image(size: Size, dtype: str) -> Any:
    return jax.ShapeDtypeStruct(size, jnp.dtype(dtype))


OPERATORS = (
    OperatorRow("Convolution circular", COLOR_SIZES, _convolution("circular"), _image),
    OperatorRow("Convolution with zeros", COLOR_SIZES, _convolution("zero"), _image),
    OperatorRow("Convolution mirrored", COLOR_SIZES, _convolution("reflect"), _image),
    OperatorRow("Convolution circular with stride", EVEN_SIZES, _convolution("circular", stride=2), _image),
    OperatorRow("Convolution with zeros and stride", EVEN_SIZES, _convolution("zero", (5, 1), stride=2), _image),
    OperatorRow("CircularBlur", IMAGE_SIZES, _blur, _image),
    OperatorRow("Downsampling", RESAMPLED_SIZES, _downsampling, _image),
    OperatorRow("FiniteDifferences", IMAGE_SIZES, lambda *_: operators.FiniteDifferences(), _image),
    OperatorRow("FiniteDifferences circular", IMAGE_SIZES, lambda *_: operators.FiniteDifferences("circular"), _image),
)
