"""Banks of filters: chains of convolutions as one kernel, without mean, of norm at most 1."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from unroll_jax._types import Array
from unroll_jax.operators._spectral import bank_spectral_bound


def collapsed(kernels: Sequence[Array]) -> Array:
    """The one kernel of convolutions after each other: its size is the sum of theirs, less one for each but the first.

    In the interior of an image both are the same. At the border a chain that pads between its convolutions is another
    operator, whose norm is not bounded by its frequencies; the collapsed kernel's is.

    Args:
        kernels: `(height, width, in_channels, out_channels)` each, in the order of application.

    Returns:
        `(height, width, in_channels of the first, out_channels of the last)`.

    Raises:
        ValueError: if there are none, sides are even, or channels do not fit.

    >>> collapsed([jnp.ones((3, 3, 1, 4)), jnp.ones((3, 3, 4, 2))]).shape
    (5, 5, 1, 2)
    """
    check_kernels(kernels)
    kernel, *others = kernels
    for outer in others:
        flipped = outer[::-1, ::-1]
        padding = [(side - 1, side - 1) for side in outer.shape[:2]]
        # the inner kernel is an image of its middle channels, one for each input
        images = jnp.moveaxis(kernel, 2, 0)
        product = lax.conv_general_dilated(
            images, flipped, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
        )
        kernel = jnp.moveaxis(product, 0, 2)
    return kernel


def zero_mean(kernel: Array) -> Array:
    """`kernel` less its mean over space and inputs, for each output: it does not see constant images.

    >>> zero_mean(jnp.array([1.0, 2.0, 6.0]).reshape(3, 1, 1, 1)).ravel()
    Array([-2., -1.,  3.], dtype=float32)
    """
    return kernel - jnp.mean(kernel, axis=(0, 1, 2), keepdims=True)


def norm_bound(kernel: Array) -> Array:
    """An upper bound of the norm of the convolution with `kernel`, zeros or the image again outside, any image: `()`.

    Within 0.2 % of the norm on the plane without end for kernels up to 13 x 13.

    Args:
        kernel: `(height, width, 1, out_channels)`.
    """
    return bank_spectral_bound(kernel[:, :, 0], num_frequencies=48 * max(kernel.shape[:2]))


def check_kernels(kernels: Sequence[Array]) -> None:
    """Raise unless `kernels` are a chain of convolutions with odd sides that starts from a gray image."""
    if not isinstance(kernels, Sequence) or not kernels:
        raise ValueError("`kernels` must be a tuple of at least one convolution's kernel, got none.")
    channels = 1
    for index, kernel in enumerate(kernels):
        shape = jnp.shape(kernel)
        if len(shape) != 4 or shape[0] % 2 == 0 or shape[1] % 2 == 0:
            raise ValueError(
                f"`kernels[{index}]` must have shape (height, width, in_channels, out_channels) with odd sides, "
                f"so that a pixel is in its middle, got {shape}. Pad an even kernel by a row and a column of zeros."
            )
        if shape[2] != channels:
            raise ValueError(
                f"`kernels[{index}]` must take the {channels} channels that come in, got shape {shape}. "
                "The first kernel takes gray images with one channel."
            )
        channels = shape[3]


def stop_where_zero(norm: Array) -> Array:
    """`norm`, or 1 where it is zero, to divide by."""
    return jnp.where(norm == 0, 1, norm)


def same_convolution(x: Array, kernel: Array) -> Array:
    """The convolution of `x` with zeros outside, the same size: `(height, width, out_channels)`."""
    padding = [(side // 2, side // 2) for side in kernel.shape[:2]]
    return lax.conv_general_dilated(x[None], kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))[0]


def same_transpose(y: Array, kernel: Array) -> Array:
    """The adjoint of `same_convolution`: `(height, width, in_channels)`."""
    shape = jax.ShapeDtypeStruct((*y.shape[:2], kernel.shape[2]), y.dtype)
    return jax.linear_transpose(lambda x: same_convolution(x, kernel), shape)(y)[0]
